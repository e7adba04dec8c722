"""Deployments: their requests where they arrive, and what is left in the account afterwards."""

import datetime
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.serialize
import botocore.session
import pytest
from moto.s3.models import s3_backends

import deploy
from deployment import endpoint_client
from deployment import parts as deployed_parts
from deployment.served_archive import EXPORT
from paths import ROOT
from stand_ins.aws_server import ACCOUNT, AwsServer, ReceivedRequest, make_role
from stand_ins.served_model import ServedModel, drawn_photo, encoded, serve_locally

ENTRY = [sys.executable, str(ROOT / "sagemaker_jobs/deploy.py")]
OUTPUT = "s3://photos/bin-counting"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/serves"
NAME = "bins-tiny"
FLAGS = ["--output", OUTPUT, "--role", ROLE]
LAMBDA = ["--lambda", "--photos", "s3://photos/bin-images"]
SUBNET, GROUP = "subnet-0a1b2c3d", "sg-0a1b2c3d"
KEY = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
DEMANDS = [
    *("--tags", "team=bins", "cost-centre=7", "--kms_key", KEY),
    *("--volume_kms_key", "alias/disks", "--subnets", SUBNET, "--security_group_ids", GROUP),
]
FORMS = {
    "instances": ["--instance_type", "ml.g4dn.xlarge", "--instance_count", "2"],
    "autoscaling": ["--max_instance_count", "4", "--invocations_per_minute", "300"],
    "data capture": ["--data_capture", "s3://photos/bin-counting/captured"],
    "photos in S3": ["--photos", "s3://photos/bin-images"],
    "serverless": ["--serverless", "--memory_mb", "3072", "--max_concurrency", "9"],
    "lambda": LAMBDA,
    "batch transform": [
        "--batch_transform",
        "s3://photos/bin-images",
        "s3://photos/bin-counting/answers/1",
    ],
}


@pytest.fixture
def account(aws: AwsServer, served_run: ServedModel, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """Return an account with a bucket and a role, whose endpoint is the handler served here."""
    photos = aws.bucket("photos")
    photos.put_object(Key="bin-images/1.jpg", Body=encoded(drawn_photo()))
    make_role(aws, "serves")
    aws.containers[NAME] = served_run.as_container
    aws.received.clear()
    monkeypatch.setattr(deployed_parts, "POLL_SECONDS", 0)
    monkeypatch.setattr(endpoint_client, "FIRST_DELAY", 0)
    # The same model in a process that runs already: to start another takes seconds.
    monkeypatch.setattr(
        deploy, "local_answer", lambda folder, photo: served_run.ask(photo, "image/png").content
    )
    return aws


def deployed_tiny(run_dir: Path, *flags: str) -> None:
    deploy.main([str(run_dir), "--name", NAME, *FLAGS, *flags])


def error_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        deploy.main([*flags])
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def objects_in(aws: AwsServer, prefix: str) -> dict[str, bytes]:
    """Return what lies below a prefix in the bucket."""
    s3 = aws.client("s3")
    listed = s3.list_objects_v2(Bucket="photos", Prefix=prefix).get("Contents", [])
    keys = [entry["Key"] for entry in listed]
    return {key: s3.get_object(Bucket="photos", Key=key)["Body"].read() for key in keys}


def left_in(aws: AwsServer) -> list[str]:
    """Return the names of all that a deployment could have left in an account."""
    sagemaker, s3 = aws.client("sagemaker"), aws.client("s3")
    objects = s3.list_objects_v2(Bucket="photos", Prefix="bin-counting/deployments/")
    uploads = s3.list_multipart_uploads(Bucket="photos").get("Uploads", [])
    running = ("InProgress", "Stopping")
    jobs = sagemaker.list_transform_jobs()["TransformJobSummaries"]
    targets = aws.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker"
    )
    return [
        *(entry["Key"] for entry in objects.get("Contents", [])),
        *(upload["UploadId"] for upload in uploads),
        *(model["ModelName"] for model in sagemaker.list_models()["Models"]),
        *(c["EndpointConfigName"] for c in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(endpoint["EndpointName"] for endpoint in sagemaker.list_endpoints()["Endpoints"]),
        *(j["TransformJobName"] for j in jobs if j["TransformJobStatus"] in running),
        *(target["ResourceId"] for target in targets["ScalableTargets"]),
        *(s["StackName"] for s in aws.client("cloudformation").describe_stacks()["Stacks"]),
        *(f["FunctionName"] for f in aws.client("lambda").list_functions()["Functions"]),
        *(
            r["RoleName"]
            for r in aws.client("iam").list_roles()["Roles"]
            if r["RoleName"] != "serves"
        ),
        *(g["logGroupName"] for g in aws.client("logs").describe_log_groups()["logGroups"]),
    ]


SESSION = botocore.session.get_session()


def on_the_wire(request: dict[str, Any]) -> tuple[str, str, Any]:
    """Return the method, path and body with which botocore sends what --dry_run printed."""
    service = SESSION.get_service_model(request["service"])
    operation = service.operation_model(request["operation"])
    serializer = botocore.serialize.create_serializer(service.protocol)
    sent = serializer.serialize_to_request(request["parameters"], operation)
    path, body = sent["url_path"], sent["body"]
    if service.service_name == "s3":
        return "PUT", path, None
    if service.service_name == "sagemaker-runtime":
        headers = {key.title(): value for key, value in sent["headers"].items()}
        return sent["method"], path, (headers["Content-Type"], headers["Accept"])
    return sent["method"], path, json.loads(body) if isinstance(body, bytes) else dict(body)


def as_arrived(request: ReceivedRequest) -> tuple[str, str, Any]:
    path = urlsplit(request.path).path
    if path.endswith("/invocations"):
        body: Any = (request.headers["Content-Type"], request.headers["Accept"])
    else:
        body = request.parameters if request.operation else None
    return request.method, path, body


def is_making(request: ReceivedRequest) -> bool:
    """Return whether a request makes or asks something, and does not only look."""
    if not request.operation:
        return request.method in ("PUT", "POST")
    return request.operation.startswith(("Create", "Put", "Register", "Invoke"))


@pytest.mark.parametrize("form", FORMS)
def test_what_arrives_is_what_the_dry_run_printed(
    form: str, run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed_tiny(run_dir, *FORMS[form], "--dry_run")
    printed = json.loads(capsys.readouterr().out)
    assert not account.received
    deployed_tiny(run_dir, *FORMS[form])
    arrived = [as_arrived(request) for request in account.received if is_making(request)]
    assert arrived == [on_the_wire(request) for request in printed]


@pytest.mark.parametrize("form", ["serverless", "lambda"])
def test_a_dry_run_needs_nothing_but_the_command(form: str) -> None:
    result = subprocess.run(
        [*ENTRY, "bins-vit-1", *FORMS[form], "--dry_run"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    requests = json.loads(result.stdout)
    assert [request["operation"] for request in requests][:2] == ["PutObject", "CreateModel"]
    assert requests[1]["parameters"]["ExecutionRoleArn"].endswith("/YOUR-ROLE")
    assert result.stderr.startswith("bins-vit-1: ")
    assert "Traceback" not in result.stderr


def parameters_of(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """Return the parameters that a dry run prints, by operation."""
    deploy.main(["bins-vit-1", *flags, "--dry_run"])
    requests = json.loads(capsys.readouterr().out)
    return {request["operation"]: request["parameters"] for request in requests}


def test_nothing_is_captured_and_nothing_reaches_a_network_unless_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = parameters_of(capsys)
    assert "DataCaptureConfig" not in plain["CreateEndpointConfig"]
    assert plain["CreateModel"]["EnableNetworkIsolation"] is True
    assert "BIN_PHOTOS_S3_PREFIX" not in plain["CreateModel"]["PrimaryContainer"]["Environment"]
    photos = parameters_of(capsys, "--photos", "s3://b/photos")
    assert "EnableNetworkIsolation" not in photos["CreateModel"]
    variables = photos["CreateModel"]["PrimaryContainer"]["Environment"]
    assert variables["BIN_PHOTOS_S3_PREFIX"] == "s3://b/photos/"
    # The function reads them, and hands them over.
    behind = parameters_of(capsys, "--photos", "s3://b/photos", "--lambda")
    assert behind["CreateModel"] == plain["CreateModel"]


DEMANDING = {
    "instances": ["--data_capture", "s3://photos/bin-counting/captured"],
    "batch transform": FORMS["batch transform"],
}


@pytest.mark.parametrize("form", DEMANDING)
def test_what_an_account_demands_is_in_every_request(
    form: str, run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*DEMANDING[form], *DEMANDS]
    deployed_tiny(run_dir, *flags, "--dry_run")
    printed = json.loads(capsys.readouterr().out)
    deployed_tiny(run_dir, *flags)
    arrived = [as_arrived(request) for request in account.received if is_making(request)]
    assert arrived == [on_the_wire(request) for request in printed]
    made = {request["operation"]: request["parameters"] for request in printed}
    tags = [{"Key": "team", "Value": "bins"}, {"Key": "cost-centre", "Value": "7"}]
    assert {name for name, parameters in made.items() if parameters.get("Tags") == tags} == {
        name for name in made if name.startswith("Create")
    }
    [upload] = [r for r in account.received if r.method == "PUT" and "model.tar.gz" in r.path]
    assert upload.headers["X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"] == KEY
    assert made["CreateModel"]["VpcConfig"] == {"Subnets": [SUBNET], "SecurityGroupIds": [GROUP]}
    if form == "instances":
        configuration = made["CreateEndpointConfig"]
        keys = configuration["DataCaptureConfig"]["KmsKeyId"], configuration["KmsKeyId"]
    else:
        job = made["CreateTransformJob"]
        keys = job["TransformOutput"]["KmsKeyId"], job["TransformResources"]["VolumeKmsKeyId"]
    assert keys == (KEY, "alias/disks")


def test_a_functions_stack_has_the_tags(capsys: pytest.CaptureFixture[str]) -> None:
    stack = parameters_of(capsys, *LAMBDA, "--tags", "team=bins")["CreateStack"]
    assert stack["Tags"] == [{"Key": "team", "Value": "bins"}]


def test_processor_and_image_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, kind in (([], "cpu"), (["--instance_type", "ml.g5.xlarge"], "gpu")):
        image = parameters_of(capsys, *flags)["CreateModel"]["PrimaryContainer"]["Image"]
        assert "/huggingface-pytorch-inference:" in image
        assert f"-{kind}-" in image


def test_the_exported_form_goes_to_instances_without_a_gpu_alone(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    (model_dir / "openvino").mkdir()
    for name in EXPORT:
        (model_dir / name).write_text("{}")
    for flags, has_network in (
        ([], True),  # its package is installed as the container starts
        (["--instance_type", "ml.g5.xlarge"], False),
    ):
        deploy.main([str(model_dir), "--name", NAME, *flags, "--dry_run"])
        [model] = [
            request["parameters"]
            for request in json.loads(capsys.readouterr().out)
            if request["operation"] == "CreateModel"
        ]
        assert ("EnableNetworkIsolation" not in model) == has_network


def test_what_a_day_costs_at_most_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--max_instance_count", "3", "--invocations_per_minute", "60"]
    deploy.main(["bins-vit-1", *flags, "--price_per_hour", "0.5", "--dry_run"])
    assert "costs 36.00 a day at most" in capsys.readouterr().err


def another_model(*_: Any) -> tuple[int, str, bytes]:
    shares = {"1": 1.0, "2": 0.0, "3": 0.0, "4": 0.0, "5": 0.0}
    answer = {"count": 1, "probabilities": shares, "version": "0"}
    return 200, "application/json", json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("form", "statuses", "message"),
    [
        (
            "autoscaling",
            {"DescribeEndpoint": ["Creating", "Failed"]},
            "the endpoint failed: The container did not start. (log: /aws/sagemaker/Endpoints/",
        ),
        (
            "lambda",
            {"DescribeStacks": ["CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE"]},
            "(CloudFormation stack) failed: No such role.",
        ),
        (
            "batch transform",
            {"DescribeTransformJob": ["InProgress", "Failed"]},
            "the batch transform job failed: No photo was found.",
        ),
    ],
)
def test_what_fails_half_way_leaves_nothing_behind(
    form: str,
    statuses: dict[str, list[str]],
    message: str,
    run_dir: Path,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account.statuses.update(statuses)
    flags = [str(run_dir), "--name", NAME, *FLAGS, *FORMS[form]]
    assert message in error_of(capsys, *flags)
    assert left_in(account) == []
    assert account.requests("CreateModel")


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (another_model, "the endpoint answers otherwise than the model does here"),
        (
            lambda *_: (500, "application/json", b'{"error": "no memory"}'),
            "the endpoint does not answer: status 500: no memory",
        ),
        (lambda *_: (200, "text/plain", b"hello"), "is not the handler of scripts/inference.py"),
    ],
)
def test_an_endpoint_that_answers_otherwise_than_the_model_here_is_removed(
    container: Any,
    message: str,
    run_dir: Path,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account.containers[NAME] = container
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS, *FORMS["autoscaling"])
    assert message in line
    assert left_in(account) == []


def test_what_aws_refuses_half_way_leaves_nothing_behind(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    # A type that moto does not know yet.
    flags = ["--instance_type", "ml.g5.xlarge"]
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS, *flags)
    assert "AWS refused CreateEndpointConfig" in line
    assert left_in(account) == []


@pytest.mark.parametrize(
    ("ending", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["Ctrl-C", "kill", "a closed terminal"],
)
def test_what_ends_a_deployment_removes_its_endpoint_once_aws_has_made_it(
    ending: signal.Signals,
    exit_code: int,
    run_dir: Path,
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account.statuses["DescribeEndpoint"] = ["Creating"]
    sleeps = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 1:
            signal.raise_signal(ending)
        account.statuses["DescribeEndpoint"] = ["InService"]

    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(deployed_parts, "time", clock)
    # A background job of a shell is started without Ctrl-C, one of nohup without the other.
    usual = signal.default_int_handler if ending == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(ending, usual)
    try:
        with pytest.raises(SystemExit) as exit_info:
            deployed_tiny(run_dir)
    finally:
        signal.signal(ending, before)
    assert exit_info.value.code == exit_code
    assert len(sleeps) == 2  # it waited until it could be removed
    assert left_in(account) == []


def test_delete_removes_all_that_has_the_name_and_says_so(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed_tiny(run_dir, *FORMS["autoscaling"], *LAMBDA)
    printed = capsys.readouterr().out
    assert f"query.py BIN.jpg --endpoint {NAME} --region us-east-1" in printed
    assert f"deploy.py --delete {NAME} --region us-east-1" in printed
    deploy.main(["--delete", NAME])
    removed = [line.removeprefix("Removed: ") for line in capsys.readouterr().err.splitlines()]
    assert removed == [
        f"Lambda function, role and log (CloudFormation stack) {NAME}",
        f"autoscaling {NAME}",
        f"endpoint {NAME}",
        f"endpoint configuration {NAME}",
        f"{OUTPUT}/deployments/{NAME}/model.tar.gz",
        f"model {NAME}",
    ]
    assert left_in(account) == []
    assert list(objects_in(account, "bin-images/")) == ["bin-images/1.jpg"]
    assert f"--delete {NAME}: nothing in us-east-1 has this name" in error_of(
        capsys, "--delete", NAME
    )


def test_an_archive_without_its_model_is_found_again(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is killed between the upload and CreateModel, or in the middle of the upload."""
    key, s3 = f"bin-counting/deployments/{NAME}/model.tar.gz", account.client("s3")
    neighbour = key.replace(NAME, f"{NAME}-2")
    for object_key in (key, neighbour):
        s3.put_object(Bucket="photos", Key=object_key, Body=b"archive")
    s3.create_multipart_upload(Bucket="photos", Key=key)
    line = error_of(capsys, "--delete", NAME)
    assert "for an archive without its model add --output s3://BUCKET/FOLDER" in line
    deploy.main(["--delete", NAME, "--output", f"{OUTPUT}/"])
    assert capsys.readouterr().err == f"Removed: s3://photos/{key}\n"
    assert left_in(account) == [neighbour]
    assert "nothing in us-east-1 has this name." in error_of(
        capsys, "--delete", NAME, "--output", OUTPUT
    )


def test_the_function_alone_can_be_removed_and_put_back(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "the endpoint is not there" in error_of(capsys, *LAMBDA, "--name", NAME)
    deployed_tiny(run_dir, *LAMBDA)
    everything = left_in(account)
    deploy.main(["--delete", NAME, "--lambda"])
    assert len(left_in(account)) == 4  # archive, model, configuration, endpoint
    deploy.main([*LAMBDA, "--name", NAME])
    assert len(left_in(account)) == len(everything)
    [first, again] = account.requests("CreateStack")
    assert first == again


def test_a_batch_transform_leaves_its_answers_alone(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    account.statuses["DescribeTransformJob"] = ["InProgress", "Completed"]
    deployed_tiny(run_dir, *FORMS["batch transform"])
    assert "aws s3 sync s3://photos/bin-counting/answers/1/" in capsys.readouterr().out
    assert left_in(account) == []
    # AWS keeps its record, and takes the name once.
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS)
    assert f"there is a batch transform job {NAME} already" in line


def test_a_batch_transform_says_before_the_start_what_will_fail(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    s3 = account.client("s3")
    flags = [str(run_dir), "--name", NAME, *FLAGS, *FORMS["batch transform"]]
    s3.put_object(Bucket="photos", Key="bin-images/deep/2.JPG", Body=bytes(6_000_001))
    line = error_of(capsys, *flags)
    assert "fail the whole job for what is larger than 6 MB, 1 (deep/2.JPG)" in line
    s3.delete_object(Bucket="photos", Key="bin-images/deep/2.JPG")
    s3.delete_object(Bucket="photos", Key="bin-images/1.jpg")
    for name in ("", "deep/", ".DS_Store", "notes.txt"):
        s3.put_object(Bucket="photos", Key=f"bin-images/{name}", Body=b"x")
    s3.put_object(Bucket="photos", Key="bin-images/empty.jpg", Body=b"")
    assert "no photo lies there (JPEG or PNG)" in error_of(capsys, *flags)
    assert not account.requests("CreateModel")
    assert left_in(account) == []


def test_one_object_that_is_no_photo_fails_no_batch_transform(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    s3, answers = account.client("s3"), "bin-counting/answers/1/"
    photo = encoded(drawn_photo())
    for name, content in (("", b""), (".DS_Store", b"x"), ("2.JFIF", photo), ("3.jpg", photo[:99])):
        s3.put_object(Bucket="photos", Key=f"bin-images/{name}", Body=content)
    with serve_locally(run_dir / "model", SAGEMAKER_BATCH="true") as container:
        account.containers[NAME] = container.as_container
        deployed_tiny(run_dir, *FORMS["batch transform"])
    told = capsys.readouterr().err
    assert "no photos, by their names or because they are empty: 1 (.DS_Store)." in told
    found = {
        key.removeprefix(answers): json.loads(content)
        for key, content in objects_in(account, answers).items()
    }
    counted = {name for name, answer in found.items() if "count" in answer}
    assert counted == {"1.jpg.out", "2.JFIF.out"}
    assert {name for name in found if "error" in found[name]} >= {".DS_Store.out", "3.jpg.out"}
    assert left_in(account) == []


def test_a_batch_transform_that_fails_says_what_has_no_answer(
    run_dir: Path,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bucket, answers = account.client("s3"), "bin-counting/answers/1/"
    for name in ("2.jpg", "3.png", *(f"late/{number}.jpg" for number in range(11))):
        bucket.put_object(Bucket="photos", Key=f"bin-images/{name}", Body=b"damaged")
    # Of an earlier job, and so no answer of this one.
    bucket.put_object(Bucket="photos", Key=f"{answers}2.jpg.out", Body=b"{}")
    stored = s3_backends[ACCOUNT]["aws"].buckets["photos"].keys[f"{answers}2.jpg.out"]
    stored.last_modified = datetime.datetime(2025, 1, 1)
    in_order = account.containers[NAME]
    account.containers[NAME] = lambda body, *types: (
        (500, "text/plain", b"out of memory") if body == b"damaged" else in_order(body, *types)
    )
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS, *FORMS["batch transform"])
    path = f"{NAME}_without_answer.txt"
    assert f"; without an answer, all in {path}: 13 (2.jpg, 3.png, late/0.jpg, " in line
    assert line.endswith(", ...)")
    expected = ["2.jpg", "3.png", *sorted(f"late/{number}.jpg" for number in range(11))]
    assert Path(path).read_text().splitlines() == expected
    assert set(objects_in(account, answers)) == {f"{answers}{n}.out" for n in ("1.jpg", "2.jpg")}
    assert left_in(account) == []


@pytest.mark.parametrize(
    ("instance_type", "at_once"),
    [("ml.m5.large", 2), ("ml.c5.xlarge", 4), ("ml.c5.4xlarge", 16), ("ml.g4dn.12xlarge", 16)],
)
def test_a_batch_transform_keeps_all_processors_busy(
    instance_type: str, at_once: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output", OUTPUT, *FORMS["batch transform"], "--instance_type", instance_type]
    job = parameters_of(capsys, *flags)["CreateTransformJob"]
    assert job["MaxConcurrentTransforms"] == at_once
    assert at_once * job["MaxPayloadInMB"] <= 100  # AWS's bound


def test_why_a_batch_transform_failed_is_said_though_nothing_can_be_written_here(
    run_dir: Path,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / f"{NAME}_without_answer.txt").mkdir()
    monkeypatch.chdir(tmp_path)
    account.containers[NAME] = lambda *_: (500, "text/plain", b"out of memory")
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS, *FORMS["batch transform"])
    assert "Bad HTTP status returned from invoke: 500" in line
    assert "what has no answer could not be told" in line
    assert left_in(account) == []


def test_what_another_has_made_under_the_name_stays(
    run_dir: Path, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    account.client("sagemaker").create_model(ModelName=NAME, ExecutionRoleArn=ROLE)
    line = error_of(capsys, str(run_dir), "--name", NAME, *FLAGS)
    assert f"there is a model {NAME} already: choose another --name" in line
    assert left_in(account) == [NAME]


def test_a_jobs_model_is_served_with_this_checkouts_handler(
    run_dir: Path, account: AwsServer, served_run: ServedModel, tmp_path: Path
) -> None:
    job = account.make_training_job(
        "bins-vit-1", OutputDataConfig={"S3OutputPath": "s3://photos/bin-counting"}
    )
    uri = job.response_object["ModelArtifacts"]["S3ModelArtifacts"]
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for path in (run_dir / "model").glob("*.*"):
            tar.add(path, path.name)
        code = tarfile.TarInfo("code/inference.py")
        code.size = 7
        tar.addfile(code, BytesIO(b"exit(1)"))
    key = uri.removeprefix("s3://photos/")
    account.client("s3").put_object(Bucket="photos", Key=key, Body=content.getvalue())
    account.containers["bins-vit-1"] = served_run.as_container

    deploy.main(["bins-vit-1", "--role", ROLE])
    [model] = account.requests("CreateModel")
    assert model["ModelName"] == "bins-vit-1"
    archive = model["PrimaryContainer"]["ModelDataUrl"]
    assert archive == "s3://photos/bin-counting/deployments/bins-vit-1/model.tar.gz"
    key = archive.removeprefix("s3://photos/")
    body = account.client("s3").get_object(Bucket="photos", Key=key)["Body"].read()
    with tarfile.open(fileobj=BytesIO(body)) as tar:
        assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(
            tar.getnames()
        )
        handler = tar.extractfile("code/inference.py")
        assert handler is not None
        assert handler.read() == (ROOT / "scripts/inference.py").read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name a run folder, a job or a model.tar.gz"),
        (["--lambda"], "name a run folder, a job or a model.tar.gz"),
        (["nowhere", *FLAGS], "nowhere holds no model"),
        (["bins-nowhere", *FLAGS], "bins-nowhere: no such training job"),
        (["nowhere/model.tar.gz", *FLAGS], "there is no nowhere/model.tar.gz"),
        (["RUN", "--role", ROLE], "give --output s3://BUCKET/FOLDER"),
        (["RUN", "--output", "s3://nowhere/x", "--role", ROLE], "there is no such bucket"),
        (["RUN", "--output", "folder", "--role", ROLE], "is not an S3 URI"),
        (["RUN", "--output", OUTPUT], "then give --role, or set SAGEMAKER_ENDPOINT_ROLE"),
        (["RUN", *FLAGS, "--name", "mine"], "mine is no name of a deployment"),
        (["RUN", *FLAGS, "--region", "mars-1"], "mars-1"),
        (["RUN", *FLAGS, "--instance_type", "ml.c7g.large"], "does not run on it"),
        (["RUN", *FLAGS, "--instance_type", "ml.c5.huge"], "no such type for hosting"),
        (["RUN", *FLAGS, "--instance_count", "0"], "whole number above 0"),
        (["RUN", *FLAGS, "--memory_mb", "1024"], "--memory_mb: is for --serverless"),
        (["RUN", *FLAGS, "--serverless", "--memory_mb", "1000"], "AWS has 1024, 2048"),
        (["RUN", *FLAGS, "--serverless", "--max_concurrency", "201"], "AWS allows 200"),
        (["RUN", *FLAGS, "--serverless", "--data_capture", "s3://b/c"], "--serverless has none"),
        (["RUN", *FLAGS, "--max_instance_count", "4"], "give both, or none"),
        (
            ["RUN", *FLAGS, "--max_instance_count", "1", "--invocations_per_minute", "9"],
            "has to be more than --instance_count 1",
        ),
        (["RUN", *FLAGS, "--lambda"], "--lambda: give --photos"),
        (["RUN", *FLAGS, "--lambda", "--photos", "s3://photos"], "name a folder too"),
        (["RUN", *FLAGS, "--role_boundary", "arn"], "--role_boundary: is for --lambda"),
        (["RUN", *FLAGS, *FORMS["batch transform"], "--lambda"], "makes no endpoint"),
        (
            ["RUN", *FLAGS, "--batch_transform", "s3://photos/bin-images", "s3://photos/answers"],
            "--batch_transform s3://photos/answers/: a model's role may write below "
            "s3://photos/bin-counting/answers/ alone",
        ),
        (
            ["RUN", *FLAGS, "--data_capture", "s3://photos/captured"],
            "--data_capture s3://photos/captured/: a model's role may write below",
        ),
        (["RUN", *FLAGS, "--serverless", *DEMANDS], "no network of yours"),
        ([*LAMBDA, "--name", NAME, *DEMANDS], "without MODEL no endpoint is made"),
        (["RUN", *FLAGS, "--subnets", SUBNET], "AWS needs both, or none"),
        (
            ["RUN", *FLAGS, "--subnets", *(f"subnet-{i}" for i in range(17))]
            + ["--security_group_ids", GROUP],
            "--subnets 17 values: AWS takes 16 values at most",
        ),
        (
            ["RUN", *FLAGS, "--volume_kms_key", KEY, "--instance_type", "ml.g5.xlarge"],
            "ml.g5.xlarge has disks of its own",
        ),
        (["RUN", *FLAGS, "--tags", f"{'k' * 129}=bins"], "--tags 129 characters: AWS takes 128"),
        (["RUN", *FLAGS, "--tags", f"team={'x' * 257}"], "--tags 257 characters: AWS takes 256"),
        (["RUN", *FLAGS, "--instance_type", "ml.g7e.2xlarge"], "does not run on it"),
        (["RUN", *FLAGS, "--instance_type", "ml.p6-b200.48xlarge"], "does not run on it"),
        (["--delete", "bins-x", "--dry_run"], "--delete takes --region, --output and --lambda"),
        (["RUN", "--delete", "bins-x"], "--delete removes, and does not deploy"),
        (["--delete", "mine"], "mine is no name of a deployment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_nothing_is_made(
    flags: list[str],
    message: str,
    run_dir: Path,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        deploy.main([str(run_dir) if flag == "RUN" else flag for flag in flags])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not [request for request in account.received if is_making(request)]
