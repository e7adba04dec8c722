"""An audit as one table, with all that decisions.csv lacks: probabilities, items and photos."""

import csv
from pathlib import Path

from audit_exports.audited_bins import Audit
from auditing.verdicts import COLUMNS, harmless

PHOTOS = "photos"


def write_csv(audit: Audit, folder: Path) -> int:
    """Write bins.csv, a line a bin, and the photos beside it; return how many bins.

    In quotes throughout, and nothing that a spreadsheet runs, as in decisions.csv.
    """
    (folder / PHOTOS).mkdir()
    num_bins = 0
    with (folder / "bins.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        names = (f"probability_{count}" for count in audit.counts)
        writer.writerow([*COLUMNS, *names, "items", "photo"])
        for a_bin in audit.bins():
            photo = ""
            if a_bin.photo is not None:
                photo = f"{PHOTOS}/{a_bin.photo_name}"
                (folder / photo).write_bytes(a_bin.photo)
            shares = a_bin.probabilities or [""] * len(audit.counts)
            writer.writerow(
                [
                    *(a_bin.cells[name] for name in COLUMNS),
                    *(f"{share:.6f}" if share != "" else "" for share in shares),
                    harmless("; ".join(a_bin.item_lines)),
                    photo,
                ]
            )
            num_bins += 1
    return num_bins
