"""A recipe of train.py: a model, how it is trained, what to expect; and the flags of its job."""

import argparse
import dataclasses
import datetime
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws.account_flags import ACCOUNT_FLAGS, account_demands, add_account_flags
from aws.entry_parser import EntryParser, positive_integer, price
from aws.settings import bucket_and_prefix
from jobs.training_job import TrainingJob, volume_gb_for
from launching.train_flags import SCRIPTS


@dataclass(frozen=True)
class Recipe:
    """Flags of train.py that belong together, as scripts/recipes/NAME.json has them.

    `name` is the middle of a job's name too, `expectation` what such a run gave, and who says so.
    """

    name: str
    hyperparameters: Mapping[str, str | float | bool]
    expectation: str


RECIPES = SCRIPTS / "recipes"
INSTANCE_TYPE = "ml.g5.2xlarge"  # one A10G, and eight cores that decode photos for it
MAX_RUN = 24 * 3600  # seconds, after which SageMaker stops a job
# Where --dry_run has to name something that was not given.
DATASET_PLACEHOLDER = "s3://YOUR-BUCKET/YOUR-DATASET"
TO_TRAIN_PY = "All other flags are train.py's (python scripts/train.py --help)."


def recipe_names() -> list[str]:
    """Return the names of the recipes that travel with the code."""
    return sorted(path.stem for path in RECIPES.glob("*.json"))


def shipped_recipe(name: str) -> Recipe:
    """Return a recipe that travels with the code. Raises: FileNotFoundError: there is none."""
    found = json.loads((RECIPES / f"{name}.json").read_text())
    return Recipe(name, found["flags"], found["expect"])


def add_job_flags(parser: EntryParser, recipe: Recipe) -> None:
    """Add the flags of a job that runs a recipe, this one or another."""
    parser.epilog = textwrap.fill(f"{TO_TRAIN_PY} What to expect: {recipe.expectation}", 79)
    add_flags_of_any_job(parser)
    job = parser.add_argument_group("this job")
    job.add_argument(
        "--recipe",
        choices=recipe_names(),
        default=recipe.name,
        help="flags of train.py that belong together (scripts/recipes), in place of this entry's; "
        "those that are given here go before (default: %(default)s)",
    )
    job.add_argument(
        "--from_tuning_job",
        metavar="NAME",
        help="train with the hyperparameters of the best trial of a tuning job (tune.py); flags "
        "that are given here go before. Asks AWS, with --dry_run too",
    )
    job.add_argument(
        "--checkpoints",
        metavar="URI",
        help="S3 folder of checkpoints, below OUTPUT/checkpoints/; that of an earlier job goes on "
        "with it (default: OUTPUT/checkpoints/JOB)",
    )
    job.add_argument(
        "--keep_alive",
        type=positive_integer,
        metavar="SECONDS",
        help="keep the instances after the job, for a next one that starts at once; they cost "
        "the same meanwhile",
    )
    job.add_argument(
        "--profile",
        action="store_true",
        help="measure and judge the training (train.py --diagnostics; the page comes home in "
        "output.tar.gz), and let AWS watch CPU, GPU, memory and disk",
    )
    job.add_argument(
        "--local",
        action="store_true",
        help="train in the local image through the SDK's local mode instead; --dataset and "
        "--output are folders here",
    )


def add_flags_of_any_job(parser: EntryParser) -> None:
    """Add the flags that a training job and the trials of a tuning job share."""
    job = parser.add_argument_group("job")
    job.add_argument(
        "--dataset", metavar="URI", help="S3 folder with a dataset of data_prep/build_dataset.py"
    )
    job.add_argument(
        "--output",
        metavar="URI",
        help="S3 folder for code, checkpoints and models (default: bin-counting/ in the dataset's "
        "bucket)",
    )
    job.add_argument(
        "--role",
        help="name or ARN of the role that the job runs as (default: SAGEMAKER_ROLE, else your own "
        "role); sagemaker_jobs/iam/roles.yaml makes one",
    )
    job.add_argument("--region", help="default: AWS_REGION, else your profile's")
    job.add_argument(
        "--instance_type", default=INSTANCE_TYPE, metavar="TYPE", help="default: %(default)s"
    )
    job.add_argument(
        "--instance_count",
        type=positive_integer,
        default=1,
        metavar="N",
        help="several train together; each photo batch is theirs times N (default: %(default)s)",
    )
    job.add_argument(
        "--input_mode",
        choices=("File", "FastFile"),
        default="File",
        help="copy the dataset before the first step, or stream it (default: %(default)s)",
    )
    job.add_argument(
        "--max_run",
        type=positive_integer,
        default=MAX_RUN,
        metavar="SECONDS",
        help="AWS stops the job after this time (default: %(default)s)",
    )
    job.add_argument(
        "--volume_gb",
        type=positive_integer,
        metavar="GB",
        help="disk of an instance that has none of its own (default: what the model's checkpoints "
        "and the dataset, twice, need; 30 or more)",
    )
    job.add_argument(
        "--spot",
        action="store_true",
        help="run on spare instances, often at a third of the price; AWS may take one back at any "
        "time, and the job goes on from its last checkpoint on another",
    )
    job.add_argument(
        "--max_wait",
        type=positive_integer,
        metavar="SECONDS",
        help="with --spot: run and wait together (default: twice --max_run)",
    )
    job.add_argument("--job_name", metavar="bins-NAME", help="default: the recipe and the time")
    job.add_argument(
        "--price_per_hour",
        type=price,
        metavar="PRICE",
        help="of one instance: says what the job can cost at most",
    )
    job.add_argument(
        "--dry_run",
        action="store_true",
        help="print the request as JSON and send nothing; needs no account and no network",
    )
    job.add_argument("--wait", action="store_true", help="follow the log until the job has ended")
    add_account_flags(parser)


def job_of(
    arguments: argparse.Namespace, recipe: Recipe, hyperparameters: Mapping[str, Any]
) -> TrainingJob:
    """Return the job that parsed flags describe.

    Raises: ValueError: no dataset, flags that exclude one another, or AWS would refuse the job.
    """
    if arguments.dataset is None and not arguments.dry_run:
        raise ValueError("give --dataset s3://BUCKET/FOLDER; --dry_run works without.")
    if arguments.max_wait is not None and not arguments.spot:
        raise ValueError("--max_wait is for --spot: add it, or leave both out.")
    dataset = arguments.dataset or DATASET_PLACEHOLDER
    output = (arguments.output or f"s3://{bucket_and_prefix(dataset)[0]}/bin-counting").rstrip("/")
    bucket_and_prefix(output)
    name = arguments.job_name or default_name(recipe)
    checkpoints = arguments.checkpoints or f"{output}/checkpoints/{name}"
    bucket_and_prefix(checkpoints)
    knows_output = arguments.output or arguments.dataset
    if knows_output and not checkpoints.rstrip("/").startswith(f"{output}/checkpoints/"):
        raise ValueError(
            f"--checkpoints {checkpoints}: a job's role may write below {output}/checkpoints/ "
            "alone; name a folder there, or another --output."
        )
    max_wait = arguments.max_wait or 2 * arguments.max_run
    return TrainingJob(
        name=name,
        dataset=dataset,
        output=output,
        checkpoints=checkpoints.rstrip("/") + "/",
        hyperparameters=hyperparameters,
        instance_type=arguments.instance_type,
        instance_count=arguments.instance_count,
        max_run=arguments.max_run,
        max_wait=max_wait if arguments.spot else None,
        input_mode=arguments.input_mode,
        keep_alive=arguments.keep_alive,
        profile=arguments.profile,
        volume_gb=arguments.volume_gb or volume_gb_for(hyperparameters, dataset_bytes=0),
        account=account_demands(arguments),
    )


def with_room_for(job: TrainingJob, dataset_bytes: int, volume_gb: int | None) -> TrainingJob:
    """Return a job whose disk holds its dataset, unless the flag says how large it is."""
    needed = volume_gb or volume_gb_for(job.hyperparameters, dataset_bytes)
    return dataclasses.replace(job, volume_gb=needed)


def check_local(arguments: argparse.Namespace) -> None:
    """Check the flags of a run on this machine.

    Raises: ValueError: no dataset, or a flag that only a job on AWS can follow.
    """
    if arguments.dataset is None:
        raise ValueError("--local: give --dataset, a folder of data_prep/build_dataset.py.")
    for name in (
        *("dry_run", "spot", "keep_alive", "profile", "wait", "checkpoints", "volume_gb"),
        *ACCOUNT_FLAGS,
    ):
        if getattr(arguments, name):
            raise ValueError(f"--local and --{name} exclude one another: leave one out.")
    if arguments.instance_count > 1:
        raise ValueError("--local trains on one machine: leave --instance_count out.")


def default_name(recipe: Recipe) -> str:
    """Return a name that says what and when, to the second, in UTC."""
    now = datetime.datetime.now(datetime.UTC)
    return f"bins-{recipe.name.replace('_', '-')}-{now:%Y%m%d-%H%M%S}"  # AWS takes no _
