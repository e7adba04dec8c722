from collections.abc import Iterator

import boto3
import pytest

from serving import s3_photos
from serving.request_errors import RequestError
from serving.s3_photos import PhotoPrefix, read_photo
from stand_ins.aws_server import AwsServer

PLACE = PhotoPrefix.from_uri("s3://bins/bin-images/")


@pytest.fixture
def bins(aws: AwsServer) -> Iterator[None]:
    """Give the bucket a photo, a private object, and one that is too large."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="bins")
    for key, body in {
        "bin-images/523.jpg": b"photo",
        "bin-images/large.jpg": b"x" * (s3_photos.MAX_BYTES + 1),
        "private/secret.txt": b"secret",
        "bin-images-private/secret.txt": b"secret",
    }.items():
        client.put_object(Bucket="bins", Key=key, Body=body)
    s3_photos._client.cache_clear()
    yield
    s3_photos._client.cache_clear()


def status_of(key: str, place: PhotoPrefix | None = PLACE) -> int:
    with pytest.raises(RequestError) as raised:
        read_photo(place, key)
    return raised.value.status


def test_a_photo_below_the_prefix_is_read(bins: None) -> None:
    assert read_photo(PLACE, "bin-images/523.jpg") == b"photo"


def test_what_is_not_there_is_404(bins: None) -> None:
    assert status_of("bin-images/524.jpg") == 404


def test_five_megabytes_are_the_most(bins: None) -> None:
    assert status_of("bin-images/large.jpg") == 413


@pytest.mark.parametrize(
    "key",
    [
        *("", "bin-images", "bin-images/", "private/secret.txt", "bin-images-private/secret.txt"),
        *("/bin-images/523.jpg", "bin-images/../private/secret.txt", "bin-images//523.jpg"),
        *("bin-images/./523.jpg", "bin-images/..\\private", "Bin-images/523.jpg"),
        *("s3://bins/bin-images/523.jpg", "bin-images/a\x00.jpg", "bin-images/a\n.jpg"),
        *("bin-images/" + "a" * 1024, "bin-images/\ud800"),
    ],
)
def test_a_key_elsewhere_is_refused_before_s3_is_asked(key: str, bins: None) -> None:
    assert status_of(key) == 403


def test_an_endpoint_without_a_prefix_reads_nothing() -> None:
    assert status_of("bin-images/523.jpg", place=None) == 403


def test_s3_that_does_not_answer_is_ours_and_says_nothing_of_itself(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    s3_photos._client.cache_clear()
    with pytest.raises(RequestError, match=r"^The photo cannot be read from S3 now\.$") as raised:
        read_photo(PLACE, "bin-images/523.jpg")
    assert raised.value.status == 503
    s3_photos._client.cache_clear()
