from pathlib import Path

import pytest

from audit_exports.whole_folders import whole_folder


def test_a_folder_appears_whole_in_place_of_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "half.json").write_text("{")
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "data").mkdir()
        (folder / "data" / "whole.json").write_text("{}")
        assert not list((tmp_path / "out").iterdir())
    assert [path.name for path in (tmp_path / "out").rglob("*.json")] == ["whole.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "out") as folder:
        (folder / "no_such_folder" / "half.json").write_text("{")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"), whole_folder(tmp_path):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"
