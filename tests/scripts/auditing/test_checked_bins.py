from pathlib import Path

import pytest

from auditing.checked_bins import CheckedBins, Finding, checked_bins, read_marks

HEADER = "id,expected_quantity,decision,probability_wrong,mark,counted\n"


def marks(folder: Path, *lines: str) -> Path:
    path = folder / "marks.csv"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return path


def test_a_mark_says_the_count_or_at_least_what_it_is_not(tmp_path: Path) -> None:
    found = read_marks(
        marks(
            tmp_path,
            "a,3,ok,0.01,right,",
            "b,3,ok,0.01,wrong,5",
            "c,3,,,wrong,",
            "d,two,,,wrong,0",
            "a,3,ok,0.01,right,3",
        )
    )
    assert found.faults == ()
    assert found.findings == {
        "a": Finding(3),
        "b": Finding(5),
        "c": Finding(None, 3),
        "d": Finding(0),
    }


def test_what_cannot_be_used_is_a_line_each_and_the_rest_is_used(tmp_path: Path) -> None:
    found = read_marks(
        marks(
            tmp_path,
            "a,3,,,maybe,",
            "b,3,,,wrong,many",
            "c,two,,,right,",
            "d,3,,,right,",
            "d,3,,,wrong,4",
            "e,3,,,right,",
        )
    )
    assert found.findings == {"e": Finding(3)}
    assert found.faults == (
        "a: mark 'maybe' is neither right nor wrong: it is not used",
        "b: counted 'many' is not a whole number from 0 on: the mark is not used",
        "c: marked right, but its record 'two' is no number: it is not used",
        "d: marked more than once, and not alike: no mark is used",
    )


def test_marks_go_to_the_one_bin_of_their_name(tmp_path: Path) -> None:
    found = read_marks(
        marks(
            tmp_path,
            "a,3,,,wrong,5",
            "ghost,3,,,right,",
            "twin,3,,,right,",
            '"\'=x",1,,,right,',
            "c,2,,,wrong,",
        )
    )
    assert checked_bins(found, ["twin", "c", "twin", "'=x", "a"]) == CheckedBins(
        counts={4: 5, 3: 1},
        refuted={1: 2},
        recorded={4: 3, 3: 1, 1: 2},
        faults=(
            "ghost: marked, but no bin is called so: the mark is not used",
            "twin: marked, but 2 bins are called so: the mark is not used",
        ),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id,mark\na,right\n", "no column expected_quantity, counted"),
        (HEADER + "a,3,ok\n", "line 2 has 3 cells"),
        (HEADER + '"a,3,ok,0,right,\n', "line 2: a quote opens"),
        ("", "no column id"),
    ],
)
def test_a_file_that_is_none_of_marks_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_marks(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_marks(tmp_path / "nowhere.csv")
