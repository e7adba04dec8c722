"""Serve a folder laid out like the photos' bucket as an S3 bucket on loopback, fast or faulty.

    python benchmarks/photo_server.py --folder ../shared/abid_originals --latency_ms 30 --faults

prints its address. Any bucket name, key and signature will do; the variables that lead to it are
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP=true, AWS_REGION and any AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
It answers what reading needs: GET with Range, HEAD and ListObjectsV2 by pages. What lies in the
folder when it starts is served. ADDRESS/_counts says as JSON what was asked for.
"""

import argparse
import asyncio
import bisect
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

# Of all requests --faults lets so many fail, each by a draw of its own: the same request again
# mostly succeeds.
FAULT_SHARES = {
    "server_error": 0.05,  # 500 InternalError
    "slow_down": 0.05,  # 503 SlowDown
    "reset": 0.02,  # the connection breaks before the answer
    "truncated": 0.02,  # half the body that Content-Length promises, then the end
    "stalled": 0.01,  # no answer until the client gives up
}
REFUSALS = {
    "server_error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "forbidden": (403, "AccessDenied", "Access Denied"),
}
LARGEST_PAGE = 1000  # S3's own limit
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Bucket:
    """The objects of a folder by key, in the order in which S3 lists them.

    With `copies` it holds that many bins, numbered from 00001, which share the folder's photos: a
    large bucket that takes no space.
    """

    def __init__(self, folder: Path, copies: int | None = None) -> None:
        self.paths = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file()
        }
        if copies is not None:
            self.paths = dict(self._numbered(copies))
        self.keys = sorted(self.paths)

    def _numbered(self, copies: int) -> Iterator[tuple[str, Path]]:
        photos = {Path(key).stem: path for key, path in self.paths.items() if key[:4] == "bin-"}
        bin_ids = sorted(bin_id for bin_id in photos if f"metadata/{bin_id}.json" in self.paths)
        for number in range(copies):
            bin_id = bin_ids[number % len(bin_ids)]
            yield f"bin-images/{number + 1:05d}.jpg", photos[bin_id]
            yield f"metadata/{number + 1:05d}.json", self.paths[f"metadata/{bin_id}.json"]

    def page(
        self, prefix: str, delimiter: str, start: int, max_keys: int
    ) -> tuple[list[str], list[str], int | None]:
        """Return the keys and the common prefixes of one page, and where the next one starts.

        Args:
            start: place among `keys` before which nothing is listed.
        """
        keys: list[str] = []
        prefixes: list[str] = []
        at = max(bisect.bisect_left(self.keys, prefix), start)
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if len(keys) + len(prefixes) == max_keys:
                return keys, prefixes, at
            folder, found, _ = self.keys[at][len(prefix) :].partition(delimiter or "\0")
            if found:
                prefixes.append(prefix + folder + delimiter)
                at = bisect.bisect_left(self.keys, prefixes[-1] + chr(sys.maxunicode), at)
            else:
                keys.append(self.keys[at])
                at += 1
        return keys, prefixes, None


class PhotoHandler:
    """Answers requests, and counts them.

    Args:
        always: key -> fault with which the object answers every time, a name of FAULT_SHARES or
            "forbidden".
        fault_shares: fault -> share of all requests.
    """

    def __init__(
        self,
        bucket: Bucket,
        latency_seconds: float,
        fault_shares: Mapping[str, float],
        always: Mapping[str, str],
        seed: int,
    ) -> None:
        self.bucket = bucket
        self.latency_seconds = latency_seconds
        self.fault_shares = fault_shares
        self.always = always
        self.random = random.Random(seed)  # noqa: S311
        self.asked: Counter[str] = Counter()  # "GET bin-images/00001.jpg", "LIST metadata/"
        self.faults: Counter[str] = Counter()
        self.num_in_flight = self.most_in_flight = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request to the bucket, or let it fail."""
        key = request.match_info.get("key", "")
        prefix = request.query.get("prefix", "")
        self.asked[f"{request.method} {key}" if key else f"LIST {prefix}"] += 1
        self.num_in_flight += 1
        self.most_in_flight = max(self.num_in_flight, self.most_in_flight)
        try:
            # Faults are drawn on arrival, so that a client without concurrency repeats a run.
            fault = self.always.get(key) or self._draw_fault()
            await asyncio.sleep(self.latency_seconds)
            if fault:
                self.faults[fault] += 1
            if fault in REFUSALS:
                return _refusal(*REFUSALS[fault], key)
            response = self._answer(request, key)
            return await _break_off(request, response, fault) if fault else response
        finally:
            self.num_in_flight -= 1

    async def counts(self, _: web.Request) -> web.Response:
        """Answer with what PhotoServer.counts describes."""
        return web.json_response(
            {
                "asked": self.asked,
                "faults": self.faults,
                "most_in_flight": self.most_in_flight,
            }
        )

    def _draw_fault(self) -> str | None:
        if not self.fault_shares:
            return None
        names, shares = list(self.fault_shares), list(self.fault_shares.values())
        return self.random.choices([None, *names], [1 - sum(shares), *shares])[0]

    def _answer(self, request: web.Request, key: str) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return _refusal(405, "MethodNotAllowed", "This bucket is for reading.", key)
        if not key:
            return self._list(request.query)
        if key not in self.bucket.paths:
            return _refusal(404, "NoSuchKey", "The specified key does not exist.", key)
        path = self.bucket.paths[key]
        status = path.stat()
        etag = _etag(status)
        headers = {
            "ETag": etag,
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
        }
        if request.headers.get("If-Match", etag) != etag:
            return _refusal(412, "PreconditionFailed", "If-Match does not hold.", key)
        if "Range" not in request.headers:
            return web.Response(body=path.read_bytes(), headers=headers)
        span = _span(request.headers["Range"], status.st_size)
        if span is None:
            return _refusal(416, "InvalidRange", "The requested range is not satisfiable", key)
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{status.st_size}"
        body = path.read_bytes()[span.start : span.stop]
        return web.Response(status=206, body=body, headers=headers)

    def _list(self, query: Mapping[str, str]) -> web.Response:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        max_keys = min(int(query.get("max-keys", LARGEST_PAGE)), LARGEST_PAGE)
        if "continuation-token" in query:
            start = int(query["continuation-token"])
        else:
            start = bisect.bisect_right(self.bucket.keys, query.get("start-after", ""))
        keys, prefixes, next_start = self.bucket.page(prefix, delimiter, start, max_keys)
        encode = quote if query.get("encoding-type") == "url" else escape
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
            f"<Prefix>{encode(prefix)}</Prefix><KeyCount>{len(keys) + len(prefixes)}</KeyCount>",
            f"<MaxKeys>{max_keys}</MaxKeys>",
            f"<IsTruncated>{str(next_start is not None).lower()}</IsTruncated>",
        ]
        if encode is quote:
            parts.append("<EncodingType>url</EncodingType>")
        if next_start is not None:
            parts.append(f"<NextContinuationToken>{next_start}</NextContinuationToken>")
        for key in keys:
            status = self.bucket.paths[key].stat()
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            parts.append(
                f"<Contents><Key>{encode(key)}</Key><Size>{status.st_size}</Size>"
                f"<LastModified>{modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                f"<ETag>{escape(_etag(status))}</ETag><StorageClass>STANDARD</StorageClass>"
                "</Contents>"
            )
        for name in prefixes:
            parts.append(f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>")
        parts.append("</ListBucketResult>")
        return web.Response(text="".join(parts), content_type="application/xml")


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _span(header: str, size: int) -> range | None:
    """Return the bytes that a Range header asks for, None where the object has none of them."""
    match = RANGE.fullmatch(header)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        span = range(int(first), min(int(last) + 1, size) if last else size)
    else:
        span = range(max(size - int(last or 0), 0), size)
    return span or None


def _refusal(status: int, code: str, message: str, key: str) -> web.Response:
    """Return one of S3's error documents."""
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><Key>{escape(key)}</Key></Error>"
    )
    return web.Response(status=status, text=document, content_type="application/xml")


async def _break_off(request: web.Request, response: web.Response, fault: str) -> NoReturn:
    """Let the connection fail in the middle of an answer, and wait until the client is gone."""
    transport = request.transport
    assert transport is not None
    if fault == "truncated" and isinstance(response.body, bytes) and request.method == "GET":
        whole = response.body
        broken = web.StreamResponse(status=response.status, headers=response.headers)
        broken.content_length = len(whole)
        await broken.prepare(request)
        await broken.write(whole[: len(whole) // 2])
        transport.close()
    elif fault != "stalled":
        # Closed without lingering, a socket sends a reset and no orderly end.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    # The server cancels this when the connection is closed by either side.
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets was set")


async def serve(handler: PhotoHandler, port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT; print the address."""
    application = web.Application()
    application.router.add_get("/_counts", handler.counts)
    application.router.add_route("*", "/{bucket}", handler.handle)
    application.router.add_route("*", "/{bucket}/{key:.*}", handler.handle)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    listening = runner.addresses[0]
    print(f"http://{listening[0]}:{listening[1]}", flush=True)
    await stopped.wait()
    await runner.cleanup()


@dataclass(frozen=True)
class PhotoServer:
    """A running server: its address, and the process that serves."""

    url: str
    process: subprocess.Popen[str]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a process to this server, whatever s3://BUCKET it is given."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def counts(self) -> dict[str, Any]:
        """Return what was asked for until now.

        `asked`: "GET KEY", "HEAD KEY" or "LIST PREFIX" -> times; `faults`: fault -> times;
        `most_in_flight`: requests that waited for their answer at one time.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/_counts") as response:
            return json.load(response)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[PhotoServer]:
    """Serve a folder from a process of its own, with this module's flags, while the block runs."""
    command = [sys.executable, __file__, "--folder", str(folder), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"{command} did not start")
            yield PhotoServer(url, process)
        finally:
            process.terminate()


def parse_always(text: str) -> tuple[str, str]:
    """Parse KEY=FAULT. Raises: argparse.ArgumentTypeError: it is something else."""
    key, _, fault = text.rpartition("=")
    if not key or fault not in {*FAULT_SHARES, *REFUSALS}:
        known = ", ".join(sorted({*FAULT_SHARES, *REFUSALS}))
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=FAULT with a fault of {known}")
    return key, fault


def main(argv: Sequence[str] | None = None) -> None:
    """Serve a folder from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, required=True, help="holds bin-images/ and metadata/"
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--latency_ms", type=float, default=0, help="before each answer (default: %(default)s)"
    )
    parser.add_argument(
        "--faults", action="store_true", help="let 15 %% of the requests fail, in five ways"
    )
    parser.add_argument(
        "--always",
        type=parse_always,
        action="append",
        default=[],
        metavar="KEY=FAULT",
        help=f"let one object always fail: {', '.join(sorted({*FAULT_SHARES, *REFUSALS}))}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument(
        "--copies", type=int, metavar="N", help="serve N bins that share the folder's photos"
    )
    arguments = parser.parse_args(argv)
    bucket = Bucket(arguments.folder, arguments.copies)
    if not bucket.keys:
        parser.error(f"--folder {arguments.folder}: no files there.")
    handler = PhotoHandler(
        bucket,
        arguments.latency_ms / 1000,
        FAULT_SHARES if arguments.faults else {},
        dict(arguments.always),
        arguments.seed,
    )
    asyncio.run(serve(handler, arguments.port))


if __name__ == "__main__":
    main()
