"""The folder of a run: which run it belongs to, where to go on, what leaves it at the end."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

RECORD = "arguments.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# The figures and predictions that a SageMaker job sends home beside the model.
RESULTS = (RECORD, "all_results.json", "predictions_test.parquet")


def check_run_folder(output_dir: Path, identity: dict[str, Any], model_dir: Path) -> None:
    """Check that the folder is new, or belongs to this run.

    More epochs of the same run may go on, and a run's own model may be evaluated in its folder.

    Args:
        identity: what makes a run this run: dataset_fingerprint, model, max_train_samples.
        model_dir: where the run of this folder keeps its model.

    Raises: ValueError: the folder holds another run.
    """
    record = output_dir / RECORD
    if not record.exists():
        if any(CHECKPOINT.fullmatch(path.name) for path in output_dir.glob("*")):
            raise ValueError(
                f"{output_dir} holds checkpoints of an unknown run (no {RECORD}): choose another "
                "--output_dir."
            )
        return
    recorded = json.loads(record.read_text())
    if Path(str(identity["model"])).resolve() == model_dir.resolve():
        identity = {name: value for name, value in identity.items() if name != "model"}
    differing = [name for name, value in identity.items() if recorded.get(name) != value]
    if differing:
        raise ValueError(
            f"{output_dir} holds another run ("
            + ", ".join(f"{n} {recorded.get(n)}, now {identity[n]}" for n in differing)
            + "): choose another --output_dir."
        )


def last_checkpoint(output_dir: Path) -> Path | None:
    """Return the newest complete checkpoint, if there is one.

    Trainer writes trainer_state.json last, so a checkpoint without it was cut off.
    """
    complete = [
        (int(match[1]), path)
        for path in output_dir.glob("checkpoint-*")
        if (match := CHECKPOINT.fullmatch(path.name)) and (path / "trainer_state.json").exists()
    ]
    return max(complete)[1] if complete else None


def write_record(output_dir: Path, record: dict[str, Any]) -> None:
    """Write the arguments and identity of the run, before its first step."""
    output_dir.mkdir(parents=True, exist_ok=True)
    temporary = output_dir / f"{RECORD}.part"
    temporary.write_text(json.dumps(record, indent=2, default=str) + "\n")
    os.replace(temporary, output_dir / RECORD)


def send_home(output_dir: Path) -> None:
    """Copy the results to where SageMaker collects a job's output; elsewhere do nothing."""
    target = os.environ.get("SM_OUTPUT_DATA_DIR")
    if not target:
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    for name in RESULTS:
        if (output_dir / name).exists():
            shutil.copy2(output_dir / name, target)
