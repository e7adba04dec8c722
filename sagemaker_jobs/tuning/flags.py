"""The flags of tune.py, and the search that they describe."""

import argparse
import dataclasses

from aws.account_flags import ACCOUNT_FLAGS
from aws.entry_parser import EntryParser, positive_integer
from jobs.search_space import OBJECTIVES, SPACES, SearchSpace
from jobs.training_job import Hyperparameters
from jobs.tuning_job import TuningJob
from launching.recipe import TO_TRAIN_PY, Recipe, add_flags_of_any_job, job_of
from launching.train_flags import merged
from tuning.trials import PICTURE, TABLE


def recipe_named(argv: list[str]) -> str:
    """Return the recipe that a command line names: it decides the other flags' defaults."""
    parser = EntryParser(None, add_help=False)
    add_recipe(parser)
    return parser.parse_known_args(argv)[0].recipe


def add_recipe(parser: EntryParser) -> None:
    """Add the flag that names the recipe."""
    parser.add_argument("--recipe", choices=SPACES, default="vit", help="default: %(default)s")


def make_parser(description: str | None, recipe: Recipe) -> EntryParser:
    """Return the parser of all flags but train.py's."""
    space = SPACES[recipe.name]
    parser = EntryParser(description)
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
    add_flags_of_any_job(parser)
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
    trial = dataclasses.replace(job_of(arguments, recipe, hyperparameters), checkpoints=None)
    return TuningJob(
        trial=trial,
        space=space,
        objective=arguments.objective,
        max_jobs=arguments.max_jobs,
        max_parallel_jobs=arguments.max_parallel_jobs,
        early_stopping=not arguments.no_early_stopping,
        warm_start_from=arguments.warm_start_from,
    )


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
        *("volume_gb", *ACCOUNT_FLAGS),
    ):
        if getattr(arguments, name) != parser.get_default(name):
            raise ValueError(f"--local and --{name} exclude one another: leave one out.")
