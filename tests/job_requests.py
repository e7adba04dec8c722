"""The requests that launchers make of the same flags, as JSON by the name of each case.

A program, since two versions of the SageMaker SDK are never in one process: tests that compare them
run it with the Python of either environment.
"""

import contextlib
import functools
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = ["--tags", "team=bins", "--subnets", "subnet-1", "--security_group_ids", "sg-1"]
ACCOUNT += ["--kms_key", "alias/out"]
DISK = ["--instance_type", "ml.c7i.4xlarge", "--volume_kms_key", "alias/disk"]
VIT = ["vit", "--job_name", "bins-1"]
TUNE = ["tune", "--recipe", "vit", "--job_name", "bins-1"]
CASES = {
    "plain": VIT,
    "resnet34": ["resnet34", "--job_name", "bins-1"],
    "spot": [*VIT, "--spot", "--checkpoints", "s3://photos/bin-counting/checkpoints/bins-0"],
    "several instances": [*VIT, "--instance_count", "2", "--input_mode", "FastFile"],
    "several GPUs": [*VIT, "--instance_type", "ml.g5.12xlarge", "--keep_alive", "600"],
    "CPU": [*VIT, *DISK, *ACCOUNT, "--volume_gb", "50"],
    "profile": [*VIT, "--profile"],
    "flags": [*VIT, "--learning_rate", "3e-5", "--run_name", "1.10", "--tags", "none="],
    "tuning": [*TUNE, "--spot"],
    "tuning on several GPUs": [*TUNE, "--instance_type", "ml.g5.12xlarge", *ACCOUNT],
    "tuning on CPUs": [*TUNE, *DISK, "--warm_start_from", "bins-0", "--no_early_stopping"],
    "processing": ["prepare_data", *ACCOUNT, *DISK, "--max_bins", "100"],
}


@contextlib.contextmanager
def unchecked(command: Sequence[str], path: Path | None = None) -> Iterator[None]:
    """Do nothing in place of train_flags.checked_by, which takes seconds."""
    yield


def main() -> None:
    """Print all requests."""
    sys.path.insert(0, str(ROOT / "sagemaker_jobs"))
    import prepare_data
    import resnet34
    import tune
    import vit
    from launching import train_flags
    from launching.launch import launch

    # That train.py and build_dataset.py take the flags, other tests see.
    vars(prepare_data)["checked_by"] = vars(train_flags)["checked_by"] = unchecked
    entries: dict[str, Any] = {
        "vit": functools.partial(launch, vit.RECIPE, None),
        "resnet34": functools.partial(launch, resnet34.RECIPE, None),
        "tune": tune.main,
        "prepare_data": prepare_data.main,
    }
    requests = {}
    for name, (entry, *flags) in CASES.items():
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            entries[entry]([*flags, "--dry_run"])
        requests[name] = json.loads(printed.getvalue())
    print(json.dumps(requests))


if __name__ == "__main__":
    main()
