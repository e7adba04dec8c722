"""The folder of a run: which run it belongs to, who writes in it, and what leaves it at the end."""

import errno
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagnostics.record import DIAGNOSTICS_PAGE, DIAGNOSTICS_RECORD, TRACE
from one_line_parser import reason_of
from output_files import whole_file
from training.checkpoints import checkpoint_folders
from training.trainer_flags import DECIDE_WEIGHTS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RECORD = "arguments.json"
METRICS = "all_results.json"
PREDICTIONS = "predictions_test.parquet"
VALIDATION_PREDICTIONS = "predictions_validation.parquet"
CHANGES = "changes_test.parquet"
CHECK = "check.json"
LOCK = "_running"  # Trainer's push to the Hub leaves out what starts so
TRACKER_FOLDERS = ("tensorboard", "trackio")

# What a run is evaluated on and with, and what its weights depend on: a folder holds one of each.
# More epochs or steps are not here: they go on with the same run.
EVALUATION_IDENTITY = ("dataset_fingerprint", "model")
TRAINING_IDENTITY = (
    *EVALUATION_IDENTITY,
    *DECIDE_WEIGHTS,
    *("max_train_samples", "world_size", "model_revision", "fp16", "optim_args", "untried_flags"),
    *("loss", "neighbour_weight", "class_weights", "augment_geometry", "augment_colour", "mixup"),
    *("regularize", "average_weights", "drop_path", "calibrate", "learn_changes", "learn_items"),
    "checked_weight",
)

# What a run did whose record is of before there was such a flag.
ADDED_SINCE = {
    **{"learn_items": False, "average_weights": True, "drop_path": 0.1},
    "checked_weight": 1.0,
}


@contextmanager
def only_run_in(output_dir: Path) -> Iterator[None]:
    """Keep other runs out of the folder, which is made if need be, until the block or process ends.

    Windows, and file systems without locks, let others in.

    Raises: ValueError: another run is in it. OSError: it cannot be made or written to.
    """
    check_writable(output_dir, "--output_dir")
    with (output_dir / LOCK).open("a+") as file:
        if fcntl is not None:
            try:
                # Of the process, unlike flock: what it forked, such as the workers that decode
                # photos, does not hold it when it was killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    raise ValueError(
                        f"Another run is writing in {output_dir} ({file.read().strip()}): wait for "
                        "its end, or choose another --output_dir."
                    ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def check_writable(folder: Path, flag: str) -> None:
    """Make a folder if need be, and write in it. Raises: ValueError: neither is possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"now, not after hours of training")
    except OSError as error:
        raise ValueError(
            f"{flag} {folder} cannot be written to ({error.strerror}): choose another."
        ) from error


def check_run_folder(output_dir: Path, record: dict[str, Any], model_dir: Path) -> None:
    """Check that the folder is new, or belongs to this run.

    More epochs of the same run may go on, and a run's own model may be evaluated in its folder.

    Args:
        record: all arguments of this run, with dataset_fingerprint, model and world_size.
        model_dir: where the run of this folder keeps its model.

    Raises: ValueError: the folder holds another run.
    """
    recorded = read_record(output_dir)
    if recorded is None:
        if checkpoint_folders(output_dir):
            raise ValueError(
                f"{output_dir} holds checkpoints of an unknown run (no {RECORD}): choose another "
                "--output_dir."
            )
        return
    both_train = record["do_train"] and recorded.get("do_train")
    names = list(TRAINING_IDENTITY if both_train else EVALUATION_IDENTITY)
    if not record["do_train"] and Path(str(record["model"])).resolve() == model_dir.resolve():
        names.remove("model")
    before = ADDED_SINCE | recorded
    differing = [name for name in names if before.get(name) != record[name]]
    if differing:
        raise ValueError(
            f"{output_dir} holds another run ("
            + ", ".join(f"{name} {before.get(name)}, now {record[name]}" for name in differing[:3])
            + (f", and {len(differing) - 3} more" if len(differing) > 3 else "")
            + "): choose another --output_dir, or give what was given before."
        )


def read_record(output_dir: Path) -> dict[str, Any] | None:
    """Return what write_record wrote, None where there is nothing.

    Raises: ValueError: the file cannot be read.
    """
    path = output_dir / RECORD
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({reason_of(error)}): choose another --output_dir."
        ) from error


def write_record(output_dir: Path, record: dict[str, Any]) -> None:
    """Write the arguments of the run, before its first step.

    The record of a training stays when its model is evaluated later.
    """
    recorded = read_record(output_dir)
    if recorded and recorded.get("do_train") and not record["do_train"]:
        return
    with whole_file(output_dir / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")


def write_figures(output_dir: Path, split: str, figures: dict[str, Any]) -> None:
    """Write SPLIT_results.json, and put its figures into all_results.json, in place of older ones.

    One that cannot be read is named on standard error, and replaced.
    """
    path = output_dir / METRICS
    known: Any = {}
    if path.exists():
        try:
            known = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            print(
                f"{path} cannot be read and is written anew: what --do_train, --do_eval or "
                "--do_predict do not measure now is not in it.",
                file=sys.stderr,
            )
    known = {name: value for name, value in known.items() if not name.startswith(f"{split}_")}
    for name, content in ((f"{split}_results.json", figures), (METRICS, known | figures)):
        with whole_file(output_dir / name) as temporary:
            temporary.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n")


def remove_results(output_dir: Path) -> None:
    """Remove figures and predictions of an earlier state of the model."""
    for name in (METRICS, PREDICTIONS, VALIDATION_PREDICTIONS, CHANGES, CHECK):
        (output_dir / name).unlink(missing_ok=True)


def send_home(output_dir: Path) -> None:
    """Copy the results to where SageMaker collects a job's output; elsewhere do nothing."""
    target = os.environ.get("SM_OUTPUT_DATA_DIR")
    if not target:
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    diagnostics = (DIAGNOSTICS_PAGE, DIAGNOSTICS_RECORD, TRACE)
    results = (RECORD, METRICS, PREDICTIONS, VALIDATION_PREDICTIONS, CHANGES, CHECK)
    for name in (*results, *diagnostics):
        if (output_dir / name).exists():
            shutil.copy2(output_dir / name, target)
    for name in TRACKER_FOLDERS:
        if (output_dir / name).is_dir():
            shutil.copytree(output_dir / name, Path(target) / name, dirs_exist_ok=True)
