"""The flags of deploy.py, and the deployment that they describe."""

import argparse
import datetime
import re
from pathlib import Path

from aws.account_flags import ACCOUNT_FLAGS, account_demands, add_account_flags
from aws.entry_parser import EntryParser, positive_integer, price
from aws.names import JOB_NAME
from aws.settings import bucket_and_prefix
from deployment.parts import ARCHIVE_NAME
from deployment.requests import (
    DEFAULT_INSTANCE_TYPE,
    BatchTransform,
    Deployment,
    Instances,
    LambdaFunction,
    Scaling,
    Serverless,
)

ROLE_VARIABLE = "SAGEMAKER_ENDPOINT_ROLE"
OUTPUT_PLACEHOLDER = "s3://YOUR-BUCKET/bin-counting"
DEFAULT_INSTANCE_COUNT, DEFAULT_MEMORY_MB, DEFAULT_CONCURRENCY = 1, 4096, 5
OF_INSTANCES = ("instance_type", "instance_count")
OF_SCALING = ("max_instance_count", "invocations_per_minute")
OF_SERVERLESS = ("memory_mb", "max_concurrency")
# Folders that say nothing of what is in them, when a deployment is named after its model.
PLAIN_FOLDERS = ("", ".", "..", "/", "model", "output", ARCHIVE_NAME)


def make_parser(description: str | None) -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(description)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="run folder, job name, or model.tar.gz (or s3://)"
    )
    parser.add_argument(
        "--name", help="of the endpoint and all that belongs to it: bins-... (default: the model's)"
    )
    parser.add_argument(
        "--output",
        metavar="URI",
        help="S3 folder for the model's archive (default: bin-counting/ in the model's bucket)",
    )
    parser.add_argument(
        "--role",
        help=f"name or ARN of the role that the model runs as (default: {ROLE_VARIABLE}, else your "
        "own role); sagemaker_jobs/iam/roles.yaml makes one, its EndpointRole",
    )
    parser.add_argument("--region", help="default: AWS_REGION, else your profile's")
    parser.add_argument(
        "--photos",
        metavar="URI",
        help="S3 folder of which a request may name photos; the Lambda function reads them where "
        "there is one, else the endpoint",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print all requests as JSON and send nothing; needs no account and no network",
    )
    parser.add_argument(
        "--price_per_hour", type=price, metavar="PRICE", help="of one instance: says what it costs"
    )
    instances = parser.add_argument_group("on instances")
    instances.add_argument(
        "--instance_type", metavar="TYPE", help=f"default: {DEFAULT_INSTANCE_TYPE}"
    )
    instances.add_argument(
        "--instance_count",
        type=positive_integer,
        metavar="N",
        help=f"default: {DEFAULT_INSTANCE_COUNT}",
    )
    instances.add_argument(
        "--max_instance_count",
        type=positive_integer,
        metavar="N",
        help="autoscaling: from --instance_count up to N instances",
    )
    instances.add_argument(
        "--invocations_per_minute",
        type=positive_integer,
        metavar="N",
        help="autoscaling: the requests that an instance should get",
    )
    instances.add_argument(
        "--data_capture",
        metavar="URI",
        help="S3 folder, below OUTPUT/captured, for all requests (with the photos) and answers; by "
        "default none is kept",
    )
    serverless = parser.add_argument_group("serverless")
    serverless.add_argument(
        "--serverless", action="store_true", help="an endpoint that costs only what it is asked"
    )
    serverless.add_argument(
        "--memory_mb",
        type=positive_integer,
        metavar="MB",
        help=f"default: {DEFAULT_MEMORY_MB}",
    )
    serverless.add_argument(
        "--max_concurrency",
        type=positive_integer,
        metavar="N",
        help=f"requests at once (default: {DEFAULT_CONCURRENCY})",
    )
    other = parser.add_argument_group("other forms")
    other.add_argument(
        "--batch_transform",
        nargs=2,
        metavar=("S3_IN", "S3_OUT"),
        help="no endpoint: count all photos of one S3 folder once, answers to another, below "
        "OUTPUT/answers, and remove the model",
    )
    other.add_argument(
        "--lambda",
        dest="function",
        action="store_true",
        help="a Lambda function in front of the endpoint, which reads --photos; without MODEL in "
        "front of the endpoint --name, which is there already",
    )
    other.add_argument(
        "--role_boundary",
        metavar="ARN",
        help="policy that bounds the function's role, LambdaBoundaryArn of the stack of roles; "
        "needed by who has that stack's DeployLambdaPolicy",
    )
    other.add_argument(
        "--delete",
        metavar="NAME",
        help="remove endpoint, configuration, model, archive, autoscaling and Lambda function of a "
        "deployment; with --lambda the function alone, with --output an archive, too, that was "
        "uploaded for a model which was never made",
    )
    add_account_flags(parser)
    return parser


def check_flags(arguments: argparse.Namespace) -> None:
    """Check which flags stand together. Raises: ValueError: some exclude each other."""

    def given(*names: str) -> str | None:
        found = (name for name in names if getattr(arguments, name) not in (None, False, []))
        name = next(found, None)
        return name and "--" + {"function": "lambda"}.get(name, name)

    def refuse(reason: str, *names: str) -> None:
        if flag := given(*names):
            raise ValueError(f"{flag}: {reason}")

    if arguments.delete:
        taken = {"delete", "region", "function", "model", "output"}
        refuse(
            "--delete takes --region, --output and --lambda only.",
            *sorted({*vars(arguments)} - taken),
        )
        if arguments.model:
            raise ValueError(f"--delete removes, and does not deploy: leave {arguments.model} out.")
        return
    if not arguments.model and not (arguments.function and arguments.name):
        raise ValueError(
            "name a run folder, a job or a model.tar.gz; or --lambda --name NAME for a function in "
            "front of an endpoint; or --delete NAME."
        )
    of_endpoint = (*OF_SCALING, "data_capture")
    if not arguments.model:
        names = (*OF_INSTANCES, *of_endpoint, *OF_SERVERLESS, "serverless", "batch_transform")
        of_model = ("output", *(flag for flag in ACCOUNT_FLAGS if flag != "tags"))
        refuse("without MODEL no endpoint is made; leave it out.", *names, *of_model)
    if arguments.serverless:
        refuse("--serverless has none; leave one out.", *OF_INSTANCES, *of_endpoint)
        refuse("--serverless and this exclude each other.", "batch_transform", "price_per_hour")
    else:
        refuse("is for --serverless.", *OF_SERVERLESS)
    if arguments.batch_transform:
        refuse("--batch_transform makes no endpoint.", *of_endpoint, "function", "photos")
    if (given(OF_SCALING[0]) is None) != (given(OF_SCALING[1]) is None):
        raise ValueError("--max_instance_count and --invocations_per_minute: give both, or none.")
    if arguments.function and not arguments.photos:
        raise ValueError("--lambda: give --photos s3://BUCKET/FOLDER, which the function reads.")
    if not arguments.function:
        refuse("is for --lambda.", "role_boundary")


def deployment_of(arguments: argparse.Namespace, output: str, has_export: bool) -> Deployment:
    """Return the deployment that parsed flags describe.

    Args:
        output: S3 folder for archives.
        has_export: whether the model has the exported form.

    Raises: ValueError: AWS would refuse it, or it would not work.
    """
    name = arguments.name or default_name(arguments)
    form = form_of(arguments)
    if output and output != OUTPUT_PLACEHOLDER:
        check_written_folder(form, output)
    photos = s3_folder("--photos", arguments.photos) if arguments.photos else None
    function = None
    if arguments.function and photos:
        function, photos = LambdaFunction(photos, arguments.role_boundary), None
    return Deployment(
        name=name,
        form=form,
        archive=archive_of(output, name),
        photos=photos,
        has_export=has_export,
        function=function,
        demands=account_demands(arguments),
    )


def archive_of(output: str, name: str) -> str:
    """Return where the archive of a deployment lies below the S3 folder for archives."""
    return f"{output}/deployments/{name}/{ARCHIVE_NAME}"


def form_of(arguments: argparse.Namespace) -> Instances | Serverless | BatchTransform | None:
    """Return the form that parsed flags describe; None where there is an endpoint already."""
    if not arguments.model:
        return None
    if arguments.serverless:
        return Serverless(
            arguments.memory_mb or DEFAULT_MEMORY_MB,
            arguments.max_concurrency or DEFAULT_CONCURRENCY,
        )
    instance_type = arguments.instance_type or DEFAULT_INSTANCE_TYPE
    instance_count = arguments.instance_count or DEFAULT_INSTANCE_COUNT
    if arguments.batch_transform:
        photos, answers = (s3_folder("--batch_transform", uri) for uri in arguments.batch_transform)
        return BatchTransform(photos, answers, instance_type, instance_count)
    scaling = None
    if arguments.max_instance_count:
        scaling = Scaling(arguments.max_instance_count, arguments.invocations_per_minute)
    capture = arguments.data_capture and s3_folder("--data_capture", arguments.data_capture)
    return Instances(instance_type, instance_count, scaling, capture)


def check_written_folder(form: Instances | Serverless | BatchTransform | None, output: str) -> None:
    """Check where AWS will write: a role that may not fails a job minutes after it was paid for.

    Raises: ValueError: the EndpointRole of iam/roles.yaml may not write there.
    """
    if isinstance(form, BatchTransform):
        flag, folder, allowed = "--batch_transform", form.answers, f"{output}/answers/"
    elif isinstance(form, Instances) and form.data_capture:
        flag, folder, allowed = "--data_capture", form.data_capture, f"{output}/captured/"
    else:
        return
    if not folder.startswith(allowed):
        raise ValueError(
            f"{flag} {folder}: a model's role may write below {allowed} alone; name a folder there."
        )


def s3_folder(flag: str, uri: str) -> str:
    """Return an S3 folder with a slash at its end: s3://b/bins alone would be s3://b/bins_2 too.

    Raises: ValueError: it is none.
    """
    bucket, prefix = bucket_and_prefix(uri)
    if not prefix:
        raise ValueError(f"{flag} {uri}: name a folder too, s3://BUCKET/FOLDER.")
    return f"s3://{bucket}/{prefix}/"


def default_name(arguments: argparse.Namespace) -> str:
    """Return a name after the model's: runs/vit_base is bins-vit-base."""
    parts = [part for part in arguments.model.split("/") if part not in PLAIN_FOLDERS]
    words = re.sub("[^a-zA-Z0-9]+", "-", parts[-1] if parts else "").strip("-")
    name = "-".join(filter(None, ["bins", words.removeprefix("bins-")]))
    if arguments.batch_transform:
        # AWS keeps the record of a transform job, and takes its name once.
        return f"{name[:47].rstrip('-')}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    return name[:63].rstrip("-")


def output_folder(arguments: argparse.Namespace, source: str) -> str | None:
    """Return the S3 folder for archives: the flag's, else that of a model which lies in S3."""
    if arguments.output:
        return arguments.output.rstrip("/")
    if source.startswith("s3://"):
        return f"s3://{bucket_and_prefix(source)[0]}/bin-counting"
    return None


def is_job_name(model: str) -> bool:
    """Return whether a model is a job's name, and no path."""
    return bool(JOB_NAME.fullmatch(model)) and not Path(model).exists()
