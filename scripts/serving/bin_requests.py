"""A request's body -> the photos that it asks about, each with the quantity that is expected.

A photo's bytes are the body itself (image/jpeg, image/png, application/x-image), or the body is
JSON: {"image": base64 or a data: URI of it}, {"s3_key": "bin-images/523.jpg"} or
{"url": "https://..."}, with "expected_quantity" if it is known; several of these as
{"instances": [...]}.
"""

import base64
import binascii
import json
import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from serving.request_errors import RequestError
from serving.s3_photos import PhotoPrefix, read_photo
from serving.url_fetch import check_hosts, fetch_photo

JSON = "application/json"
# image/jpg and image/pjpeg are no registered types, but what many clients send.
PHOTO_TYPES = ("image/jpeg", "image/jpg", "image/pjpeg", "image/png", "application/x-image")
SPACES = re.compile(r"[ \t\r\n]+")  # encoders break lines
MAX_INSTANCES = 32
MAX_QUANTITY = 1_000_000  # items; far above any bin
SOURCES = ("image", "s3_key", "url")
NUM_FETCHERS = 8
# What the deployer sets, as environment variables of the endpoint.
S3_VARIABLE, HOSTS_VARIABLE = "BIN_PHOTOS_S3_PREFIX", "BIN_PHOTOS_URL_HOSTS"


@dataclass(frozen=True)
class PhotoSources:
    """Where else than in the request photos may be: nowhere, unless the deployer says so."""

    s3: PhotoPrefix | None = None
    url_hosts: Collection[str] = ()

    @classmethod
    def from_environment(cls) -> "PhotoSources":
        """Return what the endpoint's environment allows. Raises: ValueError: it is not clear."""
        s3_uri = os.environ.get(S3_VARIABLE, "").strip()
        hosts = os.environ.get(HOSTS_VARIABLE, "").replace(",", " ").split()
        try:
            return cls(PhotoPrefix.from_uri(s3_uri) if s3_uri else None, check_hosts(hosts))
        except ValueError as error:
            raise ValueError(f"{S3_VARIABLE}, {HOSTS_VARIABLE}: {error}") from error


@dataclass(frozen=True)
class Question:
    """One photo in the request: where it is, and the quantity that the inventory expects."""

    source: str  # one of SOURCES, or "body"
    value: str | bytes
    expected_quantity: int | None = None


def read_request(body: Any, content_type: str | None) -> tuple[list[Question], bool]:
    """Return the questions of a request, and whether they came as {"instances": [...]}.

    Raises: RequestError: another type (415), too many (413), or not as documented (400).
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type in PHOTO_TYPES and isinstance(body, bytes | bytearray):
        return [Question("body", bytes(body))], False
    if media_type != JSON or not isinstance(body, bytes | bytearray | str):
        types = ", ".join((*PHOTO_TYPES, JSON))
        raise RequestError(415, f"The content type has to be one of {types}.")
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "The body is not JSON.") from error
    if not isinstance(content, dict):
        raise RequestError(400, "The JSON has to be an object.")
    if "instances" not in content:
        return [_question(content)], False
    instances = content["instances"]
    if len(content) != 1 or not isinstance(instances, list) or not instances:
        raise RequestError(400, '"instances" has to be a list of objects, and stand alone.')
    if len(instances) > MAX_INSTANCES:
        raise RequestError(413, f'"instances" holds more than {MAX_INSTANCES} photos.')
    return [_question(instance) for instance in instances], True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _question(instance: Any) -> Question:
    given = [name for name in SOURCES if isinstance(instance, dict) and name in instance]
    if len(given) != 1 or not set(instance) <= {*given, "expected_quantity"}:
        names = ", ".join(f'"{name}"' for name in SOURCES)
        raise RequestError(400, f'A photo is one of {names}, and "expected_quantity" at most.')
    value = instance[given[0]]
    if not isinstance(value, str):
        raise RequestError(400, f'"{given[0]}" has to be a string.')
    quantity = instance.get("expected_quantity")
    # Not isinstance: True is an int, too.
    if quantity is not None and (type(quantity) is not int or not 0 <= quantity <= MAX_QUANTITY):
        raise RequestError(400, '"expected_quantity" has to be a whole number of items from 0.')
    return Question(given[0], value, quantity)


def photo_bytes(questions: list[Question], allowed: PhotoSources) -> Iterator[bytes]:
    """Yield the bytes of each photo, in order; those that lie elsewhere are fetched side by side.

    Raises: RequestError: one is refused, or cannot be had.
    """

    def one(question: Question) -> bytes:
        match question.source:
            case "url":
                return fetch_photo(str(question.value), allowed.url_hosts)
            case "s3_key":
                return read_photo(allowed.s3, str(question.value))
            case "image":
                return _decode_base64(str(question.value))
        assert isinstance(question.value, bytes)
        return question.value

    if not any(question.source in ("url", "s3_key") for question in questions):
        yield from map(one, questions)
        return
    with ThreadPoolExecutor(NUM_FETCHERS) as pool:
        yield from pool.map(one, questions)


def _decode_base64(text: str) -> bytes:
    if text[:5].lower() == "data:":  # data:image/jpeg;base64,... (RFC 2397)
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RequestError(400, 'The data: URI in "image" is not base64.')
    try:
        return base64.b64decode(SPACES.sub("", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, '"image" is not base64.') from error
