import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditing.bin_table import BadTableError, read_table, whole_number


def rows_of(text: str) -> list[dict[str, str]]:
    return list(read_table(io.StringIO(text, newline=""))[1])


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("0", 0), (" 7 ", 7), ("3.0", 3), ("007", 7), ("-1", None), ("2.5", None)]
    + [("two", None), ("", None), ("1e3", None), ("٣", None), ("1" * 20, None), ("nan", None)],
)
def test_a_record_is_a_whole_number_or_none(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@given(st.lists(st.text(" ,\"'ab3\n\r\ufeff;"), max_size=6).map("\n".join))
def test_no_line_is_lost_whatever_strangers_write(text: str) -> None:
    lines = [line for line in io.StringIO(text, newline="") if line.strip()]
    try:
        names, rows = read_table(io.StringIO(text, newline=""))
        found = list(rows)
    except BadTableError:
        return
    assert len(found) == max(len(lines) - 1, 0)
    assert all(list(row) == names for row in found)


def test_the_line_of_an_open_quote_is_named_and_no_row_after_it_is_swallowed() -> None:
    rows = ["photo,expected_quantity,name", "1.jpg,1,filter", '2.jpg,2,"3 inch pipe', "3.jpg,3,pen"]
    # Whether the file ends within the quote, or another one closes it.
    for last in ("4.jpg,4,soap", '4.jpg,4,"', '4.jpg,4,"soap"'):
        with pytest.raises(BadTableError, match="line 3: a quote opens here and does not close"):
            rows_of("\n".join([*rows, last]))
