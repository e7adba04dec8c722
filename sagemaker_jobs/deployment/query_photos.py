"""The photos that a query is about: one, those of a folder, of an S3 folder, or of a csv."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

from aws.settings import bucket_and_prefix
from deployment.endpoint_client import CONNECTION_FAULTS, NoAnswer, PhotoFault

SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_BYTES = 4_500_000  # 6 MB in base64, which is what an endpoint takes
ABSENT = ("NoSuchKey", "404", "NoSuchBucket", "AccessDenied", "403")


@dataclass(frozen=True)
class Photo:
    """A path or an S3 URI, and what the inventory expects there, if that is known."""

    location: str
    expected_quantity: int | None = None


def find_photos(source: str, session: boto3.Session) -> list[Photo]:
    """Return the photos that a query names, in the csv's order or by name.

    Raises: ValueError: there are none. OSError: a folder or a csv that cannot be read.
    """
    path = Path(source)
    if source.startswith("s3://"):
        photos = [Photo(uri) for uri in photos_in_s3(source, session)]
    elif path.is_dir():
        files = sorted(path.rglob("*"))
        photos = [Photo(str(f)) for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]
    elif path.suffix.lower() == ".csv":
        photos = read_csv(path)
    else:
        if not path.is_file():
            raise ValueError(f"there is no {source}: name a photo, a folder, s3://... or a csv.")
        photos = [Photo(source)]
    if not photos:
        raise ValueError(f"{source} holds no photo ({', '.join(SUFFIXES)}).")
    return photos


def photos_in_s3(uri: str, session: boto3.Session) -> list[str]:
    """Return the URIs of a photo, or of all photos below an S3 folder."""
    if uri.lower().endswith(SUFFIXES):
        return [uri]
    bucket, prefix = bucket_and_prefix(uri)
    pages = session.client("s3").get_paginator("list_objects_v2")
    # With the slash: bins would find bins_2 too.
    listed = pages.paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")
    keys = [entry["Key"] for page in listed for entry in page.get("Contents", [])]
    return [f"s3://{bucket}/{key}" for key in keys if key.lower().endswith(SUFFIXES)]


def read_csv(path: Path) -> list[Photo]:
    """Return a csv's photos: `photo` (from the csv's folder, or s3://), `expected_quantity`.

    Raises: ValueError: a column is missing, or a quantity is no whole number.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        if "photo" not in (rows.fieldnames or []):
            raise ValueError(f"{path} has no column `photo`.")
        try:
            return [csv_photo(row, path.parent) for row in rows]
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error


def csv_photo(row: dict[str, Any], folder: Path) -> Photo:
    """Return the photo of a csv's row. Raises: ValueError: it names none, or no quantity."""
    location, quantity = (row.get(name) or "" for name in ("photo", "expected_quantity"))
    if not location:
        raise ValueError("no photo")
    if quantity and not (quantity.isascii() and quantity.isdigit()):
        raise ValueError(f"expected_quantity {quantity!r} is no whole number of items")
    is_remote = location.startswith("s3://")
    return Photo(
        location if is_remote else str(folder / location), int(quantity) if quantity else None
    )


def read_photo(photo: Photo, s3: Any) -> bytes:
    """Return a photo's bytes.

    Args:
        s3: boto3's client; used for S3 alone.

    Raises: PhotoFault: absent or too large. NoAnswer: S3 does not answer now.
    """
    if photo.location.startswith("s3://"):
        content = read_object(photo.location, s3)
    else:
        try:
            with open(photo.location, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PhotoFault(f"The file cannot be read: {reason}.") from error
    if len(content) > MAX_BYTES:
        raise PhotoFault(f"The photo has more than {MAX_BYTES / 1e6} MB.")
    return content


def read_object(uri: str, s3: Any) -> bytes:
    """Return the first bytes of an S3 object, one more than a photo may have at most."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        with s3.get_object(Bucket=bucket, Key=key)["Body"] as body:
            return body.read(MAX_BYTES + 1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ABSENT:
            raise PhotoFault(
                f"There is no such object, or you may not read it ({code})."
            ) from error
        raise NoAnswer(f"S3: {code}") from error
    except CONNECTION_FAULTS as error:
        raise NoAnswer(f"S3: {type(error).__name__}") from error
