"""Read and write a bucket, or a folder laid out like one, through one interface.

obstore does the work: `s3://` and `file://` are one code path. Its own retries cover what passes by
itself: 5xx answers and SlowDown, connections that are reset, bodies that stop short or stall (it
asks for the rest of them), each after a pause that grows and is drawn anew (jitter).
"""

import asyncio
import atexit
import hashlib
import os
import re
import string
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError
from obstore.store import LocalStore, ObjectStore, S3Store

from command_line import InputError
from whole_files import whole_file

if TYPE_CHECKING:
    from obstore.store import S3Config

# The Amazon Bin Image Dataset is open to all: requests to it are not signed.
PUBLIC_BUCKET = "aft-vbi-pds"
PUBLIC_REGION = "us-east-1"
URL = re.compile("([a-z][a-z0-9+.-]*)://([^/]*)")
# Enough to hide a bucket's latency (about 30 ms a request), few enough to stay polite.
CONCURRENT_READS = 64
# Where the ranges of a listing begin. Ids are numbers as a rule, 535,234 of them in the bucket.
LISTING_STARTS = sorted(
    [f"{number:02d}" for number in range(100)] + list(string.ascii_letters + "-_")
)
CONCURRENT_LISTINGS = 16
MOST_SECONDS_TO_LEAVE = 5  # microseconds as a rule
# Each of them with all of obstore's own, so that even an outage is told within minutes.
LISTING_TRIES = 4
# Half a minute of tries in all: what fails longer is no passing fault, and a run can be repeated.
# Each pause is drawn between the first one and so many times the last one: with a base of 2 they
# hardly grow, and all is over after 4 seconds (medians of a simulation; 27 with 4).
MAX_RETRIES, PAUSE_GROWTH = 8, 4
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=200), timedelta(seconds=10)
# A photo has 50 KB: a connection that says nothing for so long has stalled.
READ_TIMEOUT = timedelta(seconds=10)
WRITE_TIMEOUT = timedelta(minutes=5)
# So many objects that stay away are an outage: the rest would only take half a minute each too.
MOST_UNANSWERED = 100


@atexit.register
def let_threads_leave_python() -> None:
    """Wait, before the interpreter ends, for obstore's threads that are still in it.

    One of them hands over an answer and wakes the event loop. If Python ends before it is back, it
    ends the thread in the middle of Rust, which aborts a process that has done all its work (exit
    code 134; 3 of 60 builds that found everything done).
    """
    of_python = {thread.ident for thread in threading.enumerate()}
    deadline = time.monotonic() + MOST_SECONDS_TO_LEAVE
    while sys._current_frames().keys() - of_python and time.monotonic() < deadline:
        time.sleep(0.001)


class ObjectContent(NamedTuple):
    """An object as it was read: its content, or why it has none for good."""

    path: str
    content: bytes | None
    problem: str | None  # "missing" (404) or "access denied" (403); None where there is a content


class UnansweredError(Exception):
    """Some objects did not arrive, for a reason that may pass; `reasons` has it for each path."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        self.paths = sorted(reasons)
        self.reason = next(iter(reasons.values()))
        super().__init__(reasons)


def open_store(location: str, flag: str = "--source", create: bool = False) -> ObjectStore:
    """Open a folder, a `file://` URL or an `s3://BUCKET[/PREFIX]` URL.

    Other buckets than the public one take credentials, region and endpoint from the usual AWS
    environment variables.

    Args:
        flag: what the user named it with, for the error.
        create: it is written to; make the folder where there is none.

    Raises: InputError: no such folder, or another kind of URL. OSError: it cannot be made.
    """
    # Not by urllib: it takes a # or ? in a folder's name for the end of the path.
    url = URL.match(location)
    scheme, bucket, path = (*url.groups(), location[url.end() :]) if url else ("", "", location)
    if scheme == "s3":
        unsigned: S3Config = {"region": PUBLIC_REGION, "skip_signature": True}
        return S3Store(
            bucket,
            prefix=path.strip("/") or None,
            config=unsigned if bucket == PUBLIC_BUCKET else None,
            # Options given here take the place of those that obstore reads from the environment.
            client_options={
                # A shard takes longer on its way up than a photo on its way down.
                "timeout": WRITE_TIMEOUT if create else READ_TIMEOUT * 3,
                "read_timeout": WRITE_TIMEOUT if create else READ_TIMEOUT,
                "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
            },
            retry_config={
                "max_retries": MAX_RETRIES,
                "backoff": {
                    "init_backoff": FIRST_PAUSE,
                    "max_backoff": LONGEST_PAUSE,
                    "base": PAUSE_GROWTH,
                },
            },
        )
    if scheme not in ("", "file") or (scheme == "file" and bucket):
        raise InputError(
            f"{flag} {location}: give a folder, a file:///FOLDER or an s3://BUCKET URL."
        )
    folder = Path(unquote(path) if scheme == "file" else path).expanduser().resolve()
    if create and not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise InputError(f"{flag} {location}: there is no such folder.")
    return LocalStore(folder)


def list_ids(store: ObjectStore, folder: str, suffix: str) -> list[str]:
    """Return the ids of the objects `FOLDER/<id>SUFFIX`, in no particular order.

    A bucket gives 1,000 names a request, each from where the last one ended: its names are listed
    in ranges, several at once. Which ids there are is of no matter, only how evenly they spread.
    """
    if isinstance(store, LocalStore):
        # Not by obstore, which lists nothing where one name is no text or has a line break in it.
        names = _file_names(_local_path(store, folder))
        return [name.removesuffix(suffix) for name in names if name.endswith(suffix)]
    bounds = [f"{folder}/{start}" for start in ("", *LISTING_STARTS)]

    async def list_ranges() -> list[list[str]]:
        limit = asyncio.Semaphore(CONCURRENT_LISTINGS)

        async def list_range(start: str, end: str | None) -> list[str]:
            found = []
            async with limit:
                async for path, _ in _list_objects(store, folder, start):
                    if end is not None and path > end:
                        break
                    name = path.removeprefix(f"{folder}/")
                    if name.endswith(suffix) and "/" not in name:
                        found.append(name.removesuffix(suffix))
            return found

        ranges = [*pairwise(bounds), (bounds[-1], None)]
        return await asyncio.gather(*(list_range(*ends) for ends in ranges))

    return [name for names in asyncio.run(list_ranges()) for name in names]


def _file_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [os.fsencode(e.name).decode("utf-8", "replace") for e in entries if e.is_file()]


async def _list_objects(
    store: ObjectStore, folder: str | None, start: str | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Yield path and bytes of the objects below a folder whose paths come after `start`.

    obstore asks again for a listing that is refused or does not come, but not for one that breaks
    off in the middle: this goes on behind the last name that came.
    """
    num_failures = 0
    while True:
        try:
            async for page in obstore.list(store, folder, offset=start, chunk_size=1000):
                for stored_object in page:
                    start = stored_object["path"]
                    yield start, stored_object["size"]
            return
        except GenericError:
            num_failures += 1
            # A folder's files come in no order to go on in, and its failures do not pass.
            if isinstance(store, LocalStore) or num_failures == LISTING_TRIES:
                raise


async def read_objects(store: ObjectStore, paths: Iterable[str]) -> AsyncIterator[ObjectContent]:
    """Yield the objects as they arrive.

    At most CONCURRENT_READS objects are in flight or waiting to be taken, so memory stays flat.

    Raises: UnansweredError: after all the others, some did not arrive in spite of all retries; or
        at once, after MOST_UNANSWERED of them.
    """
    remaining = iter(paths)
    # Room for one: a reader goes on to its next object when this one was taken.
    arrived: asyncio.Queue[ObjectContent | Exception | None] = asyncio.Queue(maxsize=1)

    async def read_in_turn() -> None:
        try:
            for path in remaining:
                await arrived.put(await _read(store, path))
            await arrived.put(None)
        except Exception as error:  # for whoever waits for what arrives
            await arrived.put(error)

    readers = [asyncio.create_task(read_in_turn()) for _ in range(CONCURRENT_READS)]
    num_reading = len(readers)
    unanswered: dict[str, str] = {}
    try:
        while num_reading and len(unanswered) < MOST_UNANSWERED:
            answer = await arrived.get()
            if answer is None:
                num_reading -= 1
            elif isinstance(answer, UnansweredError):
                unanswered |= answer.reasons
            elif isinstance(answer, Exception):
                raise answer
            else:
                yield answer
    finally:
        for reader in readers:
            reader.cancel()
    if unanswered:
        raise UnansweredError(unanswered)


async def _read(store: ObjectStore, path: str) -> ObjectContent | UnansweredError:
    try:
        response = await obstore.get_async(store, path)
        return ObjectContent(path, bytes(await response.bytes_async()), None)
    except FileNotFoundError:
        return ObjectContent(path, None, "missing")
    except (PermissionDeniedError, PermissionError):
        return ObjectContent(path, None, "access denied")
    except BaseError as error:
        return UnansweredError({path: describe_failure(error)})


def read_object(store: ObjectStore, path: str) -> bytes | None:
    """Return the content of an object, None where there is none."""
    try:
        return bytes(obstore.get(store, path).bytes())
    except FileNotFoundError:
        return None


def object_sha256(store: ObjectStore, path: str) -> str | None:
    """Return the SHA-256 of an object, hexadecimal, None where there is none; memory stays flat."""
    digest = hashlib.sha256()
    try:
        for chunk in obstore.get(store, path).stream(min_chunk_size=2**20):
            digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def remove_object(store: ObjectStore, path: str) -> None:
    """Remove an object, whether it is there or not."""
    with suppress(FileNotFoundError):
        obstore.delete(store, path)


def has_object(store: ObjectStore, path: str) -> bool:
    """Say whether there is such an object."""
    try:
        obstore.head(store, path)
    except FileNotFoundError:
        return False
    return True


def object_sizes(store: ObjectStore, folder: str | None = None) -> dict[str, int]:
    """Return the bytes of each object below a folder, or of all, by path."""

    async def list_all() -> dict[str, int]:
        return {path: size async for path, size in _list_objects(store, folder)}

    return asyncio.run(list_all())


def write_object(store: ObjectStore, path: str, content: bytes | memoryview) -> None:
    """Write an object that is whole or not there, in place of one that is there."""
    if isinstance(store, LocalStore):
        with whole_file(_local_path(store, path)) as temporary:
            temporary.write_bytes(content)
    else:
        obstore.put(store, path, bytes(content), use_multipart=False)


def create_object(store: ObjectStore, path: str, content: bytes) -> bool:
    """Write an object where there is none yet; say whether this call did.

    Of several machines that try at the same time one succeeds.
    """
    try:
        if isinstance(store, LocalStore):
            with whole_file(_local_path(store, path), replace=False) as temporary:
                temporary.write_bytes(content)
        else:
            obstore.put(store, path, content, mode="create")
    except (FileExistsError, AlreadyExistsError):
        return False
    return True


def _local_path(store: LocalStore, path: str) -> Path:
    assert store.prefix is not None, "open_store gives every local store its folder"
    return Path(store.prefix, path)


def describe_failure(error: BaseError | OSError) -> str:
    """Return what went wrong and with which file, in a line without its stop."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # The rest of a store's error is a dump for its developers.
    return str(error).partition("\n")[0].rstrip(".")
