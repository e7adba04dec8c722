"""Write down the flags of train.py, as the installed transformers has them: flag_table.json.

    cd scripts; python -m training.write_flag_table

After a change of arguments.py, or of the release of transformers in requirements.txt.
"""

import json
from typing import Any

from training.command_line import make_parser
from training.flag_table import TABLE, table_of_parser


def main() -> None:
    """Write the table beside this file."""
    TABLE.write_text(as_text(table_of_parser(make_parser(None))))
    print(TABLE)


def as_text(table: dict[str, Any]) -> str:
    """Return a table as JSON, a flag a line."""
    groups = [
        f"{json.dumps(title)}: [\n" + ",\n".join(map(json.dumps, flags)) + "\n]"
        for title, flags in table["groups"].items()
    ]
    return (
        f'{{"transformers": {json.dumps(table["transformers"])},\n"groups": {{\n'
        + ",\n".join(groups)
        + "\n}}\n"
    )


if __name__ == "__main__":
    main()
