import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest

import object_store
from catalog.file import open_beside
from object_store import (
    create_object,
    has_object,
    list_ids,
    object_sizes,
    open_store,
    read_object,
    write_object,
)
from paths import ROOT
from photo_server import serving


@pytest.fixture(params=["folder", "bucket"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a place to write to: a folder that is not there yet, or a bucket's prefix."""
    if request.param == "folder":
        return str(tmp_path / "deep" / "output")
    request.getfixturevalue("s3_bucket")
    return f"s3://mirror/{tmp_path.name}"  # the server's memory outlives a test


def test_what_is_written_is_read_back_and_listed_with_its_size(location: str) -> None:
    store = open_store(location, "--output_dir", create=True)
    assert read_object(store, "data/a") is None
    assert not has_object(store, "data/a")
    write_object(store, "data/a", b"first")
    write_object(store, "data/a", b"second")
    write_object(store, "b", b"")
    assert read_object(store, "data/a") == b"second"
    assert has_object(store, "data/a")
    assert object_sizes(store) == {"data/a": 6, "b": 0}
    assert object_sizes(store, "data") == {"data/a": 6}


STRANGE_NAMES = ("bins[1]", "a*?", "{a,b}", "a::b", "a%20b", "a#b c", "ä'~", "x:", "a\\nb")


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_path_is_a_path_whatever_character_it_has(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    (tmp_path / "a").mkdir()  # where a name that is cut off would lead
    write_object(open_store(str(folder), create=True), "data/x", b"here")
    assert (folder / "data" / "x").read_bytes() == b"here"
    for location in (str(folder), f"file://{quote(str(folder))}", f"{tmp_path}/a/../{name}"):
        store = open_store(location)
        assert read_object(store, "data/x") == b"here"
        assert object_sizes(store) == {"data/x": 4}
        assert list_ids(store, "data", "") == ["x"]
    write_object(*open_beside(f"{folder}/catalog.parquet", "--output"), b"catalog")
    assert (folder / "catalog.parquet").read_bytes() == b"catalog"
    assert list((tmp_path / "a").iterdir()) == []


def test_a_file_url_may_have_its_marks_as_they_are(tmp_path: Path) -> None:
    for name in ("a", "a#b", "a?b"):
        write_object(open_store(str(tmp_path / name), create=True), "x", name.encode())
    for name in ("a", "a#b", "a?b"):
        assert read_object(open_store(f"file://{tmp_path}/{name}"), "x") == name.encode()


@pytest.mark.usefixtures("s3_bucket")
def test_a_prefix_is_a_prefix_whatever_character_it_has() -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for name in STRANGE_NAMES:
        store = open_store(f"s3://mirror/made/{name}/bins", create=True)
        write_object(store, "data/x", name.encode())
        content = client.get_object(Bucket="mirror", Key=f"made/{name}/bins/data/x")["Body"].read()
        assert content == name.encode()
        assert object_sizes(store) == {"data/x": len(content)}
        assert read_object(store, "data/x") == content


def test_of_many_that_create_an_object_one_succeeds(location: str) -> None:
    store = open_store(location, "--output_dir", create=True)
    contents = [f"machine {number}".encode() for number in range(8)]
    # S3 promises this of requests that cross; the server that plays it here does not.
    with ThreadPoolExecutor(1 if "://" in location else 8) as pool:
        created = list(pool.map(lambda c: create_object(store, "settings.json", c), contents))
    assert created.count(True) == 1
    assert read_object(store, "settings.json") == contents[created.index(True)]
    assert list(object_sizes(store)) == ["settings.json"]


def test_a_listing_that_breaks_off_goes_on_where_it_stopped(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LISTING_TRIES", 20)
    monkeypatch.setattr(object_store, "READ_TIMEOUT", object_store.READ_TIMEOUT / 20)
    with serving(bucket, "--faults", "--copies", "3000") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://photos")
        for _ in range(4):
            assert sorted(list_ids(store, "metadata", ".json")) == [
                f"{number + 1:05d}" for number in range(3000)
            ]
            assert len(object_sizes(store)) == 6000
        assert server.counts()["faults"]["truncated"] > 0


# A read whose last thread stays in Python for a while after it has handed over what it read, in a
# process that takes longer than that to end: with the last collection of garbage.
SLOW_TO_LEAVE = """
import asyncio, gc, sys, time
from asyncio.selector_events import BaseSelectorEventLoop
from object_store import open_store, read_objects

wake = BaseSelectorEventLoop._write_to_self

def wake_slowly(loop):
    wake(loop)
    time.sleep(0.3)

async def read():
    async for path, content, _ in read_objects(open_store(sys.argv[1]), ["a"]):
        print(path, content)

BaseSelectorEventLoop._write_to_self = wake_slowly
asyncio.run(read())
gc.callbacks.append(lambda phase, info, sleep=time.sleep: sleep(0.4))
"""


def test_a_thread_that_is_slow_to_leave_does_not_abort_a_process_that_is_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    ended = subprocess.run(
        [sys.executable, "-c", SLOW_TO_LEAVE, str(tmp_path)],
        cwd=ROOT / "data_prep",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "a b'content'\n")
