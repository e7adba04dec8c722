"""A real server for AWS's interfaces on loopback (moto), which keeps every request that arrives.

The fixture `aws` in conftest.py starts it and points boto3, the SageMaker SDK and every process
that a test starts at it. Nothing of the code under test is replaced.
"""

import contextlib
import functools
import io
import json
import re
import threading
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import boto3
from moto.cloudformation.models import cloudformation_backends
from moto.core.responses import ActionResult, EmptyResult
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import s3_backends
from moto.sagemaker.exceptions import ResourceInUseException
from moto.sagemaker.models import sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

ACCOUNT = "123456789012"  # the account that moto plays
REGION = "us-east-1"
GZIP_MAGIC = b"\x1f\x8b"

INVOCATION = re.compile(r"/endpoints/([^/]+)/invocations")
Container = Callable[[bytes, str, str], tuple[int, str, bytes]]


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it arrived.

    `operation` is what AWS calls it, such as CreateTrainingJob; empty where only method and path
    say it, as with S3. `target` is the whole X-Amz-Target, such as SageMaker.CreateTrainingJob.
    """

    method: str
    host: str
    path: str  # with the query
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """Return the fields of a body such as Action=GetCallerIdentity&Version=2011-06-15."""
        if "x-www-form-urlencoded" not in self.headers.get("Content-Type", ""):
            return {}
        return dict(urllib.parse.parse_qsl(self.body.decode()))

    @property
    def operation(self) -> str:
        return self.target.rpartition(".")[2] or self.form.get("Action", "")

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the decoded body: JSON, a form, or nothing that can be decoded."""
        if "json" in self.headers.get("Content-Type", "") and self.body:
            return json.loads(self.body)
        return self.form

    def holds(self, text: str) -> bool:
        """Say whether a text is in it: plain, in a URL's escapes, in a compressed body."""
        body = self.body
        if body.startswith(GZIP_MAGIC):
            # Unlike gzip.decompress it takes the first part of a large upload too.
            body = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body)
        head = f"{self.method} {self.path} {self.headers}"
        readable = head.encode() + body
        return any(
            form.encode() in readable
            for form in (text, urllib.parse.quote(text, safe=""), urllib.parse.quote_plus(text))
        )


@dataclass
class AwsServer:
    """The server's address, and what arrived there since the test began."""

    url: str = ""
    received: list[ReceivedRequest] = field(default_factory=list)
    # Operation ─▶ how many of the next requests are refused because there are too many.
    throttled: dict[str, int] = field(default_factory=dict)
    # Operation that describes something ─▶ the statuses that it has from now on, one a call; the
    # last one stays. Without them all that is made is ready at once.
    statuses: dict[str, list[str]] = field(default_factory=dict)
    # Endpoint ─▶ its container, which answers (body, content type, accept) with (status, content
    # type, body).
    containers: dict[str, Container] = field(default_factory=dict)
    # (HTTP status, error code) with which SageMaker itself answers the next requests to endpoints.
    invoke_errors: list[tuple[int, str]] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    def client(self, service: str, region: str = REGION) -> Any:
        """Return a boto3 client that talks to this server."""
        return _client(service, self.url, region)

    def bucket(self, name: str) -> Any:
        """Make a bucket and return it, a boto3 resource."""
        self.client("s3").create_bucket(Bucket=name)
        resource = boto3.Session(region_name=REGION).resource(
            "s3", endpoint_url=self.url, aws_access_key_id="test", aws_secret_access_key="test"
        )
        return resource.Bucket(name)

    def claim_size(self, bucket: str, key: str, size: int) -> None:
        """Let an object be told to have so many bytes: nobody has to write them."""
        s3_backends[ACCOUNT]["aws"].buckets[bucket].keys[key].contentsize = size

    def requests(self, operation: str) -> list[dict[str, Any]]:
        """Return the decoded bodies of all requests of one operation, in order of arrival."""
        return [r.parameters for r in self.received if r.operation == operation]

    def operations(self) -> list[str]:
        """Return the operations that were asked for, in order, S3's left out."""
        return [r.operation for r in self.received if r.operation]

    def requests_with(self, text: str) -> list[ReceivedRequest]:
        """Return the requests that hold a text anywhere: to look for a planted secret."""
        return [request for request in self.received if request.holds(text)]

    def make_training_job(self, name: str, **request: Any) -> Any:
        """Make a training job of one GPU instance and return the server's record of it."""
        self.client("sagemaker").create_training_job(
            **{
                "TrainingJobName": name,
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/bins-job",
                "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
                "OutputDataConfig": {"S3OutputPath": "s3://bins/output"},
                "ResourceConfig": {
                    "InstanceType": "ml.g5.xlarge",
                    "InstanceCount": 1,
                    "VolumeSizeInGB": 30,
                },
                "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
                **request,
            }
        )
        return self.training_job(name)

    def training_job(self, name: str, region: str = REGION) -> Any:
        """Return the server's own record of a training job.

        A moto job is Completed as soon as it is made, and took no time. A test gives it another
        state by attributes: `training_job_status = "InProgress"`, `billable_time_in_seconds = 714`
        come back as TrainingJobStatus and BillableTimeInSeconds.
        """
        return sagemaker_backends[ACCOUNT][region].training_jobs[name]

    def processing_job(self, name: str, region: str = REGION) -> Any:
        """Return the server's own record of a processing job, as that of a training job."""
        return sagemaker_backends[ACCOUNT][region].processing_jobs[name]

    def reset(self) -> None:
        """Forget everything."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request) as response:
            assert response.status == HTTPStatus.OK
        self.received.clear()
        for of_a_test in (self.throttled, self.statuses, self.containers, self.invoke_errors):
            of_a_test.clear()


@functools.cache
def _client(service: str, url: str, region: str) -> Any:
    """Return a client; to make one takes a third of a second."""
    return boto3.Session(region_name=region).client(
        service, endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test"
    )


class _QuietHandler(MotoRequestHandler):
    def log_request(self, *_: object) -> None:
        """Write no line a request."""


def _stop_training_job(self: Any) -> ActionResult:
    """What moto lacks. As AWS documents it: the job is Stopping, and Stopped some time later."""
    name = json.loads(self.body)["TrainingJobName"]
    self.sagemaker_backend.describe_training_job(name)  # or the error of an unknown job
    job = self.sagemaker_backend.training_jobs[name]
    job.training_job_status = job.secondary_status = "Stopping"
    return EmptyResult()


def _stop_transform_job(self: Any) -> ActionResult:
    """What moto lacks."""
    name = json.loads(self.body)["TransformJobName"]
    self.sagemaker_backend.transform_jobs[name].transform_job_status = "Stopped"
    return EmptyResult()


def _set_status(operation: str, name: str, status: str) -> None:
    """Give what an operation describes a status."""
    if operation == "DescribeEndpoint":
        endpoint = sagemaker_backends[ACCOUNT][REGION].endpoints[name]
        endpoint.endpoint_status = status
        endpoint.failure_reason = "The container did not start." if status == "Failed" else None
    elif operation == "DescribeTransformJob":
        job = sagemaker_backends[ACCOUNT][REGION].transform_jobs[name]
        job.transform_job_status = status
        job.failure_reason = "No photo was found." if status == "Failed" else ""
    else:
        stacks = cloudformation_backends[ACCOUNT][REGION].stacks.values()
        [stack] = [stack for stack in stacks if stack.name == name]
        stack.status = status
        if "ROLLBACK" in status:
            stack._add_stack_event("CREATE_FAILED", resource_status_reason="No such role.")


def _invoke_endpoint(server: AwsServer, name: str, request: ReceivedRequest) -> Response:
    """Do what SageMaker does with a request, and moto does not: hand it to the container.

    Source of the errors' form: AWS's reference of InvokeEndpoint, and its model in botocore.
    """

    def refuse(status: int, code: str, **fields: Any) -> Response:
        content = json.dumps({"Message": f"{code} of {name}", **fields})
        return Response(
            content, status, {"x-amzn-ErrorType": code}, content_type="application/json"
        )

    if server.invoke_errors:
        return refuse(*server.invoke_errors.pop(0))
    if name not in server.containers:
        return refuse(400, "ValidationError")
    content_type, accept = (request.headers.get(key, "") for key in ("Content-Type", "Accept"))
    status, answer_type, body = server.containers[name](request.body, content_type, accept)
    if status != HTTPStatus.OK:
        original = {"OriginalStatusCode": status, "OriginalMessage": body.decode()}
        return refuse(HTTPStatus.FAILED_DEPENDENCY, "ModelError", **original)
    return Response(body, content_type=answer_type)


_create_transform_job = SageMakerResponse.create_transform_job


def _transform(server: AwsServer, job: Any) -> None:
    """Do what SageMaker does in a batch transform, and moto does not: ask for every object.

    One that the container refuses fails the job; the answers until then stay. Source: AWS's guide
    to batch transform, "Troubleshooting".
    """
    s3 = s3_backends[ACCOUNT]["aws"]  # itself: no request of the code under test
    source = job.transform_input["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    out_bucket, _, folder = (
        job.transform_output["S3OutputPath"].removeprefix("s3://").partition("/")
    )
    types = job.transform_input["ContentType"], job.transform_output["Accept"]
    photos = {key: s3.buckets[bucket].keys[key] for key in sorted(s3.buckets[bucket].keys)}
    for key in [key for key in photos if key.startswith(prefix)]:
        status, _, answer = server.containers[job.model_name](photos[key].value, *types)
        if status != HTTPStatus.OK:
            job.transform_job_status = "Failed"
            job.failure_reason = f"Bad HTTP status returned from invoke: {status}"
            return
        s3.put_object(out_bucket, f"{folder}{key.removeprefix(prefix)}.out", answer)


_create_processing_job = SageMakerResponse.create_processing_job


def _create_whole_processing_job(self: Any) -> ActionResult:
    """What moto leaves out: AWS takes a name once, and keeps all of the request."""
    request = json.loads(self.body)
    jobs = self.sagemaker_backend.processing_jobs
    if request["ProcessingJobName"] in jobs:
        raise ResourceInUseException("Job name must be unique within an AWS account and region")
    answer = _create_processing_job(self)
    job = jobs[request["ProcessingJobName"]]
    job.processing_resources = request["ProcessingResources"]
    job.environment = request.get("Environment")
    return answer


def start() -> AwsServer:
    """Start a server on a free port, in a thread of this process; `stop` ends it."""
    SageMakerResponse.stop_training_job = _stop_training_job
    SageMakerResponse.create_processing_job = _create_whole_processing_job
    SageMakerResponse.stop_transform_job = _stop_transform_job
    application = DomainDispatcherApplication(create_backend_app)
    server = AwsServer()

    def create_transform_job(self: Any) -> ActionResult:
        answer = _create_transform_job(self)
        request = json.loads(self.body)
        if request["ModelName"] in server.containers:
            _transform(server, self.sagemaker_backend.transform_jobs[request["TransformJobName"]])
        return answer

    SageMakerResponse.create_transform_job = create_transform_job

    def recording(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH")
        stream = environ["wsgi.input"]
        is_chunked = environ.get("wsgi.input_terminated")
        body = stream.read() if is_chunked else stream.read(int(length or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING")
        if not path.startswith("/moto-api/"):
            headers = {
                key.removeprefix("HTTP_").replace("_", "-").title(): value
                for key, value in environ.items()
                if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
            }
            request = ReceivedRequest(
                method=environ["REQUEST_METHOD"],
                host=headers.get("Host", ""),
                path=f"{path}?{query}" if query else path,
                target=headers.get("X-Amz-Target", ""),
                headers=headers,
                body=body,
            )
            server.received.append(request)
            if coming := server.statuses.get(request.operation):
                parameters = request.parameters
                names = ("EndpointName", "TransformJobName", "StackName")
                [name] = [parameters[key] for key in names if key in parameters]
                with contextlib.suppress(KeyError, ValueError):  # not made yet
                    _set_status(request.operation, name, coming[0])
                    del coming[0]
            if server.throttled.get(request.operation, 0) > 0:
                server.throttled[request.operation] -= 1
                start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
                return [b'{"__type": "ThrottlingException", "message": "Rate exceeded"}']
            if invoked := INVOCATION.fullmatch(path):
                return _invoke_endpoint(server, invoked[1], request)(environ, start_response)
        return application(environ, start_response)

    listening = make_server("127.0.0.1", 0, recording, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        listening.shutdown()
        thread.join()
        listening.server_close()

    server.url = f"http://127.0.0.1:{listening.server_port}"
    server.stop = stop
    return server


TRUST_OF_JOBS = {"Statement": [{"Principal": {"Service": "sagemaker.amazonaws.com"}}]}
ANY_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
}


def make_role(aws: AwsServer, name: str, trusted: dict = TRUST_OF_JOBS, policy: str = "") -> str:
    """Make a role, with a policy of that name attached if one is given; return its ARN."""
    iam = aws.client("iam")
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trusted))["Role"][
        "Arn"
    ]
    if policy:
        made = iam.create_policy(PolicyName=policy, PolicyDocument=json.dumps(ANY_POLICY))
        iam.attach_role_policy(RoleName=name, PolicyArn=made["Policy"]["Arn"])
    return arn
