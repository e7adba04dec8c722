"""Turn what people answered in Label Studio into marks, as the review page exports them.

    python scripts/import_marks.py label_studio.json --output marks.csv

The file is a project's export as JSON, of tasks that export_audit.py wrote. The marks are for
audit.py --checked and --recalibrate, and for build_dataset.py --marks.
"""

import shlex
from pathlib import Path

from one_line_parser import OneLineErrorsParser


def main(argv: list[str] | None = None) -> None:
    """Write the marks of an export."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("export", type=Path, metavar="JSON", help="what Label Studio exported")
    parser.add_argument("--output", required=True, type=Path, metavar="CSV")
    arguments = parser.parse_args(argv)
    try:
        from audit_exports.label_studio import marks_of, write_marks  # not for --help
        from output_files import whole_file

        marks = marks_of(arguments.export)
        with (
            whole_file(arguments.output) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            write_marks(marks, file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"{len(marks):,} marks: {arguments.output}")
    path = shlex.quote(str(arguments.output))
    print(f"Next: the audit's command with --checked {path}, or build_dataset.py --marks {path}")


if __name__ == "__main__":
    main()
