"""The Lambda function in front of an endpoint: one photo in, its count out.

An event is {"s3_key": KEY} or {"image": BASE64}, with "expected_quantity" if the inventory's is
known. With "previous" it brings the visit before of the same bin, a photo as above with "count" or
"expected_quantity" of then, and may say "unchanged_rate". API Gateway brings the same as the body
of a proxy request. A direct call gets the endpoint's answer, or {"error": ..., "status": ...}; API
Gateway gets a proxy response with that status.

deploy.py puts this file into template.yaml: it stands alone, on what Lambda's runtime holds. No
part of an event is ever logged or repeated in an answer.
"""

import base64
import binascii
import contextlib
import functools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

ENDPOINT = os.environ["ENDPOINT_NAME"]
BUCKET = os.environ["PHOTO_BUCKET"]
PREFIX = os.environ["PHOTO_PREFIX"]  # ends with a slash
MAX_PHOTO_BYTES = int(os.environ["MAX_PHOTO_BYTES"])
MAX_KEY_BYTES = 1024  # S3's own limit
MAX_QUANTITY = 1_000_000  # items; the endpoint's own limit
SOURCES = ("s3_key", "image")
FIELDS = ("expected_quantity", "previous", "unchanged_rate")
PREVIOUS_FIELDS = ("count", "expected_quantity")
# S3 says AccessDenied of a missing key to a role that may not list.
ABSENT = ("NoSuchKey", "404", "AccessDenied", "403")
# Seconds. All of them together stay below the limits of who calls, so that it is this code that
# answers: API Gateway's 29, and for a direct call the 60 of boto3 and the AWS command line. One
# try: one more could only make a busy endpoint busier, and the caller is told to wait.
CONNECT, READ_S3, READ_GATEWAY, READ_DIRECT = 2, 3, 18, 49
RETRY_BUSY, RETRY_WAKING = 1, 30  # when to ask again
SPACES = re.compile(r"[ \t\r\n]+")  # encoders break lines

logger = logging.getLogger()
logger.setLevel(logging.INFO)


class Refused(Exception):
    """An event that cannot be answered.

    Args:
        status: the HTTP status; 4xx is the caller's fault.
        reason: one sentence for the caller; repeats nothing of the event.
        retry_after: when to ask again, seconds; None: there is no use in it.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


def handle(event: Any, context: Any) -> dict[str, Any]:
    """Answer one event; Lambda calls this."""
    retry_after = None
    read_timeout = READ_GATEWAY if is_proxy_request(event) else READ_DIRECT
    try:
        status, answer = 200, ask(checked(question_of(event)), read_timeout)
    except Refused as error:
        status, answer, retry_after = error.status, {"error": error.reason}, error.retry_after
    except Exception as error:
        # The kind alone: a message may hold a piece of the event.
        logger.error("request %s failed: %s", context.aws_request_id, type(error).__name__)
        status, answer = 500, {"error": "The function failed."}
    logger.info("request %s: %s", context.aws_request_id, status)
    if status != 200:
        answer |= {"status": status, "request_id": context.aws_request_id}
    if not is_proxy_request(event):
        return answer
    headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    body = json.dumps(answer)
    return {"statusCode": status, "headers": headers, "body": body, "isBase64Encoded": False}


def is_proxy_request(event: Any) -> bool:
    """Return whether API Gateway sent it: both formats of its proxy events have this field."""
    return isinstance(event, Mapping) and "requestContext" in event


def question_of(event: Any) -> Any:
    """Return the fields of an event, from wherever they are in it; nothing of them is checked yet.

    Raises: Refused: the body of a proxy request cannot be read.
    """
    if not is_proxy_request(event):
        return event
    body = event.get("body")
    if not isinstance(body, str):
        raise Refused(400, "The request has no body.")
    # Base64 of a photo in base64, and the few other bytes of the object.
    if len(body) > 16 * MAX_PHOTO_BYTES // 9 + 4096:
        raise Refused(413, too_large())
    try:
        return json.loads(base64.b64decode(body) if event.get("isBase64Encoded") else body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is not JSON.") from error


def checked(question: Any) -> dict[str, Any]:
    """Return a question that holds what is documented and nothing else; null fields are left out.

    Raises: Refused: it holds something else.
    """
    if not isinstance(question, dict):
        raise Refused(400, "The event has to be an object.")
    found = checked_photo(question, FIELDS, ("expected_quantity",))
    if "previous" in found:
        with named_in_refusals(is_previous=True):
            found["previous"] = checked_photo(found["previous"], PREVIOUS_FIELDS, PREVIOUS_FIELDS)
    rate = found.get("unchanged_rate", 0)
    if type(rate) not in (int, float) or not 0 <= rate <= 1:
        raise Refused(400, '"unchanged_rate" has to be a share from 0 to 1.')
    return found


def checked_photo(given: Any, fields: tuple[str, ...], numbers: tuple[str, ...]) -> dict[str, Any]:
    """Return an object that names one photo, without its null fields.

    Args:
        fields: what else it may have. numbers: which of these are numbers of items.

    Raises: Refused: it is none.
    """
    names = [name for name in SOURCES if isinstance(given, dict) and name in given]
    if len(names) != 1 or not set(given) <= {*names, *fields}:
        more = ", ".join(f'"{name}"' for name in fields)
        raise Refused(400, f'A photo is "s3_key" or "image", and {more} at most.')
    name = names[0]
    if not isinstance(given[name], str):
        raise Refused(400, f'"{name}" has to be a string.')
    for field in numbers:
        number = given.get(field)
        # Not isinstance: True is an int, too.
        if number is not None and (type(number) is not int or not 0 <= number <= MAX_QUANTITY):
            raise Refused(400, f'"{field}" has to be a whole number of items from 0.')
    found = {field: value for field, value in given.items() if value is not None}
    if name == "image":
        return found | {"image": plain_base64(given["image"])}
    check_key(given["s3_key"])
    return found


@contextlib.contextmanager
def named_in_refusals(is_previous: bool) -> Iterator[None]:
    """Say in a refusal that it is of the previous photo, where it is, as the endpoint does."""
    try:
        yield
    except Refused as error:
        if is_previous:
            error.reason = f'In "previous": {error.reason}'
        raise


def visits_of(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a question that name photos, its own first."""
    return [question, question["previous"]] if "previous" in question else [question]


def plain_base64(text: str) -> str:
    """Return a photo in base64 without line ends and the head of a data: URI.

    Raises: Refused: it is too large, or none.
    """
    if text[:5].lower() == "data:":  # data:image/jpeg;base64,...
        text = text.partition(",")[2]
    text = SPACES.sub("", text)
    check_size([len(text)])
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, '"image" is not base64.') from error
    return text


def check_key(key: str) -> None:
    """Check a key. Raises: Refused: it is not below the one prefix."""
    parts = key.removeprefix(PREFIX).split("/")
    if (
        not key.startswith(PREFIX)
        or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES
        or any(part in ("", ".", "..") for part in parts)
        or not key.isprintable()
        or "\\" in key
    ):
        raise Refused(403, 'The "s3_key" is not below the prefix that this function reads.')


def check_size(lengths: Sequence[int]) -> None:
    """Check the photos of a question, in base64.

    Raises: Refused: the endpoint would not take them together (413).
    """
    if sum(lengths) > (MAX_PHOTO_BYTES + 2 * len(lengths)) // 3 * 4:
        raise Refused(413, too_large(len(lengths)))


def too_large(num_photos: int = 1) -> str:
    limit = f"more than {MAX_PHOTO_BYTES / 1e6:.1f} MB"
    return f"The photo has {limit}." if num_photos == 1 else f"The photos have {limit} together."


def ask(question: dict[str, Any], read_timeout: int) -> dict[str, Any]:
    """Return the endpoint's answer.

    Args:
        read_timeout: how long the endpoint may take, seconds.

    Raises: Refused: the photo cannot be read, or the endpoint does not answer.
    """
    body = json.dumps(with_images(question)).encode()
    try:
        answer = client("sagemaker-runtime", read_timeout).invoke_endpoint(
            EndpointName=ENDPOINT,
            ContentType="application/json",
            Accept="application/json",
            Body=body,
        )
        return dict(json.loads(answer["Body"].read()))
    except ClientError as error:
        raise endpoint_refusal(error) from error
    except (TypeError, ValueError) as error:
        raise Refused(502, "The endpoint's answer cannot be read.") from error
    except ReadTimeoutError as error:
        raise Refused(
            503,
            "The endpoint has not answered yet: a serverless one that was idle is waking up. Ask "
            "again in half a minute.",
            RETRY_WAKING,
        ) from error
    # No connection, or one that breaks off.
    except BotoCoreError as error:
        raise Refused(504, "The endpoint cannot be reached.") from error


def with_images(question: dict[str, Any]) -> dict[str, Any]:
    """Return a question with its photos in the place of their keys.

    Raises: Refused: one cannot be read, or they are too large together.
    """
    visits = visits_of(question)
    if any("s3_key" in visit for visit in visits):
        client("s3", READ_S3)  # two threads at once would make two
    # Both at once: one after the other could take longer than who calls waits.
    with ThreadPoolExecutor(len(visits)) as pool:
        images = list(pool.map(image_of, visits, (False, True)))
    check_size([len(image) for image in images])
    filled = [
        {name: value for name, value in visit.items() if name != "s3_key"} | {"image": image}
        for visit, image in zip(visits, images, strict=True)
    ]
    return filled[0] | ({"previous": filled[1]} if len(filled) > 1 else {})


def image_of(visit: dict[str, Any], is_previous: bool) -> str:
    """Return the photo in base64, from S3 if it is there. Raises: Refused: it cannot be read."""
    if "image" in visit:
        return str(visit["image"])
    with named_in_refusals(is_previous):
        return base64.b64encode(read_photo(visit["s3_key"])).decode()


def endpoint_refusal(error: ClientError) -> Refused:
    """Return what the caller may know of an endpoint that refuses or fails."""
    code = error.response["Error"]["Code"]
    status = error.response.get("OriginalStatusCode")
    if code == "ModelError" and isinstance(status, int) and 400 <= status < 500:
        # The caller's fault, in the handler's own words, which repeat nothing of the request.
        try:
            return Refused(status, str(json.loads(error.response["OriginalMessage"])["error"]))
        except (KeyError, TypeError, ValueError):
            return Refused(status, "The endpoint refused the photo.")
    logger.error("the endpoint failed: %s %s", code, status)
    http_status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if http_status in (429, 503) or "Throttl" in code or status == 503:
        return Refused(503, "The endpoint is busy; try again later.", RETRY_BUSY)
    return Refused(502, "The endpoint failed to answer.")


def read_photo(key: str) -> bytes:
    """Return a photo's bytes from S3.

    Raises: Refused: not there (404), too large (413), S3 does not answer (503).
    """
    try:
        found = client("s3", READ_S3).get_object(Bucket=BUCKET, Key=key)
        if found["ContentLength"] > MAX_PHOTO_BYTES:
            raise Refused(413, too_large())
        with found["Body"] as body:
            return body.read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ABSENT:
            raise Refused(404, "There is no such photo, or it may not be read.") from error
        raise Refused(503, "The photo cannot be read from S3 now.", RETRY_BUSY) from error
    except BotoCoreError as error:
        raise Refused(503, "The photo cannot be read from S3 now.", RETRY_BUSY) from error


@functools.cache
def client(service: str, read_timeout: int) -> Any:
    """Return a client, which later events use, too."""
    config = Config(
        connect_timeout=CONNECT, read_timeout=read_timeout, retries={"total_max_attempts": 1}
    )
    return boto3.client(service, config=config)
