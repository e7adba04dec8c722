"""From the flags of vit.py and resnet34.py to a job: check, show, send, follow."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import boto3

import container
from aws.ending_signals import run_child, signals_raised_again, told_if_cut_off
from aws.entry_parser import EntryParser, hours
from aws.recorded_requests import RecordedRequests, shown_role
from aws.settings import (
    boto_session,
    check_bucket,
    check_dataset,
    find_region,
    find_role,
    known_region,
    known_role,
)
from jobs.training_job import Hyperparameters, TrainingJob
from launching.local_mode import run_locally
from launching.recipe import (
    Recipe,
    add_job_flags,
    check_local,
    default_name,
    job_of,
    shipped_recipe,
    with_room_for,
)
from launching.source_folder import source_folder
from launching.train_flags import (
    check_for_container,
    checked_by_train,
    flags_as_hyperparameters,
    merged,
    needed_splits,
)
from launching.tuned_hyperparameters import tuned_hyperparameters
from sdk.images import check_profiler_rules, image_uri
from sdk.installed import installed_sdk
from sdk.submissions import Submission

LOCAL_OUTPUT = "runs/local"


def launch(recipe: Recipe, description: str | None, argv: list[str] | None = None) -> None:
    """Run a recipe, this one unless the command line names another, as the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; with --wait, what the job
        ended with.
    """
    parser = EntryParser(description)
    add_job_flags(parser, recipe)
    arguments, train_flags = parser.parse_known_args(argv)
    recipe = shipped_recipe(arguments.recipe)
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
        check_for_container(job.hyperparameters)
        if arguments.dry_run:
            with checked_by_train(job.hyperparameters):
                request = dry_run(job, arguments.region, arguments.role)
            print(json.dumps(request, indent=2))
            print(summary(job, recipe, arguments.price_per_hour), file=sys.stderr)
            return
        region = find_region(arguments.region)
        session = boto_session(region)
        with checked_by_train(job.hyperparameters):
            image_uri(region, job.processor, "training")  # or there is no such region
            role = find_role(arguments.role, session)
            size = check_dataset(job.dataset, needed_splits(job.hyperparameters), session)
            job = with_room_for(job, size, arguments.volume_gb)
            check_bucket("--output", job.output, session)
            check_name_is_free(job.name, session)
            request_of(job, region, role)  # or it is out of AWS's bounds
        print(summary(job, recipe, arguments.price_per_hour), file=sys.stderr)
        with told_if_cut_off(next_commands(job.name, region)):
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
    check_for_container(hyperparameters)
    name = arguments.job_name or default_name(recipe)
    output = Path(arguments.output or LOCAL_OUTPUT)
    with checked_by_train(hyperparameters):
        installed_sdk().load()
    with source_folder("gpu") as source_dir:
        try:
            run_locally(
                name,
                hyperparameters,
                source_dir,
                Path(arguments.dataset),
                output,
                arguments.instance_type,
            )
        except RuntimeError as error:
            print(f"The container failed; its last lines say why. ({error})", file=sys.stderr)
            return 1
    print(f"Model: {output / name / 'model.tar.gz'}", file=sys.stderr)
    return 0


def dry_run(job: TrainingJob, region: str | None, role: str | None) -> dict[str, Any]:
    """Return the CreateTrainingJob request of a job; nothing is sent, and AWS is asked nothing."""
    return request_of(
        job, known_region(region) or container.DEFAULT_REGION, shown_role(known_role(role))
    )


def request_of(job: TrainingJob, region: str, role: str) -> dict[str, Any]:
    """Return the CreateTrainingJob request of a job. Raises: ValueError: AWS would refuse it."""
    recorded = RecordedRequests(region)
    create(job, recorded.session, role)
    (request,) = recorded["CreateTrainingJob"]
    return request


def create(job: TrainingJob, session: boto3.Session, role: str) -> None:
    """Upload the code and create the job.

    Raises: ValueError: AWS keeps no container in the region, or no profiler rules. ClientError: AWS
        refuses the job.
    """
    region = session.region_name
    image = image_uri(region, job.processor, "training")
    if job.profile:
        check_profiler_rules(region)
    with source_folder(job.processor) as source_dir, signals_raised_again():
        installed_sdk().create_training_job(job, Submission(session, role, image, source_dir))


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
        f"  reads {job.dataset}, writes to {job.results}/{job.name}",
    ]
    if price_per_hour is not None:
        cost = job.most_it_can_cost(price_per_hour)
        lines.append(f"  costs at most {cost:,.2f}, at {price_per_hour:g} an instance and hour")
    if dict(job.hyperparameters) == dict(recipe.hyperparameters):
        lines.append(f"  {recipe.expectation}")
    return "\n".join(lines)


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
    entry = Path(__file__).parent.parent / "job_report.py"
    command = [sys.executable, str(entry), verb, name, "--region", region]
    print(shlex.join(command), file=sys.stderr)
    return run_child(command)
