"""A request's body -> the photos that it asks about, each with the quantity that is expected.

A photo's bytes are the body itself (image/jpeg, image/png, application/x-image), or the body is
JSON: {"image": base64 or a data: URI of it}, {"s3_key": "bin-images/523.jpg"} or
{"url": "https://..."}, with "expected_quantity" if it is known; several of these as
{"instances": [...]}.

With "previous" a question brings the visit before of the same bin: a photo as above, with "count"
where somebody has counted then, "expected_quantity" where there is a record that may be wrong, or
neither; beside it "unchanged_rate", how often nothing changes between two visits.

With "expected_items" a question brings the items that the record names: [{"quantity": 1, "length":
9.1, "width": 6.0, "height": 2.3, "weight": 1.2}], inches and pounds, or with units as the bucket
has them; what else an item has is passed over.
"""

import base64
import binascii
import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from items.evidence import RecordedItems, recorded_items
from items.measured import measured
from serving.request_errors import RequestError
from serving.s3_photos import PhotoPrefix, read_photo
from serving.url_fetch import check_hosts, fetch_photo

JSON = "application/json"
# image/jpg and image/pjpeg are no registered types, but what many clients send.
PHOTO_TYPES = ("image/jpeg", "image/jpg", "image/pjpeg", "image/png", "application/x-image")
SPACES = re.compile(r"[ \t\r\n]+")  # encoders break lines
MAX_INSTANCES = 32  # photos of a request: a question with a previous photo has two
MAX_QUANTITY = 1_000_000  # items; far above any bin
MAX_ITEMS = 1000  # that a record names
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
class Photo:
    """Where a photo of the request is."""

    source: str  # one of SOURCES, or "body"
    value: str | bytes

    @property
    def is_previous(self) -> bool:
        """Whether it is of the visit before the one that is asked about."""
        return isinstance(self, Previous)


@dataclass(frozen=True)
class Previous(Photo):
    """The visit before: its photo, and what is known of that moment, one of these at most.

    Args:
        count: what somebody has counted.
        expected_quantity: what the inventory said, which may have been wrong.
    """

    count: int | None = None
    expected_quantity: int | None = None


@dataclass(frozen=True)
class Question(Photo):
    """One photo that is asked about.

    Args:
        expected_quantity: what the inventory says.
        expected_items: the items that it names, which come to this quantity; None: it names none.
        previous: the visit before of the same bin.
        unchanged_rate: how often nothing has changed since the visit before, 0 to 1; None: what the
            model takes.
    """

    expected_quantity: int | None = None
    previous: Previous | None = None
    unchanged_rate: float | None = None
    expected_items: RecordedItems | None = None


def photos_of(questions: Iterable[Question]) -> list[Photo]:
    """Return all photos of some questions, in order, each previous one after its question's."""
    return [
        photo
        for question in questions
        for photo in (question, question.previous)
        if photo is not None
    ]


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
    num_pairs = sum(isinstance(one, dict) and one.get("previous") is not None for one in instances)
    if len(instances) + num_pairs > MAX_INSTANCES:
        raise RequestError(413, f'"instances" holds more than {MAX_INSTANCES} photos.')
    return [_question(instance) for instance in instances], True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _question(instance: Any) -> Question:
    others = ("expected_quantity", "expected_items", "previous", "unchanged_rate")
    source, value = _photo(instance, *others)
    previous = instance.get("previous")
    items = _expected_items(instance)
    return Question(
        source,
        value,
        _number_of_items(instance, "expected_quantity") if items is None else items.count,
        None if previous is None else _previous(previous),
        _unchanged_rate(instance),
        items,
    )


def _unchanged_rate(instance: dict[str, Any]) -> float | None:
    rate = instance.get("unchanged_rate")
    if rate is None:
        return None
    if instance.get("previous") is None:
        raise RequestError(400, '"unchanged_rate" says something of two visits: give "previous".')
    if type(rate) not in (int, float) or not 0 <= rate <= 1:
        raise RequestError(400, '"unchanged_rate" has to be a share from 0 to 1.')
    return float(rate)


def _expected_items(instance: dict[str, Any]) -> RecordedItems | None:
    """Return the items that are expected, None where none are named."""
    items = instance.get("expected_items")
    if items is None:
        return None
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise RequestError(400, f'"expected_items" has to be a list of {MAX_ITEMS} items at most.')
    quantities, sizes = [], []
    for place, item in enumerate(items, 1):
        quantity = _number_of_items(item, "quantity") if isinstance(item, dict) else None
        if quantity is None:
            raise RequestError(400, f'Item {place} of "expected_items" has no "quantity".')
        quantities.append(quantity)
        size = measured(item)
        if size.faults:
            raise RequestError(400, f'Item {place} of "expected_items": {size.faults[0]}.')
        sizes.append(size)
    total, expected = sum(quantities), _number_of_items(instance, "expected_quantity")
    if expected not in (None, total):
        raise RequestError(
            400, f'"expected_items" come to {total}, and "expected_quantity" is {expected}.'
        )
    volumes, weights = [size.volume for size in sizes], [size.weight for size in sizes]
    return recorded_items(total, quantities, volumes, weights)


def _previous(instance: Any) -> Previous:
    with named_in_refusals(is_previous=True):
        source, value = _photo(instance, "count", "expected_quantity")
        count = _number_of_items(instance, "count")
        quantity = _number_of_items(instance, "expected_quantity")
        if count is not None and quantity is not None:
            raise RequestError(400, 'Give "count" or "expected_quantity", not both.')
        return Previous(source, value, count, quantity)


def _photo(instance: Any, *others: str) -> tuple[str, str]:
    """Return source and value of an object that names one photo, and those other fields at most."""
    given = [name for name in SOURCES if isinstance(instance, dict) and name in instance]
    if len(given) != 1 or not set(instance) <= {*given, *others}:
        names, more = (", ".join(f'"{name}"' for name in names) for names in (SOURCES, others))
        raise RequestError(400, f"A photo is one of {names}, and {more} at most.")
    value = instance[given[0]]
    if not isinstance(value, str):
        raise RequestError(400, f'"{given[0]}" has to be a string.')
    return given[0], value


def _number_of_items(instance: dict[str, Any], name: str) -> int | None:
    """Return a field that may be absent."""
    number = instance.get(name)
    # Not isinstance: True is an int, too.
    if number is not None and (type(number) is not int or not 0 <= number <= MAX_QUANTITY):
        raise RequestError(400, f'"{name}" has to be a whole number of items from 0.')
    return number


@contextlib.contextmanager
def named_in_refusals(is_previous: bool) -> Iterator[None]:
    """Say in a refusal that it is of the previous photo, where it is."""
    try:
        yield
    except RequestError as error:
        if not is_previous:
            raise
        raise RequestError(error.status, f'In "previous": {error.reason}') from error


def photo_bytes(photos: Sequence[Photo], allowed: PhotoSources) -> Iterator[bytes]:
    """Yield the bytes of each photo, in order; those that lie elsewhere are fetched side by side.

    Raises: RequestError: one is refused, or cannot be had.
    """

    def one(photo: Photo) -> bytes:
        with named_in_refusals(photo.is_previous):
            return _bytes_of(photo, allowed)

    if not any(photo.source in ("url", "s3_key") for photo in photos):
        yield from map(one, photos)
        return
    with ThreadPoolExecutor(NUM_FETCHERS) as pool:
        yield from pool.map(one, photos)


def _bytes_of(photo: Photo, allowed: PhotoSources) -> bytes:
    match photo.source:
        case "url":
            return fetch_photo(str(photo.value), allowed.url_hosts)
        case "s3_key":
            return read_photo(allowed.s3, str(photo.value))
        case "image":
            return _decode_base64(str(photo.value))
    assert isinstance(photo.value, bytes)
    return photo.value


def _decode_base64(text: str) -> bytes:
    if text[:5].lower() == "data:":  # data:image/jpeg;base64,... (RFC 2397)
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise RequestError(400, 'The data: URI in "image" is not base64.')
    try:
        return base64.b64decode(SPACES.sub("", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, '"image" is not base64.') from error
