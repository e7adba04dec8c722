import gzip
import os
import subprocess
import sys

from paths import ROOT
from stand_ins.aws_server import AwsServer


def test_what_a_process_sends_arrives_and_is_kept(aws: AwsServer) -> None:
    code = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
    started = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), cwd=ROOT, capture_output=True, text=True
    )
    assert started.stdout == "123456789012\n", started.stderr
    assert aws.operations() == ["GetCallerIdentity"]
    assert aws.requests("GetCallerIdentity")[0]["Version"] == "2011-06-15"


def test_a_planted_secret_is_found_wherever_it_travels(aws: AwsServer) -> None:
    bucket = aws.bucket("bins")
    bucket.put_object(Key="code.tar.gz", Body=gzip.compress(b"token = 'canary/secret'"))
    bucket.put_object(Key="canary/secret", Body=b"")
    bucket.put_object(Key="plain", Body=b"", Metadata={"note": "canary/secret"})
    aws.client("logs").create_log_group(logGroupName="canary/secret")
    bucket.put_object(Key="innocent", Body=b"")
    found = aws.requests_with("canary/secret")
    assert [request.path for request in found] == [
        *("/bins/code.tar.gz", "/bins/canary/secret", "/bins/plain", "/"),
    ]


def test_each_test_finds_an_empty_account(aws: AwsServer) -> None:
    assert aws.received == []
    assert aws.client("s3").list_buckets()["Buckets"] == []
