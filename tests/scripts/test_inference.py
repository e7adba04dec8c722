import builtins
import csv
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image

import inference
from damaged_requests import BEFORE, JPEG, JSON, PHOTO, REQUESTS, in_base64
from inference import Answers, input_fn, model_fn, output_fn, predict_fn
from paths import ROOT
from serving import photo_checks
from serving.bin_counter import BinCounter, Seen
from serving.bin_requests import MAX_INSTANCES, PhotoSources, Previous
from serving.local_server import RequestContext
from serving.photo_checks import MAX_NANOSECONDS, MAX_SCANS, START_OF_SCAN, decode_photo
from serving.visit_answers import BY_COUNTS, BY_HEAD, visit_answer
from stand_ins.served_model import drawn_photo, encoded
from visits.chain import ChainWeights


@pytest.fixture(scope="module")
def endpoint(run_dir: Path) -> inference.Endpoint:
    # One thread: on a busy machine two of them wait for one another.
    return inference.Endpoint(BinCounter(run_dir / "model", num_threads=1), PhotoSources())


def ask(
    endpoint: inference.Endpoint, body: Any, content_type: str | None, accept: str | None = JSON
) -> tuple[int, str]:
    """Return status and text, as the toolkit's handler service has them."""
    context = RequestContext()
    request = input_fn(body, content_type, context)
    text = output_fn(predict_fn(request, endpoint, context), accept, context)
    if context.status != 200:
        assert json.loads(text).keys() == {"error", "request_id"}
        assert json.loads(text)["request_id"] == context.request_id
    return context.status, text


def answer(endpoint: inference.Endpoint, body: Any, content_type: str = JSON) -> Any:
    body = json.dumps(body) if content_type == JSON else body
    status, text = ask(endpoint, body, content_type)
    assert status == 200, text
    return json.loads(text)


def test_probabilities_are_the_trainers_on_the_same_pixels(
    endpoint: inference.Endpoint, run_dir: Path, dataset_dir: Path
) -> None:
    predictions = pq.read_table(run_dir / "predictions_test.parquet").to_pandas()
    bins = load_dataset(str(dataset_dir), split="test").with_format("arrow")
    photos = [image["bytes"] for image in bins[:]["image"].to_pylist()]
    columns = [f"probability_{count}" for count in endpoint.counter.counts]
    expected = predictions[columns].to_numpy()
    assert expected.std() > 0.001
    found = []
    for start in range(0, len(photos), MAX_INSTANCES):
        batch = photos[start : start + MAX_INSTANCES]
        instances = [{"image": in_base64(photo)} for photo in batch]
        found += answer(endpoint, {"instances": instances})["predictions"]
    probabilities = np.array([list(row["probabilities"].values()) for row in found])
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert [row["count"] for row in found] == list(predictions["count"])


def test_an_answer_says_what_was_counted_how_surely_and_by_which_model(
    endpoint: inference.Endpoint,
) -> None:
    found = answer(endpoint, PHOTO, JPEG)
    assert list(found) == [
        *("count", "probabilities", "expected_count", "model", "version", "runtime")
    ]
    probabilities = found["probabilities"]
    assert list(probabilities) == ["1", "2", "3", "4", "5"]
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert probabilities[str(found["count"])] == max(probabilities.values())
    mean = sum(int(count) * value for count, value in probabilities.items())
    assert found["expected_count"] == pytest.approx(mean, abs=1e-4)
    assert (found["model"], len(found["version"])) == ("vit", 12)


def test_a_quantity_gets_the_probability_that_the_bin_is_wrong(
    endpoint: inference.Endpoint,
) -> None:
    found = answer(endpoint, {"image": in_base64(PHOTO), "expected_quantity": 2})
    assert found["expected_quantity"] == 2
    assert found["probability_wrong"] == pytest.approx(1 - found["probabilities"]["2"], abs=1e-5)


@pytest.mark.parametrize("quantity", [0, 6, 88])
def test_of_a_quantity_that_it_cannot_count_the_model_says_nothing(
    quantity: int, endpoint: inference.Endpoint
) -> None:
    found = answer(endpoint, {"image": in_base64(PHOTO), "expected_quantity": quantity})
    assert found["probability_wrong"] is None
    assert found["reason"] == "the model counts 1 to 5 items only"


def test_instances_are_counted_in_one_batch_and_in_order(
    endpoint: inference.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [encoded(drawn_photo(seed=seed)) for seed in range(5)]
    alone = [answer(endpoint, photo, JPEG) for photo in photos]
    batches = []
    network = endpoint.counter.network

    def counted(batch: np.ndarray) -> Seen:
        batches.append(len(batch))
        return look(batch)

    look = network.look
    monkeypatch.setattr(network, "look", counted)
    instances = [{"image": in_base64(photo)} for photo in photos]
    together = answer(endpoint, {"instances": instances})["predictions"]
    assert batches == [5]
    for one, other in zip(alone, together, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_several_cores_decode_side_by_side_and_in_order(endpoint: inference.Endpoint) -> None:
    instances = [{"image": in_base64(encoded(drawn_photo(seed=seed)))} for seed in range(9)]
    on_four = replace(endpoint, num_threads=4)
    assert answer(on_four, {"instances": instances}) == answer(endpoint, {"instances": instances})
    status, _ = ask(on_four, json.dumps({"instances": [*instances, {"image": "AAAA"}]}), JSON)
    assert status == 415


def test_one_instance_is_still_a_list(endpoint: inference.Endpoint) -> None:
    found = answer(endpoint, {"instances": [{"image": in_base64(PHOTO)}]})
    assert len(found["predictions"]) == 1


def test_csv_has_a_line_of_names_and_a_line_a_photo(endpoint: inference.Endpoint) -> None:
    instances = [{"image": in_base64(PHOTO), "expected_quantity": 2}, {"image": in_base64(PHOTO)}]
    body = json.dumps({"instances": instances})
    status, text = ask(endpoint, body, JSON, "text/csv")
    assert status == 200
    first, second = csv.DictReader(io.StringIO(text))
    found = answer(endpoint, PHOTO, JPEG)
    assert int(first["count"]) == found["count"]
    assert float(first["probability_2"]) == pytest.approx(found["probabilities"]["2"], abs=1e-5)
    assert first["expected_quantity"] == "2"
    assert (second["expected_quantity"], second["probability_wrong"]) == ("", "")


def pair(before: bytes = BEFORE, now: bytes = PHOTO, **known: int) -> dict[str, Any]:
    """Return a question with the visit before; `known` is of that."""
    return {"image": in_base64(now), "previous": {"image": in_base64(before), **known}}


class WatchedNetwork:
    """The model's network, which keeps how many photos it was asked for, each time."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.batches: list[int] = []

    def look(self, photos: np.ndarray) -> Seen:
        self.batches.append(len(photos))
        return self.network.look(photos)

    def look_for_changes(self, photos: np.ndarray) -> tuple[Seen, np.ndarray]:
        self.batches.append(len(photos))
        return self.network.look_for_changes(photos)

    def changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return self.network.changes(before, after)


@pytest.fixture
def watched(endpoint: inference.Endpoint, monkeypatch: pytest.MonkeyPatch) -> WatchedNetwork:
    """Return the network of the endpoint, watched."""
    network = WatchedNetwork(endpoint.counter.network)
    monkeypatch.setattr(endpoint.counter, "network", network)
    return network


@pytest.fixture(scope="module")
def without_head(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> inference.Endpoint:
    """Return an endpoint whose model has no change head."""
    folder = tmp_path_factory.mktemp("without_head") / "model"
    shutil.copytree(run_dir / "model", folder)
    for name in ("change_head.safetensors", "change_head.json"):
        (folder / name).unlink()
    return inference.Endpoint(BinCounter(folder, num_threads=1), PhotoSources())


def test_with_the_visit_before_the_answer_has_the_change(endpoint: inference.Endpoint) -> None:
    found = answer(endpoint, pair(count=4) | {"expected_quantity": 2})
    assert list(found) == [
        *("count", "probabilities", "expected_count", "change", "change_told_by"),
        *("unchanged_rate", "expected_quantity", "probability_wrong"),
        *("model", "version", "runtime"),
    ]
    assert list(found["change"]) == ["-4", "-3", "-2", "-1", "+0", "+1", "+2", "+3", "+4"]
    # The count before is known: each count now is one change.
    for count, share in found["probabilities"].items():
        assert found["change"][f"{int(count) - 4:+d}"] == share
    assert found["probability_wrong"] == pytest.approx(1 - found["probabilities"]["2"], abs=1e-5)
    assert found["probabilities"] != answer(endpoint, PHOTO, JPEG)["probabilities"]
    assert found["change_told_by"] == BY_HEAD
    settings = endpoint.counter.visit_model.settings
    assert settings
    assert found["unchanged_rate"] == pytest.approx(settings.unchanged_rate, abs=1e-6)


def test_what_the_head_says_of_the_two_photos_is_in_the_answer(
    endpoint: inference.Endpoint, watched: WatchedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = endpoint.counter.visit_model
    assert model.settings
    listens = replace(model.settings, weights=replace(model.settings.weights, change=1.0))
    monkeypatch.setattr(endpoint.counter, "visit_model", replace(model, settings=listens))
    both = {"instances": [pair(), pair(PHOTO, BEFORE)]}
    ahead, back = answer(endpoint, both)["predictions"]
    # Both directions are one fact.
    assert list(ahead["change"].values()) == pytest.approx(
        list(back["change"].values())[::-1], abs=1e-5
    )
    sees = watched.changes

    def sees_four_more(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        told = np.full_like(sees(before, after), 1e-6)
        told[:, len(ahead["change"]) - 1] = 1
        return told

    monkeypatch.setattr(watched, "changes", sees_four_more)
    found = answer(endpoint, pair())
    assert found["change"]["+4"] > max(0.9, ahead["change"]["+4"])
    assert found["count"] == 5


def test_the_photo_before_is_the_one_before(
    endpoint: inference.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = endpoint.counter
    assert counter.visit_model.settings
    listens = replace(counter.visit_model.settings, weights=ChainWeights(5.0, 1.0, 0.1))
    monkeypatch.setattr(counter, "visit_model", replace(counter.visit_model, settings=listens))
    photos = [encoded(Image.new("RGB", (64, 64), colour)) for colour in ("black", "orange")]
    size, resample = counter.preparation.size, counter.preparation.resample
    seen, views = counter.look_for_changes([decode_photo(one, size, resample) for one in photos])

    def expected(said: np.ndarray, order: list[int]) -> np.ndarray:
        given = (seen.probabilities[order], said, Previous("image", ""), None)
        return visit_answer(*given, counter.visit_model, counter.counts).changes

    ahead, back = counter.changes(views[[0, 1]], views[[1, 0]])
    found = list(answer(endpoint, pair(*photos))["change"].values())
    np.testing.assert_allclose(found, expected(ahead, [0, 1]), atol=1e-5)
    for other in (expected(back, [0, 1]), expected(ahead, [1, 0])):
        assert np.abs(other - found).max() > 1e-3


def test_a_chain_of_visits_looks_at_each_photo_once(
    endpoint: inference.Endpoint, watched: WatchedNetwork
) -> None:
    photos = [encoded(drawn_photo(seed=seed)) for seed in range(9)]
    chain = [pair(before, now) for before, now in itertools.pairwise(photos)]
    together = answer(endpoint, {"instances": [*chain, {"image": in_base64(photos[3])}]})
    assert watched.batches == [9]
    for one, found in zip(chain, together["predictions"], strict=False):
        alone = answer(endpoint, one)
        assert found["change"] == pytest.approx(alone["change"], abs=1e-5)
        assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    single = together["predictions"][-1]
    assert "change" not in single
    assert single["probabilities"] == pytest.approx(
        answer(endpoint, photos[3], JPEG)["probabilities"], abs=1e-5
    )


def test_photos_without_visits_are_counted_as_they_come(
    endpoint: inference.Endpoint, watched: WatchedNetwork
) -> None:
    """One that is there twice is counted twice: the same batch gives the same bits as ever."""
    answer(endpoint, {"instances": [{"image": in_base64(PHOTO)}] * 3})
    assert watched.batches == [3]


def test_several_cores_decode_pairs_side_by_side_too(endpoint: inference.Endpoint) -> None:
    photos = [encoded(drawn_photo(seed=seed)) for seed in range(5)]
    instances = [pair(before, now) for before, now in itertools.pairwise(photos)]
    on_four = replace(endpoint, num_threads=4)
    assert answer(on_four, {"instances": instances}) == answer(endpoint, {"instances": instances})


def test_a_model_without_a_head_tells_changes_from_single_counts_and_the_rate(
    without_head: inference.Endpoint,
) -> None:
    status, text = ask(without_head, json.dumps(pair(count=4)), JSON)
    assert status == 400
    assert "train with --learn_changes" in text
    found = answer(without_head, pair(count=4) | {"unchanged_rate": 0.1})
    assert (found["change_told_by"], found["unchanged_rate"]) == (BY_COUNTS, 0.1)
    assert sum(found["change"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(found["change"][change] for change in ("+2", "+3", "+4")) == 0
    assert answer(without_head, PHOTO, JPEG)["count"] in range(1, 6)


@pytest.mark.parametrize(
    ("question", "status", "reason"),
    [
        (pair(PHOTO[:700]), 400, 'In "previous": The photo is damaged'),
        (pair(BEFORE, PHOTO[:700]), 400, "The photo is damaged"),
        (pair(b"no photo"), 415, 'In "previous": The photo is not a JPEG'),
        (pair(count=6), 400, 'In "previous": the model knows a "count" of 1 to 5'),
        (pair(expected_quantity=0), 400, 'In "previous": the model knows a "expected_quantity"'),
        (pair(count=3, expected_quantity=3), 400, "not both"),
        ({"image": in_base64(PHOTO), "previous": 4}, 400, 'In "previous": A photo is one of'),
        ({"image": in_base64(PHOTO), "previous": {"s3_key": "x"}}, 403, 'In "previous": This'),
    ],
)
def test_what_is_wrong_with_the_visit_before_is_one_line(
    question: dict[str, Any], status: int, reason: str, endpoint: inference.Endpoint
) -> None:
    for body in (question, {"instances": [{"image": in_base64(PHOTO)}, question]}):
        found, text = ask(endpoint, json.dumps(body), JSON)
        assert found == status
        error = json.loads(text)["error"]
        assert error.startswith(reason) or reason in error
        assert "\n" not in error


def test_in_a_csv_pairs_add_columns_behind_those_of_single_photos(
    endpoint: inference.Endpoint,
) -> None:
    single = {"image": in_base64(PHOTO), "expected_quantity": 2}
    _, plain = ask(endpoint, json.dumps({"instances": [single]}), JSON, "text/csv")
    body = json.dumps({"instances": [single, pair(count=4)]})
    status, text = ask(endpoint, body, JSON, "text/csv")
    assert status == 200
    header, names = plain.splitlines()[0], text.splitlines()[0]
    changes = [f"change_{change:+d}" for change in range(-4, 5)]
    assert names == ",".join([header, *changes, "change_told_by", "unchanged_rate"])
    first, second = csv.DictReader(io.StringIO(text))
    assert {first[name] for name in changes} == {""}
    found = answer(endpoint, pair(count=4))
    for change in changes:
        share = found["change"][change.removeprefix("change_")]
        assert float(second[change]) == pytest.approx(share, abs=1e-5)


def test_the_pixels_of_previous_photos_count_too(endpoint: inference.Endpoint) -> None:
    photos = [
        encoded(Image.new("L", (5000, 5000), shade), comment=START_OF_SCAN * (MAX_SCANS - 1))
        for shade in (10, 20)
    ]
    assert answer(endpoint, pair(photos[0], photos[0]))["count"] in range(1, 6)
    status, text = ask(endpoint, json.dumps(pair(*photos)), JSON)
    assert (status, "too many pixels and scans" in text) == (413, True)


@pytest.mark.parametrize(
    ("accept", "status"),
    [(None, 200), ("*/*", 200), ("text/html, application/json;q=0.9", 200), ("text/html", 406)],
)
def test_the_caller_chooses_among_the_types_that_there_are(
    accept: str | None, status: int, endpoint: inference.Endpoint
) -> None:
    assert ask(endpoint, PHOTO, JPEG, accept)[0] == status


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"<script>alert(1)</script>", JPEG, 415),
        (PHOTO[:700], JPEG, 400),
        (b"{", JSON, 400),
        (PHOTO, "text/plain", 415),
        (None, JPEG, 415),
        ('{"url": "https://127.0.0.1/<script>"}', JSON, 403),
        ('{"s3_key": "../../<script>"}', JSON, 403),
    ],
)
def test_a_callers_fault_is_4xx_and_repeats_nothing_of_the_request(
    body: Any, content_type: str, status: int, endpoint: inference.Endpoint
) -> None:
    found, text = ask(endpoint, body, content_type)
    assert found == status
    assert "script" not in text
    assert len(text) < 200


def test_our_fault_is_500_without_details_and_the_log_has_them(
    endpoint: inference.Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError("secret/path/to/model")

    monkeypatch.setattr(endpoint.counter.network, "look", fail)
    status, text = ask(endpoint, PHOTO, JPEG)
    assert status == 500
    assert "secret" not in text
    assert "secret/path/to/model" in caplog.text
    assert json.loads(text)["request_id"] in caplog.text


def test_an_answer_that_is_no_number_is_our_fault(
    endpoint: inference.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint.counter, "network", lambda batch: np.full((len(batch), 5), np.nan))
    assert ask(endpoint, PHOTO, JPEG)[0] == 500


def test_a_server_without_a_context_gets_an_exception_with_the_reason(
    endpoint: inference.Endpoint,
) -> None:
    with pytest.raises(RuntimeError, match=r"not a JPEG or PNG file\. \(request \w+\)"):
        output_fn(predict_fn(input_fn(b"x", JPEG), endpoint), JSON)
    assert isinstance(predict_fn(input_fn(PHOTO, JPEG), endpoint), Answers)


@pytest.mark.parametrize("value", ["true", "True"])  # AWS's, and that of its SDK's local mode
@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"no photo", JPEG, "not a JPEG or PNG"),
        (PHOTO[:700], JPEG, "damaged or truncated"),
        (encoded(drawn_photo(16, 200)), JPEG, "more than 8 times"),
        (b"{", JSON, "not JSON"),
        ('{"s3_key": "../x"}', JSON, "no photos from S3"),
    ],
)
def test_in_a_batch_transform_a_photos_fault_is_its_answer(
    value: str,
    body: Any,
    content_type: str,
    reason: str,
    endpoint: inference.Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGEMAKER_BATCH", value)
    context = RequestContext()
    request = input_fn(body, content_type, context)
    found = json.loads(output_fn(predict_fn(request, endpoint, context), JSON, context))
    assert context.status == 200
    assert reason in found["error"]
    assert found["request_id"] == context.request_id
    assert answer(endpoint, PHOTO, JPEG)["count"] in range(1, 6)


def test_in_a_batch_transform_what_concerns_all_photos_still_ends_the_job(
    endpoint: inference.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_BATCH", "true")
    assert ask(endpoint, PHOTO, JPEG, "text/html")[0] == 406
    monkeypatch.setattr(endpoint.counter, "network", lambda batch: np.full((len(batch), 5), np.nan))
    assert ask(endpoint, PHOTO, JPEG)[0] == 500


def test_a_request_of_too_many_pixels_and_scans_is_refused_before_they_are_decoded(
    endpoint: inference.Endpoint,
) -> None:
    # Scans are counted, not read: a comment of them costs this test less than scans.
    photo = encoded(Image.new("L", (5000, 5000)), comment=START_OF_SCAN * (MAX_SCANS - 1))
    instances = [{"image": in_base64(content)} for content in [PHOTO, *[photo] * 30]]
    assert len(answer(endpoint, {"instances": instances[:2]})["predictions"]) == 2
    started = time.process_time()
    status, text = ask(endpoint, json.dumps({"instances": instances}), JSON)
    assert (status, "too many pixels and scans" in text) == (413, True)
    assert time.process_time() - started < MAX_NANOSECONDS / 1e9


def of_endless_scans() -> bytes:
    """Return a JPEG of 25 megapixels and as many scans as it may have, 150 KB."""
    content = encoded(Image.new("RGB", (5000, 5000), "olive"), progressive=True)
    last = content.rindex(START_OF_SCAN)
    repeats = MAX_SCANS - content.count(START_OF_SCAN)
    return content[:-2] + content[last:-2] * repeats + content[-2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "photo", "number", "status"),
    [
        ("JPEGs of 100 scans", of_endless_scans, 32, 400),
        ("see-through PNGs", lambda: encoded(Image.new("RGBA", (5000, 5000)), "PNG"), 32, 413),
        ("JPEGs", lambda: encoded(Image.new("RGB", (5000, 5000))), 12, 200),
    ],
)
@pytest.mark.parametrize("checks", [True, False])
def test_no_request_takes_long(
    name: str,
    photo: Callable[[], bytes],
    number: int,
    status: int,
    checks: bool,
    endpoint: inference.Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not checks:
        monkeypatch.setattr(photo_checks, "simplejpeg", None)
        status = 413 if status == 400 else status  # Pillow takes such scans
    body = json.dumps({"instances": [{"image": in_base64(photo())}] * number})
    started = time.process_time()
    assert ask(endpoint, body, JSON)[0] == status
    seconds = time.process_time() - started
    print(f"{number} {name} of 25 megapixels, {len(body) / 1e6:.1f} MB: {status}, {seconds:.1f} s")
    assert seconds < 2 * MAX_NANOSECONDS / 1e9


@pytest.mark.parametrize(
    ("is_served", "workers", "threads"), [(False, None, 8), (True, None, 1), (True, "2", 4)]
)
def test_the_workers_of_a_server_share_the_cores(
    is_served: bool, workers: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "available_cores", lambda: 8)
    monkeypatch.delenv("SAGEMAKER_MODEL_SERVER_WORKERS", raising=False)
    if workers:
        monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_WORKERS", workers)
    assert inference.threads_of_a_worker(is_served) == threads


class Malicious:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return builtins.open, (str(self.mark), "w")


@pytest.mark.parametrize("keeps_safetensors", [True, False])
def test_a_malicious_pickle_in_the_model_folder_is_not_executed(
    keeps_safetensors: bool, run_dir: Path, tmp_path: Path
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    mark = tmp_path / "executed"
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "scaler.pkl"):
        (model_dir / name).write_bytes(pickle.dumps(Malicious(mark)))
    if keeps_safetensors:
        assert answer(model_fn(str(model_dir)), PHOTO, JPEG)["count"] in range(1, 6)
    else:
        (model_dir / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="pickled weights are not loaded"):
            model_fn(str(model_dir))
    assert not mark.exists()
    pickle.loads((model_dir / "scaler.pkl").read_bytes())
    assert mark.exists()  # the pickle would have done it


def changed(model_dir: Path, name: str, **values: Any) -> None:
    content = json.loads((model_dir / name).read_text()) | values
    (model_dir / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ("config.json", {"id2label": {"0": "cat", "1": "dog"}}, "not counts"),
        ("config.json", {"num_hidden_layers": 3}, "weights are missing"),
        ("preprocessor_config.json", {"do_center_crop": True}, "does not prepare photos"),
        ("preprocessor_config.json", {"do_normalize": False}, "does not prepare photos"),
    ],
)
def test_a_model_that_would_answer_otherwise_than_it_was_trained_is_refused(
    name: str, values: dict[str, Any], reason: str, run_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")
    changed(tmp_path / "model", name, **values)
    with pytest.raises(ValueError, match=reason):
        BinCounter(tmp_path / "model", num_threads=1)


def test_a_model_folder_may_have_any_name(run_dir: Path, tmp_path: Path) -> None:
    named = tmp_path / "*[1]? é%41 {x}"
    shutil.copytree(run_dir / "model", named)
    assert answer(model_fn(str(named)), PHOTO, JPEG)["count"] in range(1, 6)


def test_the_log_says_that_damage_is_not_seen(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model_fn(str(run_dir / "model"))
    assert "simplejpeg" not in caplog.text
    monkeypatch.setattr(photo_checks, "simplejpeg", None)
    model_fn(str(run_dir / "model"))
    assert "simplejpeg is not installed" in caplog.text


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_damaged_weights_are_one_line(
    length: int, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(SystemExit, match="2"):
        inference.main(["--model", str(tmp_path / "model"), "--port", "0"])
    assert "cannot be loaded (SafetensorError: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "flags",
    [
        *(["--model", "nowhere"], ["--model", "x", "--prot", "1"], []),
        *(["--model", "x", "--port", "65536"], ["--model", "x", "--port", "-1"]),
    ],
)
def test_a_wrong_command_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        inference.main(flags)
    assert capsys.readouterr().err.count("\n") == 1


def test_the_cause_is_in_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{,")
    with pytest.raises(SystemExit, match="2"):
        inference.main(["--model", str(tmp_path)])
    assert "(Expecting property name" in capsys.readouterr().err


def test_nobody_reading_is_no_traceback(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            inference.main(["--model", str(run_dir / "model"), "--port", "0"])
    assert ended.value.code == 0


def test_help_needs_no_model_and_no_heavy_library() -> None:
    program = (
        "import sys; sys.argv = ['inference.py', '--help']; sys.path.insert(0, 'scripts')\n"
        "import runpy\n"
        "try: runpy.run_path('scripts/inference.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'boto3'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert printed.startswith("usage: ")
    assert printed.splitlines()[-1] == "[]"


@settings(max_examples=500)
@given(request=REQUESTS, accept=st.sampled_from([JSON, "text/csv", "a/b"]))
def test_whatever_comes_the_answer_is_200_or_4xx(
    endpoint: inference.Endpoint, request: tuple[bytes, str], accept: str
) -> None:
    status, text = ask(endpoint, *request, accept)
    assert status == 200 or 400 <= status < 500
    event("with a change" if "change_told_by" in text else str(status))
