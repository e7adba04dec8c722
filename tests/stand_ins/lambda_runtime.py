"""The Lambda function, run by AWS's own runtime client against a stand-in of Lambda's runtime API.

Source of the interface: AWS's "Using the Lambda runtime API for custom runtimes".
"""

import contextlib
import http.server
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deployment.requests import lambda_template

PREFIX = "/2018-06-01/runtime"


@dataclass
class LambdaRuntime:
    """A function that runs, and answers one event at a time."""

    log: Path
    events: queue.Queue[tuple[str, bytes]] = field(default_factory=queue.Queue)
    answers: queue.Queue[tuple[str, bytes]] = field(default_factory=queue.Queue)
    num_events: int = 0

    def invoke(self, event: Any) -> Any:
        """Return what the function answers to an event.

        Raises: AssertionError: it raised an error of its own.
        """
        self.num_events += 1
        self.events.put((f"request-{self.num_events}", json.dumps(event).encode()))
        path, body = self.answers.get(timeout=120)
        assert path == f"{PREFIX}/invocation/request-{self.num_events}/response", body
        return json.loads(body)


def _requests_of(runtime: LambdaRuntime) -> type[http.server.BaseHTTPRequestHandler]:
    class Requests(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Hand over the next event, once there is one."""
            request_id, event = runtime.events.get()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 28_000))
            self.send_header(
                "Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:::function:bins"
            )
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(event)))
            self.end_headers()
            self.wfile.write(event)

        def do_POST(self) -> None:
            """Take an answer, or the report of an error."""
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()
            runtime.answers.put((self.path, body))

        def log_message(self, *_: object) -> None:
            """Write no line a request."""

    return Requests


class _Tagged(yaml.SafeLoader):
    """Reads a template as plain data: !Ref X becomes X."""


_Tagged.add_multi_constructor("!", lambda loader, suffix, node: node.value)


def function_properties() -> dict[str, Any]:
    """Return what the template says of the function, with its source."""
    # SafeLoader, with tags of CloudFormation's as plain values.
    template = yaml.load(lambda_template(), _Tagged)
    return template["Resources"]["Function"]["Properties"]


@contextlib.contextmanager
def run_function(folder: Path, variables: Mapping[str, str]) -> Iterator[LambdaRuntime]:
    """Run the function of the template as Lambda does: its source alone, in a folder.

    Args:
        variables: its environment; of the caller's only what a process needs.
    """
    properties = function_properties()
    assert set(properties["Environment"]["Variables"]) <= variables.keys()
    (folder / "index.py").write_text(properties["Code"]["ZipFile"])
    runtime = LambdaRuntime(folder / "log")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _requests_of(runtime))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "PATH": os.environ["PATH"],
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "LAMBDA_TASK_ROOT": str(folder),
        "AWS_LAMBDA_FUNCTION_NAME": "bins",
        **variables,
    }
    with runtime.log.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", properties["Handler"]],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield runtime
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()
