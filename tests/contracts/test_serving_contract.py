"""A model folder under the inference container's model server, toolkit and transformers."""

import base64
import itertools
import json
import re
import shutil
import statistics
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import container
import export_model
from deployment import served_archive
from stand_ins.model_server import ensure_environment, serve_as_container
from stand_ins.served_model import ServedModel, drawn_photo, encoded, serve_locally

PHOTO, BEFORE = encoded(drawn_photo()), encoded(drawn_photo(seed=1))
PAIR = {
    "image": base64.b64encode(PHOTO).decode(),
    "previous": {"image": base64.b64encode(BEFORE).decode(), "expected_quantity": 2},
}
NUM_CLIENTS, SECONDS = 64, 60

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(run_dir: Path) -> Iterator[ServedModel]:
    if shutil.which("java") is None:
        pytest.skip("needs Java: apt-get install default-jre-headless")
    with serve_as_container(run_dir / "model", workers=2) as server:
        yield server


def test_the_servers_environment_has_the_containers_transformers() -> None:
    program = "import transformers; print(transformers.__version__)"
    printed = subprocess.run(
        [ensure_environment(), "-c", program], check=True, capture_output=True, text=True
    ).stdout
    [in_container] = re.findall(r"transformers([\d.]+)-", container.INFERENCE_IMAGE_TAGS["cpu"])
    assert printed.strip() == in_container


def test_every_content_type_gets_the_answer_of_the_local_server(
    served: ServedModel, run_dir: Path
) -> None:
    image = base64.b64encode(PHOTO).decode()
    png = encoded(drawn_photo(), "PNG")
    requests = [
        (PHOTO, "image/jpeg", None),
        (PHOTO, "application/x-image", "application/json"),
        (png, "image/png", "text/csv"),
        (json.dumps({"image": image, "expected_quantity": 3}).encode(), "application/json", None),
        (json.dumps({"image": image}).encode(), "application/json; charset=utf-8", None),
        (json.dumps({"instances": [{"image": image}] * 3}).encode(), "application/json", None),
        (json.dumps(PAIR).encode(), "application/json", None),
        (json.dumps({"instances": [PAIR, {"image": image}]}).encode(), "application/json", None),
    ]
    with serve_locally(run_dir / "model") as local:
        for request in requests:
            reply, expected = served.ask(*request), local.ask(*request)
            assert reply.status == expected.status == 200
            if request[2] == "text/csv":
                assert reply.body.split()[0] == expected.body.split()[0]
            else:
                first, other = (
                    r.content.get("predictions", [r.content])[0] for r in (reply, expected)
                )
                assert first["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
                assert first.get("change", {}) == pytest.approx(other.get("change", {}), abs=1e-4)
                assert first["version"] == other["version"]


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status"),
    [
        (b"no photo", "image/jpeg", None, 415),
        (PHOTO[:700], "image/jpeg", None, 400),
        (PHOTO, "text/plain", None, 415),
        (PHOTO, None, None, 415),
        (b"", "image/jpeg", None, 415),
        (b"{", "application/json", None, 400),
        (b'{"url": "https://169.254.169.254/"}', "application/json", None, 403),
        (b'{"s3_key": "private/key"}', "application/json", None, 403),
        (json.dumps(PAIR | {"previous": 3}).encode(), "application/json", None, 400),
        (PHOTO, "image/jpeg", "text/html", 406),
    ],
)
def test_a_callers_fault_has_its_own_status_through_the_toolkit(
    body: bytes, content_type: str | None, accept: str | None, status: int, served: ServedModel
) -> None:
    reply = served.ask(body, content_type, accept)
    assert reply.status == status, reply.body
    assert reply.content["request_id"] == reply.headers["x-request-id"]


def test_in_a_batch_transform_a_photos_fault_is_an_answer_there_too(run_dir: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs Java: apt-get install default-jre-headless")
    with serve_as_container(run_dir / "model", SAGEMAKER_BATCH="true") as server:
        assert "count" in server.ask(PHOTO, "application/x-image", "application/json").content
        reply = server.ask(PHOTO[:700], "application/x-image", "application/json")
    assert reply.status == 200
    assert reply.content["error"] == "The photo is damaged or truncated."
    assert reply.content["request_id"] == reply.headers["x-request-id"]


def test_the_exported_form_answers_there_too(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs Java: apt-get install default-jre-headless")
    shutil.copytree(run_dir / "model", tmp_path / "model")
    export_model.export(tmp_path / "model", str(dataset_dir), "bf16")
    with serve_as_container(tmp_path / "model") as server:
        reply = server.ask(PHOTO, "image/jpeg")
    assert reply.status == 200
    assert reply.content["runtime"].startswith("openvino ")


def test_what_deploy_packs_answers_there(
    run_dir: Path, served: ServedModel, tmp_path: Path
) -> None:
    served_archive.copy_model(str(run_dir), tmp_path / "model", tmp_path)
    served_archive.add_handler(tmp_path / "model")
    served_archive.pack(tmp_path / "model", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    photo = served_archive.smoke_photo(tmp_path / "photo.png")
    with serve_as_container(tmp_path / "unpacked") as server:
        answer = server.ask(photo, "image/png", "application/json").content
    expected = served.ask(photo, "image/png", "application/json").content
    assert served_archive.check_same_answer(answer, expected) < 1e-4


def test_sixty_four_clients_for_a_minute_lose_no_request_and_no_memory(
    served: ServedModel,
) -> None:
    requests = [(PHOTO, "image/jpeg"), (json.dumps(PAIR).encode(), "application/json")]
    served.ask(*requests[0])
    end = time.monotonic() + SECONDS
    replies: list[int] = []
    is_over = threading.Event()

    def client() -> None:
        for request in itertools.cycle([requests[0], *requests]):  # every third one is a pair
            if time.monotonic() >= end:
                return
            replies.append(served.ask(*request).status)

    memory: list[int] = []  # of the Python workers: Java fills its heap as it likes

    def watch() -> None:
        workers = [process for process in served.processes() if "python" in process.name()]
        assert len(workers) >= 2
        while not is_over.wait(0.5):
            memory.append(sum(process.memory_info().rss for process in workers))

    threads = [threading.Thread(target=client) for _ in range(NUM_CLIENTS)]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    watcher.join()
    quarter = len(memory) // 4
    early = statistics.median(memory[quarter : 2 * quarter]) / 2**20
    late = statistics.median(memory[-quarter:]) / 2**20
    print(f"{len(replies)} requests, {set(replies)}; {early:.0f} MiB, then {late:.0f} MiB")
    assert set(replies) == {200}
    assert len(replies) > NUM_CLIENTS
    assert late < early * 1.05 + 8
