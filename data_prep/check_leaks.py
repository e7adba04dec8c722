"""Say whether the splits of an image dataset share photos or groups, of any dataset.

    python data_prep/check_leaks.py data/bins
    python data_prep/check_leaks.py USER/NAME --group_column patient --perceptual
    python data_prep/check_leaks.py photos/ --output leaks.json   # photos/train/, photos/test/

Compared are the bytes of the photos; with --perceptual their looks, which finds copies of another
size or quality; the values of --group_column, what must not be apart; and the ids before and after
each row's own, which is told and is no leak by itself. The exit code is 1 if a split has a photo or
a group of another one, so that it can stand in a pipeline.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from command_line import EntryParser, InputError, say
from dataset.leaks import Leak, near_copies, neighbours, shared_values
from whole_files import whole_file

if TYPE_CHECKING:
    from dataset.loaded_rows import Rows

NUM_NAMED = 5  # twins that the terminal names; --output has all


def make_parser() -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(__doc__)
    parser.add_argument("dataset", metavar="FOLDER_OR_HUB_ID", help="what load_dataset takes")
    parser.add_argument("--config", help="of a dataset with several")
    parser.add_argument("--image_column", metavar="NAME", help="default: the only column of images")
    parser.add_argument(
        "--group_column",
        metavar="NAME",
        help="whose values each belong in one split (default: bin_group, where there is one)",
    )
    parser.add_argument(
        "--id_column", metavar="NAME", help="numbers in a row (default: id, where there is one)"
    )
    parser.add_argument(
        "--perceptual", action="store_true", help="compare how photos look too; decodes each"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="each row that was found, as JSON"
    )
    return parser


def find_leaks(rows: "Rows", with_looks: bool) -> list[Leak]:
    """Return what each check found."""
    photos = pa.array([digest or None for digest in rows.digests], pa.binary())
    found = [shared_values("exact copies", rows.splits, photos)]
    if with_looks:
        found.append(near_copies(rows.splits, rows.looks))
    if "group" in rows.columns:
        found.append(shared_values("shared groups", rows.splits, rows.columns["group"]))
    if "id" in rows.columns:
        found.append(neighbours("neighbours by id", rows.splits, rows.columns["id"]))
    return found


def report_lines(rows: "Rows", leaks: list[Leak]) -> list[str]:
    """Return a table, a line a check: of each split the rows that have a twin in another one."""
    sizes = np.bincount(rows.splits, minlength=len(rows.names))
    heads = [f"{name} ({size:,})" for name, size in zip(rows.names, sizes, strict=True)]
    table = [["in another split too:", *heads]]
    for leak in leaks:
        counts = np.bincount(rows.splits[leak.rows], minlength=len(rows.names))
        shares = [f"{n:,} ({n / max(size, 1):.1%})" for n, size in zip(counts, sizes, strict=True)]
        table.append([leak.name + ("" if leak.is_leak else " *"), *shares])
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in table
    ]
    if any(not leak.is_leak for leak in leaks):
        lines.append("* no leak by itself: what follows each other need not show one thing")
    for leak in leaks:
        if leak.is_leak and leak.rows.any():
            pairs = [
                f"{rows.name_of(row)} = {rows.name_of(leak.twins[row])}"
                for row in np.flatnonzero(leak.rows)[:NUM_NAMED].tolist()
            ]
            lines.append(f"{leak.name}, such as {'; '.join(pairs)}")
    lines += [
        f"{leak.name}: only {leak.num_checked:,} of {len(rows.splits):,} rows could be compared"
        for leak in leaks
        if leak.num_checked < len(rows.splits)
    ]
    if rows.num_unreadable:
        lines.append(f"{rows.num_unreadable:,} photos cannot be read: their looks are not compared")
    return lines


def as_json(rows: "Rows", leaks: list[Leak]) -> dict[str, Any]:
    """Return what was found: of each check the rows, by split and index, with a twin of each."""

    def place(row: int) -> list[Any]:
        return [rows.names[rows.splits[row]], int(rows.indices[row])]

    return {
        "splits": {
            name: int((rows.splits == number).sum()) for number, name in enumerate(rows.names)
        },
        "num_unreadable": rows.num_unreadable,
        "checks": {
            leak.name: {
                "is_leak": leak.is_leak,
                "num_checked": leak.num_checked,
                "pairs": [
                    [place(row), place(leak.twins[row])]
                    for row in np.flatnonzero(leak.rows).tolist()
                ],
            }
            for leak in leaks
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Check a dataset and return the exit code: 1 if it leaks."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    # Takes two seconds to import, which a mistyped flag need not wait for.
    from dataset.loaded_rows import column_of, image_column, load, read_rows

    try:
        found = load(arguments.dataset, arguments.config)
        image = image_column(found, arguments.image_column)
        chosen = {
            "group": column_of(found, "group_column", arguments.group_column, "bin_group"),
            "id": column_of(found, "id_column", arguments.id_column, "id"),
        }
        columns = {name: column for name, column in chosen.items() if column is not None}
        rows = read_rows(found, image, columns, arguments.perceptual)
    except InputError as error:
        parser.error(str(error))
    leaks = find_leaks(rows, arguments.perceptual)
    say(*report_lines(rows, leaks))
    if arguments.output:
        try:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(arguments.output) as temporary:
                temporary.write_text(json.dumps(as_json(rows, leaks)) + "\n")
        except OSError as error:
            parser.error(f"--output {arguments.output}: {error.strerror}.")
        say(f"Each row with a twin of it: {arguments.output}")
    leaking = [leak.name for leak in leaks if leak.is_leak and leak.rows.any()]
    say(f"It leaks: {', '.join(leaking)}." if leaking else "No leak was found.")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
