"""From the flags of vit.py and resnet34.py to a job: check, show, send, follow."""

import argparse
import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3

import container
from aws_settings import (
    boto_session,
    bucket_and_prefix,
    check_bucket,
    check_dataset,
    find_region,
    find_role,
    known_region,
    known_role,
)
from entry_parser import EntryParser
from job_flags import add_job_flags, check_local, default_name, job_of
from local_mode import run_locally
from quiet_sdk import import_sagemaker
from recipe import Recipe
from recorded_requests import RecordedRequests, shown_role
from train_flags import (
    Hyperparameters,
    check_paths,
    checked_by_train,
    flags_as_hyperparameters,
    merged,
    needed_splits,
)
from training_job import SCRIPTS, TrainingJob, channels, estimator_arguments
from tuned_hyperparameters import tuned_hyperparameters

LOCAL_OUTPUT = "runs/local"


def launch(recipe: Recipe, description: str | None, argv: list[str] | None = None) -> None:
    """Run a recipe as the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; with --wait, what the job
        ended with.
    """
    parser = EntryParser(description)
    add_job_flags(parser, recipe)
    arguments, train_flags = parser.parse_known_args(argv)
    with parser.errors_of_one_line():
        given = flags_as_hyperparameters(train_flags)
        base = recipe.hyperparameters
        if arguments.from_tuning_job:
            session = boto_session(find_region(arguments.region))
            base = tuned_hyperparameters(
                arguments.from_tuning_job, recipe, given, session.client("sagemaker")
            )
        hyperparameters = merged(base, given)
        if arguments.local:
            sys.exit(launch_locally(arguments, recipe, hyperparameters))
        job = job_of(arguments, recipe, hyperparameters)
        check_paths(job.hyperparameters)
        if arguments.dry_run:
            with checked_by_train(job.hyperparameters):
                request = dry_run(job, arguments.region, arguments.role)
            print(json.dumps(request, indent=2))
            print(summary(job, recipe, arguments.price_per_hour), file=sys.stderr)
            return
        region = find_region(arguments.region)
        session = boto_session(region)
        with checked_by_train(job.hyperparameters):
            container.image_uri(region, job.processor, "training")  # or there is no such region
            role = find_role(arguments.role, session)
            check_dataset(job.dataset, needed_splits(job.hyperparameters), session)
            check_bucket("--output", job.output, session)
            check_name_is_free(job.name, session)
        print(summary(job, recipe, arguments.price_per_hour), file=sys.stderr)
        create(job, session, role)
        print(next_commands(job.name, region), file=sys.stderr)
        print(job.name, flush=True)
    if arguments.wait:
        sys.exit(job_report("attach", job.name, region))


def launch_locally(
    arguments: argparse.Namespace, recipe: Recipe, hyperparameters: Hyperparameters
) -> int:
    """Train through the SDK's local mode and return the exit code.

    Raises: ValueError: the flags do not fit, or Docker or the image is missing.
    """
    check_local(arguments)
    check_paths(hyperparameters)
    name = arguments.job_name or default_name(recipe)
    output = Path(arguments.output or LOCAL_OUTPUT)
    with checked_by_train(hyperparameters):
        import_sagemaker()
    with source_folder("gpu") as source_dir:
        try:
            run_locally(name, hyperparameters, source_dir, Path(arguments.dataset), output)
        except RuntimeError as error:
            print(f"The container failed; its last lines say why. ({error})", file=sys.stderr)
            return 1
    print(f"Model: {output / name / 'model.tar.gz'}", file=sys.stderr)
    return 0


def dry_run(job: TrainingJob, region: str | None, role: str | None) -> dict[str, Any]:
    """Return the CreateTrainingJob request of a job; nothing is sent."""
    recorded = RecordedRequests(known_region(region) or container.DEFAULT_REGION)
    create(job, recorded.session, shown_role(known_role(role)))
    (request,) = recorded["CreateTrainingJob"]
    return request


def create(job: TrainingJob, session: boto3.Session, role: str) -> None:
    """Upload the code and create the job.

    Raises: ValueError: AWS keeps no container in the region. ClientError: AWS refuses the job.
    """
    with source_folder(job.processor) as source_dir:
        # wait=True would swallow Ctrl-C: a job is followed by job_report.py instead.
        estimator(job, session, role, source_dir).fit(
            channels(job, import_sagemaker()), job_name=job.name, wait=False
        )


def estimator(job: TrainingJob, session: boto3.Session, role: str, source_dir: str) -> Any:
    """Return the SDK's HuggingFace estimator of a job."""
    sdk = import_sagemaker()
    return sdk.huggingface.HuggingFace(
        sagemaker_session=sdk_session(job.output, session),
        **estimator_arguments(job, sdk, session.region_name, role, source_dir),
    )


def sdk_session(output: str, session: boto3.Session) -> Any:
    """Return the SDK's session; the bucket is named so that it does not create one."""
    sdk = import_sagemaker()
    return sdk.Session(boto_session=session, default_bucket=bucket_and_prefix(output)[0])


@contextlib.contextmanager
def source_folder(processor: str) -> Iterator[str]:
    """Yield a copy of scripts/ without caches; for a CPU job, with what its container lacks."""
    with tempfile.TemporaryDirectory() as folder:
        source_dir = Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, source_dir, ignore=shutil.ignore_patterns("__pycache__"))
        if processor == "cpu":
            pins = [f"{name}=={version}" for name, version in container.TRAINING_PACKAGES.items()]
            with (source_dir / "requirements.txt").open("a") as requirements:
                requirements.write("\n".join(["", *pins, ""]))
        yield str(source_dir)


def check_name_is_free(name: str, session: boto3.Session) -> None:
    """Check that no job has the name: its code would be overwritten before AWS refuses the name.

    Raises: ValueError: one has it.
    """
    pages = session.client("sagemaker").get_paginator("list_training_jobs")
    listed = [
        job for page in pages.paginate(NameContains=name) for job in page["TrainingJobSummaries"]
    ]
    if any(job["TrainingJobName"] == name for job in listed):
        raise ValueError(f"--job_name {name}: there is such a job already; choose another name.")


def summary(job: TrainingJob, recipe: Recipe, price_per_hour: float | None) -> str:
    """Return what a user wants to see before a job starts."""
    spot = f"spot, at most {hours(job.max_wait)} with the wait" if job.max_wait else "on demand"
    lines = [
        f"{job.name}: {job.instance_count} x {job.instance_type}, {spot}",
        f"  runs for at most {hours(job.max_run)}"
        + (f", then stays warm for at most {hours(job.keep_alive)}" if job.keep_alive else ""),
        f"  reads {job.dataset}, writes to {job.output}/{job.name}",
    ]
    if price_per_hour is not None:
        cost = job.most_it_can_cost(price_per_hour)
        lines.append(f"  costs at most {cost:,.2f}, at {price_per_hour:g} an instance and hour")
    if dict(job.hyperparameters) == dict(recipe.hyperparameters):
        lines.append(f"  {recipe.expectation}")
    return "\n".join(lines)


def hours(seconds: int) -> str:
    """Return a time as a user reads it: 24 h, 1.5 h, 10 min, 45 s."""
    if seconds % 60 or seconds < 60:
        return f"{seconds} s"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds // 60} min"


def next_commands(name: str, region: str) -> str:
    """Return the commands that a user runs next."""
    return "\n".join(
        f"  python sagemaker_jobs/job_report.py {verb} {name} --region {region}   # {purpose}"
        for verb, purpose in (
            ("attach", "follow its log to the end"),
            ("stop", "stop it"),
            ("report", "times, cost, metrics, where the model is"),
        )
    )


def job_report(verb: str, name: str, region: str) -> int:
    """Run job_report.py and return its exit code."""
    entry = Path(__file__).parent / "job_report.py"
    command = [sys.executable, str(entry), verb, name, "--region", region]
    print(shlex.join(command), file=sys.stderr)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # the report has said what it means
        return 130
