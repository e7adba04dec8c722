from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from command_line import InputError
from dataset.marks import MARK_COLUMNS, NOT_COUNTED, NOT_THERE, OTHER_RECORD, read_marks, with_marks

HEADER = "id,expected_quantity,decision,probability_wrong,mark,counted"


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("".join(f"{line}\n" for line in [header, *lines]))
    return path


def bins(*counts: int) -> pa.Table:
    """Return bins 00000, 00001, ... of some counts, each with an item."""
    number = len(counts)
    return pa.table(
        {
            "id": [f"{row:05d}" for row in range(number)],
            "count": pa.array(counts, pa.int32()),
            "bin_group": [f"{row:05d}" for row in range(number)],
            "asins": [["A"]] * number,
            "quantities": pa.array([[count] for count in counts], pa.list_(pa.int32())),
            "volumes": pa.array([[1.0]] * number, pa.list_(pa.float32())),
            "weights": pa.array([[1.0]] * number, pa.list_(pa.float32())),
            "split": ["train"] * number,
        }
    )


def found(marks: Path, *counts: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    table, set_aside, unused = with_marks(bins(*counts), read_marks([marks]), 1, 5)
    return table.to_pylist(), {entry["id"]: entry["reason"] for entry in [*set_aside, *unused]}


def test_a_wrong_record_has_the_counted_number_and_no_items(tmp_path: Path) -> None:
    marks = write(tmp_path / "marks.csv", "00001,2,check,0.9,wrong,4", "00002,3,ok,0.1,right,")
    rows, became = found(marks, 1, 2, 3)
    assert became == {}
    assert [row["count"] for row in rows] == [1, 4, 3]
    assert [row["recorded_quantity"] for row in rows] == [1, 2, 3]
    assert [row["checked"] for row in rows] == [None, "wrong", "right"]
    assert [row["checked_in"] for row in rows] == [None, "marks.csv", "marks.csv"]
    assert rows[1]["asins"] is rows[1]["quantities"] is rows[1]["volumes"] is None
    assert rows[2]["asins"] == ["A"]


def test_a_count_that_is_the_records_says_that_it_is_right(tmp_path: Path) -> None:
    ((row,), _) = found(write(tmp_path / "marks.csv", "00000,2,check,0.9,wrong,2"), 2)
    assert (row["checked"], row["count"], row["asins"]) == ("right", 2, ["A"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("00000,2,check,0.9,wrong,", NOT_COUNTED),
        ("00000,2,check,0.9,wrong,7", "counted: 7 items, out of range (--marks)"),
    ],
)
def test_a_bin_of_unknown_content_or_out_of_range_is_set_aside(
    line: str, reason: str, tmp_path: Path
) -> None:
    rows, became = found(write(tmp_path / "marks.csv", line), 2, 3)
    assert [row["id"] for row in rows] == ["00001"]
    assert became == {"00000": reason}


def test_a_mark_that_fits_no_bin_or_no_record_is_told_and_not_used(tmp_path: Path) -> None:
    lines = ["00000,5,check,0.9,right,", "00009,2,ok,0.1,right,"]
    ((row,), became) = found(write(tmp_path / "marks.csv", *lines), 2)
    assert became == {"00000": OTHER_RECORD, "00009": NOT_THERE}
    assert (row["count"], row["checked"]) == (2, None)


def test_of_several_marks_the_newest_holds_with_who_and_when(tmp_path: Path) -> None:
    header = f"{HEADER},checked_by,checked_at"
    newer = write(
        tmp_path / "b.csv", "00000,2,check,0.9,wrong,4,Kim,2026-11-02T08:00:00Z", header=header
    )
    older = write(
        tmp_path / "c.csv", "00000,2,check,0.9,wrong,3,Lee,2026-11-01T08:00:00Z", header=header
    )
    without = write(tmp_path / "a.csv", "00000,2,check,0.9,right,")
    marks = read_marks([newer, older, without])
    (row,) = with_marks(bins(2), marks, 1, 5)[0].to_pylist()
    assert row["count"] == 4
    assert {name: row[name] for name in MARK_COLUMNS} == {
        "recorded_quantity": 2,
        "checked": "wrong",
        "checked_in": "b.csv",
        "checked_by": "Kim",
        "checked_at": "2026-11-02T08:00:00+00:00",
    }


def test_without_a_time_the_later_file_is_newer_and_may_judge_what_an_earlier_one_made_right(
    tmp_path: Path,
) -> None:
    first = write(tmp_path / "1.csv", "00000,2,check,0.9,wrong,4")
    # Of an audit of the dataset that the first file made.
    second = write(tmp_path / "2.csv", "00000,4,check,0.9,right,")
    (row,) = with_marks(bins(2), read_marks([first, second]), 1, 5)[0].to_pylist()
    assert (row["count"], row["checked"], row["checked_in"]) == (4, "wrong", "2.csv")


def test_a_mark_for_another_record_leaves_those_before_it_in_force(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", "00000,2,check,0.9,wrong,4")
    second = write(tmp_path / "2.csv", "00000,7,check,0.9,right,")
    third = write(tmp_path / "3.csv", "00000,?,check,0.9,right,")
    (row,) = with_marks(bins(2), read_marks([first, second, third]), 1, 5)[0].to_pylist()
    assert (row["count"], row["checked_in"]) == (4, "1.csv")


def test_times_are_compared_as_times(tmp_path: Path) -> None:
    header = f"{HEADER},checked_at"
    later = write(tmp_path / "1.csv", "00000,2,,,wrong,4,2026-11-01T09:30:00+01:00", header=header)
    earlier = write(tmp_path / "2.csv", "00000,2,,,wrong,3,2026-11-01T08:00:00Z", header=header)
    (row,) = with_marks(bins(2), read_marks([later, earlier]), 1, 5)[0].to_pylist()
    assert row["count"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty: the first line must name a column id"),
        ("id,mark\n1,right\n", "the first line must name a column expected_quantity"),
        (f"{HEADER}\n00000,2,check,0.9,maybe,\n", "00000 is marked 'maybe'"),
        (f"{HEADER}\n00000,2,check,0.9,wrong,many\n", "00000 was counted as 'many'"),
        (f"{HEADER}\n", "there is no mark in it"),
        (f"{HEADER},checked_at\n00000,2,ok,0.1,right,,1 Nov\n", "'1 Nov' is no ISO 8601 time"),
    ],
)
def test_what_is_no_file_of_marks_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="not what a review page exports") as raised:
        read_marks([path])
    assert message in str(raised.value)
    with pytest.raises(InputError, match="No such file"):
        read_marks([tmp_path / "none.csv"])
