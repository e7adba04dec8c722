import ast
import subprocess
import sys
from pathlib import Path

from paths import ROOT
from serving.served_code import SERVED, write_served_code

SCRIPTS = ROOT / "scripts"


def test_all_that_the_handler_imports_travels_with_it() -> None:
    reached, left = set(), ["inference"]
    while left:
        name = left.pop()
        reached.add(path := f"{name.replace('.', '/')}.py")
        for node in ast.walk(ast.parse((SCRIPTS / path).read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            paths = {name: f"{name.replace('.', '/')}.py" for name in names}
            own = [name for name in names if (SCRIPTS / paths[name]).exists()]
            left += [name for name in own if paths[name] not in reached]
    assert reached == set(SERVED)


def test_a_trained_model_folder_has_the_handler_which_runs_from_there(run_dir: Path) -> None:
    code = run_dir / "model" / "code"
    assert {str(path.relative_to(code)) for path in code.rglob("*.py")} == set(SERVED)
    requirements = (code / "requirements.txt").read_text().splitlines()
    assert all(line.startswith("#") for line in requirements)
    program = "import inference; print(inference.model_fn('..').counter.counts)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=code, check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "(1, 2, 3, 4, 5)"


def test_code_of_an_earlier_version_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "old.py").write_text("import os")
    write_served_code(tmp_path, "openvino==1.2.3")
    assert not (tmp_path / "code" / "old.py").exists()
    assert "openvino==1.2.3" in (tmp_path / "code" / "requirements.txt").read_text().splitlines()
