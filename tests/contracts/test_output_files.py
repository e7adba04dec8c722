"""Every folder writes its outputs alike, each through a module of its own."""

import importlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from paths import ROOT

MODULES = ("output_files", "whole_outputs", "aws.output_files", "whole_files")
WholeFile = Callable[[Path], AbstractContextManager[Path]]


@pytest.fixture(params=MODULES)
def whole_file(request: pytest.FixtureRequest) -> WholeFile:
    return importlib.import_module(request.param).whole_file


def test_the_folders_that_write_outputs_have_one_text_for_it() -> None:
    paths = (
        "scripts/output_files.py",
        "metrics/whole_outputs.py",
        "sagemaker_jobs/aws/output_files.py",
    )
    assert len({(ROOT / path).read_text() for path in paths}) == 1


def test_an_output_has_its_name_only_when_it_is_whole(
    tmp_path: Path, whole_file: WholeFile
) -> None:
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_output_and_no_other(tmp_path: Path, whole_file: WholeFile) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with suppress(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_is_as_readable_as_the_umask_says(tmp_path: Path, whole_file: WholeFile) -> None:
    old = os.umask(0o022)
    try:
        with whole_file(tmp_path / "file.txt") as temporary:
            temporary.write_text("whole")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o644


def test_of_a_link_the_target_is_replaced(tmp_path: Path, whole_file: WholeFile) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "latest.csv", tmp_path / "elsewhere" / "real.csv"
    link.symlink_to("elsewhere/real.csv")  # whether it is there or not
    for text in ("first", "second"):
        with whole_file(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text


def test_a_pipe_is_written_to(tmp_path: Path, whole_file: WholeFile) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with whole_file(pipe) as temporary:
        temporary.write_text("whole")
    reader.join(60)
    assert read == ["whole"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can make a device")
def test_a_device_stays_a_device(tmp_path: Path, whole_file: WholeFile) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices cannot be made or opened here")
    with whole_file(device) as temporary:
        temporary.write_text("whole")
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.parametrize("module", MODULES)
def test_standard_output_that_leads_to_a_file_is_written_to(tmp_path: Path, module: str) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        f"from {module} import whole_file\n"
        "with whole_file(Path('/dev/stdout')) as path: path.write_text('whole')\n"
        "print('and more')"
    )
    folder = Path(str(importlib.import_module(module).__file__)).parents[module.count(".")]
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", program, str(folder)], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "wholeand more\n"


def test_a_folder_is_named(tmp_path: Path, whole_file: WholeFile) -> None:
    with pytest.raises(IsADirectoryError, match="name a file"), whole_file(tmp_path):
        raise AssertionError
