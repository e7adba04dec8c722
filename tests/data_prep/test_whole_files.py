import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from whole_files import PARTIAL, remove_leftovers, whole_file

WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from whole_files import whole_file
with whole_file(Path(sys.argv[2])) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(300)
"""


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path) as temporary:
        temporary.rename(tmp_path / "elsewhere")
    assert path.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "elsewhere", path]


def test_a_file_that_is_there_stays_where_nothing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with whole_file(path, replace=False) as first:
        first.write_text("first")
        with whole_file(path, replace=False) as second:
            second.write_text("second")
        with pytest.raises(FileExistsError), whole_file(path, replace=False) as third:
            third.write_text("third")
        path.unlink()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_the_killed_go_and_files_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "data" / "shard.parquet"
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(ROOT / "data_prep"), str(path)]
    elsewhere = path.with_name(f".shard.parquet.another-machine.0123abcd{PARTIAL}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            (held,) = path.parent.iterdir()
            elsewhere.touch()
            remove_leftovers(tmp_path)
            assert held.exists()
        finally:
            writer.kill()
    remove_leftovers(tmp_path)
    assert list(path.parent.iterdir()) == [elsewhere]
