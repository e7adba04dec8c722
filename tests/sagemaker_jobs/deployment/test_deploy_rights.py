"""The policies for who deploys, and for what is deployed, against what deploy.py asks AWS for."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import deploy
from deployment import parts as deployed_parts
from stand_ins.aws_server import ACCOUNT, REGION, AwsServer, ReceivedRequest
from stand_ins.policy_stack import BUCKET, FREE, Stack
from stand_ins.served_model import ServedModel, drawn_photo, encoded

NAME = "bins-tiny"
# What AWS checks the name in a request against.
KINDS = {
    "ModelName": "model",
    "EndpointName": "endpoint",
    "EndpointConfigName": "endpoint-config",
    "TransformJobName": "transform-job",
    "TrainingJobName": "training-job",
}


def permissions_of(request: ReceivedRequest) -> list[tuple[str, str]]:
    """Return the (action, resource) pairs that AWS checks for a request."""
    body, operation = request.parameters, request.operation
    here = f"{REGION}:{ACCOUNT}"
    path = urlsplit(request.path).path
    if path.endswith("/invocations"):
        name = path.split("/")[2]
        return [("sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{here}:endpoint/{name}")]
    if not operation:
        bucket, _, key = path.removeprefix("/").partition("/")
        if not key:
            query = urlsplit(request.path).query
            actions = {"location": "GetBucketLocation", "uploads": "ListBucketMultipartUploads"}
            action = next((a for key, a in actions.items() if key in query), "ListBucket")
            return [(f"s3:{action}", f"arn:aws:s3:::{bucket}")]
        action = {"GET": "GetObject", "HEAD": "GetObject", "DELETE": "DeleteObject"}.get(
            request.method, "PutObject"
        )
        return [(f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}")]
    if request.target.startswith("SageMaker."):
        # A transform job's and a configuration's model is named in it, and not checked.
        checked = set(KINDS) & set(body)
        if operation == "CreateTransformJob":
            checked = {"TransformJobName"}
        pairs = [
            (f"sagemaker:{operation}", f"arn:aws:sagemaker:{here}:{KINDS[key]}/{body[key]}")
            for key in checked
        ]
        if "Tags" in body:
            pairs += [("sagemaker:AddTags", resource) for _, resource in pairs]
        if "ExecutionRoleArn" in body:
            pairs.append(("iam:PassRole", body["ExecutionRoleArn"]))
        return pairs
    if request.target.startswith("AnyScaleFrontendService."):
        action = f"application-autoscaling:{operation}"
        return [(action, f"arn:aws:application-autoscaling:{here}:scalable-target/0123")]
    if "StackName" in body:
        stack_arn = f"arn:aws:cloudformation:{here}:stack/{body['StackName']}/0123"
        return [(f"cloudformation:{operation}", stack_arn)]
    if "RoleName" in body:
        return [(f"iam:{operation}", f"arn:aws:iam::{ACCOUNT}:role/{body['RoleName']}")]
    assert f"sts:{operation}" in FREE, operation
    return []


def arrived_permissions(aws: AwsServer) -> set[tuple[str, str]]:
    return {pair for request in aws.received for pair in permissions_of(request)}


def test_who_deploys_may_send_all_that_arrives(
    aws: AwsServer,
    stack: Stack,
    run_dir: Path,
    served_run: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aws.bucket(BUCKET).put_object(Key="photos/1.jpg", Body=encoded(drawn_photo()))
    aws.containers[NAME] = served_run.as_container
    monkeypatch.setattr(deployed_parts, "POLL_SECONDS", 0)
    monkeypatch.setattr(
        deploy, "local_answer", lambda folder, photo: served_run.ask(photo, "image/png").content
    )
    aws.received.clear()
    role = stack.arns["EndpointRole"]
    flags = [str(run_dir), "--output", f"s3://{BUCKET}/bin-counting", "--role", role]
    scaling = ["--max_instance_count", "4", "--invocations_per_minute", "300"]
    tags = ["--tags", "team=bins"]
    deploy.main([*flags, "--name", NAME, *scaling, *tags])
    deploy.main(["--delete", NAME])
    folders = [f"s3://{BUCKET}/photos", f"s3://{BUCKET}/bin-counting/answers/1"]
    deploy.main([*flags, "--name", "bins-batch", *tags, "--batch_transform", *folders])
    with pytest.raises(SystemExit):
        deploy.main(["bins-absent", "--role", role])

    pairs = arrived_permissions(aws)
    assert {action for action, _ in pairs} >= {
        *("sagemaker:CreateEndpoint", "sagemaker:DeleteModel", "sagemaker:CreateTransformJob"),
        *("sagemaker:InvokeEndpoint", "sagemaker:DescribeTrainingJob", "iam:PassRole"),
        *("application-autoscaling:DeregisterScalableTarget", "s3:PutObject", "s3:DeleteObject"),
    }
    refused = {pair for pair in pairs if not stack.allows("DeployPolicy", *pair)}
    assert refused == set(), json.dumps(sorted(refused), indent=2)

    policies = ("DeployPolicy", "DeployLambdaPolicy")
    aws.received.clear()
    deploy.main([*flags, "--name", NAME, "--lambda", "--photos", f"s3://{BUCKET}/photos"])
    deploy.main(["--delete", NAME])
    pairs = arrived_permissions(aws)
    assert {action for action, _ in pairs} >= {
        *("cloudformation:CreateStack", "cloudformation:DeleteStack"),
    }
    refused = {pair for pair in pairs if not any(stack.allows(p, *pair) for p in policies)}
    assert refused == set(), json.dumps(sorted(refused), indent=2)
    # And no other endpoint, no other folder, no other role.
    for action, resource in (
        ("sagemaker:DeleteEndpoint", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/theirs"),
        ("s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/bin-counting/bins-vit/output/model.tar.gz"),
        ("s3:PutObject", f"arn:aws:s3:::{BUCKET}/datasets/bins/README.md"),
        ("iam:PassRole", stack.arns["JobRole"]),
    ):
        assert not any(stack.allows(policy, action, resource) for policy in policies)


def test_an_endpoint_reads_models_and_photos_and_writes_answers(stack: Stack) -> None:
    def may(action: str, key: str) -> bool:
        return stack.allows("EndpointRole", action, f"arn:aws:s3:::{BUCKET}/{key}")

    assert may("s3:GetObject", "bin-counting/deployments/bins-vit/model.tar.gz")
    assert may("s3:GetObject", "photos/523.jpg")
    assert may("s3:PutObject", "bin-counting/answers/1/523.jpg.out")
    assert may("s3:PutObject", "bin-counting/captured/bins-vit/1.jsonl")
    for action in ("s3:GetObject", "s3:PutObject"):
        assert not may(action, "datasets/bins/README.md")
        assert not may(action, "bin-counting/bins-vit/output/model.tar.gz")
    assert not may("s3:PutObject", "bin-counting/deployments/bins-vit/model.tar.gz")


def test_who_deploys_makes_no_role_that_may_do_more_than_the_boundary(stack: Stack) -> None:
    making = [
        statement
        for statement in stack.policies["DeployLambdaPolicy"]
        if {"iam:CreateRole", "iam:PutRolePolicy"} & set(statement["Action"])
    ]
    (statement,) = making
    boundary = statement["Condition"]["StringEquals"]["iam:PermissionsBoundary"]
    assert boundary.startswith(f"arn:aws:iam::{ACCOUNT}:policy/")
    bounded = {
        (action, resource)
        for s in stack.policies["LambdaBoundary"]
        for action in s["Action"]
        for resource in s["Resource"]
    }
    assert bounded == {
        ("sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/bins-*"),
        ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/photos/*"),
        *(
            (action, f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/bins-*")
            for action in ("logs:CreateLogStream", "logs:PutLogEvents")
        ),
    }
    allowed = {a for s in stack.policies["DeployLambdaPolicy"] for a in s["Action"]}
    # With these a role's boundary or rights could be changed afterwards.
    assert not allowed & {
        *("iam:PutRolePermissionsBoundary", "iam:DeleteRolePermissionsBoundary"),
        *("iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy"),
    }


@pytest.mark.parametrize("policy", ["LaunchPolicy", "DeployPolicy", "DeployLambdaPolicy"])
def test_a_policy_is_as_short_as_aws_wants_it(policy: str, stack: Stack) -> None:
    document = {"Version": "2012-10-17", "Statement": stack.policies[policy]}
    assert len(json.dumps(document, separators=(",", ":"))) < 6_144
