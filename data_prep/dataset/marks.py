"""What people found in bins, and the labels that come of it: the marks that audits' pages export.

A record that was found wrong has the counted number from there on; one that was found right is a
label that somebody has seen. Neither moves a bin to another split.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from command_line import InputError
from dataset.csv_rows import rows_of_csv

COLUMNS = ("id", "expected_quantity", "mark", "counted")
RIGHT, WRONG = "right", "wrong"
# What a dataset says of a bin that was checked; null for the others, but for the first.
MARK_COLUMNS = {
    "recorded_quantity": pa.int32(),  # items by the record, whatever the label is
    "checked": pa.string(),  # RIGHT or WRONG: what the record was found to be
    "checked_in": pa.string(),  # the file of marks
    "checked_by": pa.string(),
    "checked_at": pa.string(),
}
ITEMS = ("asins", "quantities", "volumes", "weights")
WHOLE = re.compile(r"\d{1,9}(\.0*)?")
NO_NUMBER = -1
NOT_COUNTED = "found wrong, and not counted (--marks)"
NOT_THERE = "marked, but not among the bins (--marks)"
OTHER_RECORD = "marked for another record than there is: the mark is not used (--marks)"


@dataclass(frozen=True)
class Mark:
    """What a person found.

    `recorded` is the record that was looked at, `count` the items in the bin: None where it was
    found wrong and nobody counted. `by` and `at`, a time, are empty where the file does not say.
    """

    recorded: int | None
    count: int | None
    file: str
    by: str
    at: str


def read_marks(paths: Sequence[Path]) -> dict[str, list[Mark]]:
    """Return the marks of each bin, the newest last: by their time, else in the files' order.

    One without a time is older than those that have one.

    Raises: InputError: a file is none of marks, or says nothing; the message says what, and where.
    """
    marks: dict[str, list[Mark]] = {}
    for path in paths:
        num_rows = 0
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in rows_of_csv(file, COLUMNS):
                    marks.setdefault(row["id"], []).append(_mark(row, path.name))
                    num_rows += 1
            if num_rows == 0:
                raise ValueError("there is no mark in it")
        except OSError as error:
            raise InputError(f"--marks {path}: {error.strerror}.") from error
        except (csv.Error, ValueError) as error:
            raise InputError(f"--marks {path}: not what a review page exports: {error}.") from error
    return {bin_id: sorted(of_bin, key=lambda mark: mark.at) for bin_id, of_bin in marks.items()}


def _mark(row: Mapping[str, str], file: str) -> Mark:
    """Return what a row says. Raises: ValueError: it says nothing, or no number or time."""
    name, recorded = row["id"][:80], _whole(row["expected_quantity"])
    by, at = row.get("checked_by", ""), row.get("checked_at", "")
    if at:
        try:
            moment = datetime.fromisoformat(at)
        except ValueError as error:
            raise ValueError(f"{name}: checked_at {at[:40]!r} is no ISO 8601 time") from error
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    if row["counted"]:
        count = _whole(row["counted"])
        if count is None:
            raise ValueError(f"{name} was counted as {row['counted'][:40]!r}")
        return Mark(recorded, count, file, by, at)
    if row["mark"] not in (RIGHT, WRONG):
        raise ValueError(f"{name} is marked {row['mark'][:40]!r}")
    if row["mark"] == WRONG:
        return Mark(recorded, None, file, by, at)
    # A record that is no number is none of this dataset's.
    return Mark(NO_NUMBER if recorded is None else recorded, recorded, file, by, at)


def _whole(text: str) -> int | None:
    return int(float(text)) if WHOLE.fullmatch(text) else None


def with_marks(
    bins: pa.Table, marks: Mapping[str, Sequence[Mark]], min_count: int, max_count: int
) -> tuple[pa.Table, list[dict[str, str]], list[dict[str, str]]]:
    """Return bins with MARK_COLUMNS and the counts that people found.

    A bin that does not hold what its record says has no items: which ones they are, nobody knows.

    Args:
        bins: of plan.SHARD_COLUMNS and more, `count` being the record's.

    Returns: the table; the bins that are set aside and the marks that are not used, each
        [{"id": ..., "reason": ...}].
    """
    rows = {bin_id: row for row, bin_id in enumerate(bins["id"].to_pylist()) if bin_id in marks}
    recorded = bins["count"].to_numpy()
    counts, is_kept = recorded.copy(), np.ones(len(recorded), dtype=bool)
    said: dict[str, list[str | None]] = {
        name: [None] * len(recorded) for name in MARK_COLUMNS if name != "recorded_quantity"
    }
    set_aside, unused = [], [{"id": bin_id, "reason": NOT_THERE} for bin_id in marks.keys() - rows]
    for bin_id, row in rows.items():
        holds = _that_holds(marks[bin_id], int(recorded[row]))
        if holds is None:
            unused.append({"id": bin_id, "reason": OTHER_RECORD})
        elif holds.count is None:
            set_aside.append({"id": bin_id, "reason": NOT_COUNTED})
        elif not min_count <= holds.count <= max_count:
            reason = f"counted: {holds.count} items, out of range (--marks)"
            set_aside.append({"id": bin_id, "reason": reason})
        else:
            counts[row] = holds.count
            said["checked"][row] = RIGHT if holds.count == recorded[row] else WRONG
            said["checked_in"][row] = holds.file
            said["checked_by"][row], said["checked_at"][row] = holds.by or None, holds.at or None
    is_kept[[rows[entry["id"]] for entry in set_aside]] = False
    rows_of_items = pa.array(np.arange(len(counts)), mask=counts != recorded)
    table = bins.set_column(bins.column_names.index("count"), "count", pa.array(counts))
    for name in ITEMS:
        items = bins[name].combine_chunks().take(rows_of_items)
        table = table.set_column(table.column_names.index(name), name, items)
    columns = {"recorded_quantity": recorded, **said}
    for name, kind in MARK_COLUMNS.items():
        table = table.append_column(name, pa.array(columns[name], kind))
    return table.filter(pa.array(is_kept)), set_aside, unused


def _that_holds(of_bin: Sequence[Mark], recorded: int) -> Mark | None:
    """Return the newest mark that was made for a bin's record, or for what one before it found."""
    holds = None
    for mark in of_bin:
        known = {None, recorded, holds.count if holds else None}
        if mark.recorded in known:
            holds = mark
    return holds
