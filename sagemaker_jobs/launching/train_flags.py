"""The flags of train.py on a launcher's command line, and as a job's hyperparameters."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.training_job import Hyperparameters

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# A job finds these itself; others would lead its results to where SageMaker does not look.
FOUND_BY_THE_JOB = ("output_dir", "model_dir", "dataset_dir", "dry_run")
# A push from a job reads its token from AWS Secrets Manager.
PUSH_FLAGS = {
    *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token_secret"),
}
# Hyperparameters are shown to everybody who may look at the job, and in its log.
SECRET = ("token", "password", "secret", "api_key")
IN_A_JOB = "/opt/ml/"
# What a shell hands on as it stands. Source: sagemaker-training 5.1.1, which the containers hold,
# joins a job's flags and lets /bin/sh run them (process.run_async).
UNCHANGED_BY_A_SHELL = re.compile(r"[\w@%+=:,./-]+")
# No credentials, and nothing else that a check does not need.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


def flags_as_hyperparameters(flags: list[str]) -> Hyperparameters:
    """Turn --learning_rate 3e-5 --bf16 into {"learning_rate": "3e-5", "bf16": True}.

    Raises: ValueError: a word that belongs to no flag, more than one value, a flag that a job must
        not have.
    """
    values: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if has_value else []
        elif not name:
            raise ValueError(f"{word} belongs to no flag: see --help.")
        else:
            values[name].append(word)
    hyperparameters: Hyperparameters = {}
    for name, given in values.items():
        if name in FOUND_BY_THE_JOB:
            raise ValueError(f"--{name}: a job finds or sets this itself; leave it out.")
        if name not in PUSH_FLAGS and (
            name.startswith(("push_to_hub", "hub_")) or any(word in name for word in SECRET)
        ):
            raise ValueError(
                f"--{name}: everybody who may see the job could read a token in its flags; give "
                "--push_to_hub --hub_model_id USER/NAME --hub_token_secret ARN, or push the model "
                "from here when the job has ended."
            )
        if len(given) > 1:
            raise ValueError(f"--{name} {' '.join(given)}: a job takes one value a flag.")
        hyperparameters[name] = _without_word(given[0]) if given else True
    if hyperparameters.get("push_to_hub") and "hub_token_secret" not in hyperparameters:
        raise ValueError(
            "--push_to_hub: a job has no token; add --hub_token_secret with the ARN of a secret in "
            "AWS Secrets Manager that holds it."
        )
    return hyperparameters


def _without_word(value: str) -> str | bool:
    """Return a boolean for the words true and false, which train.py takes in any case."""
    return {"true": True, "false": False}.get(value.lower(), value)


def merged(recipe: Mapping[str, str | float | bool], given: Hyperparameters) -> Hyperparameters:
    """Return a recipe's hyperparameters with those that were given in their place."""
    kept = dict(recipe)
    if "config_name" in given:  # from scratch instead of from the recipe's model
        kept.pop("model_name_or_path", None)
    elif "model_name_or_path" in given:
        kept.pop("config_name", None)
    return {**kept, **given}


def check_for_container(hyperparameters: Mapping[str, Any]) -> None:
    """Check that a container takes hyperparameters as they are here.

    Raises: ValueError: one names a folder of this machine, which a job does not see, or holds what
        the shell in the container would change.
    """
    model = str(hyperparameters.get("model_name_or_path", ""))
    is_path = model.startswith((".", "/", "~", "s3://")) or (model and Path(model).is_dir())
    if is_path and not model.startswith(IN_A_JOB):
        raise ValueError(
            f"--model_name_or_path {model}: a job does not see this folder; give the id of a model "
            "on the Hub."
        )
    config = str(hyperparameters.get("config_name", ""))
    shipped = sorted(path.name for path in (SCRIPTS / "model_configs").iterdir())
    if config and config not in shipped and not config.startswith(IN_A_JOB):
        raise ValueError(
            f"--config_name {config}: a job knows {' and '.join(shipped)}, which travel with the "
            "code; put the folder into scripts/model_configs."
        )
    for name, value in hyperparameters.items():
        if isinstance(value, str) and not UNCHANGED_BY_A_SHELL.fullmatch(value):
            raise ValueError(
                f"--{name} {value}: in a container a shell reads the flags, and would change this; "
                "letters, digits and @ % + = : , . / _ - are safe."
            )


def needed_splits(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return the splits of the dataset that a job reads."""
    flags = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}
    return [split for split, flag in flags.items() if hyperparameters.get(flag)]


def as_flags(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return hyperparameters as train.py's flags, as SageMaker's toolkit passes them."""
    flags = []
    for name, value in hyperparameters.items():
        flags += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return flags


@contextlib.contextmanager
def checked_by_train(hyperparameters: Mapping[str, Any]) -> Iterator[None]:
    """Let train.py check its flags while the block runs: both take seconds.

    Raises: ValueError: train.py's own words: before the block where a flag alone says so, else at
        its end.
    """
    flags = as_flags(hyperparameters)
    with checked_by(["-P", "-m", "training.flag_table", *flags], path=SCRIPTS):
        pass
    # What train.py --dry_run does, without the seconds that its other imports take.
    with checked_by(["-P", "-m", "training.command_line", *flags], path=SCRIPTS):
        yield


@contextlib.contextmanager
def checked_by(command: Sequence[str], path: Path | None = None) -> Iterator[None]:
    """Let Python run what checks its own arguments and does nothing else, while the block runs.

    Args:
        command: a script or module of another folder, with its arguments: folders share no code.
        path: where its modules are, if the command names one. It runs here, where the files are
            that its flags may name.

    Raises: ValueError: its own words, at the end of the block.
    """
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        yield
        errors = process.communicate()[1]
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = [line for line in errors.splitlines() if line.strip()] or ["it gave no reason"]
        raise ValueError(re.sub(r"^\w+\.py: error: ", "", lines[-1]))
