import re

import pytest

from aws import settings as aws_settings
from aws.settings import boto_session, bucket_and_prefix, check_dataset, find_region, find_role
from stand_ins.aws_server import AwsServer, make_role

SPLITS = ("train", "test")
TEST = "data/test-00000-of-00001.parquet"
TRAIN = "data/train-0000{}-of-00002.parquet"


def test_the_region_is_the_flags_then_the_environments(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_region("eu-west-1") == "eu-west-1"
    assert find_region(None) == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert find_region(None) == "eu-west-2"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ValueError, match="no AWS region: give --region"):
        find_region(None)


def test_the_role_is_the_flags_then_the_environments_then_the_callers(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    arns = {name: make_role(aws, name) for name in ("flag", "environment", "own")}
    session = boto_session("us-east-1")
    monkeypatch.setenv("SAGEMAKER_ROLE", arns["environment"])
    assert find_role("flag", session) == arns["flag"]
    assert find_role(None, session) == arns["environment"]
    monkeypatch.delenv("SAGEMAKER_ROLE")
    assumed = aws.client("sts").assume_role(RoleArn=arns["own"], RoleSessionName="launch")[
        "Credentials"
    ]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", assumed["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", assumed["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", assumed["SessionToken"])
    assert find_role(None, boto_session("us-east-1")) == arns["own"]


def test_a_user_without_a_role_is_told_how_to_make_one(aws: AwsServer) -> None:
    with pytest.raises(ValueError, match=r"no role for the job: make one with .*roles\.yaml"):
        find_role(None, boto_session("us-east-1"))


@pytest.mark.parametrize("policy", sorted(aws_settings.FULL_ACCESS))
def test_a_role_with_full_access_is_refused(policy: str, aws: AwsServer) -> None:
    make_role(aws, "mighty", policy=policy)
    with pytest.raises(ValueError, match=rf"--role mighty has {policy}: make one"):
        find_role("mighty", boto_session("us-east-1"))


def test_a_role_that_sagemaker_may_not_take_is_refused(aws: AwsServer) -> None:
    make_role(aws, "lambda", {"Statement": [{"Principal": {"Service": "lambda.amazonaws.com"}}]})
    with pytest.raises(ValueError, match="does not trust sagemaker"):
        find_role("lambda", boto_session("us-east-1"))


def test_a_role_that_is_not_there_is_named(aws: AwsServer) -> None:
    with pytest.raises(ValueError, match="--role nobody: there is no such role"):
        find_role("nobody", boto_session("us-east-1"))


@pytest.mark.parametrize("uri", ["bins", "https://b/bins", "s3://", "s3:///bins", "s3://b/a?x=1"])
def test_what_is_no_s3_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{uri} is not an S3 URI")):
        bucket_and_prefix(uri)


def test_a_whole_dataset_passes(aws: AwsServer) -> None:
    bucket = aws.bucket("photos")
    for prefix in ("bins/", ""):
        for name in ("README.md", TRAIN.format(0), TRAIN.format(1), TEST):
            bucket.put_object(Key=prefix + name, Body=b"")
    for uri in ("s3://photos/bins/", "s3://photos"):
        check_dataset(uri, SPLITS, boto_session("us-east-1"))
    # Both were looked at: neither passes without its card.
    for uri, key in (("s3://photos/bins/", "bins/README.md"), ("s3://photos", "README.md")):
        bucket.Object(key).delete()
        with pytest.raises(ValueError, match=r"holds no README\.md"):
            check_dataset(uri, SPLITS, boto_session("us-east-1"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no README.md: build it with data_prep/build_dataset.py"),
        (["README.md"], r"holds no data/train-\*.parquet"),
        ([TRAIN.format(0), TRAIN.format(1), TEST], "holds no README.md"),
        (["README.md", TRAIN.format(0), TRAIN.format(1)], r"holds no data/test-\*.parquet"),
        (["README.md", TRAIN.format(1), TEST], "holds 1 of 2 shards of train: run `aws s3 sync"),
        (["README.md", "data/train-x.parquet", TEST], r"holds no data/train-\*.parquet"),
    ],
)
def test_a_dataset_that_is_not_whole_is_refused(
    names: list[str], message: str, aws: AwsServer
) -> None:
    bucket = aws.bucket("photos")
    bucket.put_object(Key="bins_2/README.md", Body=b"")  # not of this folder
    for name in names:
        bucket.put_object(Key=f"bins/{name}", Body=b"")
    with pytest.raises(ValueError, match=message):
        check_dataset("s3://photos/bins", SPLITS, boto_session("us-east-1"))


def test_a_bucket_that_is_not_there_or_elsewhere_is_named(aws: AwsServer) -> None:
    with pytest.raises(ValueError, match="there is no such bucket"):
        check_dataset("s3://nowhere/bins", SPLITS, boto_session("us-east-1"))
    aws.client("s3", "eu-west-1").create_bucket(
        Bucket="abroad", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(ValueError, match="lies in eu-west-1, the job would run in us-east-1"):
        check_dataset("s3://abroad/bins", SPLITS, boto_session("us-east-1"))
