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
from aws_settings import (
    boto_session,
    check_bucket,
    check_dataset,
    find_region,
    find_role,
    known_region,
    known_role,
)
from entry_parser import EntryParser, positive_integer
from job_flags import TO_TRAIN_PY, add_flags_of_any_job, job_of
from launch import estimator, hours, source_folder
from quiet_sdk import import_sagemaker
from recipe import Recipe
from recorded_requests import RecordedRequests, shown_role
from search_space import OBJECTIVES, SearchSpace
from train_flags import (
    Hyperparameters,
    check_paths,
    checked_by_train,
    flags_as_hyperparameters,
    merged,
    needed_splits,
)
from training_job import channels
from trials import PICTURE, TABLE, Trial, best_trial, tuned_values, write_trials
from tuned_hyperparameters import (
    decoded,
    describe_tuning_job,
    model_flags,
    objective_of,
    trials_of,
)
from tuning_job import TRIAL_CHECKPOINTS, TuningJob, tuner_arguments

RECIPES = {recipe.name: recipe for recipe in (vit.RECIPE, resnet34.RECIPE)}
SPACES = {
    "vit": SearchSpace((1e-4, 1e-3), (32, 64, 128), (2, 6)),
    # What was searched for ResNets on these photos before.
    "resnet34": SearchSpace((1e-3, 1e-1), (32, 64, 128, 256), (10, 30)),
}
SECONDS_BETWEEN_LOOKS = 30
IS_RUNNING = ("InProgress", "Stopping")


def main(argv: list[str] | None = None) -> None:
    """Search, or report a search, as the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; 1 if no trial has succeeded.
    """
    argv = sys.argv[1:] if argv is None else argv
    recipe = recipe_of(argv)
    parser = make_parser(recipe)
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
        check_paths(hyperparameters)
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
            container.image_uri(session.region_name, job.trial.processor, "training")
            role = find_role(arguments.role, session)
            check_dataset(job.trial.dataset, needed_splits(hyperparameters), session)
            check_bucket("--output", job.trial.output, session)
            check_other_jobs(job, session)
        print(summary(job, arguments.price_per_hour), file=sys.stderr)
        create(job, session, role)
        print(next_commands(job.name, session.region_name), file=sys.stderr)
        print(job.name, flush=True)
        if arguments.wait:
            wait(job.name, session)
            sys.exit(report(job.name, session, output_dir))


def recipe_of(argv: list[str]) -> Recipe:
    """Return the recipe that a command line names: it decides the other flags' defaults."""
    parser = EntryParser(None, add_help=False)
    add_recipe(parser)
    return RECIPES[parser.parse_known_args(argv)[0].recipe]


def add_recipe(parser: EntryParser) -> None:
    """Add the flag that names the recipe."""
    parser.add_argument("--recipe", choices=RECIPES, default="vit", help="default: %(default)s")


def make_parser(recipe: Recipe) -> EntryParser:
    """Return the parser of all flags but train.py's."""
    space = SPACES[recipe.name]
    parser = EntryParser(__doc__)
    parser.epilog = TO_TRAIN_PY
    search = parser.add_argument_group("search")
    add_recipe(parser)
    search.add_argument(
        "--learning_rate_range",
        nargs=2,
        type=float,
        default=space.learning_rates,
        metavar=("LOW", "HIGH"),
        help="on a log scale (default: {:g} {:g})".format(*space.learning_rates),
    )
    search.add_argument(
        "--batch_sizes",
        nargs="+",
        type=positive_integer,
        default=space.batch_sizes,
        metavar="N",
        help=f"photos a device and step (default: {' '.join(map(str, space.batch_sizes))})",
    )
    search.add_argument(
        "--epochs_range",
        nargs=2,
        type=positive_integer,
        default=space.epochs,
        metavar=("LOW", "HIGH"),
        help="default: {} {}".format(*space.epochs),
    )
    search.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="eval_loss",
        metavar="METRIC",
        help="what makes a trial the best, as an epoch too: eval_loss, eval_accuracy, eval_rmse, "
        "... (default: %(default)s)",
    )
    search.add_argument(
        "--max_jobs", type=positive_integer, default=20, metavar="N", help="default: %(default)s"
    )
    search.add_argument(
        "--max_parallel_jobs",
        type=positive_integer,
        default=2,
        metavar="N",
        help="trials at a time: with fewer each learns from more before it (default: %(default)s)",
    )
    search.add_argument(
        "--no_early_stopping",
        action="store_true",
        help="train each trial to its end, though others were better at the same epoch",
    )
    search.add_argument(
        "--warm_start_from",
        metavar="TUNING_JOB",
        help="an earlier search of the same recipe and dataset, to go on from what it has learned",
    )
    here = parser.add_argument_group("on this machine")
    here.add_argument(
        "--local",
        action="store_true",
        help="run the trials here, one at a time; --dataset is a folder, as a model may be",
    )
    here.add_argument(
        "--report", metavar="NAME", help="write the trials of a tuning job, and do nothing else"
    )
    here.add_argument(
        "--output_dir",
        default="runs/tune",
        metavar="FOLDER",
        help=f"of {TABLE} and {PICTURE}, and with --local of the trials (default: %(default)s)",
    )
    add_flags_of_any_job(parser, recipe)
    parser.set_defaults(checkpoints=None, keep_alive=None, profile=False)
    return parser


def space_of(arguments: argparse.Namespace) -> SearchSpace:
    """Return the space that parsed flags describe. Raises: ValueError: a range holds nothing."""
    return SearchSpace(
        tuple(arguments.learning_rate_range),
        tuple(arguments.batch_sizes),
        tuple(arguments.epochs_range),
    )


def hyperparameters_of_all_trials(
    recipe: Recipe, given: Hyperparameters, space: SearchSpace, objective: str
) -> Hyperparameters:
    """Return what all trials share.

    Raises: ValueError: a flag that the search chooses itself, that would look at the test split, or
        that would push every trial.
    """
    for name in space.one_point():
        if name in given:
            raise ValueError(f"--{name} is searched: give its range instead (--help).")
    if given.get("do_predict", False) is not False:
        raise ValueError("--do_predict: a search must not see the test split; leave it out.")
    if given.get("push_to_hub", False) is not False:
        raise ValueError(
            "--push_to_hub: all trials would push to one repository; push the best when it is "
            "trained."
        )
    shared = {
        "metric_for_best_model": objective,
        **merged(recipe.hyperparameters, given),
        "do_predict": False,
    }
    return {name: value for name, value in shared.items() if name not in space.one_point()}


def tuning_job(
    arguments: argparse.Namespace,
    recipe: Recipe,
    space: SearchSpace,
    hyperparameters: Hyperparameters,
) -> TuningJob:
    """Return the tuning job that parsed flags describe. Raises: ValueError: AWS would refuse it."""
    trial = job_of(arguments, recipe, {**hyperparameters, "output_dir": TRIAL_CHECKPOINTS})
    if not trial.is_spot:
        # Nothing goes on from them, and each trial would first fetch those of all before it.
        trial = dataclasses.replace(trial, checkpoints=None)
    return TuningJob(
        trial=trial,
        space=space,
        objective=arguments.objective,
        max_jobs=arguments.max_jobs,
        max_parallel_jobs=arguments.max_parallel_jobs,
        early_stopping=not arguments.no_early_stopping,
        warm_start_from=arguments.warm_start_from,
    )


def dry_run(job: TuningJob, region: str | None, role: str | None) -> dict[str, Any]:
    """Return the CreateHyperParameterTuningJob request of a search; nothing is sent."""
    recorded = RecordedRequests(known_region(region) or container.DEFAULT_REGION)
    create(job, recorded.session, shown_role(known_role(role)))
    (request,) = recorded["CreateHyperParameterTuningJob"]
    return request


def create(job: TuningJob, session: boto3.Session, role: str) -> None:
    """Upload the code and create the tuning job.

    Raises: ValueError: AWS keeps no container in the region. ClientError: AWS refuses the job.
    """
    sdk = import_sagemaker()
    with source_folder(job.trial.processor) as source_dir:
        trained = estimator(job.trial, session, role, source_dir)
        tuner = sdk.tuner.HyperparameterTuner(trained, **tuner_arguments(job, sdk))
        tuner.fit(channels(job.trial, sdk), job_name=job.name, wait=False)


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
        f"  reads {trial.dataset}, writes to {trial.output}",
    ]
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
    except KeyboardInterrupt:
        print("\nThe search goes on without this command.", file=sys.stderr)
        sys.exit(130)


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


def check_local(arguments: argparse.Namespace, parser: EntryParser) -> None:
    """Check the flags of a search on this machine.

    Raises: ValueError: no dataset, or a flag that only AWS can follow.
    """
    if arguments.dataset is None:
        raise ValueError("--local: give --dataset, a folder of data_prep/build_dataset.py.")
    if arguments.warm_start_from:
        raise ValueError(
            "--warm_start_from is for AWS; with --local the same folder goes on with more "
            "--max_jobs."
        )
    for name in (
        *("output", "role", "region", "instance_type", "instance_count", "input_mode", "max_run"),
        *("spot", "max_wait", "job_name", "price_per_hour", "dry_run", "wait", "max_parallel_jobs"),
    ):
        if getattr(arguments, name) != parser.get_default(name):
            raise ValueError(f"--local and --{name} exclude one another: leave one out.")


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
    from local_search import LocalSearch, run_search, train_command

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
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return 130
    best = write_report(trials, search.objective, output_dir)
    if best is None:
        return 1
    print(train_command(search, best, output_dir / "best"))
    return 0


if __name__ == "__main__":
    main()
