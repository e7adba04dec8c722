import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from photo_sizes import MEAN_COLOUR, pad_photos, table
from training_recipe import figures_of


def predictions(ids: list[int], counts: list[int], sure: float = 0.8) -> pa.Table:
    """Return answers to photos of bins that hold ID % 3 + 1 items; they are as sure of a count."""
    expected = np.array(ids) % 3 + 1
    columns = {
        f"probability_{k}": np.where(np.array(counts) == k, sure, (1 - sure) / 2) for k in (1, 2, 3)
    }
    groups = [f"group {each // 2}" for each in ids]
    return pa.table(
        {
            "id": [f"{each:05}" for each in ids],
            "bin_group": groups,
            "expected_quantity": expected,
            "count": counts,
            **columns,
        }
    )


def test_figures_are_those_of_each_photo() -> None:
    # Photos of 1, 2 and 3 items, all counted as 2.
    found = figures_of(predictions([0, 1, 2], [2, 2, 2]))
    np.testing.assert_allclose(found[:, 0], [0, 100, 0])
    np.testing.assert_allclose(found[:, 1], [1, 0, 1])
    np.testing.assert_allclose(found[:, 2], -np.log([0.1, 0.8, 0.1]))


def test_photos_are_compared_with_themselves_in_whatever_order_they_are() -> None:
    ids = list(range(30))
    right = [each % 3 + 1 for each in ids]
    wrong = [2 if each < 15 else count for each, count in zip(ids, right, strict=True)]
    forward, backward = predictions(ids, wrong), predictions(ids[::-1], wrong[::-1])
    rows = table({"224": [forward] * 2, "320": [backward] * 2}, {"224": 1.0, "320": 2.1})
    base, same = rows.splitlines()[2:]
    assert re.findall(r"\| ([\d.]+) \[", base) == re.findall(r"\| ([\d.]+) \[", same)
    # Not a photo differs, so that no interval is wide.
    assert "+0.0 [+0.0, +0.0]" in same
    assert same.endswith("| 2.10 |")
    better = table({"224": [forward], "160": [predictions(ids, right)]}, {"224": 1, "160": 0.5})
    assert float(re.findall(r"\+(\d+\.\d) \[", better.splitlines()[3])[0]) == pytest.approx(33.3)


def test_a_padded_photo_is_whole_in_the_middle_of_a_square(tmp_path: Path) -> None:
    source = tmp_path / "mirror"
    (source / "bin-images").mkdir(parents=True)
    (source / "metadata").mkdir()
    Image.new("RGB", (40, 20), (255, 255, 255)).save(source / "bin-images" / "1.jpg")
    pad_photos(source, tmp_path / "padded")
    photo = np.asarray(Image.open(tmp_path / "padded" / "bin-images" / "1.jpg")).astype(int)
    assert photo.shape == (40, 40, 3)
    assert np.abs(photo[20, 20] - 255).max() < 5
    assert np.abs(photo[0, 0] - MEAN_COLOUR).max() < 5
    assert (tmp_path / "padded" / "metadata").is_dir()
