"""Ask an endpoint on AWS, or the handler served on this machine, and ask again where that helps."""

import base64
import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

JSON, PHOTO = "application/json", "application/x-image"
TOO_LARGE = 413
# What the handler answers where the photo or the question is wrong.
PHOTO_FAULTS = (400, TOO_LARGE, 415)
BUSY = (429, 500, 502, 503, 504)
# Throttled, still starting, or a fault on AWS's side. Source: AWS's reference of InvokeEndpoint.
BUSY_CODES = (
    *("ThrottlingException", "ServiceUnavailable", "InternalFailure"),
    *("InternalDependencyException", "ModelNotReadyException"),
)
# No connection, a silent one, or one that broke off.
CONNECTION_FAULTS = (HTTPClientError, IncompleteReadError)
# AWS has this code for a body that is too large (6 MB; 4 MB where it is serverless), and for an
# endpoint that is not there: which of them, PROBE tells. The handler refuses it, and every handler
# that is there does so at once.
VALIDATION, PROBE = "ValidationError", b"no photo"
ATTEMPTS = 8
# Seconds before the second attempt at most; doubled with each. All waits together: 26 s at most.
FIRST_DELAY, MAX_DELAY = 0.25, 10.0
TIMEOUT = 70  # seconds; SageMaker gives a container 60

Answer = dict[str, Any]
T = TypeVar("T")


class PhotoFault(Exception):
    """A photo that cannot be counted: no use in asking again. The text says why."""


class NoAnswer(Exception):
    """The endpoint does not answer now. The text says how it failed."""


class Endpoint(Protocol):
    """What answers; `name` is what a user knows it by."""

    name: str

    def ask(self, body: bytes, content_type: str) -> Answer:
        """Send one request.

        Raises: PhotoFault, NoAnswer: as above. ValueError, ClientError: no request can be answered.
        """


class SageMakerEndpoint:
    """An endpoint on AWS."""

    def __init__(self, session: boto3.Session, name: str, max_connections: int = 1) -> None:
        # with_retries does it for both kinds of endpoint in one way.
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=TIMEOUT,
            max_pool_connections=max_connections,
        )
        self._client = session.client("sagemaker-runtime", config=config)
        self.name = name

    def ask(self, body: bytes, content_type: str) -> Answer:
        """As Endpoint has it."""
        try:
            return self._ask(body, content_type)
        except ClientError as error:
            if _code(error) != VALIDATION:
                raise
            with contextlib.suppress(PhotoFault):
                self._ask(PROBE, PHOTO)
            reason = (error.response["Error"].get("Message") or VALIDATION)[:200]
            raise PhotoFault(f"AWS refused the photo: {reason}") from error

    def _ask(self, body: bytes, content_type: str) -> Answer:
        try:
            response = self._client.invoke_endpoint(
                EndpointName=self.name, ContentType=content_type, Accept=JSON, Body=body
            )
            return answer_of(200, response["Body"].read())
        except CONNECTION_FAULTS as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except ClientError as error:
            code = _code(error)
            if code == "ModelError":
                status = int(error.response.get("OriginalStatusCode", 500))
                return answer_of(status, error.response.get("OriginalMessage", "").encode())
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code in BUSY_CODES or status in BUSY:
                raise NoAnswer(code) from error
            if status == TOO_LARGE:
                raise PhotoFault("AWS refused the photo: it is too large.") from error
            raise


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


class LocalEndpoint:
    """The handler as scripts/inference.py serves it: /invocations below a URL."""

    def __init__(self, url: str) -> None:
        """Raises: ValueError: it is no http URL."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # no port, or no address
            parts, port = urlsplit(""), None
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"--local {url}: write http://127.0.0.1:PORT.")
        self._host, self._port, self.name = parts.hostname, port, url
        self._path = parts.path.rstrip("/") + "/invocations"
        self._of_thread = threading.local()  # a connection, which is kept open

    def ask(self, body: bytes, content_type: str) -> Answer:
        """As Endpoint has it."""
        if not hasattr(self._of_thread, "connection"):
            self._of_thread.connection = http.client.HTTPConnection(
                self._host, self._port, timeout=TIMEOUT
            )
        connection = self._of_thread.connection
        headers = {"Content-Type": content_type, "Accept": JSON}
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # opened again by the next request
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        if response.status not in (200, *PHOTO_FAULTS, *BUSY):
            raise ValueError(f"--local {self.name} answers {response.status}: no handler is there.")
        return answer_of(response.status, content)


def answer_of(status: int, content: bytes) -> Answer:
    """Return the handler's answer.

    Raises: PhotoFault: a fault of the caller's. NoAnswer: any other fault. ValueError: this is not
        the handler of scripts/inference.py.
    """
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if status == 200:
        if isinstance(answer, dict) and {"count", "probabilities", "version"} <= answer.keys():
            return answer
        raise ValueError("what answers is not the handler of scripts/inference.py.")
    answer = answer if isinstance(answer, dict) else {}
    # "message": of the model server itself, such as of a body that it does not take.
    reason = answer.get("error") or answer.get("message") or f"status {status}, without a reason"
    if 400 <= status < 500 and status not in BUSY:
        raise PhotoFault(str(reason))
    raise NoAnswer(f"status {status}: {reason}")


def question(photo: bytes, **fields: Any) -> tuple[bytes, str]:
    """Return a request's body and content type.

    Args:
        fields: what is said beside the photo; None: nothing.
    """
    content = with_photo(photo, **fields)
    return (json.dumps(content).encode(), JSON) if len(content) > 1 else (photo, PHOTO)


def with_photo(photo: bytes, **fields: Any) -> dict[str, Any]:
    """Return a photo, and the fields beside it that are not None, as a request has them."""
    known = {name: value for name, value in fields.items() if value is not None}
    return {"image": base64.b64encode(photo).decode(), **known}


def with_retries(ask: Callable[[], T], wait: Callable[[float], bool | None] = time.sleep) -> T:
    """Ask until there is an answer, ATTEMPTS times at most.

    It waits a random time, at most twice as long after each failure: many clients that were turned
    away together do not come back together. Source: "Exponential Backoff and Jitter", AWS, 2015.

    Args:
        wait: waits for some seconds; returns True to give up.

    Raises: NoAnswer: the last one.
    """
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except NoAnswer:
            delay = random.uniform(0, min(MAX_DELAY, FIRST_DELAY * 2**attempt))  # noqa: S311
            if attempt == ATTEMPTS - 1 or wait(delay):
                raise
    raise AssertionError("the last attempt returns or raises")
