"""The rules that keep the folders independent of one another, read from the sources themselves."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import container
from conftest import ROOT

FOLDERS = ("data_prep", "scripts", "sagemaker_jobs", "metrics", "docker_debugging", "benchmarks")
MODULES = {path.stem: path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
# What `make test-latest` takes the newest release of.
NEWEST = {"transformers", "datasets", "accelerate", "huggingface_hub", "evaluate"}


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imports_of(path: Path) -> set[str]:
    """Return the first part of each module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: siblings are imported by name"
            found.add(str(node.module).partition(".")[0])
    return found


OWN_IMPORTS = {name: imports_of(path) & MODULES.keys() for name, path in MODULES.items()}


def test_the_walk_sees_the_project() -> None:
    assert {"build_dataset", "train", "container", "compare_runs"} <= MODULES.keys()
    assert "count_distribution" in OWN_IMPORTS["counting_metric"]


def test_no_two_modules_have_the_same_name() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) == len(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_one_of_another_folder(name: str) -> None:
    folder = folder_of(MODULES[name])
    assert {folder_of(MODULES[other]) for other in OWN_IMPORTS[name]} <= {folder}


def test_no_circle_of_imports() -> None:
    remaining = {name: set(imported) for name, imported in OWN_IMPORTS.items()}
    while free := [name for name, imported in remaining.items() if not imported & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining


def test_no_module_is_named_like_a_library() -> None:
    libraries = sys.stdlib_module_names | packages_distributions().keys()
    # These shadow their library beside the scripts in a job, where nothing else is on the path.
    libraries |= {"evaluate", "datasets", "transformers", "accelerate", "sagemaker", "torch"}
    assert not MODULES.keys() & libraries


def test_no_folder_is_a_package() -> None:
    assert not [
        path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("__init__.py")
    ]


def test_container_versions_have_one_home() -> None:
    versions = {*container.TRAINING_PACKAGES.values(), container.TRAINING_IMAGE_TAG}
    pattern = "|".join(rf"(?<![\d.]){re.escape(version)}(?![\d.])" for version in versions)
    stating = {
        path.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(pattern, node.value)
    }
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / ".github").rglob("*.yml")):
        stating |= {path.name} if re.search(pattern, path.read_text()) else set()
    assert stating == {"container.py"}


def test_the_laptop_has_the_containers_versions() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "requirements.txt").read_text().split() if "==" in line
    )
    assert {name: pins.get(name) for name in container.TRAINING_PACKAGES} == (
        container.TRAINING_PACKAGES
    )


def test_every_requirement_is_pinned() -> None:
    paths = [*ROOT.glob("requirements*.txt"), *ROOT.glob("docker_debugging/*requirements.txt")]
    paths += [ROOT / "data_prep/requirements.txt", ROOT / "scripts/requirements.txt"]
    paths += ROOT.glob("tests/*requirements.txt")
    assert len(paths) == 8
    for path in paths:
        for line in path.read_text().splitlines():
            is_pinned = line.startswith("#") or re.fullmatch(r"[\w\[\]-]+==[\w.]+", line)
            assert is_pinned or (line in NEWEST and path.stem == "requirements-latest"), line


def test_the_second_lane_differs_from_the_first_in_the_newest_alone() -> None:
    pins = {
        line
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text().splitlines()
    }
    latest = (ROOT / "requirements-latest.txt").read_text().splitlines()
    own = {line for line in latest if not line.startswith("#")}
    assert own - pins == NEWEST


def test_a_job_that_prepares_data_installs_what_its_entries_import_in_the_laptops_versions() -> (
    None
):
    pins, laptop = (
        {line for line in path.read_text().splitlines() if "==" in line}
        for path in (ROOT / "data_prep/requirements.txt", ROOT / "requirements.txt")
    )
    assert pins <= laptop
    entries, modules = {"build_catalog", "build_dataset"}, set[str]()
    while entries:
        modules.add(name := entries.pop())
        entries |= OWN_IMPORTS[name] - modules
    imported = set.union(*(imports_of(MODULES[name]) for name in modules)) - modules
    distributions = packages_distributions()
    needed = {distributions[name][0].lower() for name in imported - sys.stdlib_module_names}
    assert {pin.partition("==")[0].lower() for pin in pins} == needed
