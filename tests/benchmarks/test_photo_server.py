from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import botocore.exceptions
import obstore
import pytest
from obstore.store import S3Store

from photo_server import FAULT_SHARES, Bucket, PhotoServer, serving

PHOTO = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bucket of three bins, whose photos differ in their first byte."""
    folder = tmp_path_factory.mktemp("bucket")
    for name in ("bin-images", "metadata"):
        (folder / name).mkdir()
    for number in (1, 2, 3):
        (folder / f"bin-images/0000{number}.jpg").write_bytes(bytes([number]) + PHOTO)
        (folder / f"metadata/0000{number}.json").write_text(f'{{"EXPECTED_QUANTITY": {number}}}')
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[PhotoServer]:
    """Return a server of the three bins without faults."""
    with serving(folder) as server:
        yield server


def open_store(server: PhotoServer) -> S3Store:
    return S3Store(
        "any-name",
        region="us-east-1",
        skip_signature=True,
        endpoint=server.url,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def boto3_client(server: PhotoServer) -> Any:
    return boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=botocore.config.Config(
            proxies={}, read_timeout=3, retries={"total_max_attempts": 1}
        ),
    )


def test_obstore_reads_whole_objects_and_parts_of_them(server: PhotoServer) -> None:
    store = open_store(server)
    photo = bytes([2]) + PHOTO
    assert bytes(obstore.get(store, "bin-images/00002.jpg").bytes()) == photo
    assert bytes(obstore.get_range(store, "bin-images/00002.jpg", start=0, end=4)) == photo[:4]
    assert obstore.head(store, "bin-images/00002.jpg")["size"] == len(photo)
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "bin-images/00009.jpg")


def test_obstore_lists_by_prefix_delimiter_and_offset(server: PhotoServer) -> None:
    store = open_store(server)
    listed = [entry["path"] for page in store.list("metadata") for entry in page]
    assert listed == [f"metadata/0000{number}.json" for number in (1, 2, 3)]
    pages = store.list("metadata", offset="metadata/00002.json")
    assert [entry["path"] for page in pages for entry in page] == ["metadata/00003.json"]
    at_top = obstore.list_with_delimiter(store)
    assert list(at_top["common_prefixes"]) == ["bin-images", "metadata"]
    assert list(at_top["objects"]) == []


def test_boto3_downloads_lists_and_is_refused_as_by_s3(server: PhotoServer, tmp_path: Path) -> None:
    client = boto3_client(server)
    client.download_file("any-name", "bin-images/00001.jpg", str(tmp_path / "photo.jpg"))
    assert (tmp_path / "photo.jpg").read_bytes() == bytes([1]) + PHOTO
    tail = client.get_object(Bucket="any-name", Key="bin-images/00001.jpg", Range="bytes=-3")
    assert tail["Body"].read() == PHOTO[-3:]
    listed = client.list_objects_v2(Bucket="any-name", Delimiter="/")
    assert [entry["Prefix"] for entry in listed["CommonPrefixes"]] == ["bin-images/", "metadata/"]
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="any-name", Key="bin-images/../secret")
    for refused in (
        lambda: client.get_object(Bucket="any-name", Key="metadata/00001.json", Range="bytes=99-"),
        lambda: client.put_object(Bucket="any-name", Key="new", Body=b""),
    ):
        with pytest.raises(botocore.exceptions.ClientError, match=r"InvalidRange|MethodNotAllowed"):
            refused()


def test_a_few_photos_stand_for_a_large_bucket_that_is_listed_by_pages(folder: Path) -> None:
    with serving(folder, "--copies", "2345") as server:
        paginator = boto3_client(server).get_paginator("list_objects_v2")
        pages = [
            [entry["Key"] for entry in page["Contents"]]
            for page in paginator.paginate(Bucket="any-name", Prefix="bin-images/")
        ]
        store = open_store(server)
        content = bytes(obstore.get(store, "bin-images/02345.jpg").bytes())
        listed = [entry["path"] for page in store.list("bin-images") for entry in page]
    assert [len(page) for page in pages] == [1000, 1000, 345]
    assert [key for page in pages for key in page] == listed
    assert listed == [f"bin-images/{n:05d}.jpg" for n in range(1, 2346)]
    assert content == bytes([(2345 - 1) % 3 + 1]) + PHOTO


@pytest.mark.parametrize("max_keys", [1, 2, 1000])
def test_pages_with_common_prefixes_miss_nothing_and_repeat_nothing(
    folder: Path, max_keys: int
) -> None:
    bucket = Bucket(folder)
    keys: list[str] = []
    prefixes: list[str] = []
    start: int | None = 0
    while start is not None:
        some_keys, some_prefixes, start = bucket.page("", "/", start, max_keys)
        keys += some_keys
        prefixes += some_prefixes
    assert (keys, prefixes) == ([], ["bin-images/", "metadata/"])


def test_what_was_asked_for_is_counted(folder: Path) -> None:
    with serving(folder) as server:
        store = open_store(server)
        for _ in range(2):
            obstore.get(store, "bin-images/00001.jpg").bytes()
        list(store.list("metadata"))
        obstore.head(store, "metadata/00001.json")
        counts = server.counts()
    assert counts["asked"] == {
        "GET bin-images/00001.jpg": 2,
        "LIST metadata/": 1,
        "HEAD metadata/00001.json": 1,
    }
    assert counts["faults"] == {}
    assert counts["most_in_flight"] == 1


def test_an_object_that_always_fails_says_how(folder: Path) -> None:
    flags = [
        *("--always", "bin-images/00001.jpg=forbidden"),
        *("--always", "bin-images/00002.jpg=truncated"),
        *("--always", "bin-images/00003.jpg=reset"),
        *("--always", "metadata/00001.json=stalled"),
        *("--always", "metadata/00002.json=slow_down"),
    ]
    with serving(folder, *flags) as server:
        client = boto3_client(server)

        def fetch(key: str) -> bytes:
            return client.get_object(Bucket="any-name", Key=key)["Body"].read()

        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            fetch("bin-images/00001.jpg")
        with pytest.raises(botocore.exceptions.ResponseStreamingError):
            fetch("bin-images/00002.jpg")
        with pytest.raises(botocore.exceptions.ConnectionClosedError):
            fetch("bin-images/00003.jpg")
        with pytest.raises(botocore.exceptions.ClientError, match="SlowDown"):
            fetch("metadata/00002.json")
        with pytest.raises(botocore.exceptions.ReadTimeoutError):
            fetch("metadata/00001.json")
        faults = server.counts()["faults"]
    assert faults == {"forbidden": 1, "truncated": 1, "reset": 1, "slow_down": 1, "stalled": 1}


def test_faults_are_drawn_anew_so_that_asking_again_succeeds(folder: Path) -> None:
    num_requests = 100
    with serving(folder, "--faults", "--seed", "1") as server:
        client = boto3_client(server)
        num_failed = 0
        for _ in range(num_requests):
            try:
                client.get_object(Bucket="any-name", Key="metadata/00001.json")["Body"].read()
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                num_failed += 1
        faults = server.counts()["faults"]
    assert set(faults) == set(FAULT_SHARES)
    # Drawn in the order of arrival from a fixed seed, so this is the same on every machine.
    assert num_failed == sum(faults.values())
    assert 0.10 < num_failed / num_requests < 0.20
