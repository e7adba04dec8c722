"""Read photos below one S3 prefix, which the deployer fixed."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from serving.request_errors import RequestError

MAX_BYTES = 5_000_000
MAX_KEY = 1024  # bytes, S3's own limit
_ABSENT = ("NoSuchKey", "404", "AccessDenied", "403")


@dataclass(frozen=True)
class PhotoPrefix:
    """The one place that photos are read from: s3://BUCKET/PREFIX."""

    bucket: str
    prefix: str

    @classmethod
    def from_uri(cls, uri: str) -> "PhotoPrefix":
        """Return s3://BUCKET/PREFIX/ as a place. Raises: ValueError: it is none."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        # Without the slash, bin-images would let bin-images-private pass.
        if not uri.startswith("s3://") or not bucket or not prefix.endswith("/"):
            raise ValueError(f"{uri!r} is no prefix such as s3://aft-vbi-pds/bin-images/.")
        return cls(bucket, prefix)

    def check_key(self, key: str) -> None:
        """Check a key. Raises: RequestError: it is not below the prefix."""
        parts = key.removeprefix(self.prefix).split("/")
        if (
            not key.startswith(self.prefix)
            or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY
            # S3 takes these literally, but not everything on the way there does.
            or any(part in ("", ".", "..") for part in parts)
            or not key.isprintable()
            or "\\" in key
        ):
            raise RequestError(403, "The s3_key is not below the prefix that this endpoint reads.")


def read_photo(place: PhotoPrefix | None, key: str) -> bytes:
    """Return an object's bytes, at most MAX_BYTES.

    Raises: RequestError: refused (403), not there (404), too large (413), S3 does not answer (503).
    """
    if place is None:
        raise RequestError(403, "This endpoint reads no photos from S3.")
    place.check_key(key)
    # The container holds it; only endpoints that read from S3 need it.
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        found = _client().get_object(Bucket=place.bucket, Key=key)
        with found["Body"] as body:
            content = body.read(MAX_BYTES + 1)
    except ClientError as error:
        if error.response["Error"]["Code"] in _ABSENT:
            # S3 says AccessDenied of a missing key to a role that may not list.
            raise RequestError(404, "There is no such photo, or it may not be read.") from error
        raise RequestError(503, "The photo cannot be read from S3 now.") from error
    except BotoCoreError as error:
        raise RequestError(503, "The photo cannot be read from S3 now.") from error
    if len(content) > MAX_BYTES:
        raise RequestError(413, f"The photo has more than {MAX_BYTES // 1_000_000} MB.")
    return content


@cache
def _client() -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    session = boto3.Session()
    config = Config(connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 2})
    if session.get_credentials() is None:
        config = config.merge(Config(signature_version=UNSIGNED))  # a public bucket
    return session.client("s3", config=config)
