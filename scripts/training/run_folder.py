"""The folder of a run: which run it belongs to, and what leaves it at the end."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diagnostics.record import DIAGNOSTICS_PAGE, DIAGNOSTICS_RECORD, TRACE
from training.checkpoints import checkpoint_folders

RECORD = "arguments.json"
METRICS = "all_results.json"
PREDICTIONS = "predictions_test.parquet"
CHECK = "check.json"
TRACKER_FOLDERS = ("tensorboard", "trackio")

# What a run is evaluated on and with, and what its weights depend on: a folder holds one of each.
# More epochs or steps are not here: they go on with the same run.
EVALUATION_IDENTITY = ("dataset_fingerprint", "model")
TRAINING_IDENTITY = (
    *EVALUATION_IDENTITY,
    *("max_train_samples", "seed", "data_seed", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "world_size", "learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor"),
    *("model_revision", "bf16", "fp16", "metric_for_best_model", "loss", "neighbour_weight"),
    *("class_weights", "augment_geometry", "augment_colour", "mixup", "regularize"),
    "calibrate",
)


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
    differing = [name for name in names if recorded.get(name) != record[name]]
    if differing:
        raise ValueError(
            f"{output_dir} holds another run ("
            + ", ".join(
                f"{name} {recorded.get(name)}, now {record[name]}" for name in differing[:3]
            )
            + (f", and {len(differing) - 3} more" if len(differing) > 3 else "")
            + "): choose another --output_dir."
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
        raise ValueError(f"{path} cannot be read: choose another --output_dir.") from error


def write_record(output_dir: Path, record: dict[str, Any]) -> None:
    """Write the arguments of the run, before its first step.

    The record of a training stays when its model is evaluated later.
    """
    recorded = read_record(output_dir)
    if recorded and recorded.get("do_train") and not record["do_train"]:
        return
    temporary = output_dir / f"{RECORD}.part"
    temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")
    os.replace(temporary, output_dir / RECORD)


def remove_results(output_dir: Path) -> None:
    """Remove figures and predictions of an earlier state of the model."""
    for name in (METRICS, PREDICTIONS, CHECK):
        (output_dir / name).unlink(missing_ok=True)


def send_home(output_dir: Path) -> None:
    """Copy the results to where SageMaker collects a job's output; elsewhere do nothing."""
    target = os.environ.get("SM_OUTPUT_DATA_DIR")
    if not target:
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    diagnostics = (DIAGNOSTICS_PAGE, DIAGNOSTICS_RECORD, TRACE)
    for name in (RECORD, METRICS, PREDICTIONS, CHECK, *diagnostics):
        if (output_dir / name).exists():
            shutil.copy2(output_dir / name, target)
    for name in TRACKER_FOLDERS:
        if (output_dir / name).is_dir():
            shutil.copytree(output_dir / name, Path(target) / name, dirs_exist_ok=True)
