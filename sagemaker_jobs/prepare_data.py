"""Prepare a dataset on SageMaker: data_prep's own entries, on as many machines as you like.

    python sagemaker_jobs/prepare_data.py --dry_run             # the requests; needs no account
    python sagemaker_jobs/prepare_data.py --output s3://BUCKET/datasets/bins --instance_count 4

Three processing jobs, one after the other: `catalog` reads the metadata of all bins, `shards` makes
the photos (each machine the shards that fall to it), `finish` checks that all are there and writes
the card. Any flag of build_dataset.py may follow (--max_bins 20000 --image_size 224).

The command follows the jobs to the end. Where it was interrupted, or where a job failed, the same
command goes on: it follows a job that still runs, passes over what is done, and runs the rest.
"""

import argparse
import contextlib
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

import container
from aws.account_flags import account_demands, add_account_flags
from aws.ending_signals import signals_raised_again, told_if_cut_off
from aws.entry_parser import EntryParser, hours, positive_integer, price
from aws.recorded_requests import RecordedRequests, shown_role
from aws.settings import (
    boto_session,
    bucket_and_prefix,
    check_bucket,
    find_region,
    find_role,
    known_region,
    known_role,
    names_in,
)
from aws.started_jobs import ENDED, fetch_logs
from jobs.processing_job import (
    CATALOG,
    FILE_FLAGS,
    FINISH,
    SHARDS,
    VOLUME_GB,
    DatasetJob,
    Stage,
    file_name,
    job_name,
)
from launching.train_flags import checked_by
from sdk.images import image_uri
from sdk.installed import installed_sdk
from sdk.submissions import Submission

DATA_PREP = Path(__file__).resolve().parent.parent / "data_prep"
# Not SAGEMAKER_ROLE: the role that trains may read datasets only.
ROLE_VARIABLE = "SAGEMAKER_DATA_ROLE"
OUTPUT_PLACEHOLDER = "s3://YOUR-BUCKET/datasets/bins"
GO_ON = "the same command goes on from here."


def main(argv: list[str] | None = None) -> None:
    """Prepare a dataset as the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; 1 if a job failed; 130 after
        Ctrl-C, which leaves a job running.
    """
    parser = make_parser()
    arguments, flags = parser.parse_known_args(argv)
    with parser.errors_of_one_line():
        job = dataset_job(arguments, flags)
        if arguments.dry_run:
            with checked_by_build_dataset(job, arguments):
                requests = dry_run(job, arguments.region, arguments.role)
            print(json.dumps(requests, indent=2))
            print(summary(job, arguments.price_per_hour), file=sys.stderr)
            return
        session = boto_session(find_region(arguments.region))
        with checked_by_build_dataset(job, arguments):
            image_uri(session.region_name, "cpu", "training")  # or no such region
            role = find_role(arguments.role, session, ROLE_VARIABLE)
            check_bucket("--output", job.output, session)
            check_bucket("--code", job.code, session)
            check_output(job, session)
            requests_of(job, session.region_name, role)  # or one is out of AWS's bounds
        print(summary(job, arguments.price_per_hour), file=sys.stderr)
        code = run_stages(job, session, role)
        if code == 0:
            print(f"Next: {next_command(job, session.region_name)}")
    sys.exit(code)


def make_parser() -> EntryParser:
    """Return the parser of all flags but those that build_dataset.py alone knows."""
    parser = EntryParser(__doc__)
    parser.epilog = "All other flags are build_dataset.py's (data_prep/build_dataset.py --help)."
    data = parser.add_argument_group("data")
    data.add_argument(
        "--source",
        default="s3://aft-vbi-pds",
        metavar="URI",
        help="bucket or S3 folder with bins (default: %(default)s)",
    )
    data.add_argument("--output", metavar="URI", help="S3 folder of the dataset")
    data.add_argument(
        "--catalog", metavar="URI", help="one of data_prep/build_catalog.py (default: built first)"
    )
    for name in FILE_FLAGS:
        data.add_argument(
            f"--{name}",
            type=Path,
            action=OneFile,
            metavar="FILE",
            help="as for build_dataset.py, one file; sent along",
        )
    job = parser.add_argument_group("jobs")
    job.add_argument(
        "--code",
        metavar="URI",
        help="S3 folder for the code of the jobs (default: bin-counting/code/ in the output's "
        "bucket)",
    )
    job.add_argument(
        "--role",
        help=f"name or ARN of the role that the jobs run as (default: {ROLE_VARIABLE}, else your "
        "own role); sagemaker_jobs/iam/roles.yaml makes one, its DataRole",
    )
    job.add_argument("--region", help="default: AWS_REGION, else your profile's")
    job.add_argument(
        "--instance_type", default="ml.c5.4xlarge", metavar="TYPE", help="default: %(default)s"
    )
    job.add_argument(
        "--instance_count",
        type=positive_integer,
        default=2,
        metavar="N",
        help="machines that write shards; the other stages take one (default: %(default)s)",
    )
    job.add_argument(
        "--max_run",
        type=positive_integer,
        default=4 * 3600,
        metavar="SECONDS",
        help="AWS stops a stage after this time (default: %(default)s)",
    )
    job.add_argument(
        "--volume_gb",
        type=positive_integer,
        default=VOLUME_GB,
        metavar="GB",
        help="disk of an instance (default: %(default)s)",
    )
    job.add_argument(
        "--price_per_hour",
        type=price,
        metavar="PRICE",
        help="of one instance: says what the jobs can cost at most",
    )
    job.add_argument(
        "--dry_run",
        action="store_true",
        help="print the requests as JSON and send nothing; needs no account and no network",
    )
    add_account_flags(parser)
    return parser


class OneFile(argparse.Action):
    """A flag whose file is sent along: argparse would take the last of several in silence."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keep the file. A second one is the parser's error."""
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} {values}: jobs take one file of it.")
        setattr(namespace, self.dest, values)


def dataset_job(arguments: argparse.Namespace, flags: list[str]) -> DatasetJob:
    """Return the jobs that parsed flags describe.

    Raises:
        ValueError: no output, a folder of this machine, or AWS would refuse a job.
        OSError: a file that a flag names cannot be read.
    """
    if arguments.output is None and not arguments.dry_run:
        raise ValueError("give --output s3://BUCKET/FOLDER; --dry_run works without.")
    output = (arguments.output or OUTPUT_PLACEHOLDER).rstrip("/")
    bucket, folder = bucket_and_prefix(output)
    if not folder:
        raise ValueError(f"--output {output}: name a folder too, s3://BUCKET/FOLDER.")
    code = (arguments.code or f"s3://{bucket}/bin-counting/code").rstrip("/")
    for flag, uri in (
        ("--source", arguments.source),
        ("--catalog", arguments.catalog),
        ("--code", code),
    ):
        if uri is not None and not uri.startswith("s3://"):
            raise ValueError(f"{flag} {uri}: a job sees S3 alone; give s3://BUCKET/FOLDER.")
    if flags and not flags[0].startswith("-"):
        raise ValueError(f"{flags[0]} belongs to no flag; jobs take one file of --marks.")
    paths = {name: getattr(arguments, name) for name in FILE_FLAGS}
    return DatasetJob(
        source=arguments.source.rstrip("/"),
        output=output,
        code=code,
        catalog=arguments.catalog,
        files={name: path.read_bytes() for name, path in paths.items() if path is not None},
        flags=tuple(flags),
        instance_type=arguments.instance_type,
        instance_count=arguments.instance_count,
        max_run=arguments.max_run,
        volume_gb=arguments.volume_gb,
        account=account_demands(arguments),
    )


def checked_by_build_dataset(
    job: DatasetJob, arguments: argparse.Namespace
) -> contextlib.AbstractContextManager[None]:
    """Let build_dataset.py check its flags while the block runs: both take seconds.

    Raises: ValueError: build_dataset.py's own words, at the end of the block.
    """
    paths = [word for name in job.files for word in (f"--{name}", str(getattr(arguments, name)))]
    flags = ["--source", job.source, *paths, *job.flags]
    if job.catalog:
        flags += ["--catalog", job.catalog]
    entry = str(DATA_PREP / "build_dataset.py")
    return checked_by([entry, *flags, "--output_dir", job.output, "--check"])


def dry_run(job: DatasetJob, region: str | None, role: str | None) -> list[dict[str, Any]]:
    """Return the CreateProcessingJob requests of all stages; nothing is sent."""
    return requests_of(
        job,
        known_region(region) or container.DEFAULT_REGION,
        shown_role(known_role(role, ROLE_VARIABLE)),
    )


def requests_of(job: DatasetJob, region: str, role: str) -> list[dict[str, Any]]:
    """Return the requests of all stages. Raises: ValueError: AWS would refuse one."""
    recorded = RecordedRequests(region)
    for stage in job.stages():
        create(job, stage, job_name(job, stage, 1), recorded.session, role)
    return recorded["CreateProcessingJob"]


def create(job: DatasetJob, stage: Stage, name: str, session: boto3.Session, role: str) -> None:
    """Upload the code and create a stage's job.

    Raises: ValueError: AWS keeps no container in the region. ClientError: AWS refuses the job.
    """
    # Of AWS's images the one with a CPU's torch; requirements.txt brings what it lacks.
    image = image_uri(session.region_name, "cpu", "training")
    with code_folder(job) as folder, signals_raised_again():
        submission = Submission(session, role, image, folder)
        installed_sdk().create_processing_job(job, stage, name, submission)


@contextlib.contextmanager
def code_folder(job: DatasetJob) -> Iterator[str]:
    """Yield a copy of data_prep/ without caches, with the files that flags name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data_prep"
        shutil.copytree(DATA_PREP, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for name, content in job.files.items():
            (folder / file_name(name)).write_bytes(content)
        yield str(folder)


def check_output(job: DatasetJob, session: boto3.Session) -> None:
    """Check that the output folder is empty, or that this very command has worked on it.

    Raises: ValueError: it holds something else.
    """
    sagemaker = session.client("sagemaker")
    if any(last_attempt(sagemaker, job, stage)[1] for stage in job.stages()):
        return
    names = names_in(job.output, session)
    if job.catalog == f"{job.output}/catalog.parquet":
        names.discard("catalog.parquet")
    if names:
        raise ValueError(
            f"--output {job.output} holds something already ({min(names)}), and no job of this "
            "command was there: choose another folder or empty it. (Other flags make another "
            "dataset; to go on with one, give those that it was begun with.)"
        )


def run_stages(job: DatasetJob, session: boto3.Session, role: str) -> int:
    """Run what is not done yet, one stage after the other, and return the exit code.

    Raises: ClientError: AWS refuses a job.
    """
    sagemaker = session.client("sagemaker")
    stages = job.stages()
    attempts = {stage.name: last_attempt(sagemaker, job, stage) for stage in stages}
    present = names_in(job.output, session)
    earlier_are_done = True
    for stage in stages:
        number, description = attempts[stage.name]
        status = description["ProcessingJobStatus"] if description else None
        if earlier_are_done and status == "Completed" and is_done(stage.name, attempts, present):
            print(f"{stage.name}: done by {job_name(job, stage, number)}", file=sys.stderr)
            continue
        earlier_are_done = False
        if status is None or status in ENDED:
            number += 1
            with told_if_cut_off(stop_command(job_name(job, stage, number), session.region_name)):
                create(job, stage, job_name(job, stage, number), session, role)
        name = job_name(job, stage, number)
        print(f"{stage.name}: {name}", file=sys.stderr)
        print(f"  {stop_command(name, session.region_name)}   # stop it", file=sys.stderr)
        if code := fetch_logs(name, session.region_name, follow=True):
            if code == 1:
                print(f"Once that is mended, {GO_ON}", file=sys.stderr)
            else:
                print(f"{name} runs on its own; {GO_ON}", file=sys.stderr)
            return code
    return 0


def last_attempt(
    sagemaker: Any, job: DatasetJob, stage: Stage
) -> tuple[int, dict[str, Any] | None]:
    """Return the number of a stage's last job and what AWS says of it; 0 and None without any."""
    number, last = 0, None
    while description := describe(sagemaker, job_name(job, stage, number + 1)):
        number, last = number + 1, description
    return number, last


def describe(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """Return what AWS says of a processing job; None if there is none of this name."""
    try:
        return sagemaker.describe_processing_job(ProcessingJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):
            raise
        return None


def is_done(
    stage: str, attempts: dict[str, tuple[int, dict[str, Any] | None]], present: set[str]
) -> bool:
    """Return whether what a completed job has made is still there.

    Args:
        attempts: what last_attempt says of each stage.
        present: the names in the output folder.
    """
    if stage == CATALOG:
        return "catalog.parquet" in present
    if stage == FINISH:
        return "README.md" in present
    # Shards that have gone since are what makes the next stage fail.
    finish = attempts[FINISH][1]
    return stage == SHARDS and (finish is None or finish["ProcessingJobStatus"] != "Failed")


def summary(job: DatasetJob, price_per_hour: float | None) -> str:
    """Return what a user wants to see before the jobs start."""
    stages = ", ".join(
        f"{stage.name} on {stage.instance_count} x {job.instance_type}" for stage in job.stages()
    )
    lines = [
        f"{job.name}: {stages}; one after the other",
        f"  each runs for at most {hours(job.max_run)}",
        f"  reads {job.source}, writes to {job.output}",
    ]
    if price_per_hour is not None:
        cost = job.most_it_can_cost(price_per_hour)
        lines.append(f"  all cost at most {cost:,.2f}, at {price_per_hour:g} an instance and hour")
    return "\n".join(lines)


def stop_command(name: str, region: str) -> str:
    """Return the command that stops a processing job."""
    return f"aws sagemaker stop-processing-job --processing-job-name {name} --region {region}"


def next_command(job: DatasetJob, region: str) -> str:
    """Return the command that trains on the dataset."""
    flags = EntryParser(None, add_help=False)
    flags.add_argument("--image_size", default="224")
    # The Hub's ViTs take 224 pixels; a ResNet takes any size.
    is_for_vit = flags.parse_known_args(list(job.flags))[0].image_size == "224"
    entry = "vit.py" if is_for_vit else "resnet34.py"
    dataset = shlex.quote(job.output)
    return f"python sagemaker_jobs/{entry} --dataset {dataset} --region {region}"


if __name__ == "__main__":
    main()
