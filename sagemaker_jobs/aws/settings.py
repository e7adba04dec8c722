"""Where a job runs and as whom: region, role, bucket."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

import boto3
from botocore.exceptions import ClientError

ROLES_TEMPLATE = "sagemaker_jobs/iam/roles.yaml"
ROLE_VARIABLE = "SAGEMAKER_ROLE"
SHARD = re.compile(r"data/(?P<split>[a-z]+)-\d+-of-(?P<number>\d+)\.parquet")
# AWS's own policies that allow more than any job needs.
FULL_ACCESS = {
    *("AdministratorAccess", "PowerUserAccess", "IAMFullAccess"),
    *("AmazonSageMakerFullAccess", "AmazonS3FullAccess"),
}


def find_region(flag: str | None) -> str:
    """Return the region: the flag's, else the environment's, else the profile's.

    Raises: ValueError: there is none.
    """
    region = known_region(flag)
    if not region:
        raise ValueError("no AWS region: give --region, or set AWS_REGION.")
    return region


def known_region(flag: str | None) -> str | None:
    """Return the region where one is named, in whatever way."""
    return flag or os.environ.get("AWS_REGION") or boto3.Session().region_name


def known_role(flag: str | None, variable: str = ROLE_VARIABLE) -> str | None:
    """Return the role where one is named."""
    return flag or os.environ.get(variable)


def boto_session(region: str) -> boto3.Session:
    """Return a session with the user's own credentials."""
    return boto3.Session(region_name=region)


def find_role(flag: str | None, session: boto3.Session, variable: str = ROLE_VARIABLE) -> str:
    """Return the ARN of the role that a job runs as.

    The flag's (a name or an ARN), else the environment variable's, else the caller's own role.

    Raises:
        ValueError: there is none, SageMaker may not take it, or it has full access.
        botocore.exceptions.ClientError: AWS knows no such role.
    """
    make_a_role = (
        "make one with `aws cloudformation deploy --stack-name bin-counting --template-file "
        f"{ROLES_TEMPLATE} --capabilities CAPABILITY_IAM --parameter-overrides Bucket=BUCKET`, "
        f"then give --role, or set {variable}"
    )
    named = known_role(flag, variable)
    if not named:
        named = _own_role(session.client("sts").get_caller_identity()["Arn"])
    if not named:
        raise ValueError(f"no role for the job: {make_a_role}.")
    name = named.rpartition("/")[2]
    iam = session.client("iam")
    try:
        role = iam.get_role(RoleName=name)["Role"]
        attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchEntity":
            raise ValueError(f"--role {named}: there is no such role; {make_a_role}.") from error
        if code in ("AccessDenied", "AccessDeniedException") and named.startswith("arn:"):
            print(f"Note: you may not look at {name}, so it was not checked.", file=sys.stderr)
            return named
        raise
    if too_much := sorted(FULL_ACCESS & {policy["PolicyName"] for policy in attached}):
        raise ValueError(f"--role {name} has {', '.join(too_much)}: {make_a_role}.")
    trusted = role["AssumeRolePolicyDocument"]
    trusted = unquote(trusted) if isinstance(trusted, str) else json.dumps(trusted)
    if "sagemaker.amazonaws.com" not in trusted:
        raise ValueError(f"--role {name} does not trust sagemaker.amazonaws.com: {make_a_role}.")
    return role["Arn"]


def _own_role(caller_arn: str) -> str | None:
    """Return the name of the role behind arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION."""
    kind, _, names = caller_arn.split(":", 5)[5].partition("/")
    return names.split("/")[0] if kind == "assumed-role" else None


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """Split s3://BUCKET/PREFIX, the prefix without slashes at its ends.

    Raises: ValueError: it is no such URI.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{uri} is not an S3 URI: write s3://BUCKET/FOLDER.")
    return parts.netloc, parts.path.strip("/")


def check_bucket(flag: str, uri: str, session: boto3.Session) -> None:
    """Check that a bucket is there, in the session's region.

    Args:
        flag: what the user named it with.

    Raises: ValueError: it is not.
    """
    try:
        answer = session.client("s3").get_bucket_location(Bucket=bucket_and_prefix(uri)[0])
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucket":
            raise
        raise ValueError(f"{flag} {uri}: there is no such bucket.") from error
    # None for us-east-1, which was there before regions were.
    region = answer["LocationConstraint"] or "us-east-1"
    if region != session.region_name:
        raise ValueError(
            f"{flag} {uri} lies in {region}, the job would run in {session.region_name}: a job "
            f"uses its own region's buckets; give --region {region}."
        )


def names_in(folder: str, session: boto3.Session) -> set[str]:
    """Return the names of the files and folders in an S3 folder, not of those in its folders."""
    bucket, prefix = bucket_and_prefix(folder)
    start = f"{prefix}/" if prefix else ""
    pages = session.client("s3").get_paginator("list_objects_v2")
    names = set()
    for page in pages.paginate(Bucket=bucket, Prefix=start, Delimiter="/"):
        names |= {entry["Key"] for entry in page.get("Contents", [])}
        names |= {entry["Prefix"] for entry in page.get("CommonPrefixes", [])}
    return {name.removeprefix(start).rstrip("/") for name in names} - {""}


def check_dataset(uri: str, needed_splits: Iterable[str], session: boto3.Session) -> int:
    """Check that a dataset of data_prep/build_dataset.py lies in S3, whole; return its bytes.

    Raises: ValueError: no such bucket, another region, an unfinished or partly uploaded dataset.
    """
    check_bucket("--dataset", uri, session)
    bucket, prefix = bucket_and_prefix(uri)
    s3 = session.client("s3")
    folder = f"{prefix}/" if prefix else ""
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    sizes = {
        entry["Key"].removeprefix(folder): entry["Size"]
        for page in listed
        for entry in page.get("Contents", [])
    }
    names = sizes.keys()
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    found = Counter(match["split"] for match in shards)
    absent = [f"data/{split}-*.parquet" for split in needed_splits if split not in found]
    if "README.md" not in names or absent:
        missing = "README.md" if "README.md" not in names else absent[0]
        raise ValueError(
            f"--dataset {uri} holds no {missing}: build it with data_prep/build_dataset.py, then "
            f"`aws s3 sync FOLDER {uri}`."
        )
    for match in shards:
        if found[match["split"]] != int(match["number"]):
            raise ValueError(
                f"--dataset {uri} holds {found[match['split']]} of {int(match['number'])} shards "
                f"of {match['split']}: run `aws s3 sync FOLDER {uri}` again."
            )
    return sum(sizes.values())
