"""Read a bucket, or a folder laid out like one, through one interface.

obstore does the work: `s3://` and `file://` are one code path, with retries and time-outs built in.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from command_line import InputError

# The Amazon Bin Image Dataset is open to all: requests to it are not signed.
PUBLIC_BUCKET = "aft-vbi-pds"
PUBLIC_REGION = "us-east-1"
# Enough to hide a bucket's latency (about 30 ms a request), few enough to stay polite.
CONCURRENT_READS = 64


def open_source(source: str) -> ObjectStore:
    """Open a folder, a `file://` URL or an `s3://BUCKET[/PREFIX]` URL for reading.

    Other buckets than the public one take credentials, region and endpoint from the usual AWS
    environment variables.

    Raises: InputError: no such folder, or another kind of URL.
    """
    scheme, bucket, path, *_ = urlsplit(source) if "://" in source else ("", "", source)
    if scheme == "s3":
        prefix = path.strip("/") or None
        if bucket == PUBLIC_BUCKET:
            return S3Store(bucket, prefix=prefix, region=PUBLIC_REGION, skip_signature=True)
        return S3Store(bucket, prefix=prefix)
    if scheme not in ("", "file") or (scheme == "file" and bucket):
        raise InputError(
            f"--source {source}: give a folder, a file:///FOLDER or an s3://BUCKET URL."
        )
    folder = Path(unquote(path) if scheme == "file" else path).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"--source {source}: there is no such folder.")
    return LocalStore(folder)


def list_ids(store: ObjectStore, folder: str, suffix: str) -> Iterator[str]:
    """Yield the ids of the objects `FOLDER/<id>SUFFIX`, in no particular order."""
    for objects in store.list(folder):
        for stored_object in objects:
            path = stored_object["path"]
            name = path.removeprefix(f"{folder}/")
            if name.endswith(suffix) and "/" not in name:
                yield name.removesuffix(suffix)


async def read_objects(
    store: ObjectStore, paths: Iterable[str]
) -> AsyncIterator[tuple[str, bytes | None]]:
    """Yield (path, content) as the objects arrive; the content is None where there is no object.

    At most CONCURRENT_READS objects are in flight or waiting to be taken, so memory stays flat.

    Raises: obstore.exceptions.BaseError: the store failed after its own retries.
    """

    async def read(path: str) -> tuple[str, bytes | None]:
        try:
            response = await obstore.get_async(store, path)
            return path, bytes(await response.bytes_async())
        except FileNotFoundError:
            return path, None

    pending: set[asyncio.Task[tuple[str, bytes | None]]] = set()
    try:
        for path in paths:
            pending.add(asyncio.create_task(read(path)))
            if len(pending) >= CONCURRENT_READS:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in pending:
            task.cancel()


def describe_failure(error: BaseError | OSError) -> str:
    """Return the first line of a store's error: the rest is a dump for its developers."""
    return str(error).partition("\n")[0]
