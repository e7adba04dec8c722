"""A proxy in front of the handler served on this machine, which fails as servers do.

    cd tests; python -m stand_ins.flaky_server http://127.0.0.1:8080 --share 0.05

answers 5 % of the requests with 503.
"""

import argparse
import contextlib
import http.server
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from stand_ins.served_model import ServedModel


@dataclass
class FlakyServer:
    """What a running proxy does, and what has come through it."""

    behind: ServedModel
    share_of_503: float = 0.0
    share_of_resets: float = 0.0
    # After so many answers the others wait until `may_go_on` is set.
    pause_after: int | None = None
    # After so many answers there are none, but 503.
    ends_after: int | None = None
    may_go_on: threading.Event = field(default_factory=threading.Event)
    is_paused: threading.Event = field(default_factory=threading.Event)
    num_answers: int = 0
    num_503: int = 0
    bodies: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    faults: random.Random = field(default_factory=lambda: random.Random(42))
    url: str = ""


def _handler_of(server: FlakyServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections open

        def do_POST(self) -> None:
            """Hand a request on, or fail."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with server.lock:
                chance = server.faults.random()
                if server.ends_after is not None and server.num_answers >= server.ends_after:
                    chance = server.share_of_resets
                    server.share_of_503 = 1.0
                server.bodies.append(body)
            if chance < server.share_of_resets:
                self.close_connection = True
                return
            if chance < server.share_of_resets + server.share_of_503:
                with server.lock:
                    server.num_503 += 1
                self.answer(503, "application/json", b'{"error": "busy"}')
                return
            if server.pause_after is not None and server.num_answers >= server.pause_after:
                server.is_paused.set()
                server.may_go_on.wait()
            reply = server.behind.request("POST", self.path, body, dict(self.headers))
            with server.lock:
                server.num_answers += 1
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client is gone
                self.answer(reply.status, reply.headers["content-type"], reply.body)

        def answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no line a request."""

    return Handler


@contextlib.contextmanager
def serve_flakily(behind: ServedModel, port: int = 0, **faults: Any) -> Iterator[FlakyServer]:
    """Run a proxy on loopback, with faults as FlakyServer has them."""
    server = FlakyServer(behind, **faults)
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", port), _handler_of(server))
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_port}"
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.may_go_on.set()
        listening.shutdown()
        listening.server_close()


def main() -> None:
    """Run until Ctrl-C, or `kill`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--port", type=int, default=8081)
    arguments = parser.parse_args()
    behind = urlsplit(arguments.url)
    served = ServedModel(str(behind.hostname), int(behind.port or 80), 0)
    with serve_flakily(served, arguments.port, share_of_503=arguments.share) as server:
        print(f"Serving on {server.url}; Ctrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    print(f"{server.num_answers} answers, {server.num_503} times 503")


if __name__ == "__main__":
    main()
