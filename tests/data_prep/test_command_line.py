"""The manners of every entry of this folder."""

import subprocess
import sys

import pytest

from command_line import read_json
from paths import ROOT

ENTRIES = ("build_catalog", "build_dataset", "push_dataset", "synthetic_bins")
WITHOUT_FCNTL = """
import runpy, sys
sys.modules["fcntl"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_fcntl(entry: str, *flags: str) -> subprocess.CompletedProcess[str]:
    path = str(ROOT / "data_prep" / f"{entry}.py")
    command = [sys.executable, "-c", WITHOUT_FCNTL, path, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_works_on_windows(entry: str) -> None:
    shown = run_without_fcntl(entry, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--" in shown.stdout


@pytest.mark.parametrize(
    ("entry", "flag"), [("build_catalog", "--output"), ("build_dataset", "--output_dir")]
)
def test_what_needs_locks_says_so_before_it_works(entry: str, flag: str) -> None:
    refused = run_without_fcntl(entry, flag, "/nowhere/bins")
    assert refused.returncode == 2
    assert "use Linux or macOS, or WSL" in refused.stderr


@pytest.mark.parametrize("flags", [("--help",), ("--output_dir", "{}/m", "--num_bins", "1")])
def test_a_reader_that_has_seen_enough_is_no_fault(
    flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("drawn"))
    program = [sys.executable, str(ROOT / "data_prep" / "synthetic_bins.py")]
    with subprocess.Popen(
        [*program, *(flag.format(folder) for flag in flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 0
    assert "Error" not in errors
    assert "BrokenPipe" not in errors


def test_a_json_with_a_key_twice_is_refused() -> None:
    assert read_json('{"a": [1], "b": {"a": 2}}') == {"a": [1], "b": {"a": 2}}
    with pytest.raises(ValueError, match="the key 'a' is there twice"):
        read_json('{"b": {"a": 1, "a": 2}}')
    with pytest.raises(ValueError, match="too deep"):
        read_json("[" * 100_000)
