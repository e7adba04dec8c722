"""The Lambda function as AWS runs it, in front of an endpoint that is the handler served here."""

import base64
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config

from deployment.requests import LAMBDA_PHOTO_BYTES, lambda_template
from stand_ins import aws_server
from stand_ins.aws_server import REGION, AwsServer
from stand_ins.lambda_runtime import LambdaRuntime, function_properties, run_function
from stand_ins.served_model import ServedModel, drawn_photo, encoded

PHOTO, BEFORE = encoded(drawn_photo()), encoded(drawn_photo(seed=1))
IMAGE, IMAGE_BEFORE = (base64.b64encode(photo).decode() for photo in (PHOTO, BEFORE))
KEY, KEY_BEFORE = "bin-images/523.jpg", "bin-images/522.jpg"
CANARY = "canary7Jq2"
NAME = "bins-tiny"


@pytest.fixture(scope="module")
def function(
    running_aws_server: AwsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LambdaRuntime]:
    """Return the function, whose AWS is the server on loopback."""
    variables = {
        "ENDPOINT_NAME": NAME,
        "PHOTO_BUCKET": "photos",
        "PHOTO_PREFIX": "bin-images/",
        "MAX_PHOTO_BYTES": str(LAMBDA_PHOTO_BYTES),
        "AWS_ENDPOINT_URL": running_aws_server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "NO_PROXY": "127.0.0.1",
    }
    with run_function(tmp_path_factory.mktemp("function"), variables) as runtime:
        yield runtime


@pytest.fixture
def account(aws: AwsServer, served_run: ServedModel) -> AwsServer:
    """Return an account with a photo in S3, and the handler behind the endpoint."""
    bucket = aws.bucket("photos")
    bucket.put_object(Key=KEY, Body=PHOTO)
    bucket.put_object(Key=KEY_BEFORE, Body=BEFORE)
    bucket.put_object(Key="private/523.jpg", Body=PHOTO)

    aws.containers[NAME] = served_run.as_container
    aws.received.clear()
    return aws


def rest_event(body: Any, is_base64: bool = False) -> dict[str, Any]:
    """Return what API Gateway's REST API sends (format 1.0)."""
    text = body if isinstance(body, str) else json.dumps(body)
    return {
        "resource": "/",
        "path": "/",
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json"},
        "requestContext": {"stage": "prod", "identity": {"sourceIp": "192.0.2.1"}},
        "body": base64.b64encode(text.encode()).decode() if is_base64 else text,
        "isBase64Encoded": is_base64,
    }


def http_event(body: Any) -> dict[str, Any]:
    """Return what API Gateway's HTTP API sends (format 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "requestContext": {"http": {"method": "POST", "path": "/"}},
        "body": json.dumps(body),
        "isBase64Encoded": False,
    }


def test_a_direct_call_gets_the_endpoints_own_answer(
    account: AwsServer, function: LambdaRuntime, served_run: ServedModel
) -> None:
    expected = served_run.ask(PHOTO, "image/jpeg").content
    assert function.invoke({"image": IMAGE}) == expected
    assert function.invoke({"s3_key": KEY}) == expected
    answer = function.invoke({"s3_key": KEY, "expected_quantity": 3})
    assert answer["probability_wrong"] == pytest.approx(
        1 - expected["probabilities"]["3"], abs=1e-5
    )


@pytest.mark.parametrize(
    "event",
    [
        {"image": IMAGE, "previous": {"image": IMAGE_BEFORE, "count": 4}},
        {"s3_key": KEY, "previous": {"s3_key": KEY_BEFORE, "count": 4, "expected_quantity": None}},
        {"s3_key": KEY, "previous": {"image": IMAGE_BEFORE, "expected_quantity": 4}},
        {"image": IMAGE, "previous": {"s3_key": KEY_BEFORE}, "unchanged_rate": 0.2},
    ],
    ids=["photos", "keys", "a key and a photo", "a photo and a key"],
)
def test_a_pair_gets_the_endpoints_own_answer(
    event: dict[str, Any], account: AwsServer, function: LambdaRuntime, served_run: ServedModel
) -> None:
    known = {k: v for k, v in event["previous"].items() if k in ("count", "expected_quantity")}
    question = {"image": IMAGE, "previous": {"image": IMAGE_BEFORE, **known}}
    if "unchanged_rate" in event:
        question["unchanged_rate"] = event["unchanged_rate"]
    expected = served_run.ask(json.dumps(question).encode(), "application/json").content
    assert "change" in expected
    assert function.invoke(event) == expected
    assert json.loads(function.invoke(http_event(event))["body"]) == expected


@pytest.mark.parametrize(
    "image",
    [base64.encodebytes(PHOTO).decode(), f"data:image/jpeg;base64,{IMAGE}"],
    ids=["lines", "data: URI"],
)
def test_base64_comes_in_lines_and_as_a_data_uri(
    image: str, account: AwsServer, function: LambdaRuntime, served_run: ServedModel
) -> None:
    assert function.invoke({"image": image}) == served_run.ask(PHOTO, "image/jpeg").content


@pytest.mark.parametrize(
    "event",
    [
        rest_event({"s3_key": KEY}),
        rest_event({"image": IMAGE}, is_base64=True),
        http_event({"image": IMAGE}),
    ],
    ids=["REST API", "binary REST API", "HTTP API"],
)
def test_api_gateway_gets_a_proxy_response(
    event: dict[str, Any], account: AwsServer, function: LambdaRuntime, served_run: ServedModel
) -> None:
    response = function.invoke(event)
    assert response.keys() == {"statusCode", "headers", "body", "isBase64Encoded"}
    assert response["statusCode"] == 200
    assert response["headers"]["Content-Type"] == "application/json"
    assert response["isBase64Encoded"] is False
    assert json.loads(response["body"]) == served_run.ask(PHOTO, "image/jpeg").content


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        ({}, 400, "A photo is"),
        ([], 400, "has to be an object"),
        (CANARY, 400, "has to be an object"),
        ({"image": IMAGE, "s3_key": KEY}, 400, "A photo is"),
        ({"image": IMAGE, "url": CANARY}, 400, "A photo is"),
        ({"expected_quantity": 3}, 400, "A photo is"),
        ({"image": 5}, 400, '"image" has to be a string'),
        ({"s3_key": [CANARY]}, 400, '"s3_key" has to be a string'),
        ({"image": f"{CANARY}!"}, 400, "is not base64"),
        ({"image": ""}, 415, "is not a JPEG or PNG"),
        ({"image": base64.b64encode(b"no photo").decode()}, 415, "is not a JPEG or PNG"),
        ({"image": base64.b64encode(PHOTO[:900]).decode()}, 400, "damaged or truncated"),
        ({"image": IMAGE, "expected_quantity": True}, 400, "whole number"),
        ({"image": IMAGE, "expected_quantity": "3"}, 400, "whole number"),
        ({"image": IMAGE, "expected_quantity": -1}, 400, "whole number"),
        ({"image": IMAGE, "expected_quantity": 10**9}, 400, "whole number"),
        ({"image": "A" * 10_000_000}, 413, "more than 2.9 MB"),
        ({"s3_key": "bin-images/absent.jpg"}, 404, "no such photo"),
        ({"s3_key": "private/523.jpg"}, 403, "not below the prefix"),
        ({"s3_key": "bin-images/../private/523.jpg"}, 403, "not below the prefix"),
        ({"s3_key": "bin-images"}, 403, "not below the prefix"),
        ({"s3_key": f"bin-images/{CANARY}\n.jpg"}, 403, "not below the prefix"),
        ({"s3_key": "bin-images/" + "x" * 1100}, 403, "not below the prefix"),
        ({"image": IMAGE, "previous": IMAGE}, 400, 'In "previous": A photo is'),
        ({"image": IMAGE, "previous": {"count": 3}}, 400, 'In "previous": A photo is'),
        ({"image": IMAGE, "previous": {"image": 5}}, 400, 'In "previous": "image" has to be'),
        (
            {"image": IMAGE, "previous": {"image": IMAGE, "count": "3"}},
            *(400, 'In "previous": "count" has to be a whole'),
        ),
        (
            {"image": IMAGE, "previous": {"image": IMAGE, "count": 3, "expected_quantity": 3}},
            *(400, "not both"),
        ),
        (
            {"image": IMAGE, "previous": {"s3_key": "private/523.jpg"}},
            *(403, 'In "previous": The "s3_key" is not below the prefix'),
        ),
        (
            {"s3_key": KEY, "previous": {"s3_key": "bin-images/absent.jpg"}},
            *(404, 'In "previous": There is no such photo'),
        ),
        (
            {"image": IMAGE, "previous": {"image": IMAGE[:800]}},
            *(400, 'In "previous": The photo is damaged'),
        ),
        (
            {"image": "A" * 2_000_000, "previous": {"image": "A" * 2_000_000}},
            *(413, "The photos have more than 2.9 MB together"),
        ),
        ({"image": IMAGE, "previous": {"image": IMAGE}, "unchanged_rate": 2}, 400, "a share"),
        ({"image": IMAGE, "unchanged_rate": 0.1}, 400, 'give "previous"'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_event_is_refused_with_a_reason(
    event: Any, status: int, reason: str, account: AwsServer, function: LambdaRuntime
) -> None:
    answer = function.invoke(event)
    assert answer["status"] == status
    assert reason in answer["error"]
    assert answer["request_id"] == f"request-{function.num_events}"
    response = function.invoke(http_event(event))
    assert response["statusCode"] == status
    assert reason in json.loads(response["body"])["error"]
    if status == 403:  # nobody was asked for it
        assert not account.received


@pytest.mark.parametrize("body", ["{", '{"image": NaN', CANARY, "[" * 100_000])
def test_a_body_that_is_no_json_is_refused(
    body: str, account: AwsServer, function: LambdaRuntime
) -> None:
    response = function.invoke(rest_event(body))
    assert response["statusCode"] == 400
    assert function.invoke(rest_event(body) | {"body": None})["statusCode"] == 400
    assert CANARY not in response["body"]


def test_a_photo_in_s3_that_is_too_large_is_refused(
    account: AwsServer, function: LambdaRuntime
) -> None:
    large = bytes(LAMBDA_PHOTO_BYTES + 1)
    account.client("s3").put_object(Bucket="photos", Key="bin-images/large.jpg", Body=large)
    assert function.invoke({"s3_key": "bin-images/large.jpg"})["status"] == 413


@pytest.mark.parametrize(
    ("http_status", "code", "status"),
    [
        (400, "ThrottlingException", 503),
        (429, "TooManyRequestsException", 503),
        (503, "ServiceUnavailable", 503),
        (500, "InternalFailure", 502),
        (400, "ValidationError", 502),
        (403, "AccessDeniedException", 502),
    ],
)
def test_an_endpoint_that_throttles_or_fails_is_not_the_callers_fault(
    http_status: int, code: str, status: int, account: AwsServer, function: LambdaRuntime
) -> None:
    account.invoke_errors += [(http_status, code)]
    response = function.invoke(rest_event({"image": IMAGE}))
    assert response["statusCode"] == status
    assert ("Retry-After" in response["headers"]) == (status == 503)
    assert code not in response["body"]
    # Asked once: the caller decides whether to ask again.
    assert len([r for r in account.received if r.path.endswith("/invocations")]) == 1


@pytest.mark.parametrize(
    ("container", "status"),
    [
        ((500, "application/json", b'{"error": "secret of ours"}'), 502),
        ((503, "application/json", b'{"error": "starting"}'), 503),
        ((400, "text/plain", b"secret of ours"), 400),
        ((200, "text/plain", b"secret of ours"), 502),
        ((200, "application/json", b"[1]"), 502),
    ],
)
def test_a_container_that_fails_tells_the_caller_nothing(
    container: tuple[int, str, bytes], status: int, account: AwsServer, function: LambdaRuntime
) -> None:
    account.containers[NAME] = lambda *_: container
    answer = function.invoke({"image": IMAGE})
    assert answer["status"] == status
    assert "secret" not in json.dumps(answer)
    assert "secret" not in function.log.read_text()


@pytest.mark.slow
def test_an_endpoint_that_wakes_up_is_waited_for_as_long_as_the_caller_waits(
    account: AwsServer, function: LambdaRuntime, served_run: ServedModel
) -> None:
    def wake_up(*request: Any) -> tuple[int, str, bytes]:
        time.sleep(20)  # longer than API Gateway's callers can wait
        return served_run.as_container(*request)

    account.containers[NAME] = wake_up
    expected = served_run.ask(PHOTO, "image/jpeg").content
    assert function.invoke({"image": IMAGE}) == expected
    response = function.invoke(rest_event({"image": IMAGE}))
    assert response["statusCode"] == 503
    assert response["headers"]["Retry-After"] == "30"
    assert "waking up" in json.loads(response["body"])["error"]


def test_the_function_answers_before_its_callers_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in function_properties()["Environment"]["Variables"]:
        monkeypatch.setenv(name, "1")
    handler = importlib.import_module("lambda_function.handler")
    others = 2 * handler.CONNECT + handler.READ_S3
    assert others + handler.READ_GATEWAY < 29  # API Gateway's limit
    timeout = function_properties()["Timeout"]
    assert others + handler.READ_DIRECT < timeout < Config().read_timeout


def test_no_event_is_in_the_log(account: AwsServer, function: LambdaRuntime) -> None:
    for event in (
        {"s3_key": f"bin-images/{CANARY}.jpg"},
        {"image": IMAGE, CANARY: 1},
        rest_event(CANARY) | {CANARY: CANARY},
        {"image": IMAGE},
    ):
        function.invoke(event)
    log = function.log.read_text()
    assert f"request-{function.num_events}: 200" in log
    assert CANARY not in log
    assert IMAGE[:40] not in log
    assert KEY not in log


def test_cloudformations_linter_finds_nothing(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(lambda_template())
    linter = Path(sys.executable).with_name("cfn-lint")  # comes with moto
    result = subprocess.run([linter, template], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_template_fits_into_a_request_and_makes_one_role_with_least_rights(
    aws: AwsServer,
) -> None:
    assert len(lambda_template()) < 51_200  # CloudFormation's limit for a TemplateBody
    boundary = f"arn:aws:iam::{aws_server.ACCOUNT}:policy/boundary"
    values = {
        "EndpointName": NAME,
        "PhotoBucket": "photos",
        "PhotoPrefix": "bin-images/",
        "MaxPhotoBytes": "1000",
        "RoleBoundaryArn": boundary,
    }
    aws.client("cloudformation").create_stack(
        StackName=NAME,
        TemplateBody=lambda_template(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    function = aws.client("lambda").get_function(FunctionName=NAME)["Configuration"]
    assert function["Environment"]["Variables"]["PHOTO_PREFIX"] == "bin-images/"
    iam = aws.client("iam")
    [role] = iam.list_roles()["Roles"]
    assert function["Role"] == role["Arn"]
    assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
    [name] = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    text = str(iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"])
    arn = f"{REGION}:{aws_server.ACCOUNT}"
    for resource in (
        f"arn:aws:sagemaker:{arn}:endpoint/{NAME}'",
        "arn:aws:s3:::photos/bin-images/*'",
        f"arn:aws:logs:{arn}:log-group:/aws/lambda/{NAME}:log-stream:*'",
    ):
        assert resource in text
    assert text.count("arn:") == 3
    for action in ("sagemaker:InvokeEndpoint", "s3:GetObject", "logs:PutLogEvents"):
        assert action in text
