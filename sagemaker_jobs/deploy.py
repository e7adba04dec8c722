"""Deploy a trained model on SageMaker, and remove it again.

    python sagemaker_jobs/deploy.py runs/vit_base --dry_run                   # needs no account
    python sagemaker_jobs/deploy.py runs/vit_base --output s3://BUCKET/bin-counting
    python sagemaker_jobs/deploy.py bins-vit-20261121-101500 --serverless
    python sagemaker_jobs/deploy.py JOB --batch_transform S3_PHOTOS S3_ANSWERS
    python sagemaker_jobs/deploy.py --delete NAME                         # all that has the name

MODEL is a run folder, a finished job's name, or a model.tar.gz (or s3:// of one). It is served on
this machine first; then everything is made, and the endpoint has to answer a photo as the model did
here. What fails half-way, or is interrupted, removes what it made. An endpoint on instances costs
money until it is removed.
"""

import argparse
import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import container
from aws.output_files import whole_file
from aws.recorded_requests import shown_role
from aws.settings import (
    boto_session,
    check_bucket,
    find_region,
    find_role,
    known_region,
    known_role,
)
from aws.started_jobs import describe
from deployment.endpoint_client import NoAnswer, PhotoFault, SageMakerEndpoint, with_retries
from deployment.flags import (
    OUTPUT_PLACEHOLDER,
    ROLE_VARIABLE,
    archive_of,
    check_flags,
    deployment_of,
    is_job_name,
    make_parser,
    output_folder,
)
from deployment.parts import (
    ARCHIVE_NAME,
    ENDPOINT,
    FUNCTION,
    PARTS,
    TRANSFORM_JOB,
    Account,
    Part,
)
from deployment.requests import (
    BatchTransform,
    Deployment,
    Request,
    Serverless,
    check_name,
    checked_requests,
)
from deployment.served_archive import (
    EXPORT,
    add_handler,
    check_model,
    check_same_answer,
    copy_model,
    has_export,
    local_answer,
    pack,
    smoke_photo,
)
from deployment.transformed_photos import check_photos, named, objects_below, without_answer
from sdk.images import image_uri


def main(argv: list[str] | None = None) -> None:
    """Deploy or remove what the command line says.

    Raises: SystemExit: code 2 after one line that says what is wrong; 130 after Ctrl-C, 129 after
        a closed terminal, 143 after `kill`.
    """
    parser = make_parser(__doc__)
    arguments = parser.parse_args(argv)
    with parser.errors_of_one_line(), tempfile.TemporaryDirectory() as scratch:
        check_flags(arguments)
        if arguments.delete:
            remove(arguments)
        elif arguments.dry_run:
            show(arguments, Path(scratch))
        else:
            run(arguments, Path(scratch))


def job_model(sagemaker: Any, job: str) -> str:
    """Return where a job's model is. Raises: ValueError: no such job, or it left none."""
    description = describe(sagemaker, job)
    status = description["TrainingJobStatus"]
    model = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if status not in ("Completed", "Stopped") or not model:
        raise ValueError(f"{job} is {status} and has no model; deploy a job that is Completed.")
    return model


def prepare(source: str, folder: Path, scratch: Path) -> None:
    """Bring a model's files into a folder and look at them. Raises: ValueError: no whole model."""
    copy_model(source, folder, scratch)
    check_model(folder, source)


def show(arguments: argparse.Namespace, scratch: Path) -> None:
    """Print the requests of a deployment.

    Raises: ValueError: the flags or the model are not right.
    """
    region = known_region(arguments.region) or container.DEFAULT_REGION
    source = arguments.model or ""
    found_export = False
    if source and not is_job_name(source) and not source.startswith("s3://"):
        prepare(source, scratch / "model", scratch)
        found_export = has_export(scratch / "model")
    output = output_folder(arguments, source) or OUTPUT_PLACEHOLDER
    deployment = deployment_of(arguments, output, found_export)
    image = image_uri(region, deployment.processor, "inference")
    role = shown_role(known_role(arguments.role, ROLE_VARIABLE))
    requests = checked_requests(deployment, image, role)
    print(json.dumps([request.as_json() for request in requests], indent=2))
    print(summary(deployment, arguments.price_per_hour), file=sys.stderr)


def run(arguments: argparse.Namespace, scratch: Path) -> None:
    """Make a deployment.

    Raises: ValueError: something is not right, or it failed; nothing of it is left. ClientError:
        AWS refuses a request.
    """
    session = boto_session(find_region(arguments.region))
    source = arguments.model or ""
    if is_job_name(source):
        source = job_model(session.client("sagemaker"), source)
    output = output_folder(arguments, source)
    if source and not output:
        raise ValueError("give --output s3://BUCKET/FOLDER, for the model's archive.")
    deployment = deployment_of(arguments, output or "", has_export=False)
    image = image_uri(session.region_name, deployment.processor, "inference")
    account = Account(session, deployment.name)
    check_parts(account, deployment)
    role, contents = "", None
    if source:
        role = find_role(arguments.role, session, ROLE_VARIABLE)
        check_bucket("--output", str(output), session)
        if isinstance(deployment.form, BatchTransform):
            look_at_photos(deployment.form, session)
        checked_requests(deployment, image, role)  # before a model of half a gigabyte is packed
        deployment, contents = prepare_contents(source, deployment, scratch)
    requests = checked_requests(deployment, image, role)
    print(summary(deployment, arguments.price_per_hour), file=sys.stderr)
    make(account, deployment, requests, contents, session)
    print(next_commands(deployment, account))


def check_parts(account: Account, deployment: Deployment) -> None:
    """Check that nothing has the name yet; of a function's endpoint, that it is there.

    Raises: ValueError: it is otherwise.
    """
    name = deployment.name
    if deployment.form is None:
        if (status := account.status(ENDPOINT)) != ENDPOINT.good:
            raise ValueError(f"--name {name}: the endpoint is {status or 'not there'}.")
        parts = [FUNCTION]
    else:
        parts = list(PARTS)
    for part in parts:
        if account.status(part) is not None:
            raise ValueError(
                f"there is a {part.label} {name} already: choose another --name, or remove it "
                f"with --delete {name}."
            )


@dataclasses.dataclass(frozen=True)
class Contents:
    """What travels with the requests, and what the endpoint has to answer."""

    archive: Path
    photo: bytes
    expected: dict[str, Any]


def prepare_contents(
    source: str, deployment: Deployment, scratch: Path
) -> tuple[Deployment, Contents]:
    """Pack the model and ask it here.

    Returns: the deployment, with what was found in the model; and what travels with its requests.
    Raises: ValueError: it is no whole model, or cannot be served.
    """
    folder, archive = scratch / "model", scratch / ARCHIVE_NAME
    prepare(source, folder, scratch)
    deployment = dataclasses.replace(deployment, has_export=has_export(folder))
    if not deployment.serves_export:
        for name in EXPORT:
            (folder / name).unlink(missing_ok=True)
    add_handler(folder)
    photo = smoke_photo(scratch / "photo.png")
    expected = local_answer(folder, photo)
    print(f"The model answers here ({expected['runtime']}).", file=sys.stderr)
    pack(folder, archive)
    return deployment, Contents(archive, photo, expected)


def make(
    account: Account,
    deployment: Deployment,
    requests: Sequence[Request],
    contents: Contents | None,
    session: boto3.Session,
) -> None:
    """Send a deployment's requests, wait for what they make, and ask the endpoint.

    Args:
        contents: None where there is an endpoint already.

    Raises: ValueError, ClientError: something failed, and what was made has been removed.
    """
    made: list[Part] = []
    archive: str | None = None
    try:
        for request in requests:
            print(f"{request.operation} {account.name}", file=sys.stderr)
            if request.operation == "InvokeEndpoint" and contents:
                check_endpoint(session, account.name, contents)
                continue
            if request.operation == "PutObject" and contents:
                archive = deployment.archive
                account.upload(contents.archive, request)
                continue
            part = next((p for p in PARTS if p.created_by == request.operation), None)
            made += [part] if part else []
            try:
                account.send(request)
            except ClientError as error:
                # Refused: what has this name, if anything does, is another's. A second attempt of
                # botocore's may have found what the first one made.
                details = error.response["ResponseMetadata"]
                if part and details["HTTPStatusCode"] < 500 and not details.get("RetryAttempts"):
                    made.remove(part)
                raise
            if part and account.wait_until_made(part) != part.good:
                reason = account.failure_reason(part)
                if isinstance(deployment.form, BatchTransform):
                    reason += unanswered(account, deployment.form, session)
                raise ValueError(f"the {part.label} failed: {reason}")
        if isinstance(deployment.form, BatchTransform):
            account.remove_all(made, archive)
    except BaseException:
        if made or archive:
            print("Removing what was made.", file=sys.stderr)
            print(f"  If this is cut off: {delete_command(account, archive)}", file=sys.stderr)
            clean_up(account, made, archive)
        raise


def look_at_photos(batch: BatchTransform, session: boto3.Session) -> None:
    """Look at what a batch transform will read, before it costs anything.

    Raises: ValueError: no bucket, no photo, or one that fails the job.
    """
    for folder in (batch.photos, batch.answers):
        check_bucket("--batch_transform", folder, session)
    found = objects_below(session, batch.photos)
    if others := check_photos(batch.photos, found):
        print(f"Will be answered with an error: {others}.", file=sys.stderr)


def unanswered(account: Account, batch: BatchTransform, session: boto3.Session) -> str:
    """Write down what a failed batch transform has not answered, and return that in words."""
    path = Path(f"{account.name}_without_answer.txt")
    try:
        job = account.description(TRANSFORM_JOB)
        names = without_answer(session, batch, job["CreationTime"]) if job else []
        if not names:
            return ""
        with whole_file(path) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names))
    except (OSError, ClientError, BotoCoreError) as error:  # the reason of the failure goes before
        return f"; what has no answer could not be told ({error})"
    return f"; without an answer, all in {path}: {named(names)}"


def clean_up(account: Account, made: Sequence[Part], archive: str | None) -> None:
    """Remove what a failed deployment made, and say so if that fails too."""
    try:
        account.remove_all(made, archive)
    except (ValueError, ClientError, BotoCoreError) as error:
        print(
            f"Not all could be removed ({error}): {delete_command(account, archive)}",
            file=sys.stderr,
        )


def delete_command(account: Account, archive: str | None) -> str:
    """Return the command that removes a deployment, and its archive where no model is left."""
    command = f"python sagemaker_jobs/deploy.py --delete {account.name} --region {account.region}"
    output = archive and archive.removesuffix(archive_of("", account.name))
    return f"{command} --output {shlex.quote(output)}" if output else command


def check_endpoint(session: boto3.Session, name: str, contents: Contents) -> None:
    """Ask an endpoint for the smoke test's photo.

    Raises: ValueError: it does not answer, or not as the model did here.
    """
    endpoint = SageMakerEndpoint(session, name)
    try:
        answer = with_retries(lambda: endpoint.ask(contents.photo, "image/png"))
    except (PhotoFault, NoAnswer) as error:
        raise ValueError(f"the endpoint does not answer: {error}") from error
    difference = check_same_answer(answer, contents.expected)
    print(
        f"The endpoint answers as the model does here (probabilities differ by {difference:.1g} at "
        "most).",
        file=sys.stderr,
    )


def remove(arguments: argparse.Namespace) -> None:
    """Remove a deployment, or its function alone.

    Raises: ValueError: nothing has the name, or something cannot be removed.
    """
    name = arguments.delete
    check_name(name)
    account = Account(boto_session(find_region(arguments.region)), name)
    output = output_folder(arguments, "")
    if arguments.function:
        removed = account.remove_all([FUNCTION], None)
    else:
        # The model says where its archive is; without one the caller has to.
        archive = account.archive() or (output and archive_of(output, name))
        removed = account.remove_all(PARTS, archive)
    if not removed:
        hint = (
            "" if output else "; for an archive without its model add --output s3://BUCKET/FOLDER"
        )
        raise ValueError(f"--delete {name}: nothing in {account.region} has this name{hint}.")


def summary(deployment: Deployment, price_per_hour: float | None) -> str:
    """Return what a user wants to see before anything is made."""
    form = deployment.form
    lines = []
    if isinstance(form, Serverless):
        lines.append(f"serverless, {form.memory_mb} MB, {form.max_concurrency} requests at once")
    elif isinstance(form, BatchTransform):
        lines.append(f"{form.instance_count} x {form.instance_type} for all of {form.photos}")
    elif form:
        most = f" to {form.scaling.max_instance_count}" if form.scaling else ""
        lines.append(f"{form.instance_count}{most} x {form.instance_type}, until it is removed")
        if form.data_capture:
            lines.append(f"keeps all requests, with the photos, in {form.data_capture}")
        if price_per_hour is not None:
            count = form.scaling.max_instance_count if form.scaling else form.instance_count
            lines.append(
                f"costs {24 * price_per_hour * count:,.2f} a day at most, at {price_per_hour:g} an "
                "instance and hour"
            )
    if deployment.photos:
        lines.append(f"reads photos below {deployment.photos}")
    if deployment.function:
        lines.append(f"a Lambda function in front, which reads {deployment.function.photos}")
    return "\n  ".join([f"{deployment.name}: {lines[0]}", *lines[1:]])


def next_commands(deployment: Deployment, account: Account) -> str:
    """Return the commands that a user runs next."""
    name, region = account.name, account.region
    if isinstance(deployment.form, BatchTransform):
        answers = shlex.quote(deployment.form.answers)
        return f"Answers, one BIN.jpg.out a photo: aws s3 sync {answers} answers"
    lines = [
        f"Ask it:    python sagemaker_jobs/query.py BIN.jpg --endpoint {name} --region {region}",
        f"           aws sagemaker-runtime invoke-endpoint --endpoint-name {name} --region "
        f"{region} --content-type image/jpeg --body fileb://BIN.jpg answer.json",
    ]
    if deployment.function:
        lines.append(
            f"           aws lambda invoke --function-name {name} --region {region} "
            '--cli-binary-format raw-in-base64-out --payload \'{"s3_key": "KEY"}\' answer.json'
        )
    lines.append(f"Remove it: {delete_command(account, None)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
