"""The rules that keep folders apart and rooms on their floors, read from the sources themselves."""

import ast
import re
import sys
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import container
from paths import ROOT

FOLDERS = ("data_prep", "scripts", "sagemaker_jobs", "metrics", "docker_debugging", "benchmarks")
# What each room may import beside itself and the ground of its folder.
FLOORS: dict[str, tuple[str, ...]] = {
    "catalog": (),
    "dataset": ("catalog",),
    "drawing": (),
    "finished_audits": (),
    "finished_models": (),
    "budget": (),
    "diagnostics": (),
    "items": (),
    "visits": (),
    "recipe": (),
    "recipes": (),
    "training": ("budget", "diagnostics", "items", "recipe", "recipes", "visits"),
    "serving": ("items", "visits"),
    "auditing": ("items", "serving", "visits"),
    "exporting": ("items", "serving", "visits"),
    "audit_exports": ("auditing",),
    "reviewing": ("auditing", "serving", "visits"),
    "label_checks": ("auditing", "items", "visits"),
    "audit_evaluation": ("auditing", "items", "visits"),
    "monitoring": (),
    "aws": (),
    "jobs": ("aws",),
    "sdk": ("aws", "jobs"),
    "launching": ("aws", "jobs", "sdk"),
    "tuning": ("aws", "jobs", "launching"),
    "publishing": ("aws",),
    "deployment": ("aws", "publishing"),
    # Others start these: evaluate.load, AWS Lambda, Python as it starts.
    "counting_metric": (),
    "lambda_function": (),
    "debugger": (),
}
# The modules at the top of a folder that its rooms stand on.
GROUND = (
    *("command_line", "object_store", "whole_files", "worker_pool"),
    *("count_distribution", "dataset_folder", "likeliest_weights", "one_line_parser"),
    *("output_files", "side_heads", "container", "whole_outputs"),
)
MAX_FILES = 16  # of a folder or a room, beside its entries
# What `make test-latest` takes the newest release of.
NEWEST = {"transformers", "datasets", "accelerate", "huggingface_hub", "evaluate", "numpy"}


def name_of(path: Path) -> str:
    """Return a module's name as its folder's entries import it: decide, auditing.decisions."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:])


PATHS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MODULES = {name_of(path): path for path in PATHS}


def folder_of(name: str) -> str:
    return MODULES[name].relative_to(ROOT).parts[0]


def room_of(name: str) -> str:
    """Return the room of a module, empty for one that stands at the top of its folder."""
    return name.rpartition(".")[0]


def is_entry(path: Path) -> bool:
    """Say whether a file is one that a person runs."""
    return path.suffix == ".py" and 'if __name__ == "__main__":' in path.read_text()


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in the file."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: siblings are imported by name"
            module = str(node.module)
            of_room = {f"{module}.{alias.name}" for alias in node.names}
            found |= of_room if module in FLOORS else {module}
    return found


OWN_IMPORTS = {name: imports_of(path) & MODULES.keys() for name, path in MODULES.items()}


def test_the_walk_sees_the_project() -> None:
    assert {"build_dataset", "train", "container", "compare_runs"} <= MODULES.keys()
    assert {"auditing.decisions", "recipe.losses", "aws.started_jobs"} <= MODULES.keys()
    assert "count_distribution" in OWN_IMPORTS["counting_metric.counting_metric"]
    assert {"training.bin_trainer", "serving.served_code"} <= OWN_IMPORTS["train"]
    assert {room_of(name) for name in MODULES} - {""} == FLOORS.keys()


def test_no_two_modules_have_the_same_name() -> None:
    assert len(PATHS) == len(MODULES)


def test_the_name_of_a_room_is_its_own() -> None:
    """All folders are on the path at once in the tests, and a job's beside every library."""
    folders = [*FOLDERS, "tests", "tests/stand_ins"]
    rooms = Counter(path.parent for path in PATHS if room_of(name_of(path)))
    names = [room.name for room in rooms] + ["stand_ins", "contracts"]
    names += [path.stem for folder in folders for path in (ROOT / folder).glob("*.py")]
    assert [name for name, number in Counter(names).items() if number > 1] == []


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_one_of_another_folder(name: str) -> None:
    assert {folder_of(other) for other in OWN_IMPORTS[name]} <= {folder_of(name)}


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) or name in GROUND])
def test_rooms_keep_to_their_floors(name: str) -> None:
    room = room_of(name)
    below = (*FLOORS[room], room) if room else ()
    for other in OWN_IMPORTS[name]:
        if not room_of(other):
            assert other in GROUND, f"{name} imports {other}, which a person runs"
        else:
            assert room_of(other) in below, f"{name} imports {other}"


@pytest.mark.parametrize("folder", ["data_prep", "scripts", "sagemaker_jobs"])
def test_what_stands_at_the_top_is_run_by_a_person_or_carries_rooms(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        assert path.stem in GROUND or is_entry(path), path


def test_no_circle_of_imports() -> None:
    remaining = {name: set(imported) for name, imported in OWN_IMPORTS.items()}
    while free := [name for name, imported in remaining.items() if not imported & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert not remaining


def test_no_circle_between_rooms() -> None:
    remaining = dict(FLOORS)
    while free := [room for room, below in remaining.items() if not {*below} & remaining.keys()]:
        for room in free:
            del remaining[room]
    assert not remaining


def test_no_folder_is_too_full_to_be_read() -> None:
    folders = {path.parent for name in (*FOLDERS, "tests") for path in (ROOT / name).rglob("*.py")}
    for folder in folders:
        files = [path for path in folder.iterdir() if path.is_file() and not is_entry(path)]
        assert len(files) <= MAX_FILES, f"{folder} holds {len(files)} files beside its entries"


def test_no_module_is_named_like_a_library() -> None:
    libraries = sys.stdlib_module_names | packages_distributions().keys()
    # These shadow their library beside the scripts in a job, where nothing else is on the path.
    libraries |= {"evaluate", "datasets", "transformers", "accelerate", "sagemaker", "torch"}
    assert not {name.partition(".")[0] for name in MODULES} & libraries


def test_no_folder_is_a_package() -> None:
    assert not [
        path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("__init__.py")
    ]


def test_container_versions_have_one_home() -> None:
    versions = {*container.TRAINING_PACKAGES.values(), container.TRAINING_IMAGE_TAG}
    pattern = "|".join(rf"(?<![\d.]){re.escape(version)}(?![\d.])" for version in versions)
    stating = {
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(pattern, node.value)
    }
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / ".github").rglob("*.yml")):
        stating |= {path.name} if re.search(pattern, path.read_text()) else set()
    assert stating == {"sagemaker_jobs/container.py"}


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
    paths += ROOT.glob("tests/**/*requirements.txt")
    assert len(paths) == 10
    for path in paths:
        for line in path.read_text().splitlines():
            is_pinned = line.startswith("#") or re.fullmatch(r"[\w\[\]-]+==[\w.]+", line)
            assert is_pinned or (line in NEWEST and path.stem == "requirements-latest"), line


def test_the_second_lane_differs_from_the_first_in_the_newest_alone() -> None:
    latest = (ROOT / "requirements-latest.txt").read_text().splitlines()
    assert {line for line in latest if not line.startswith("#")} == NEWEST


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
    imported = {name.partition(".")[0] for name in imported}
    distributions = packages_distributions()
    needed = {distributions[name][0].lower() for name in imported - sys.stdlib_module_names}
    assert {pin.partition("==")[0].lower() for pin in pins} == needed
