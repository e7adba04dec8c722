"""The flags of train.py as a table: --help and refusals before torch and transformers are loaded.

    cd scripts; python -m training.flag_table FLAG ...

ends with code 2 and one line, where a flag can be refused by what it is alone. Trainer's own flags
are only known once transformers is imported, which takes seconds: `python -m
training.write_flag_table` writes them down, for one release. With another one nothing is answered
here, and the full command line (training.command_line), which checks all of this too, does.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from one_line_parser import OneLineErrors
from recipes.named_flags import flags_in, flags_named
from training.sagemaker_job import in_sagemaker_job, tell_failure
from training.trainer_flags import REFUSED, check_numbers, check_refused, is_same

TABLE = Path(__file__).with_suffix(".json")
MODEL = ("model_name_or_path", "config_name")  # two flags for one thing
# argparse would list all 150 flags, and then explain them.
USAGE = "train.py [FLAGS.json] [FLAG ...]"
TRUE_WORDS = ("yes", "true", "t", "y", "1")
FALSE_WORDS = ("no", "false", "f", "n", "0")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines, and show each default that no help's own words say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_it = action.default is None or "Default: " in (action.help or "")
        return action.help if says_it else super()._get_help_string(action)


class TrainParser(OneLineErrors):
    """A parser of train.py, whose errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print `train.py: error: MESSAGE` on standard error and exit with code 2.

        In a SageMaker job `ValueError: MESSAGE`: its toolkit reports as the reason of a failure
        what follows the name of an exception.
        """
        tell_failure(f"ValueError: {message}")
        self.exit_with("ValueError" if in_sagemaker_job() else f"{self.prog}: error", message)


def answer_early(argv: list[str], description: str | None) -> None:
    """Answer --help, and refuse flags that are unknown, or that no machine would take.

    Nothing happens where the table is of another release of transformers than the installed one.

    Args:
        argv: flags of train.py, a JSON file of them first or not.

    Raises: SystemExit: code 0 after the help; code 2 after one line that says what is wrong.
    """
    table = json.loads(TABLE.read_text())
    try:
        if version("transformers") != table["transformers"]:
            return
    except PackageNotFoundError:  # the import will say so
        return
    parser = parser_of_table(table, description)
    try:
        values = parser.parse_args(words_of(argv))
        check_numbers(values)
        given = {name: getattr(values, name) for name in REFUSED}
        changed = [name for name in given if not is_same(given[name], parser.get_default(name))]
        check_refused(changed)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def words_of(argv: list[str]) -> list[str]:
    """Return flags as one parser takes them: those of a JSON file written out, none of them empty.

    Those of a --recipe come first, so that what is given beside it goes before.

    Raises: ValueError: not a JSON object, or no such recipe. OSError: it cannot be read.
    """
    if argv and argv[0].endswith(".json"):
        argv = as_words(flags_in(Path(argv[0]))) + argv[1:]
    argv = without_empty_flags(argv)
    return as_words(flags_of_recipe(argv)) + argv


def flags_of_recipe(argv: list[str]) -> dict[str, Any]:
    """Return the flags of the recipe that a command line names, none where it names none.

    Another model in the command line takes the place of the recipe's, whichever flag names it.

    Raises: ValueError: there is no such recipe.
    """
    parser = TrainParser(prog="train.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    for name in MODEL:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest="model")
    given = parser.parse_known_args(argv)[0]
    if given.recipe is None:
        return {}
    flags = flags_named(given.recipe)
    if given.model is not None:
        for name in MODEL:
            flags.pop(name, None)
    return flags


def as_words(values: dict[str, Any]) -> list[str]:
    """Return the words that flags in JSON stand for, so that one parser checks both forms."""
    flags: list[str] = []
    for name, value in values.items():
        listed = value if isinstance(value, list) else [value]
        if not listed or value is None:
            continue
        flags += [f"--{name}", *(v if isinstance(v, str) else json.dumps(v) for v in listed)]
    return flags


def without_empty_flags(argv: list[str]) -> list[str]:
    """Leave out flags whose value is the empty string: SageMaker sends None so."""
    kept: list[str] = []
    for argument in argv:
        if argument == "" and kept and kept[-1].startswith("--"):
            kept.pop()
        else:
            kept.append(argument)
    return kept


def boolean(word: str) -> bool:
    """Return what a word stands for, as HfArgumentParser reads it.

    Raises: argparse.ArgumentTypeError: for neither.
    """
    if word.lower() in TRUE_WORDS + FALSE_WORDS:
        return word.lower() in TRUE_WORDS
    raise argparse.ArgumentTypeError(
        f"Truthy value expected: got {word} but expected one of yes/no, true/false, t/f, y/n, 1/0 "
        "(case insensitive)."
    )


TYPES = {"bool": boolean, "float": float, "int": int, "str": str}


def parser_of_table(table: dict[str, Any], description: str | None) -> TrainParser:
    """Return the parser that a table describes."""
    parser = TrainParser(
        prog="train.py",
        usage=USAGE,
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    for title, flags in table["groups"].items():
        group = parser.add_argument_group(title)
        for flag in flags:
            keywords = {name: value for name, value in flag.items() if name != "flags"}
            if "type" in keywords:
                keywords["type"] = TYPES[keywords["type"]]
            group.add_argument(*flag["flags"], **keywords)
    return parser


def table_of_parser(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return a parser's flags as a table, for parser_of_table.

    A type that no table knows is left to the full command line.
    """
    groups = {}
    for group in parser._action_groups:
        flags = [_row_of(action) for action in group._group_actions if action.dest != "help"]
        if flags:
            groups[group.title] = flags
    return {"transformers": version("transformers"), "groups": groups}


def _row_of(action: argparse.Action) -> dict[str, Any]:
    row: dict[str, Any] = {"flags": [*action.option_strings], "dest": action.dest}
    if isinstance(action, argparse._StoreFalseAction):
        row["action"] = "store_false"
    else:
        kind = getattr(action.type, "__name__", "")
        row["type"] = "bool" if kind == "string_to_bool" else kind if kind in TYPES else "str"
        row |= {"nargs": action.nargs, "const": action.const, "metavar": action.metavar}
        row["choices"] = action.choices and [*action.choices]
    if "Default: " not in (action.help or ""):  # else it depends on the machine
        row["default"] = getattr(action.default, "value", action.default)
    row["help"] = action.help
    return {name: value for name, value in row.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> None:
    """Refuse flags of train.py, or say nothing."""
    answer_early([*(sys.argv[1:] if argv is None else argv)], __doc__)


if __name__ == "__main__":
    main()
