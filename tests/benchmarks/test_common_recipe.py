from pathlib import Path

import pytest

from common_recipe import photos_of


def test_a_folder_whose_name_is_a_pattern_is_refused_and_no_other_one_read(
    dataset_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "bins1").symlink_to(dataset_dir)
    (tmp_path / "bins[1]").mkdir()
    with pytest.raises(SystemExit, match=r"bins\[1\]: the recipe cannot read"):
        photos_of(str(tmp_path / "bins[1]"), "test")
    assert len(photos_of(str(tmp_path / "bins1"), "test")) > 0
