"""`make test-latest` reaches every module that stands on a library of which it has the newest."""

import ast
import subprocess
from pathlib import Path

from paths import ROOT

FOLDERS = ("data_prep", "scripts", "sagemaker_jobs", "docker_debugging", "metrics")
NEWEST = {"transformers", "datasets", "accelerate", "huggingface_hub", "evaluate"}
ROOTS = [ROOT / folder for folder in FOLDERS]


def imported(path: Path) -> set[str]:
    """Return what a file imports, wherever in it: modules, and names that may be modules."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def ours(names: set[str]) -> set[Path]:
    """Return the files of the project that go by these names."""
    paths = {root / f"{name.replace('.', '/')}.py" for root in ROOTS for name in names}
    return {path for path in paths if path.is_file()}


def files_of_the_lane() -> set[Path]:
    # A target of its own, so that nothing is set up.
    shown = "shown: ; @echo $(LATEST_TESTS)"
    words = subprocess.run(
        ["make", "--silent", f"--eval={shown}", "shown"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all((ROOT / word).exists() for word in words)
    return {path for word in words for path in ([ROOT / word, *(ROOT / word).rglob("test_*.py")])}


def test_every_module_on_the_newest_libraries_is_reached() -> None:
    reached, new = set[Path](), {path for path in files_of_the_lane() if path.is_file()}
    while new:
        reached |= new
        new = ours({name for path in new for name in imported(path)}) - reached
    standing = {
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if {name.partition(".")[0] for name in imported(path)} & NEWEST
    }
    assert len(standing) > 20
    # evaluate.load reads its module by its path.
    own_tests = {path.stem for path in reached}
    left = {path for path in standing - reached if f"test_{path.stem}" not in own_tests}
    assert {str(path.relative_to(ROOT)) for path in left} == set()
