"""Search the learning rate, the batch size and the epochs of a recipe, on SageMaker or here.

    python sagemaker_jobs/tune.py --recipe vit --dry_run        # the request; needs no account
    python sagemaker_jobs/tune.py --recipe vit --dataset s3://BUCKET/datasets/bins --spot --wait
    python sagemaker_jobs/tune.py --report bins-vit-20261121-101500
    python sagemaker_jobs/tune.py --local --dataset data/bins --output_dir runs/tune

A search looks at the validation split alone. --report and --local end with trials.csv, trials.png
and the command that trains once more with the best trial's hyperparameters. A local search that is
killed goes on with the same command; with more --max_jobs a finished one goes on too.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3

import container
import resnet34
import vit
from aws.ending_signals import exit_code_of, signals_raised_again, told_if_cut_off
from aws.entry_parser import hours
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
from jobs.search_space import SearchSpace
from jobs.training_job import Hyperparameters
from jobs.tuning_job import TuningJob
from launching.recipe import with_room_for
from launching.source_folder import source_folder
from launching.train_flags import (
    check_for_container,
    checked_by_train,
    flags_as_hyperparameters,
    needed_splits,
)
from launching.tuned_hyperparameters import (
    Trial,
    best_trial,
    decoded,
    describe_tuning_job,
    model_flags,
    objective_of,
    trials_of,
    tuned_values,
)
from sdk.images import image_uri
from sdk.installed import installed_sdk
from sdk.submissions import Submission
from tuning.flags import (
    check_local,
    hyperparameters_of_all_trials,
    make_parser,
    recipe_named,
    space_of,
    tuning_job,
)
from tuning.trials import PICTURE, TABLE, write_trials

RECIPES = {recipe.name: recipe for recipe in (vit.RECIPE, resnet34.RECIPE)}
SECONDS_BETWEEN_LOOKS = 30
IS_RUNNING = ("InProgress", "Stopping")


def main(argv: list[str] | None = None) -> None:
    """Search, or report a search, as the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; 1 if no trial has succeeded.
    """
    argv = sys.argv[1:] if argv is None else argv
    recipe = RECIPES[recipe_named(argv)]
    parser = make_parser(__doc__, recipe)
    arguments, train_flags = parser.parse_known_args(argv)
    output_dir = Path(arguments.output_dir)
    with parser.errors_of_one_line():
        if arguments.report:
            if train_flags:
                raise ValueError(f"{' '.join(train_flags)}: --report takes no such flag.")
            session = boto_session(find_region(arguments.region))
            sys.exit(report(arguments.report, session, output_dir))
        space = space_of(arguments)
        hyperparameters = hyperparameters_of_all_trials(
            recipe, flags_as_hyperparameters(train_flags), space, arguments.objective
        )
        if arguments.local:
            check_local(arguments, parser)
            sys.exit(search_here(arguments, space, hyperparameters, output_dir))
        job = tuning_job(arguments, recipe, space, hyperparameters)
        check_for_container(hyperparameters)
        a_trial = {**hyperparameters, **space.one_point()}
        if arguments.dry_run:
            with checked_by_train(a_trial):
                request = dry_run(job, arguments.region, arguments.role)
            print(json.dumps(request, indent=2))
            print(summary(job, arguments.price_per_hour), file=sys.stderr)
            return
        session = boto_session(find_region(arguments.region))
        with checked_by_train(a_trial):
            # Or there is no such region.
            image_uri(session.region_name, job.trial.processor, "training")
            role = find_role(arguments.role, session)
            size = check_dataset(job.trial.dataset, needed_splits(hyperparameters), session)
            trial = with_room_for(job.trial, size, arguments.volume_gb)
            job = dataclasses.replace(job, trial=trial)
            check_bucket("--output", job.trial.output, session)
            check_other_jobs(job, session)
            request_of(job, session.region_name, role)  # or it is out of AWS's bounds
        print(summary(job, arguments.price_per_hour), file=sys.stderr)
        with told_if_cut_off(next_commands(job.name, session.region_name)):
            create(job, session, role)
        print(next_commands(job.name, session.region_name), file=sys.stderr)
        print(job.name, flush=True)
        if arguments.wait:
            wait(job.name, session)
            sys.exit(report(job.name, session, output_dir))


def dry_run(job: TuningJob, region: str | None, role: str | None) -> dict[str, Any]:
    """Return the CreateHyperParameterTuningJob request of a search; nothing is sent."""
    return request_of(
        job, known_region(region) or container.DEFAULT_REGION, shown_role(known_role(role))
    )


def request_of(job: TuningJob, region: str, role: str) -> dict[str, Any]:
    """Return the request of a search. Raises: ValueError: AWS would refuse it."""
    recorded = RecordedRequests(region)
    create(job, recorded.session, role)
    (request,) = recorded["CreateHyperParameterTuningJob"]
    return request


def create(job: TuningJob, session: boto3.Session, role: str) -> None:
    """Upload the code and create the tuning job.

    Raises: ValueError: AWS keeps no container in the region. ClientError: AWS refuses the job.
    """
    image = image_uri(session.region_name, job.trial.processor, "training")
    with source_folder(job.trial.processor) as source_dir, signals_raised_again():
        installed_sdk().create_tuning_job(job, Submission(session, role, image, source_dir))


def check_other_jobs(job: TuningJob, session: boto3.Session) -> None:
    """Check that the name is free and that the search to go on from has ended.

    Raises: ValueError: otherwise.
    """
    sagemaker = session.client("sagemaker")
    pages = sagemaker.get_paginator("list_hyper_parameter_tuning_jobs")
    names = [
        entry["HyperParameterTuningJobName"]
        for page in pages.paginate(NameContains=job.name)
        for entry in page["HyperParameterTuningJobSummaries"]
    ]
    if job.name in names:
        raise ValueError(
            f"--job_name {job.name}: there is such a tuning job already; choose another name."
        )
    if job.warm_start_from is not None:
        parent = describe_tuning_job(sagemaker, job.warm_start_from)
        if parent["HyperParameterTuningJobStatus"] in IS_RUNNING:
            raise ValueError(
                f"--warm_start_from {job.warm_start_from}: it still runs; wait for its end."
            )


def summary(job: TuningJob, price_per_hour: float | None) -> str:
    """Return what a user wants to see before a search starts."""
    trial, space = job.trial, job.space
    spot = f"spot, at most {hours(trial.max_wait)} with the wait" if trial.max_wait else "on demand"
    lines = [
        f"{job.name}: {job.max_jobs} trials, {job.max_parallel_jobs} at a time, each on "
        f"{trial.instance_count} x {trial.instance_type}, {spot}",
        f"  each runs for at most {hours(trial.max_run)}",
        "  learning rate {:g} to {:g}, ".format(*space.learning_rates)
        + f"batch size {', '.join(map(str, space.batch_sizes))}, "
        + "epochs {} to {}; ".format(*space.epochs)
        + f"the best by {job.objective}",
        f"  reads {trial.dataset}, writes to {trial.results}",
    ]
    if trial.is_spot:
        lines.append("  a trial whose instance AWS takes back begins again")
    if price_per_hour is not None:
        cost = job.max_jobs * trial.most_it_can_cost(price_per_hour)
        lines.append(
            f"  all trials cost at most {cost:,.2f}, at {price_per_hour:g} an instance and hour"
        )
    return "\n".join(lines)


def next_commands(name: str, region: str) -> str:
    """Return the commands that a user runs next."""
    stop = "aws sagemaker stop-hyper-parameter-tuning-job --hyper-parameter-tuning-job-name"
    return "\n".join(
        [
            f"  python sagemaker_jobs/tune.py --report {name} --region {region}   # its trials",
            f"  {stop} {name} --region {region}   # stop it",
        ]
    )


def wait(name: str, session: boto3.Session) -> None:
    """Follow a tuning job to its end; Ctrl-C leaves it running."""
    sagemaker = session.client("sagemaker")
    shown = ""
    try:
        while True:
            described = describe_tuning_job(sagemaker, name)
            status = described["HyperParameterTuningJobStatus"]
            counters = described["TrainingJobStatusCounters"]
            counted = ", ".join(f"{count} {kind}" for kind, count in counters.items() if count)
            if (line := f"{name}: {status}; trials: {counted or 'none yet'}") != shown:
                print(line, file=sys.stderr, flush=True)
                shown = line
            if status not in IS_RUNNING:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt as interrupt:
        print("\nThe search goes on without this command.", file=sys.stderr)
        sys.exit(exit_code_of(interrupt))


def report(name: str, session: boto3.Session, output_dir: Path) -> int:
    """Write the trials of a tuning job, print the command that trains with the best.

    Returns: the exit code, 1 if no trial has succeeded.

    Raises: ValueError: there is no such job, or it has no trial yet.
    """
    sagemaker = session.client("sagemaker")
    described = describe_tuning_job(sagemaker, name)
    trials = trials_of(sagemaker, name)
    if not trials:
        status = described["HyperParameterTuningJobStatus"]
        raise ValueError(f"{name} has no trial yet ({status}): ask again later.")
    best = write_report(trials, objective_of(described), output_dir)
    if best is None:
        return 1
    static = decoded(described["TrainingJobDefinition"]["StaticHyperParameters"])
    print(retrain_command(name, static, described["TrainingJobDefinition"], session.region_name))
    return 0


def retrain_command(
    name: str, static: Hyperparameters, definition: dict[str, Any], region: str
) -> str:
    """Return the command that trains with a tuning job's best trial."""
    flags = {recipe.name: model_flags(recipe, static) for recipe in RECIPES.values()}
    # The recipe whose model it is; another model is named.
    entry = min(flags, key=lambda recipe: len(flags[recipe]) > 0)
    dataset = definition["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"].rstrip("/")
    command = f"python sagemaker_jobs/{entry}.py --dataset {dataset} --from_tuning_job {name}"
    return " ".join(filter(None, [command, "--region", region, flags[entry]]))


def write_report(trials: Sequence[Trial], objective: str, output_dir: Path) -> Trial | None:
    """Write the table and the picture, say what is best, and return it; None if there is none."""
    write_trials(trials, objective, output_dir)
    best = best_trial(trials, objective)
    print(f"\nTrials: {output_dir / TABLE}, {output_dir / PICTURE}", file=sys.stderr)
    if best is None:
        reason = next((trial.reason for trial in trials if trial.reason), "none has ended")
        print(f"No trial has succeeded: {reason}", file=sys.stderr)
        return None
    chosen = ", ".join(f"{name}={value:.4g}" for name, value in tuned_values(best).items())
    print(f"Best: {best.name}, {objective}={best.objective:.6g}, {chosen}", file=sys.stderr)
    print("Train with it:", file=sys.stderr, flush=True)
    return best


def search_here(
    arguments: argparse.Namespace,
    space: SearchSpace,
    hyperparameters: Hyperparameters,
    output_dir: Path,
) -> int:
    """Search on this machine and return the exit code.

    Raises: ValueError: the flags do not fit, or the folder holds another search.
    """
    # Takes a second to import, which no other command needs.
    from tuning.local_search import LocalSearch, run_search, train_command

    search = LocalSearch(
        hyperparameters=hyperparameters,
        space=space,
        dataset=Path(arguments.dataset),
        objective=arguments.objective,
        early_stopping=not arguments.no_early_stopping,
    )
    with checked_by_train({**hyperparameters, **space.one_point()}):
        pass
    try:
        trials = run_search(search, arguments.max_jobs, output_dir)
    except KeyboardInterrupt as interrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return exit_code_of(interrupt)
    best = write_report(trials, search.objective, output_dir)
    if best is None:
        return 1
    print(train_command(search, best, output_dir / "best"))
    return 0


if __name__ == "__main__":
    main()
