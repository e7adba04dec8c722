import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import export_model
import inference
from count_distribution import confidence_levels
from deployment.served_archive import EXPORT
from export_model import export
from exporting.comparison import VisitedPhotos, figures
from exporting.graphs import WEIGHTED, converted, quantized
from exporting.limits import MAX_DIFFERENCE, check
from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS
from paths import ROOT
from publishing.model_archive import PICKLES
from serving import bin_counter
from serving.bin_counter import BinCounter, OpenVinoNetwork
from serving.bin_requests import PhotoSources
from serving.photo_checks import decode_photo
from stand_ins.served_model import drawn_photo, encoded
from training.bin_dataset import load_bins, steps_of
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS


@pytest.fixture(scope="module")
def exported(run_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with a change head and an exported form, both in bf16."""
    model_dir = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(run_dir / "model", model_dir)
    flags = ["--model", str(model_dir), "--dataset_dir", str(dataset_dir), "--precision", "bf16"]
    export_model.main(flags)
    return model_dir


@pytest.fixture(scope="module")
def headless(run_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder without other heads, with its exported form, as all once were."""
    model_dir = tmp_path_factory.mktemp("headless") / "model"
    shutil.copytree(run_dir / "model", model_dir)
    for name in (HEAD_SETTINGS, HEAD_WEIGHTS, HEADS_SETTINGS, HEADS_WEIGHTS):
        (model_dir / name).unlink()
    export(model_dir, str(dataset_dir), "bf16")
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
    difference = np.abs(fast.look(photos).probabilities - plain.look(photos).probabilities).max()
    assert difference < MAX_DIFFERENCE["bf16"]
    alone, together = fast.look(photos[:1]).probabilities[0], fast.look(photos).probabilities[0]
    np.testing.assert_allclose(alone, together, atol=5e-3)
    np.testing.assert_allclose(fast.look(photos).probabilities.sum(axis=1), 1, atol=1e-9)


def test_both_forms_say_nearly_the_same_of_a_change(
    exported: Path, photos: list[np.ndarray]
) -> None:
    fast = BinCounter(exported, num_threads=1)
    plain = BinCounter(exported, num_threads=1, use_export=False)
    assert fast.runtime.startswith("openvino ")
    assert fast.tells_changes
    answers = []
    for counter in (fast, plain):
        seen, views = counter.look_for_changes(photos)
        alone = counter.look(photos).probabilities
        np.testing.assert_allclose(seen.probabilities, alone, atol=5e-3)
        answers.append(counter.changes(views[:-1], views[1:]))
        num_changes = len(possible_changes(counter.counts))
        assert answers[-1].shape == (len(photos) - 1, num_changes + 2)
        # Both directions of a pair are one fact.
        back = counter.changes(views[1:], views[:-1])
        np.testing.assert_allclose(
            answers[-1][:, :num_changes], back[:, num_changes - 1 :: -1], atol=1e-6
        )
        np.testing.assert_allclose(answers[-1][:, num_changes:], back[:, num_changes:] * (-1, 1))
    assert np.abs(answers[0] - answers[1]).max() < MAX_DIFFERENCE["bf16"]
    assert np.ptp(answers[1], axis=0).max() > 1e-6  # no two pairs have one answer


def test_item_heads_are_exported_and_answer_as_before(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    record = export_model.export(model_dir, str(dataset_dir), "bf16")
    fast = BinCounter(model_dir, num_threads=1)
    plain = BinCounter(model_dir, num_threads=1, use_export=False)
    assert fast.runtime.startswith("openvino ")
    found = []
    for counter in (fast, plain):
        seen, views = counter.look_for_changes(photos)
        alone = counter.look(photos).items
        assert seen.items is not None
        assert alone is not None
        np.testing.assert_allclose(seen.items, alone, atol=0.02)
        assert counter.item_settings is not None
        assert seen.items.shape == (len(photos), counter.item_settings.num_answers)
        changes = counter.changes(views[:-1], views[1:])
        assert changes.shape == (len(photos) - 1, len(possible_changes(counter.counts)) + 2)
        assert changes[:, :-2].sum(axis=1) == pytest.approx(1)
        found.append((seen.items, changes))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=0.1)
    assert 0 <= record["items"]["mean_difference"] < 0.02
    assert 0 <= record["volume_changes"]["mean_difference"] < 0.02
    assert record["heads"].keys() == {HEAD_WEIGHTS, "item_heads.safetensors"}
    record["items"]["largest_difference"] = 0.3
    with pytest.raises(ValueError, match=r"the size of items is off by 0\.3000, more than 0\.2"):
        check(record)


@pytest.fixture(scope="module", autouse=True)
def any_cpu_will_do() -> Iterator[None]:
    """Let a CPU without VNNI make and use int8, too: that costs less than these tests allow."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (bin_counter, export_model):
            patch.setattr(module, "multiplies_int8", lambda: True)
        yield


def test_the_fastest_form_that_is_as_good_is_kept(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    export_model.main(["--model", str(model_dir), "--dataset_dir", str(dataset_dir)])
    record = json.loads((model_dir / "openvino" / "export.json").read_text())
    tried = record["tried"]
    assert tried.keys() == {"safetensors", "int8", "bf16"}
    assert all(form["photos_a_second"] > 0 for form in tried.values())
    assert re.fullmatch(r".+, \d+ threads", record["tried_on"])
    good = {name: form for name, form in tried.items() if form["refused"] is None}
    del good["safetensors"]
    chosen = max(good, key=lambda name: good[name]["photos_a_second"])
    fast = BinCounter(model_dir, num_threads=1)
    assert fast.runtime == f"openvino {record['precision']}"
    assert record["precision"] in {"int8": ("int8",), "bf16": ("bf16", "f32")}[chosen]
    plain = BinCounter(model_dir, num_threads=1, use_export=False)
    difference = fast.look(photos).probabilities - plain.look(photos).probabilities
    assert np.abs(difference).max() < MAX_DIFFERENCE["int8"]


def test_in_eight_bits_a_model_answers_nearly_the_same_and_is_smaller(
    exported: Path, dataset_dir: Path, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(exported, model_dir)
    weights = model_dir / "openvino" / "model.weights"
    in_full = weights.stat().st_size
    record = export(model_dir, str(dataset_dir), "int8")
    assert record["precision"] == "int8"
    assert 0 < record["mean_difference"] < 0.02
    assert "tried" not in record
    assert weights.stat().st_size < 0.9 * in_full
    fast = BinCounter(model_dir, num_threads=1)
    assert fast.runtime == "openvino int8"
    plain = BinCounter(model_dir, num_threads=1, use_export=False)
    (seen, views), (expected, others) = (form.look_for_changes(photos) for form in (fast, plain))
    np.testing.assert_allclose(seen.probabilities, expected.probabilities, atol=0.05)
    np.testing.assert_allclose(
        fast.changes(views[:-1], views[1:]), plain.changes(others[:-1], others[1:]), atol=0.2
    )


def test_a_cpu_that_clips_sums_neither_makes_nor_uses_eight_bits(
    exported: Path,
    dataset_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported, tmp_path / "model")
    export(tmp_path / "model", str(dataset_dir), "int8")
    for module in (bin_counter, export_model):
        monkeypatch.setattr(module, "multiplies_int8", lambda: False)
    assert BinCounter(tmp_path / "model", num_threads=1).runtime == "torch f32"
    assert "the safetensors answer" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"it has no VNNI\): nothing was written"):
        export(tmp_path / "model", str(dataset_dir), "int8")
    record = export(tmp_path / "model", str(dataset_dir), "auto")
    assert record["tried"].keys() == {"safetensors", "bf16"}
    assert "it has no VNNI" in capsys.readouterr().out


def test_what_sees_and_says_the_finest_differences_is_not_in_eight_bits(exported: Path) -> None:
    counter = BinCounter(exported, num_threads=1, use_export=False)
    graph = converted(exported, counter.preparation)[0]
    drawn = [np.array(drawn_photo(32, 32, seed))[None] for seed in range(4)]
    in_eight = {
        node.get_friendly_name()
        for node in quantized(graph, drawn).get_ops()
        if node.get_type_name() in WEIGHTED
        and node.input(0).get_source_output().get_node().get_type_name() == "FakeQuantize"
    }
    assert any("attention" in name and "query" in name for name in in_eight)
    assert not [name for name in in_eight if "classifier" in name or "patch_embed" in name]
    assert not [name for name in in_eight if "item_heads.answers" in name or "change" in name]


def test_ranges_are_measured_on_photos_that_no_figure_is_of(
    exported: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def refuse(graph: object, photos: list[np.ndarray]) -> object:
        seen.extend(photos)
        raise ValueError("NNCF cannot quantize this network (a reason)")

    monkeypatch.setattr(export_model, "quantized", refuse)
    shutil.copytree(exported, tmp_path / "model")
    record = export(tmp_path / "model", str(dataset_dir), "auto")
    # And bf16 is kept, as if nothing else had been tried.
    assert record["precision"] in ("bf16", "f32")
    assert record["tried"].keys() == {"safetensors", "bf16"}
    validation = load_bins(str(dataset_dir), ["validation"])["validation"]
    assert len(seen) == min(len(validation), export_model.NUM_CALIBRATION_PHOTOS) > 5
    preparation = BinCounter(exported, num_threads=1, use_export=False).preparation
    known = {
        decode_photo(image["bytes"], preparation.size, preparation.resample).tobytes()
        for image in validation["image"]
    }
    assert {photo.tobytes() for photo in seen} <= known


def test_without_validation_photos_bf16_is_kept(
    exported: Path,
    dataset_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read_photos(dataset_dir: str, split: str, counter: BinCounter) -> VisitedPhotos:
        if split == "validation":
            raise ValueError("No 'validation' split in this dataset")
        return reading(dataset_dir, split, counter)

    reading = export_model.read_photos
    monkeypatch.setattr(export_model, "read_photos", read_photos)
    shutil.copytree(exported, tmp_path / "model")
    record = export(tmp_path / "model", str(dataset_dir), "auto")
    assert record["precision"] in ("bf16", "f32")
    assert "No 'validation' split" in capsys.readouterr().out


def test_a_form_that_is_off_is_not_kept_however_fast_it_is(
    exported: Path,
    dataset_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(exported, tmp_path / "model")
    monkeypatch.setitem(MAX_DIFFERENCE, "int8", 0.0)
    record = export(tmp_path / "model", str(dataset_dir), "auto")
    assert record["precision"] in ("bf16", "f32")
    assert record["tried"]["int8"]["refused"].startswith("in int8 a probability is off by")
    assert "refused: in int8 a probability is off by" in capsys.readouterr().out
    before = (tmp_path / "model" / "openvino" / "export.json").read_text()
    for precision in ("bf16", "f32"):
        monkeypatch.setitem(MAX_DIFFERENCE, precision, -1.0)
    with pytest.raises(ValueError, match=r"in int8 .*; in .* is off by .*: nothing was written"):
        export(tmp_path / "model", str(dataset_dir), "auto")
    assert (tmp_path / "model" / "openvino" / "export.json").read_text() == before


def test_an_answer_without_a_pair_pays_nothing_for_the_change_head(
    exported: Path, photos: list[np.ndarray]
) -> None:
    network = BinCounter(exported, num_threads=1).network
    assert isinstance(network, OpenVinoNetwork)
    network.look(np.stack(photos))
    assert network.for_pairs is None
    assert {len(form.outputs) for form in (network.counting.one, network.counting.chunks)} == {2}


def test_the_changes_that_are_compared_are_those_between_the_visits_of_the_test_split(
    exported: Path, dataset_dir: Path
) -> None:
    record = json.loads((exported / "openvino" / "export.json").read_text())
    counter = BinCounter(exported, num_threads=1, use_export=False)
    bins = load_bins(str(dataset_dir), ["test"])["test"]
    steps = steps_of(bins)
    assert record["num_pairs"] == len(steps) > 5
    assert record["num_photos"] == len(bins) > export_model.BATCH_SIZE
    decoded = [
        decode_photo(image["bytes"], counter.preparation.size, counter.preparation.resample)
        for image in bins["image"]
    ]
    _, views = counter.look_for_changes(decoded)
    changes = counter.visit_model.changes(counter.changes(views[steps[:, 0]], views[steps[:, 1]]))
    counts = np.array(bins["expected_quantity"])
    of_true = [
        row[possible_changes(counter.counts).index(counts[later] - counts[earlier])]
        for row, (earlier, later) in zip(changes, steps, strict=True)
    ]
    found = record["changes"]["safetensors"]["negative_log_likelihood"]
    assert found == pytest.approx(-np.log(of_true).mean(), abs=1e-5)
    found = record["changes"]["exported"]["negative_log_likelihood"]
    assert found == pytest.approx(-np.log(of_true).mean(), abs=0.005)


def test_a_test_split_without_visits_compares_counts_alone(
    exported: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    record = json.loads((exported / "openvino" / "export.json").read_text())
    del record["changes"], record["volume_changes"]
    printed = export_model.table(record | {"num_pairs": 0})
    assert "changes were not compared\n" in printed
    assert "the size of items is off by" in printed
    check(record | {"num_pairs": 0})


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
    head = {"change_head.weights", "change_head.xml"}
    assert names == {"export.json", "model.weights", "model.xml"} | head
    assert not [name for name in names if name.endswith(PICKLES)]
    # And deploy.py takes all of them along.
    assert {f"openvino/{name}" for name in names} == set(EXPORT)


def test_in_f32_the_answers_are_equal(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")
    record = export(tmp_path / "model", str(dataset_dir), "f32")
    assert record["precision"] == "f32"
    assert record["largest_difference"] < 1e-4
    assert record["changes"]["largest_difference"] < 1e-4
    assert BinCounter(tmp_path / "model", num_threads=1).runtime == "openvino f32"


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_batch_shared_by_the_cores_keeps_its_order(
    num_threads: int, exported: Path, photos: list[np.ndarray]
) -> None:
    counter = BinCounter(exported, num_threads)
    alone = np.concatenate([counter.look([photo]).probabilities for photo in photos])
    assert np.abs(alone[0] - alone[1:]).max(axis=1).min() > 1e-6  # no two photos have one answer
    # Less than fills the cores, exactly that, and more.
    for num_photos in (2, 4, 12, 13, 32):
        order = [index % len(photos) for index in range(num_photos)]
        found = counter.look([photos[index] for index in order]).probabilities
        np.testing.assert_allclose(found, alone[order], atol=1e-7)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_pairs_shared_by_the_cores_keep_their_order(
    num_threads: int, exported: Path, photos: list[np.ndarray]
) -> None:
    counter = BinCounter(exported, num_threads)
    alone = np.concatenate([counter.look_for_changes([photo])[1] for photo in photos])
    pairs = np.array([(a, b) for a in range(len(photos)) for b in range(len(photos)) if a != b])
    expected = np.concatenate(
        [counter.changes(alone[a][None], alone[b][None]) for a, b in pairs.tolist()]
    )
    for num_pairs in (1, 2, 12, 13, 32):
        rows = np.resize(np.arange(len(photos)), num_pairs)
        _, views = counter.look_for_changes([photos[row] for row in rows])
        np.testing.assert_allclose(views, alone[rows])
        before, after = pairs[:num_pairs].T
        found = counter.changes(alone[before], alone[after])
        np.testing.assert_allclose(found, expected[:num_pairs], atol=1e-6)


def test_several_threads_may_ask_at_once(exported: Path, photos: list[np.ndarray]) -> None:
    counter = BinCounter(exported, num_threads=2)
    asked = [photos[:size] * 2 for size in (1, 3, 5, 8)]
    expected = [counter.look(batch).probabilities for batch in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: counter.look(asked[i % 4]).probabilities, range(100)))
    for index, rows in enumerate(found):
        np.testing.assert_array_equal(rows, expected[index % 4])


def test_several_threads_may_ask_for_changes_at_once_from_the_first_one_on(
    exported: Path, photos: list[np.ndarray]
) -> None:
    def changes(counter: BinCounter, first: int) -> np.ndarray:
        _, views = counter.look_for_changes(photos[first:])
        return counter.changes(views[:-1], views[1:])

    counter, other = (BinCounter(exported, num_threads=2) for _ in range(2))
    expected = [changes(other, first) for first in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: changes(counter, i % 4), range(100)))
    for index, rows in enumerate(found):
        np.testing.assert_array_equal(rows, expected[index % 4])


def test_no_thread_is_pinned_to_a_core_that_another_worker_may_use(exported: Path) -> None:
    # In a process of its own: NNCF pins what it measures ranges with.
    program = """
import os, sys
from pathlib import Path
import numpy as np
from serving.bin_counter import BinCounter
counter = BinCounter(Path(sys.argv[1]), num_threads=2)
counter.look(np.zeros((8, *counter.preparation.size, 3), np.uint8))
threads = [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
own = os.sched_getaffinity(0)
print(len(threads) > 2, all(os.sched_getaffinity(thread) == own for thread in threads))
"""
    printed = subprocess.run(
        [sys.executable, "-c", program, str(exported)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert printed == "True True\n"


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


@pytest.mark.parametrize(
    "name", ["model.xml", "model.weights", "change_head.xml", "change_head.weights"]
)
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
    files = {"model.xml", "model.weights", "change_head.xml", "change_head.weights"}
    assert content.pop("sha256").keys() == files
    record.write_text(json.dumps(content))
    assert BinCounter(tmp_path / "model", num_threads=1).runtime == "torch f32"
    message = "has no checksums: not used. scripts/export_model.py writes it anew.\n"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["exported before there was a head", "another head"])
def test_a_form_without_the_models_change_head_is_not_used(
    reason: str,
    exported: Path,
    tmp_path: Path,
    photos: list[np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(exported, model_dir)
    if reason == "another head":
        weights = safetensors.numpy.load_file(model_dir / HEAD_WEIGHTS)
        safetensors.numpy.save_file(
            weights | {"classifier.bias": weights["classifier.bias"] + np.arange(9, dtype="f4")},
            model_dir / HEAD_WEIGHTS,
        )
    else:
        for path in (model_dir / "openvino").glob("change_head.*"):
            path.unlink()
        record = json.loads((model_dir / "openvino" / "export.json").read_text())
        del record["heads"][HEAD_WEIGHTS], record["changes"], record["num_pairs"]
        (model_dir / "openvino" / "export.json").write_text(json.dumps(record))
    counter = BinCounter(model_dir, num_threads=1)
    errors = capsys.readouterr().err
    message = "without this model's heads, or with others, beside its counts: not used."
    assert message in errors
    assert (counter.runtime, counter.tells_changes) == ("torch f32", True)
    _, views = counter.look_for_changes(photos)
    plain = BinCounter(model_dir, num_threads=1, use_export=False)
    _, expected = plain.look_for_changes(photos)
    np.testing.assert_allclose(
        counter.changes(views[:-1], views[1:]), plain.changes(expected[:-1], expected[1:])
    )


def test_a_form_of_before_there_were_item_heads_is_used(exported: Path, tmp_path: Path) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(exported, model_dir)
    for path in model_dir.glob("item_heads.*"):
        path.unlink()
    path = model_dir / "openvino" / "export.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"head_version": record.pop("heads")[HEAD_WEIGHTS]}))
    assert BinCounter(model_dir, num_threads=1).runtime.startswith("openvino ")


def test_a_model_without_other_heads_is_exported_and_served_as_it_was(
    headless: Path, exported: Path, photos: list[np.ndarray]
) -> None:
    names = {path.name for path in (headless / "openvino").iterdir()}
    assert names == {"export.json", "model.weights", "model.xml"}
    record = json.loads((headless / "openvino" / "export.json").read_text())
    assert not {"num_pairs", "changes", "items"} & record.keys()
    assert record["heads"] == {}
    counter = BinCounter(headless, num_threads=1)
    assert counter.runtime.startswith("openvino ")
    assert not counter.tells_changes
    with_head = BinCounter(exported, num_threads=1)
    np.testing.assert_allclose(
        counter.look(photos).probabilities, with_head.look(photos).probabilities, atol=5e-3
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"num_features": 999}, "takes 999 features of a position"), ({"counts": [1, 2]}, "counts")],
)
def test_a_change_head_of_another_model_is_one_line(
    change: dict[str, object],
    reason: str,
    run_dir: Path,
    dataset_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    settings = json.loads((model_dir / HEAD_SETTINGS).read_text())
    (model_dir / HEAD_SETTINGS).write_text(json.dumps(settings | change))
    with pytest.raises(SystemExit, match="2"):
        export_model.main(["--model", str(model_dir), "--dataset_dir", str(dataset_dir)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{HEAD_SETTINGS} belongs to another model (it" in line
    assert reason in line
    assert not (model_dir / "openvino").exists()


def test_without_openvino_the_safetensors_answer(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    # Other tests have one already, which stays for the life of the process.
    monkeypatch.setattr(bin_counter, "openvino_core", bin_counter.openvino_core.__wrapped__)
    assert BinCounter(exported, num_threads=1).runtime == "torch f32"
    assert "not installed" in capsys.readouterr().err


def test_the_library_sends_nothing_when_it_is_imported() -> None:
    program = (
        "import sys; sys.path.insert(0, 'scripts')\n"
        "tried = []\n"
        "sys.addaudithook(lambda event, arguments: event in ('socket.connect', "
        "'socket.getaddrinfo') and tried.append(arguments))\n"
        "from serving.bin_counter import import_openvino; import_openvino(); import nncf\n"
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
RECORD = {
    "precision": "bf16",
    "num_photos": 1000,
    "largest_difference": 0.01,
    "safetensors": BEFORE,
    "exported": BEFORE,
}


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
    check(RECORD)
    worse = RECORD | {"exported": BEFORE | values}
    with pytest.raises(ValueError, match=reason):
        check(worse)
    # The same of changes, though the counts are as they were.
    with pytest.raises(ValueError, match=f"{reason} of changes"):
        check(RECORD | {"num_pairs": 1000, "changes": worse})


def test_a_form_with_one_answer_that_is_far_off_is_refused() -> None:
    far_off = RECORD | {"largest_difference": 0.06}
    with pytest.raises(ValueError, match="a probability is off by"):
        check(far_off)
    with pytest.raises(ValueError, match="a probability of changes is off by"):
        check(RECORD | {"num_pairs": 1000, "changes": far_off})


@pytest.mark.parametrize(("name", "sign"), [("accuracy", -1), ("expected_calibration_error", 1)])
def test_of_a_few_answers_one_may_tip_over(name: str, sign: int) -> None:
    def record(num_lost: int) -> dict[str, object]:
        exported = BEFORE | {name: BEFORE[name] + sign * num_lost / 100}
        return RECORD | {"num_photos": 100, "exported": exported}

    check(record(1))
    with pytest.raises(ValueError, match=r"is off by 0\.0200, more than 0\.015"):
        check(record(2))


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
