import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import inference
from damaged_requests import JSON, REQUESTS, flipped, in_base64
from stand_ins.served_model import ServedModel, drawn_photo, encoded, serve_locally

PHOTO = encoded(drawn_photo())
# What a whole process of torch or OpenVINO with this handler may hold.
MAX_MEMORY = 1_000_000_000  # bytes


@pytest.fixture(scope="module")
def served(run_dir: Path) -> Iterator[ServedModel]:
    with serve_locally(run_dir / "model") as server:
        yield server


def test_it_answers_as_an_endpoint_does(served: ServedModel) -> None:
    assert served.request("GET", "/ping").status == 200
    reply = served.ask(PHOTO, "image/jpeg")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.content["count"] in range(1, 6)
    reply = served.ask(PHOTO, "image/jpeg", accept="text/csv")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/csv")


def test_a_fault_has_a_reason_and_the_id_that_the_headers_have(served: ServedModel) -> None:
    reply = served.ask(b"no photo", "image/jpeg")
    assert reply.status == 415
    assert reply.content["error"] == "The photo is not a JPEG or PNG file."
    assert reply.content["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/try_page.html", 404),
        ("GET", "/invocations", 405),
        ("POST", "/ping", 405),
        ("GET", "/../../etc/passwd", 404),
        ("PUT", "/models", 404),
    ],
)
def test_there_is_nothing_else(method: str, path: str, status: int, served: ServedModel) -> None:
    assert served.request(method, path).status == status


def test_a_body_above_the_limit_is_413(served: ServedModel) -> None:
    headers = {"Content-Type": "image/jpeg", "Content-Length": "6600000"}
    # Refused from its headers: the body would not be read to its end.
    assert served.request("POST", "/invocations", b"", headers).status == 413


def test_it_listens_on_loopback_alone(served: ServedModel) -> None:
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(served.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_a_port_that_is_taken_is_one_line(
    served: ServedModel, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        inference.main(["--model", str(run_dir / "model"), "--port", str(served.port)])
    assert f"port {served.port} cannot be had" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_fuzzed_requests_leave_it_alive_and_small(run_dir: Path) -> None:
    with serve_locally(run_dir / "model") as served:
        process = psutil.Process(served.pid)
        seconds: list[float] = []  # of processor time, which a busy machine does not change
        statuses: dict[int, int] = {}

        def ask(body: bytes, content_type: str) -> None:
            before = sum(process.cpu_times()[:2])
            reply = served.ask(body, content_type)
            seconds.append(sum(process.cpu_times()[:2]) - before)
            statuses[reply.status] = statuses.get(reply.status, 0) + 1
            assert reply.status == 200 or 400 <= reply.status < 500

        large = encoded(drawn_photo(600, 450), quality=95)
        photos = st.lists(st.tuples(st.integers(0, len(large) - 1), st.integers(0, 7)), max_size=20)

        @settings(max_examples=8_200, phases=[Phase.generate])
        @given(request=REQUESTS)
        def small_bodies(request: tuple[bytes, str]) -> None:
            ask(*request)

        @settings(max_examples=2_000, phases=[Phase.generate])
        @given(flips=photos, end=st.integers(1, len(large)))
        def large_photos(flips: list[tuple[int, int]], end: int) -> None:
            ask(flipped(large, flips)[: end if end % 2 else None], "image/jpeg")

        small_bodies()
        large_photos()
        p99 = sorted(seconds)[int(0.99 * len(seconds))]
        print(f"{len(seconds)} requests, {statuses}, p99 {p99:.3f} s, {served.memory() >> 20} MiB")
        assert len(seconds) >= 10_000
        assert p99 < 1
        assert served.memory() < MAX_MEMORY
        assert served.ask(PHOTO, "image/jpeg").status == 200


def test_many_clients_at_once_get_the_answers_of_one(served: ServedModel) -> None:
    photos = [encoded(drawn_photo(seed=seed)) for seed in range(8)]
    requests = [(photo, "image/jpeg") for photo in photos]
    for before, now in pairwise(photos):
        pair = {"image": in_base64(now), "previous": {"image": in_base64(before), "count": 3}}
        requests.append((json.dumps(pair).encode(), JSON))
    alone = [served.ask(*request).content for request in requests]
    barrier = threading.Barrier(16)

    def client(seed: int) -> None:
        barrier.wait()
        order = random.Random(seed)
        for _ in range(8):
            index = order.randrange(len(requests))
            found = served.ask(*requests[index]).content
            for name in ("probabilities", "change"):
                expected = alone[index].get(name)
                assert found.get(name) == (expected and pytest.approx(expected, abs=1e-5))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
