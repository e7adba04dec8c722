"""A stranger's csv is read alike by the audit and by query.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from auditing.bins import open_bins
from bin_tables import READ, REFUSED
from deployment.query_photos import read_csv

Rows = list[tuple[str, int | None]]


def by_the_audit(path: Path) -> Rows:
    # Without a column `id` a bin is called as its photo.
    return [
        (f"{a_bin.id}.jpg", a_bin.expected_quantity)
        for a_bin in open_bins(path, None, None, None).bins()
    ]


def by_query(path: Path) -> Rows:
    return [(Path(photo.location).name, photo.expected_quantity) for photo in read_csv(path)]


READERS = [by_the_audit, by_query]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", READ)
def test_a_file_says_the_same_to_both(
    name: str, reader: Callable[[Path], Rows], tmp_path: Path
) -> None:
    text, rows = READ[name]
    path = tmp_path / "bins.csv"
    path.write_bytes(text.encode())
    assert reader(path) == rows


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_by_both_for_the_same_reason(
    name: str, reader: Callable[[Path], Rows], tmp_path: Path
) -> None:
    text, reason = REFUSED[name]
    path = tmp_path / "bins.csv"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=reason):
        reader(path)
