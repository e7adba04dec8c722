"""A stranger's csv of photos: its rows, or what is wrong with it and in which line.

A line is a row: a quote that somebody left open cannot swallow the rows after it, and as many rows
come out as lines went in. The audit reads such files by the same rules (tests/bin_tables.py).
"""

import csv
import re
from collections.abc import Iterable, Iterator

WHOLE_NUMBER = re.compile(r"\s*([0-9]{1,9})(\.0*)?\s*", re.ASCII)


class BadTableError(ValueError):
    """The file is no such csv; the message names the line."""


def read_table(lines: Iterable[str]) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the names of a csv's columns, and its rows, one after another.

    Args:
        lines: of a file that was opened with newline="" and without its byte order mark; blank ones
            are no rows.

    Returns: the names, stripped and case-folded, and for each row its cells by these names. Columns
        without a name are left out.

    Raises: BadTableError, for the rows as they are read: a quote is not closed in its line, a row
        has more or fewer cells than the header, or the header names a column twice.
    """
    rows = _cells(lines)
    _, header = next(rows, (1, []))
    names = [cell.strip().casefold() for cell in header]
    named = [name for name in names if name]
    for name in named:
        if named.count(name) > 1:
            raise BadTableError(f"the first line names the column {name[:80]} twice.")

    def by_name() -> Iterator[dict[str, str]]:
        for number, cells in rows:
            if len(cells) != len(names):
                raise BadTableError(
                    f"line {number} has {len(cells)} cells, the header {len(names)}: put a cell "
                    "with a comma in quotes."
                )
            yield {name: cell for name, cell in zip(names, cells, strict=True) if name}

    return named, by_name()


def _cells(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not blank, from 1 on, and its cells."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            (cells,) = csv.reader([line], strict=True)
        except csv.Error as error:
            raise BadTableError(
                f"line {number}: a quote opens here and does not close in this line."
                if str(error) == "unexpected end of data"
                else f"line {number}: {error}."
            ) from error
        yield number, cells


def whole_number(text: str) -> int | None:
    """Return the number that a record says: "3" and "3.0" are 3; "-1", "2.5" and "two" are none."""
    match = WHOLE_NUMBER.fullmatch(text)
    return int(match[1]) if match else None
