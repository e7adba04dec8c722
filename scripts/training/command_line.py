"""The command line of train.py: strict parsing, flags from JSON, errors of one line.

    cd scripts; python -m training.command_line FLAG ...

is train.py --dry_run for launchers: in half the time, without the libraries that training needs,
and about a job, whose devices and packages are not this machine's.
"""

import dataclasses
import gc
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from training.arguments import SECRETS, BinTrainingArguments, DataArguments, ModelArguments
from training.flag_table import USAGE, HelpFormatter, TrainParser, words_of

# What a job installs beside the training container's own packages, of which one is a tracker.
REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"
TRACKERS_OF_CONTAINER = ("trackio",)


class BinArgumentParser(HfArgumentParser, TrainParser):
    """HfArgumentParser without abbreviations, whose errors are one line and exit code 2."""


def make_parser(description: str | None) -> BinArgumentParser:
    """Return the parser of train.py's flags."""
    return BinArgumentParser(
        (ModelArguments, DataArguments, BinTrainingArguments),
        prog="train.py",
        usage=USAGE,
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def parse_arguments(
    parser: BinArgumentParser, argv: list[str]
) -> tuple[ModelArguments, DataArguments, BinTrainingArguments]:
    """Parse flags, those of a JSON file that they may follow, and those of a recipe.

    Raises: SystemExit: code 2, after one line that says what is wrong.
    """
    try:
        argv = words_of(argv)
        parser.parse_args(argv)  # names an unknown flag before a missing one
        model, data, training = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    # TrainingArguments raises TypeError for a value of a wrong kind, ImportError for a flag whose
    # library is absent.
    except (ValueError, TypeError, ImportError, OSError) as error:
        parser.error(str(error))
    if data.dataset_dir is None and not data.dry_run:
        parser.error("give --dataset_dir: the folder that data_prep/build_dataset.py wrote.")
    if not (training.do_train or training.do_eval or training.do_predict or data.dry_run):
        parser.error("nothing to do: give --do_train, --do_eval or --do_predict.")
    if model.model_dir is None:
        default_dir = str(Path(training.output_dir or "") / "model")
        model.model_dir = os.environ.get("SM_MODEL_DIR", default_dir)
    if training.untried and training.process_index == 0:
        print(f"Not tried in this project: {', '.join(training.untried)}.", file=sys.stderr)
    return model, data, training


def resolved_arguments(
    model: ModelArguments, data: DataArguments, training: BinTrainingArguments
) -> dict[str, Any]:
    """Return every argument by its flag's name, without SECRETS."""
    record = {**dataclasses.asdict(model), **dataclasses.asdict(data), **training.to_dict()}
    return {name: value for name, value in record.items() if name not in SECRETS}


def command_of(argv: list[str]) -> str:
    """Return the command that was given, without SECRETS."""
    words, is_secret = ["python", "scripts/train.py"], False
    for word in argv:
        if word.startswith("--"):
            is_secret = word[2:].partition("=")[0].replace("-", "_") in SECRETS
        if not is_secret:
            words.append(word)
    return shlex.join(words)


def check_trackers_of_job(report_to: Sequence[str]) -> None:
    """Check that a job has the trackers of --report_to.

    Raises: ValueError: transformers knows no such tracker, or nothing installs its package.
    """
    if not report_to:
        return
    # Only now: it takes a second or two.
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    installed = REQUIREMENTS.read_text().lower().replace("-", "").replace("_", "")
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"--report_to {name}: give {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in TRACKERS_OF_CONTAINER and not re.search(
            rf"^{name.replace('_', '')}", installed, re.M
        ):
            raise ValueError(
                f"--report_to {name}: a job may lack its package: add a line for it to "
                "scripts/requirements.txt, which costs nothing where the container holds it."
            )


def main(argv: list[str] | None = None) -> None:
    """Print what flags resolve to, without the libraries that training needs."""
    parser = make_parser(__doc__)
    flags = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(parser, [*flags, "--dry_run"])
    try:
        check_trackers_of_job(arguments[2].report_to)
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps(resolved_arguments(*arguments), indent=2))


if __name__ == "__main__":
    # Python would look for garbage in all of torch as it ends, which takes half a second.
    gc.freeze()
    main()
