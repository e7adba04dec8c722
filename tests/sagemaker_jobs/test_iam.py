"""The policies as CloudFormation makes them of the template, against what the code asks AWS for."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.session
import pytest
from botocore import xform_name

from aws.settings import find_role
from paths import ROOT
from sdk.images import image_uri
from sdk.installed import installed_sdk
from stand_ins.aws_server import ACCOUNT, REGION, AwsServer, ReceivedRequest
from stand_ins.policy_stack import BUCKET, FREE, HUB_SECRET, ROLES, TEMPLATE, Stack, make_stack

# Actions that AWS lets no resource be named for. Source: AWS's Service Authorization Reference,
# where their column of resource types is empty.
WITHOUT_RESOURCES = {
    "application-autoscaling:DescribeScalableTargets",
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "sagemaker:ListHyperParameterTuningJobs",
    "sagemaker:ListTrainingJobs",
    *(f"ec2:Describe{name}" for name in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups")),
    *("ec2:DescribeSubnets", "ec2:DescribeVpcs"),
}
# What a resource's own name may be: the keys under a prefix, names that begin with bins-, a log
# group's streams; and what AWS names by itself.
NARROW = (
    rf"{BUCKET}/[a-z/-]+/\*",
    r"secret:[A-Za-z0-9/-]+",
    r"[a-z/-]+/bins-\*",
    r"log-group:[A-Za-z/]+:(log-stream:bins-)?\*",
    r"log-group:/aws/[A-Za-z/]+/bins-\*",
    r"(function:|alarm:TargetTracking-endpoint/)bins-\*",
    r"stack/bins-\*/\*",
    r"[A-Za-z0-9/_-]+",
    # Only to list their names, which CloudFormation does before it makes one.
    r"log-group:\*",
    # A condition holds it to SageMaker's.
    r"scalable-target/\*",
    # Which interface it will be nobody knows before; subnets and groups are named in the request.
    r"(network-interface|security-group|subnet)/\*",
    r"role/aws-service-role/sagemaker\.application-autoscaling\.amazonaws\.com/\*",
)
# What AWS calls a permission where it does not call it as the operation.
PERMISSIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
}


def statements(stack: Stack) -> Iterator[dict[str, Any]]:
    for policy in stack.policies.values():
        yield from policy


def test_cloudformations_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    result = subprocess.run([linter, TEMPLATE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_action_is_named(stack: Stack) -> None:
    for statement in statements(stack):
        assert statement["Effect"] == "Allow"
        assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        for action in statement["Action"]:
            assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action), action


def test_every_action_is_one_that_aws_has(stack: Stack) -> None:
    session = botocore.session.get_session()
    for statement in statements(stack):
        for action in statement["Action"]:
            service, _, operation = action.partition(":")
            if service == "sagemaker" and operation == "InvokeEndpoint":
                service = "sagemaker-runtime"
            known = set(session.get_service_model(service).operation_names)
            known_otherwise = {*PERMISSIONS.values(), "iam:PassRole", "cloudformation:TagResource"}
            assert operation in known or action in known_otherwise, action


def test_every_resource_is_named_where_aws_allows_it(stack: Stack) -> None:
    for statement in statements(stack):
        if statement["Resource"] == "*":
            assert set(statement["Action"]) <= WITHOUT_RESOURCES
            continue
        assert not set(statement["Action"]) & WITHOUT_RESOURCES
        for resource in statement["Resource"]:
            *owner, name = resource.split(":", 5)
            assert not re.search(r"[*?]", "".join(owner)), resource
            assert any(re.fullmatch(pattern, name) for pattern in NARROW), resource


@pytest.mark.parametrize("role", ROLES)
def test_only_sagemaker_takes_a_jobs_role_and_only_for_this_account(
    role: str, stack: Stack
) -> None:
    (statement,) = stack.trust[role]["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


def test_who_launches_may_pass_the_jobs_roles_to_sagemaker_and_no_other(stack: Stack) -> None:
    (statement,) = [s for s in stack.policies["LaunchPolicy"] if "iam:PassRole" in s["Action"]]
    assert statement["Resource"] == [stack.arns["JobRole"], stack.arns["DataRole"]]
    assert statement["Condition"] == {
        "StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}
    }


def test_no_policy_of_awss_own_is_attached() -> None:
    assert "ManagedPolicyArns" not in TEMPLATE.read_text()


@pytest.mark.parametrize("role", ROLES)
def test_the_launchers_take_the_roles(role: str, stack: Stack) -> None:
    assert find_role(stack.arns[role], boto3.Session()) == stack.arns[role]


def test_a_job_reads_its_dataset_and_keeps_to_its_output(stack: Stack) -> None:
    def may(action: str, key: str, bucket: str = BUCKET) -> bool:
        return stack.allows("JobRole", action, f"arn:aws:s3:::{bucket}/{key}")

    assert may("s3:GetObject", "datasets/bins/README.md")
    assert may("s3:GetObject", "bin-counting/code/bins-vit/source/sourcedir.tar.gz")
    assert may("s3:PutObject", "bin-counting/jobs/bins-vit/output/model.tar.gz")
    assert may("s3:PutObject", "bin-counting/jobs/bins-vit/profiler-output/system/a.json")
    assert may(
        "s3:DeleteObject", "bin-counting/checkpoints/bins-vit/checkpoint-1/model.safetensors"
    )
    assert not may("s3:PutObject", "datasets/bins/README.md")
    assert not may("s3:DeleteObject", "bin-counting/jobs/bins-vit/output/model.tar.gz")
    assert not may("s3:GetObject", "payroll/2026.csv")
    assert not may("s3:GetObject", "datasets/bins/README.md", bucket="another")


def test_a_job_that_prepares_data_reads_its_code_and_keeps_to_the_datasets(stack: Stack) -> None:
    def may(action: str, key: str) -> bool:
        return stack.allows("DataRole", action, f"arn:aws:s3:::{BUCKET}/{key}")

    assert may("s3:GetObject", "bin-counting/code/bins-data-1/source/sourcedir.tar.gz")
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert may(action, "datasets/bins/data/train-00000-of-00001.parquet")
        assert not may(action, "payroll/2026.csv")
    assert not may("s3:GetObject", "bin-counting/jobs/bins-vit/output/model.tar.gz")
    services = {
        action.partition(":")[0] for s in stack.policies["DataRole"] for action in s["Action"]
    }
    assert services == {"s3", "logs", "cloudwatch", "ecr"}


# What is executed, by whom, and who alone may write it.
EXECUTED = {
    "bin-counting/code/bins-vit/source/sourcedir.tar.gz": "LaunchPolicy",
    "bin-counting/code/bins-data-1/source/runproc.sh": "LaunchPolicy",
    "bin-counting/deployments/bins-vit/model.tar.gz": "DeployPolicy",
}


@pytest.mark.parametrize(("key", "writer"), EXECUTED.items())
def test_nobody_but_its_writer_replaces_what_another_executes(
    key: str, writer: str, stack: Stack
) -> None:
    may_write = {
        policy
        for policy in stack.policies
        for action in ("s3:PutObject", "s3:DeleteObject")
        if stack.allows(policy, action, f"arn:aws:s3:::{BUCKET}/{key}")
    }
    assert may_write == {writer}


def test_networks_and_keys_are_allowed_where_they_are_used_and_else_not(
    aws: AwsServer, stack: Stack
) -> None:
    def services(made: Stack) -> set[str]:
        return {
            action.partition(":")[0]
            for role in ROLES
            for statement in made.policies[role]
            for action in statement["Action"]
        }

    assert not {"ec2", "kms"} & services(stack)
    aws.reset()
    key = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b"
    demanding = make_stack(aws, Bucket=BUCKET, InVpc="yes", KmsKeyArns=key)
    for role in ROLES:
        interface = f"arn:aws:ec2:{REGION}:{ACCOUNT}:network-interface/eni-1"
        assert demanding.allows(role, "ec2:CreateNetworkInterface", interface)
        assert demanding.allows(role, "ec2:DescribeSubnets", "*")
        assert demanding.allows(role, "kms:GenerateDataKey", key)
        assert demanding.allows(role, "kms:CreateGrant", key)
        assert not demanding.allows(role, "kms:Decrypt", f"{key}2")
    test_every_resource_is_named_where_aws_allows_it(demanding)
    test_every_action_is_one_that_aws_has(demanding)


@pytest.mark.parametrize("operation", ["Model", "Endpoint", "EndpointConfig", "TransformJob"])
def test_who_deploys_may_tag_what_is_made(operation: str, stack: Stack) -> None:
    name = {"EndpointConfig": "endpoint-config", "TransformJob": "transform-job"}
    kind = name.get(operation, operation.lower())
    resource = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/bins-vit"
    assert stack.allows("DeployPolicy", "sagemaker:AddTags", resource)


def test_a_region_without_profiler_rules_has_all_else(aws: AwsServer) -> None:
    made = make_stack(aws, region="il-central-1", Bucket=BUCKET)
    pulled = "arn:aws:ecr:il-central-1:780543022126:repository/huggingface-pytorch-training"
    assert made.allows("JobRole", "ecr:BatchGetImage", pulled)
    assert "debugger-rules" not in json.dumps(made.policies)


def test_a_job_reads_one_secret_where_one_is_given_and_else_none(
    aws: AwsServer, stack: Stack
) -> None:
    action = "secretsmanager:GetSecretValue"
    assert stack.allows("JobRole", action, HUB_SECRET)
    assert not stack.allows("JobRole", action, HUB_SECRET.replace("hub-token", "payroll"))
    assert not stack.allows("LaunchPolicy", action, HUB_SECRET)
    aws.reset()
    without = make_stack(aws, Bucket=BUCKET)
    assert "secretsmanager" not in json.dumps(without.policies)


def test_who_calls_an_endpoint_may_do_that_alone(stack: Stack) -> None:
    (statement,) = stack.policies["EndpointCallerPolicy"]
    assert statement["Action"] == ["sagemaker:InvokeEndpoint"]
    assert statement["Resource"] == [f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/bins-*"]


@pytest.mark.slow
def test_the_registries_are_those_of_the_sdk() -> None:
    rows = re.findall(
        r'^    ([a-z0-9-]+): {Containers: "(\d+)", ProfilerRules: "(\d*)"}$',
        TEMPLATE.read_text(),
        flags=re.MULTILINE,
    )
    assert len(rows) == 29
    listed = installed_sdk().listed_image_uri
    for region, containers, profiler_rules in rows:
        for processor in ("gpu", "cpu"):
            image = image_uri(region, processor, "training")
            assert image.startswith(f"{containers}."), region
            repository = image.partition("/")[2].partition(":")[0]
            assert f":repository/{repository}" in TEMPLATE.read_text()
        if not profiler_rules:
            with pytest.raises(ValueError, match="Unsupported region"):
                listed(framework="debugger", region=region)
            continue
        assert listed(framework="debugger", region=region).startswith(f"{profiler_rules}."), region


def calls_in_sources() -> set[str]:
    """Return the AWS operations that this project's own code calls through boto3."""
    session = botocore.session.get_session()
    operations = {
        xform_name(name): f"{service}:{name}"
        for service in ("s3", "sts", "iam", "logs", "sagemaker")
        for name in session.get_service_model(service).operation_names
    }
    found = set()
    for path in [*ROOT.glob("sagemaker_jobs/**/*.py"), ROOT / "metrics/fetch_logs.py"]:
        if path.name == "local_search.py":  # its trials are Optuna's
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = node.func.attr
            if name == "get_paginator":
                name = ast.literal_eval(node.args[0])
            # One word alone, such as search, is not AWS's.
            if name in operations and "_" in name:
                found.add(operations[name])
    return found


def test_the_policies_allow_every_call_in_the_sources(stack: Stack) -> None:
    called = calls_in_sources()
    assert {"sagemaker:DescribeTrainingJob", "logs:GetLogEvents", "s3:ListObjectsV2"} <= called
    allowed = {
        action
        for policy in ("LaunchPolicy", "DeployPolicy")
        for statement in stack.policies[policy]
        for action in statement["Action"]
    }
    assert {PERMISSIONS.get(call, call) for call in called} <= allowed | FREE


def permissions_of(request: ReceivedRequest) -> list[tuple[str, str]]:
    """Return the (action, resource) pairs that AWS checks for a request."""
    body = request.parameters
    if not request.operation:
        url = urlsplit(request.path)
        bucket, _, key = url.path.removeprefix("/").partition("/")
        if key:
            verb = {"GET": "GetObject", "HEAD": "GetObject"}.get(request.method, "PutObject")
            return [(f"s3:{verb}", f"arn:aws:s3:::{bucket}/{key}")]
        is_location = "location" in parse_qs(url.query, keep_blank_values=True)
        action = "GetBucketLocation" if is_location else "ListBucket"
        assert request.method in ("GET", "HEAD"), request
        return [(f"s3:{action}", f"arn:aws:s3:::{bucket}")]
    service = {"SageMaker": "sagemaker", "Logs_20140328": "logs"}.get(
        request.target.partition(".")[0], "iam" if "RoleName" in body else "sts"
    )
    name = {
        "sagemaker": f"processing-job/{body['ProcessingJobName']}"
        if "ProcessingJobName" in body
        else f"hyper-parameter-tuning-job/{body['HyperParameterTuningJobName']}"
        if "HyperParameterTuningJobName" in body
        else f"training-job/{body.get('TrainingJobName')}",
        "logs": f"log-group:{body.get('logGroupName')}:log-stream:{body.get('logStreamName', '')}",
        "iam": f"role/{body.get('RoleName')}",
    }.get(service, "")
    region = "" if service == "iam" else REGION
    pairs = [
        (f"{service}:{request.operation}", f"arn:aws:{service}:{region}:{ACCOUNT}:{name}"),
    ]
    if "RoleArn" in body:
        pairs.append(("iam:PassRole", body["RoleArn"]))
    return pairs


@pytest.mark.slow
def test_the_policies_allow_what_arrives_when_a_job_is_launched_watched_and_stopped(
    aws: AwsServer, stack: Stack
) -> None:
    bucket = aws.bucket(BUCKET)
    bucket.put_object(Key="datasets/bins/README.md", Body=b"")
    for split in ("train", "validation", "test"):
        key = f"datasets/bins/data/{split}-00000-of-00001.parquet"
        bucket.put_object(Key=key, Body=b"")
    logs = aws.client("logs")
    group = {"logGroupName": "/aws/sagemaker/TrainingJobs"}
    logs.create_log_group(**group)
    logs.create_log_stream(**group, logStreamName="bins-a/algo-1-1700000000")
    aws.received.clear()

    def run(entry: str, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "sagemaker_jobs" / entry), *arguments]
        result = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
        assert result.returncode == 0, result.stderr

    dataset = ["--dataset", f"s3://{BUCKET}/datasets/bins"]
    role = stack.arns["JobRole"]
    run("vit.py", *dataset, "--role", role, "--job_name", "bins-a", "--spot")
    run("tune.py", "--recipe", "vit", *dataset, "--role", role, "--job_name", "bins-tune")
    run("job_report.py", "attach", "bins-a")
    run("job_report.py", "list")
    aws.training_job("bins-a").training_job_status = "InProgress"
    run("job_report.py", "stop", "bins-a")
    output = ["--output", f"s3://{BUCKET}/datasets/new", "--role", stack.arns["DataRole"]]
    run("prepare_data.py", *output)

    pairs = {pair for request in aws.received for pair in permissions_of(request)}
    assert {action for action, _ in pairs} >= {
        *("sagemaker:CreateTrainingJob", "sagemaker:StopTrainingJob", "iam:PassRole"),
        "sagemaker:CreateHyperParameterTuningJob",
        *("sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob"),
        *("logs:GetLogEvents", "s3:PutObject"),
    }
    refused = {pair for pair in pairs if not stack.allows("LaunchPolicy", *pair)}
    assert refused == set(), json.dumps(sorted(refused), indent=2)
