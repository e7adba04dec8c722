"""The photos that a query is about: one, those of a folder, of an S3 folder, or of a csv.

A csv may name the visit before of the same bin in each row, with what is known of that moment.
"""

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
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
PREVIOUS, UNCHANGED_RATE = "previous_photo", "unchanged_rate"
PREVIOUS_COUNT, PREVIOUS_QUANTITY = "previous_count", "previous_expected_quantity"
ITEMS = "items"
OF_PREVIOUS = (PREVIOUS, PREVIOUS_COUNT, PREVIOUS_QUANTITY, UNCHANGED_RATE)
MAX_BYTES = 4_500_000  # 6 MB in base64, which is what an endpoint takes
ABSENT = ("NoSuchKey", "404", "NoSuchBucket", "AccessDenied", "403")


@dataclass(frozen=True)
class Photo:
    """A path or an S3 URI, and what the inventory expects there, if that is known.

    Args:
        problem: why it cannot be asked about; empty if it can.
        previous_photo: where the photo of the visit before is; empty: there is none.
        previous_count: what somebody has counted then.
        previous_expected_quantity: what the inventory said then.
        unchanged_rate: how often nothing changes between two visits; None: what the model takes.
        items: JSON, those that the record names, as the handler takes them; empty: none.
    """

    location: str
    expected_quantity: int | None = None
    problem: str = ""
    previous_photo: str = ""
    previous_count: int | None = None
    previous_expected_quantity: int | None = None
    unchanged_rate: float | None = None
    items: str = ""


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

    `items` names what the record does, in JSON, as the audit's csv has it (docs/audit.md). For a
    visit before: `previous_photo`, `previous_count` or `previous_expected_quantity`, and
    `unchanged_rate`.

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
            if QUANTITY not in columns and not {PHOTO, ITEMS, *OF_PREVIOUS} >= set(columns):
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
    location, previous = (row.get(name, "") for name in (PHOTO, PREVIOUS))
    if not location.strip():
        return Photo("", problem="The row names no photo.")
    location = location_in(folder, location)
    try:
        quantity = number_in(row, QUANTITY)
        count, quantity_before = (number_in(row, name) for name in OF_PREVIOUS[1:3])
        rate = share_in(row, UNCHANGED_RATE)
        items = items_in(row)
        if not previous.strip():
            if any(value is not None for value in (count, quantity_before, rate)):
                raise ValueError(f"The row has something of a visit before, and no {PREVIOUS}.")
            return Photo(location, quantity, items=items)
        if count is not None and quantity_before is not None:
            raise ValueError(f"Give {PREVIOUS_COUNT} or {PREVIOUS_QUANTITY}, not both.")
    except ValueError as error:
        return Photo(location, problem=str(error))
    previous = location_in(folder, previous)
    return Photo(location, quantity, "", previous, count, quantity_before, rate, items)


def location_in(folder: Path, location: str) -> str:
    """Return where a photo is that a csv in a folder names."""
    return location if location.startswith("s3://") else str(folder / location)


def number_in(row: Mapping[str, str], name: str) -> int | None:
    """Return a row's number of items, None for none. Raises: ValueError: it is no such number."""
    text = row.get(name, "")
    number = whole_number(text)
    if text.strip() and number is None:
        raise ValueError(f"{name} {text[:40]!r} is not a whole number from 0 on.")
    return number


def items_in(row: Mapping[str, str]) -> str:
    """Return the items that a row names, empty for none. Raises: ValueError: they are not JSON."""
    text = row.get(ITEMS, "").strip()
    if not text:
        return ""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.loads(text, parse_constant=_refuse), list):
            return text
    raise ValueError(f'{ITEMS} {text[:40]!r} is not JSON such as [{{"quantity": 2}}].')


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def share_in(row: Mapping[str, str], name: str) -> float | None:
    """Return a row's share, None for none. Raises: ValueError: it is none."""
    text = row.get(name, "").strip()
    if not text:
        return None
    with contextlib.suppress(ValueError):
        share = float(text)
        if 0 <= share <= 1:  # NaN is not
            return share
    raise ValueError(f"{name} {text[:40]!r} is not a share from 0 to 1.")


def read_photos(photo: Photo, s3: Any) -> tuple[bytes, bytes | None]:
    """Return the bytes of a photo, and of that of the visit before if there is one.

    Args:
        s3: boto3's client; used for S3 alone.

    Raises: PhotoFault: absent, or too large for one request. NoAnswer: S3 does not answer now.
    """
    content = read_photo(photo.location, s3)
    if not photo.previous_photo:
        return content, None
    try:
        previous = read_photo(photo.previous_photo, s3)
    except PhotoFault as fault:
        raise PhotoFault(f"{PREVIOUS}: {fault}") from fault
    if len(content) + len(previous) > MAX_BYTES:
        raise PhotoFault(f"The two photos have more than {MAX_BYTES / 1e6} MB together.")
    return content, previous


def read_photo(location: str, s3: Any) -> bytes:
    """Return the bytes of one photo. Args and errors: as in read_photos."""
    if location.startswith("s3://"):
        content = read_object(location, s3)
    else:
        try:
            with open(location, "rb") as file:
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
