import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import export_model
import inference
from count_distribution import confidence_levels
from export_model import check, export, figures
from paths import ROOT
from publishing.model_archive import PICKLES
from serving.bin_counter import BinCounter
from serving.bin_requests import PhotoSources
from stand_ins.served_model import drawn_photo, encoded


@pytest.fixture(scope="module")
def exported(run_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with an exported form in bf16."""
    model_dir = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(run_dir / "model", model_dir)
    export_model.main(["--model", str(model_dir), "--dataset_dir", str(dataset_dir)])
    return model_dir


@pytest.fixture
def photos() -> list[np.ndarray]:
    return [np.array(drawn_photo(32, 32, seed)) for seed in range(8)]


def test_the_handler_takes_the_exported_form_and_answers_nearly_the_same(
    exported: Path, photos: list[np.ndarray]
) -> None:
    fast = BinCounter(exported, num_threads=1)
    plain = BinCounter(exported, num_threads=1, use_export=False)
    assert fast.runtime.startswith("openvino ")
    assert plain.runtime == "torch f32"
    difference = np.abs(fast.probabilities(photos) - plain.probabilities(photos)).max()
    assert difference < export_model.MAX_DIFFERENCE["bf16"]
    alone, together = fast.probabilities(photos[:1])[0], fast.probabilities(photos)[0]
    np.testing.assert_allclose(alone, together, atol=5e-3)
    np.testing.assert_allclose(fast.probabilities(photos).sum(axis=1), 1, atol=1e-9)


def test_a_process_lives_on_when_its_models_are_gone(exported: Path) -> None:
    # With a core each, a signal after that would find no stack for its handler.
    program = """
import signal, sys
from pathlib import Path
from serving.bin_counter import BinCounter
signal.signal(signal.SIGUSR1, lambda *given: print("heard"))
models = [BinCounter(Path(sys.argv[1]), num_threads=1) for _ in range(3)]
while models:
    del models[0]
    signal.raise_signal(signal.SIGUSR1)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(exported)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "heard\n" * 3), result.stderr


def test_what_was_measured_is_kept_and_the_container_installs_what_it_needs(
    exported: Path,
) -> None:
    record = json.loads((exported / "openvino" / "export.json").read_text())
    assert record["num_photos"] > 20
    assert abs(record["safetensors"]["accuracy"] - record["exported"]["accuracy"]) <= 0.002
    requirements = (exported / "code" / "requirements.txt").read_text().splitlines()
    assert f"openvino=={record['openvino']}" in requirements
    assert f"openvino=={record['openvino']}" in (ROOT / "requirements.txt").read_text().splitlines()


def test_a_job_may_bring_the_exported_form_home(exported: Path) -> None:
    names = {path.name for path in (exported / "openvino").iterdir()}
    assert names == {"export.json", "model.weights", "model.xml"}
    assert not [name for name in names if name.endswith(PICKLES)]


def test_in_f32_the_answers_are_equal(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")
    record = export(tmp_path / "model", str(dataset_dir), "f32")
    assert record["precision"] == "f32"
    assert record["largest_difference"] < 1e-4
    assert BinCounter(tmp_path / "model", num_threads=1).runtime == "openvino f32"


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_batch_shared_by_the_cores_keeps_its_order(
    num_threads: int, exported: Path, photos: list[np.ndarray]
) -> None:
    counter = BinCounter(exported, num_threads)
    alone = np.concatenate([counter.probabilities([photo]) for photo in photos])
    assert np.abs(alone[0] - alone[1:]).max(axis=1).min() > 1e-6  # no two photos have one answer
    # Less than fills the cores, exactly that, and more.
    for num_photos in (2, 4, 12, 13, 32):
        order = [index % len(photos) for index in range(num_photos)]
        found = counter.probabilities([photos[index] for index in order])
        np.testing.assert_allclose(found, alone[order], atol=1e-7)


def test_several_threads_may_ask_at_once(exported: Path, photos: list[np.ndarray]) -> None:
    counter = BinCounter(exported, num_threads=2)
    asked = [photos[:size] * 2 for size in (1, 3, 5, 8)]
    expected = [counter.probabilities(batch) for batch in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: counter.probabilities(asked[i % 4]), range(100)))
    for index, rows in enumerate(found):
        np.testing.assert_array_equal(rows, expected[index % 4])


def test_no_thread_is_pinned_to_a_core_that_another_worker_may_use(
    exported: Path, photos: list[np.ndarray]
) -> None:
    own = os.sched_getaffinity(0)
    counter = BinCounter(exported, num_threads=2)
    counter.probabilities(photos)
    threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
    assert len(threads) > 2
    assert [os.sched_getaffinity(thread) for thread in threads] == [own] * len(threads)


def test_a_form_of_other_weights_is_not_used(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("ab") as weights:
        weights.write(b"\0")  # stands for another training; the file is not read as weights here
    counter = BinCounter.__new__(BinCounter)
    counter.model_dir = tmp_path / "model"
    assert counter._exported_network(1) is None
    assert "made from other weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.xml", "model.weights"])
def test_a_damaged_form_says_so(name: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    damaged = tmp_path / "model" / "openvino" / name
    content = damaged.read_bytes()
    half = len(content) // 2
    # Of the same length: OpenVINO would answer with what is there.
    damaged.write_bytes(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    with pytest.raises(ValueError, match=rf"{name} is damaged, .*: export the model again"):
        BinCounter(tmp_path / "model", num_threads=1)
    damaged.unlink()
    with pytest.raises(ValueError, match=rf"cannot be loaded \(.*{name}"):
        BinCounter(tmp_path / "model", num_threads=1)


def test_a_form_of_an_earlier_version_is_not_used(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its record has no checksums: nothing tells whether it is whole."""
    shutil.copytree(exported, tmp_path / "model")
    record = tmp_path / "model" / "openvino" / "export.json"
    content = json.loads(record.read_text())
    assert content.pop("sha256").keys() == {"model.xml", "model.weights"}
    record.write_text(json.dumps(content))
    assert BinCounter(tmp_path / "model", num_threads=1).runtime == "torch f32"
    message = "has no checksums: not used. scripts/export_model.py writes it anew.\n"
    assert message in capsys.readouterr().err


def test_without_openvino_the_safetensors_answer(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert BinCounter(exported, num_threads=1).runtime == "torch f32"
    assert "not installed" in capsys.readouterr().err


def test_the_library_sends_nothing_when_it_is_imported() -> None:
    program = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "tried = []\n"
        "sys.addaudithook(lambda event, arguments: event in ('socket.connect', "
        "'socket.getaddrinfo') and tried.append(arguments))\n"
        "from serving.bin_counter import import_openvino; import_openvino()\n"
        "import openvino.tools.ovc, threading\n"
        "[t.join() for t in threading.enumerate() if t is not threading.main_thread()]\n"
        "import openvino.tools.ovc.telemetry_stub as stub\n"
        "print(openvino.tools.ovc.telemetry_utils.tm is stub, tried)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert printed.splitlines()[-1] == "True []"


BEFORE = {
    "accuracy": 0.5,
    "negative_log_likelihood": 1.2,
    "expected_calibration_error": 0.02,
}
RECORD = {"precision": "bf16", "largest_difference": 0.01, "safetensors": BEFORE}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"accuracy": 0.497}, "accuracy"),
        ({"negative_log_likelihood": 1.21}, "log likelihood"),
        ({"negative_log_likelihood": float("nan")}, "log likelihood"),
        ({"expected_calibration_error": 0.03}, "calibration error"),
    ],
)
def test_a_form_that_is_worse_is_refused(values: dict[str, float], reason: str) -> None:
    check(RECORD | {"exported": BEFORE})
    with pytest.raises(ValueError, match=reason):
        check(RECORD | {"exported": BEFORE | values})
    with pytest.raises(ValueError, match="a probability"):
        check(RECORD | {"exported": BEFORE, "largest_difference": 0.06})


def test_the_figures_are_those_of_the_textbook() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
    found = figures(
        probabilities, np.array([0, 1, 1, 1]), confidence_levels(probabilities.max(axis=1))
    )
    assert found["accuracy"] == 0.75
    assert found["negative_log_likelihood"] == pytest.approx(-np.log([0.9, 0.1, 0.7, 0.7]).mean())
    # Half at 0.9, of which 0.5 right; half at 0.7, all right.
    assert found["expected_calibration_error"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.3)


@pytest.mark.parametrize("what", ["model", "dataset"])
def test_a_missing_folder_is_one_line(
    what: str, run_dir: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "nowhere" if what == "model" else str(run_dir / "model")
    dataset = "nowhere" if what == "dataset" else str(dataset_dir)
    with pytest.raises(SystemExit, match="2"):
        export_model.main(["--model", model, "--dataset_dir", dataset])
    errors = capsys.readouterr().err.splitlines()
    assert "error: " in errors[-1]
    assert "nowhere" in errors[-1]


def test_the_endpoint_says_which_form_answered(exported: Path) -> None:
    endpoint = inference.Endpoint(BinCounter(exported, 1), PhotoSources())
    request = inference.input_fn(encoded(drawn_photo()), "image/jpeg")
    answers = inference.predict_fn(request, endpoint)
    assert isinstance(answers, inference.Answers)
    assert answers.rows[0]["runtime"].startswith("openvino ")
