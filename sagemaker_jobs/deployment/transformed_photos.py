"""What a batch transform reads, and which of it has an answer.

AWS fails a whole job for one object that it cannot send to the container, and does not say which.
"""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import boto3

from aws.settings import bucket_and_prefix
from deployment.query_photos import SUFFIXES
from deployment.requests import BATCH_PAYLOAD_MB, BatchTransform

MAX_NAMED = 10
MAX_BYTES = BATCH_PAYLOAD_MB * 1_000_000


@dataclass(frozen=True)
class StoredObject:
    """An object in S3: its size in bytes, and when it was written."""

    size: int
    written: datetime.datetime


def objects_below(session: boto3.Session, folder: str) -> dict[str, StoredObject]:
    """Return all that lies in an S3 folder and the folders in it, by its path from there."""
    bucket, prefix = bucket_and_prefix(folder)
    start = f"{prefix}/" if prefix else ""
    pages = session.client("s3").get_paginator("list_objects_v2")
    return {
        entry["Key"].removeprefix(start): StoredObject(entry["Size"], entry["LastModified"])
        for page in pages.paginate(Bucket=bucket, Prefix=start)
        for entry in page.get("Contents", [])
        if not entry["Key"].endswith("/")  # stands for a folder
    }


def check_photos(folder: str, found: Mapping[str, StoredObject]) -> str | None:
    """Check what a batch transform will read.

    Returns: a line on the objects that will be answered with an error; None where there are none.
    Raises: ValueError: no photo is there, or one is larger than AWS sends.
    """
    # The handler looks at the bytes; names are for who has left something else in the folder.
    others = [
        name
        for name, entry in found.items()
        if not entry.size or not name.lower().endswith(SUFFIXES)
    ]
    if len(others) == len(found):
        raise ValueError(f"--batch_transform {folder}: no photo lies there (JPEG or PNG).")
    large = [name for name, entry in found.items() if entry.size > MAX_BYTES]
    if large:
        raise ValueError(
            f"--batch_transform {folder}: AWS would fail the whole job for what is larger than "
            f"{BATCH_PAYLOAD_MB} MB, {named(large)}: make them smaller, or move them away."
        )
    if not others:
        return None
    return f"no photos, by their names or because they are empty: {named(others)}"


def without_answer(
    session: boto3.Session, batch: BatchTransform, begun: datetime.datetime
) -> list[str]:
    """Return what a batch transform has read or should have, and not answered.

    Args:
        begun: when the job was made; older answers are another job's.
    """
    answers = objects_below(session, batch.answers)
    # S3 tells whole seconds.
    begun = begun.replace(microsecond=0)
    answered = {name for name, entry in answers.items() if entry.written >= begun}
    photos = objects_below(session, batch.photos)
    return [name for name in photos if f"{name}.out" not in answered]


def named(names: Iterable[str]) -> str:
    """Return how many names there are, and the first of them."""
    names = list(names)
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{len(names):,} ({', '.join(names[:MAX_NAMED])}{more})"
