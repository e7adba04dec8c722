"""Write an audit's bins, predictions and decisions as other programs open them.

    python scripts/audit.py --model runs/vit_tiny/model --bins data/bins --split test \\
        --output_dir audits/test
    python scripts/export_audit.py --audit audits/test --bins data/bins --split test \\
        --to label_studio --output_dir exports/label_studio

--to fiftyone (a folder that Dataset.from_dir opens), label_studio (tasks with predictions, and the
labeling config), cleanlab (labels and probabilities) or csv (a table, the photos beside it).
--bins, --split, --photos and --metadata are those of the audit. docs/exports.md opens each.
"""

import argparse
import csv
import shlex
import sys
from pathlib import Path

import pyarrow as pa

from one_line_parser import OneLineErrorsParser

FORMATS = ("fiftyone", "label_studio", "cleanlab", "csv")


def main(argv: list[str] | None = None) -> None:
    """Export an audit."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        num_bins, num_written = export(arguments)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        parser.error(str(error))
    left_out = num_bins - num_written
    print(f"Exported {num_written:,} of {num_bins:,} bins: {arguments.output_dir}")
    if left_out:
        why = "a photo and a record that the model counts to"
        why = why if arguments.to == "cleanlab" else "a JPEG or PNG"
        print(f"Left out, without {why}: {left_out:,}.")
    print(f"Next: {next_step(arguments.to, arguments.output_dir)}")


def make_parser() -> OneLineErrorsParser:
    """Return the parser of this entry's flags."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument(
        "--audit", required=True, type=Path, metavar="FOLDER", help="--output_dir of audit.py"
    )
    parser.add_argument(
        "--bins", required=True, type=Path, metavar="PATH", help="dataset folder or csv, as audited"
    )
    parser.add_argument("--split", action="append", metavar="NAME", help="as audited")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="of a csv, as audited")
    parser.add_argument("--metadata", type=Path, metavar="FOLDER", help="as audited")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument(
        "--output_dir", required=True, type=Path, metavar="FOLDER", help="new, or empty"
    )
    return parser


def export(arguments: argparse.Namespace) -> tuple[int, int]:
    """Write the export; return how many bins there are, and how many of them it holds.

    Raises: ValueError: no such audit or bins, or the output folder is not empty.
    """
    # Here: --help needs none of them.
    from audit_exports.audited_bins import open_audit
    from audit_exports.cleanlab_arrays import write_cleanlab
    from audit_exports.fiftyone_dataset import write_fiftyone
    from audit_exports.label_studio import write_label_studio
    from audit_exports.spreadsheet import write_csv
    from audit_exports.whole_folders import whole_folder
    from auditing.bins import open_bins

    writers = dict(
        zip(FORMATS, (write_fiftyone, write_label_studio, write_cleanlab, write_csv), strict=True)
    )
    source = open_bins(
        arguments.bins, arguments.split, arguments.photos, arguments.metadata, with_visits=False
    )
    audit = open_audit(arguments.audit, source)
    with whole_folder(arguments.output_dir) as folder:
        return source.num_bins, writers[arguments.to](audit, folder)


def next_step(to: str, folder: Path) -> str:
    """Return what opens an export."""
    where = shlex.quote(str(folder))
    return {
        "fiftyone": f"fiftyone datasets create --name audit --dataset-dir {where} --type "
        f"fiftyone.types.FiftyOneDataset && fiftyone app launch audit",
        "label_studio": f"label-studio start, a project with {where}/labeling_config.xml, and "
        f"import {where}/tasks_*.json there.",
        "cleanlab": f"cleanlab.filter.find_label_issues, of {where}/labels.npy and pred_probs.npy.",
        "csv": f"open {where}/bins.csv in a spreadsheet.",
    }[to]


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print(
            "\nStopped. The same command begins again, and nothing is left over.", file=sys.stderr
        )
        sys.exit(130)
