"""The handler served on loopback, for the tests: started, asked, watched, ended."""

import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from paths import ROOT


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class ServedModel:
    """A server that runs, and its first process."""

    host: str
    port: int
    pid: int

    def ask(
        self, body: bytes, content_type: str | None, accept: str | None = None, method: str = "POST"
    ) -> Reply:
        """Send one request to /invocations, over a connection of its own."""
        headers = {"Content-Type": content_type, "Accept": accept}
        return self.request(
            method, "/invocations", body, {k: v for k, v in headers.items() if v is not None}
        )

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())

    def as_container(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        """Answer what an endpoint hands to its container (aws_server.py)."""
        reply = self.ask(body, content_type, accept)
        return reply.status, reply.headers["content-type"], reply.body

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def memory(self) -> int:
        """Return what they hold together, bytes."""
        return sum(process.memory_info().rss for process in self.processes())


@contextlib.contextmanager
def serve_locally(
    model_dir: Path, entry: Path = ROOT / "scripts" / "inference.py", **variables: str
) -> Iterator[ServedModel]:
    """Run `python scripts/inference.py --model ...`, and yield it once it says that it serves.

    Args:
        entry: another place of inference.py, such as a model folder's code/.
    """
    command = [sys.executable, str(entry), "--model", str(model_dir)]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | variables,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        port = int(line.partition("http://127.0.0.1:")[2].partition(";")[0])
        yield ServedModel("127.0.0.1", port, process.pid)
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(served: ServedModel, process: subprocess.Popen[Any]) -> None:
    """Return when /ping says that the model is there."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if served.request("GET", "/ping").status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server ended with {process.returncode}")


def drawn_photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """Return a photo of noise."""
    shape = (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(photo: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    """Return a photo as a file's bytes."""
    buffer = io.BytesIO()
    photo.save(buffer, format=image_format, **options)
    return buffer.getvalue()
