"""A bucket on loopback that a test steers: which objects fail, and after how many answers it halts.

It speaks what reading from S3 needs: GET of an object, and listings by pages of few names.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAMES_PER_PAGE = 10


class BucketServer(ThreadingHTTPServer):
    """Serves `objects` (key -> content) as the bucket `mirror`, below the prefix that keys have."""

    daemon_threads = True
    request_queue_size = 256
    url = "s3://mirror/abid"

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects = objects
        self.failing: set[str] = set()  # keys that are answered with 500
        self.forbidden: set[str] = set()  # keys that are answered with 403
        self.asked: list[str] = []  # keys, as they were asked for
        self.answers_left = 10**9  # objects that are answered before all others wait
        self.access_key = "run-1"  # who is answered; each run of a test that kills has its own
        self.halted = threading.Event()
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a process here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_address[1]}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def halt_after(self, num_answers: int) -> None:
        """Answer so many objects more, then none; `halted` is set when one waits.

        A new `environment` goes with it: what a killed run has asked may arrive after its end, and
        must not be counted.
        """
        number = int(self.access_key.removeprefix("run-")) + 1
        self.access_key = f"run-{number}"
        self.halted.clear()
        self.answers_left = num_answers

    def handle_error(self, *request: Any) -> None:
        """Say so, unless it is a client that was killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BucketServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/mirror").removeprefix("/")
        if not key:
            self._answer(200, self._page(parse_qs(url.query)))
            return
        if f"Credential={self.server.access_key}/" not in self.headers["Authorization"]:
            self.close_connection = True
            return
        with self.server.lock:
            self.server.asked.append(key)
            self.server.answers_left -= 1
            is_halted = self.server.answers_left < 0
        if is_halted:
            self.server.halted.set()
            self.server.closing.wait()
        elif key in self.server.failing:
            self._answer(500, b"<Error><Code>InternalError</Code></Error>")
        elif key in self.server.forbidden:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif key not in self.server.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._answer(200, self.server.objects[key])

    def _page(self, query: dict[str, list[str]]) -> bytes:
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        prefix = query.get("prefix", [""])[0]
        names = sorted(
            (key for key in self.server.objects if key.startswith(prefix) and key > after),
            key=lambda key: key.encode(),
        )
        page = names[:NAMES_PER_PAGE]
        is_truncated = len(names) > len(page)
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
            '<LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>"0"</ETag></Contents>'
            for key in page
        )
        token = page[-1] if is_truncated else ""
        return (
            f"<ListBucketResult><IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
            f"<NextContinuationToken>{escape(token)}</NextContinuationToken>{entries}"
            "</ListBucketResult>"
        ).encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(objects: dict[str, bytes]) -> Iterator[BucketServer]:
    """Serve objects while the block runs."""
    server = BucketServer({f"abid/{key}": content for key, content in objects.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def objects_of(folder: Path) -> dict[str, bytes]:
    """Return the metadata files of a folder laid out like the bucket, as objects."""
    return {f"metadata/{path.name}": path.read_bytes() for path in (folder / "metadata").iterdir()}
