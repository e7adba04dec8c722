"""Measure the handler under the inference container's model server, against its workers alone.

    python benchmarks/server_load.py --model runs/vit_tiny/model

The real multi-model-server with SageMaker's toolkit, as the tests start it, without Docker (needs
Java): photos a second, p50 and p99 of a photo, with as many clients as are given, each of which
waits for its answer. Beside it as many processes as it has workers, which ask the same handler for
themselves, without HTTP: their sum is what the server could reach at most, were it free. Both take
turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from training_recipe import markdown

ROOT = Path(__file__).resolve().parent.parent
CONTENT_TYPE = "image/jpeg"
GOAL = 1.0  # times the sum of the workers
# Reads a photo from its standard input, and answers it for so many seconds from a given time on.
WORKER = """
import sys, time
import inference
model_dir, start, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
photo = sys.stdin.buffer.read()
endpoint = inference.model_fn(model_dir, object())
def answer():
    request = inference.input_fn(photo, "image/jpeg")
    inference.output_fn(inference.predict_fn(request, endpoint), "application/json")
answer()
assert time.time() < start, "loading took too long"
time.sleep(start - time.time())
number, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    answer()
    number += 1
print(number / seconds)
"""
LOADING = 15.0  # seconds that the workers alone have to load


def workers_alone(model_dir: Path, photo: bytes, workers: int, seconds: float) -> float:
    """Return the photos a second of the workers together, each in a process of its own."""
    start = time.time() + LOADING
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "scripts"),
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
    }
    command = [sys.executable, "-c", WORKER, str(model_dir), str(start), str(seconds)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        for _ in range(workers)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write(photo)
        process.stdin.close()
    rates = []
    for process in processes:
        assert process.stdout
        rates.append(float(process.stdout.read()))
        assert process.wait() == 0
    return sum(rates)


def under_the_server(served: Any, photo: bytes, clients: int, seconds: float) -> list[float]:
    """Return how long each answer took that clients got within so many seconds."""
    end = time.monotonic() + seconds
    taken: list[float] = []

    def client() -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            reply = served.ask(photo, CONTENT_TYPE)
            taken.append(time.perf_counter() - start)
            assert reply.status == 200, reply.body

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="model folder, exported or not")
    parser.add_argument("--photo", required=True, type=Path, help="a JPEG")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--seconds", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    arguments = parser.parse_args()
    # The model server is a stand-in of the tests', whose modules import each other by name.
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]
    from stand_ins.model_server import serve_as_container

    photo = arguments.photo.read_bytes()
    alone: list[float] = []
    taken: dict[int, list[float]] = {clients: [] for clients in arguments.clients}
    with serve_as_container(arguments.model.resolve(), workers=arguments.workers) as served:
        answer = json.loads(served.ask(photo, CONTENT_TYPE).body)
        for _ in range(arguments.rounds):
            alone.append(
                workers_alone(arguments.model, photo, arguments.workers, arguments.seconds)
            )
            for clients, times in taken.items():
                times += under_the_server(served, photo, clients, arguments.seconds)
    rate_alone = statistics.median(alone)
    rows = [[f"{arguments.workers} workers alone", f"{rate_alone:.1f}", "", "", "1.00"]]
    for clients, times in taken.items():
        p50, p99 = 1000 * np.percentile(times, [50, 99])
        rate = len(times) / (arguments.rounds * arguments.seconds)
        ratio = f"{rate / rate_alone:.2f}"
        rows.append([f"{clients} clients", f"{rate:.1f}", f"{p50:.1f}", f"{p99:.1f}", ratio])
    print(f"{answer['runtime']}; goal: at least {GOAL:g} times the workers alone\n")
    print(markdown(["contender", "photos a second", "p50, ms", "p99, ms", "times alone"], rows))


if __name__ == "__main__":
    main()
