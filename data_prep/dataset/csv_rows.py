"""Rows of a csv that a person, a spreadsheet or a page has written."""

import csv
from collections.abc import Iterable, Iterator, Sequence


def rows_of_csv(lines: Iterable[str], needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield each row by its columns' names, in small letters and without spaces around them.

    Args:
        needed: columns that must be there; `id` is empty in no row.

    Raises: ValueError, csv.Error: it is none; the message says the line.
    """
    header: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Line by line: a quote that somebody left open must not swallow the rows after it.
            (cells,) = csv.reader([line], strict=True)
        except csv.Error as error:
            raise ValueError(f"line {number}: {error}; a row must be on one line") from error
        if not header:
            header = [cell.strip().casefold() for cell in cells]
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise ValueError(f"the first line names the column {twice[0][:80]} twice")
            if missing := [name for name in needed if name not in header]:
                raise ValueError(
                    f"the first line must name a column {missing[0]}, and names "
                    f"{', '.join(header)[:80]}"
                )
            continue
        if len(cells) != len(header):
            raise ValueError(f"line {number} has {len(cells)} cells, the header {len(header)}")
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        # No plain id begins with an apostrophe: it keeps spreadsheets from running a cell.
        row["id"] = row["id"].removeprefix("'")
        if not row["id"]:
            raise ValueError(f"line {number} has no id")
        yield row
    if not header:
        raise ValueError(f"the file is empty: the first line must name a column {needed[0]}")
