"""What a deployment is made of in an account: send it, wait for it, find it again, remove it."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore import xform_name
from botocore.exceptions import ClientError

from aws.settings import bucket_and_prefix
from deployment.requests import Request, scalable_target

POLL_SECONDS = 10.0
ABSENT = ("ValidationException", "ValidationError", "ResourceNotFound")
# Statuses of what is being removed already.
LEAVING = ("Deleting", "Stopping", "DELETE_IN_PROGRESS")
ARCHIVE_NAME = "model.tar.gz"
THERE = "there"


@dataclass(frozen=True)
class Part:
    """One thing that has the deployment's name.

    `status_field` is the path to its status in what `describe` answers; without one it is there or
    not. While its status is one of `busy`, AWS is at work on it; then it is `good`, or has failed.
    With a status of `gone` there is nothing left to remove.
    """

    label: str
    service: str
    created_by: str
    describe: str
    remove: str
    name_parameter: str
    status_field: tuple[str | int, ...] = ()
    busy: tuple[str, ...] = ()
    good: str = THERE
    gone: tuple[str | None, ...] = (None,)
    log_group: str = ""


MODEL = Part("model", "sagemaker", "CreateModel", "describe_model", "delete_model", "ModelName")
CONFIGURATION = Part(
    *("endpoint configuration", "sagemaker", "CreateEndpointConfig"),
    *("describe_endpoint_config", "delete_endpoint_config", "EndpointConfigName"),
)
ENDPOINT = Part(
    *("endpoint", "sagemaker", "CreateEndpoint"),
    *("describe_endpoint", "delete_endpoint", "EndpointName"),
    status_field=("EndpointStatus",),
    busy=("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"),
    good="InService",
    log_group="/aws/sagemaker/Endpoints/{name}",
)
TRANSFORM_JOB = Part(
    *("batch transform job", "sagemaker", "CreateTransformJob"),
    *("describe_transform_job", "stop_transform_job", "TransformJobName"),
    status_field=("TransformJobStatus",),
    busy=("InProgress", "Stopping"),
    good="Completed",
    # Its record stays, and its name is taken for good.
    gone=(None, "Completed", "Failed", "Stopped"),
    log_group="/aws/sagemaker/TransformJobs, streams {name}/...",
)
SCALING = Part(
    *("autoscaling", "application-autoscaling", "RegisterScalableTarget"),
    *("describe_scalable_targets", "deregister_scalable_target", ""),
)
FUNCTION = Part(
    *("Lambda function, role and log (CloudFormation stack)", "cloudformation", "CreateStack"),
    *("describe_stacks", "delete_stack", "StackName"),
    status_field=("Stacks", 0, "StackStatus"),
    busy=("CREATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS", "DELETE_IN_PROGRESS"),
    good="CREATE_COMPLETE",
    gone=(None, "DELETE_COMPLETE"),
)
# In the order in which they are made: what a later one uses comes before it.
PARTS = (MODEL, CONFIGURATION, ENDPOINT, TRANSFORM_JOB, SCALING, FUNCTION)


class Account:
    """The parts that have one name, in one account and region."""

    def __init__(self, session: boto3.Session, name: str) -> None:
        self.name = name
        self.region = session.region_name
        # Credentials are looked for once, a client takes a third of a second.
        self._client = functools.cache(session.client)

    def send(self, request: Request) -> None:
        """Send a request without Body. Raises: ClientError: AWS refuses it."""
        client = self._client(request.service)
        getattr(client, xform_name(request.operation))(**request.parameters)

    def upload(self, archive: Path, request: Request) -> None:
        """Bring an archive to S3 as a request says, in parts where it is large.

        Raises: Boto3Error: S3 refuses it.
        """
        to = {**request.parameters}
        bucket, key = to.pop("Bucket"), to.pop("Key")
        self._client("s3").upload_file(str(archive), bucket, key, ExtraArgs=to)

    def description(self, part: Part) -> dict[str, Any] | None:
        """Return what AWS says of a part; None if there is none of this name."""
        describe = getattr(self._client(part.service), part.describe)
        if part is SCALING:
            target = scalable_target(self.name)
            target["ResourceIds"] = [target.pop("ResourceId")]  # type: ignore[assignment]
            found = describe(**target)
            return found if found["ScalableTargets"] else None
        try:
            return describe(**{part.name_parameter: self.name})
        except ClientError as error:
            if error.response["Error"]["Code"] not in ABSENT:
                raise
            return None

    def status(self, part: Part) -> str | None:
        """Return a part's status; None if there is none of this name."""
        found: Any = self.description(part)
        if found is None or not part.status_field:
            return found and THERE
        for step in part.status_field:
            found = found[step]
        return str(found)

    def wait_until_made(self, part: Part) -> str | None:
        """Return a part's status once AWS is no longer at work on it."""
        return self._wait(part, lambda status: status not in part.busy)

    def _wait(self, part: Part, is_over: Callable[[str | None], bool]) -> str | None:
        """Return the status that ends a wait, which is shown meanwhile."""
        started, shown = time.monotonic(), ("", 0)
        while not is_over(status := self.status(part)):
            minutes = int(time.monotonic() - started) // 60
            if shown != (status, minutes):
                shown = (str(status), minutes)
                print(f"  {part.label}: {status}, {minutes} min", file=sys.stderr)
            time.sleep(POLL_SECONDS)
        return status

    def failure_reason(self, part: Part) -> str:
        """Return why a part failed, in AWS's own words, and where its log is."""
        if part is FUNCTION:
            events = self._client("cloudformation").describe_stack_events(StackName=self.name)
            reasons = [
                event.get("ResourceStatusReason", "")
                for event in events["StackEvents"]
                if event["ResourceStatus"].endswith("_FAILED")
            ]
            return reasons[-1] if reasons else "CloudFormation names no reason"
        reason = (self.description(part) or {}).get("FailureReason", "AWS names no reason")
        return f"{reason} (log: {part.log_group.format(name=self.name)})"

    def remove(self, part: Part) -> str | None:
        """Remove a part and wait until it is gone; return what it was, None if there was none.

        Raises: ValueError: it is still there afterwards. ClientError: AWS refuses.
        """
        if (status := self.status(part)) in part.gone:
            return None
        if part is ENDPOINT:
            status = self.wait_until_made(part)  # AWS removes none that it is still making
        name = scalable_target(self.name) if part is SCALING else {part.name_parameter: self.name}
        if status not in (*part.gone, *LEAVING):
            getattr(self._client(part.service), part.remove)(**name)
        if part.status_field:
            ends = (*part.gone, "DELETE_FAILED")
            if self._wait(part, lambda status: status in ends) == "DELETE_FAILED":
                raise ValueError(f"the {part.label} {self.name}: {self.failure_reason(part)}")
        return f"{part.label} {self.name}"

    def archive(self) -> str | None:
        """Return where the model's archive is, if a deployment of this name put it there."""
        model = self.description(MODEL)
        uri = (model or {}).get("PrimaryContainer", {}).get("ModelDataUrl", "")
        return uri if uri.endswith(f"/{self.name}/{ARCHIVE_NAME}") else None

    def remove_archive(self, uri: str) -> str | None:
        """Remove an archive, and what an upload that was cut off left of it, which costs as much.

        Returns: where it was; None if nothing of it was there.
        """
        bucket, key = bucket_and_prefix(uri)
        s3 = self._client("s3")
        uploads = s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])
        for upload in uploads:
            s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
        is_there = key in [entry["Key"] for entry in listed]
        if is_there:
            s3.delete_object(Bucket=bucket, Key=key)
        return uri if uploads or is_there else None

    def remove_all(self, parts: Sequence[Part], archive: str | None) -> list[str]:
        """Remove parts, the last made first, and the archive; say what has gone.

        Returns: what was removed, in words.
        Raises: ValueError, ClientError: something cannot be removed; what came after it has been.
        """
        steps: list[Callable[[], str | None]]
        steps = [functools.partial(self.remove, part) for part in reversed(parts)]
        if archive:
            # Before the model, from which the next try learns where it is.
            steps.insert(len(parts) - (MODEL in parts), lambda: self.remove_archive(archive))
        removed = []
        for step in steps:
            if what := step():
                print(f"Removed: {what}", file=sys.stderr)
                removed.append(what)
        return removed
