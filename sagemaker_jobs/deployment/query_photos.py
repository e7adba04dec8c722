"""The photos that a query is about: one, those of a folder, of an S3 folder, or of a csv."""

import os
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import boto3
from botocore.exceptions import ClientError

from aws.settings import bucket_and_prefix
from deployment.endpoint_client import CONNECTION_FAULTS, NoAnswer, PhotoFault
from deployment.photo_table import BadTableError, read_table, whole_number

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
PHOTO, QUANTITY = "photo", "expected_quantity"
MAX_BYTES = 4_500_000  # 6 MB in base64, which is what an endpoint takes
ABSENT = ("NoSuchKey", "404", "NoSuchBucket", "AccessDenied", "403")


@dataclass(frozen=True)
class Photo:
    """A path or an S3 URI, and what the inventory expects there, if that is known.

    Args:
        problem: why it cannot be asked about; empty if it can.
    """

    location: str
    expected_quantity: int | None = None
    problem: str = ""


def find_photos(source: str, session: boto3.Session) -> list[Photo]:
    """Return the photos that a query names, in the csv's order or by name.

    Says on standard error which files of a folder it passes over, and of which columns a csv has
    none.

    Raises: ValueError: there are none. OSError: a folder or a csv that cannot be read.
    """
    path = Path(source)
    if source.startswith("s3://"):
        photos = [Photo(uri) for uri in photos_in_s3(source, session)]
    elif path.is_dir():
        photos = [Photo(name) for name in photos_among(files_below(path))]
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
    # A key that ends with a slash stands for a folder.
    return photos_among([f"s3://{bucket}/{key}" for key in keys if not key.endswith("/")])


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, by name.

    Raises: OSError: a folder below it cannot be read.
    """

    def fail(error: OSError) -> NoReturn:
        raise error  # os.walk would go on without it

    walk = os.walk(folder, onerror=fail)
    return [str(f) for f in sorted(Path(where, name) for where, _, names in walk for name in names)]


def photos_among(names: Collection[str]) -> list[str]:
    """Return the files that are photos by their names, and say which others there are."""
    others = [name for name in names if not name.lower().endswith(SUFFIXES)]
    if others:
        counts = Counter(Path(name).suffix.lower() or "no suffix" for name in others).most_common(8)
        print(
            f"{len(others):,} files are no JPEG or PNG by their names and are passed over ("
            f"{', '.join(f'{suffix}: {count:,}' for suffix, count in counts)}), such as "
            f"{others[0]!r}.",
            file=sys.stderr,
        )
    return [name for name in names if name.lower().endswith(SUFFIXES)]


def read_csv(path: Path) -> list[Photo]:
    """Return a csv's photos: `photo` (from the csv's folder, or s3://), `expected_quantity`.

    Raises: ValueError: no csv with a column `photo`, or a line that is no row, named by its number.
    """
    # A path may have bytes that are no UTF-8: they come back as they are.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            columns, rows = read_table(file)
            if PHOTO not in columns:
                raise BadTableError(
                    "the first line has to name the column `photo`, and separate columns by commas "
                    f"in UTF-8; it names {', '.join(columns)[:80]!r}."
                )
            if QUANTITY not in columns and len(columns) > 1:
                print(
                    f"{path} has no column `{QUANTITY}`, only {', '.join(columns)[:80]!r}: photos "
                    "are counted without it.",
                    file=sys.stderr,
                )
            return [csv_photo(row, path.parent) for row in rows]
        except BadTableError as error:
            raise ValueError(f"{path}: {error}") from error


def csv_photo(row: dict[str, str], folder: Path) -> Photo:
    """Return the photo of a csv's row; what is wrong with it is its problem."""
    location, quantity = row[PHOTO], row.get(QUANTITY, "")
    if not location.strip():
        return Photo("", problem="The row names no photo.")
    if not location.startswith("s3://"):
        location = str(folder / location)
    if not quantity.strip():
        return Photo(location)
    number = whole_number(quantity)
    if number is None:
        problem = f"{QUANTITY} {quantity[:40]!r} is not a whole number from 0 on."
        return Photo(location, problem=problem)
    return Photo(location, number)


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
        raise NoAnswer(f"S3: {type(error).__name__}: {error}") from error
