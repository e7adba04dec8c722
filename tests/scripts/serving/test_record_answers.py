import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inference
from damaged_requests import in_base64
from items.evidence import NO_ITEMS
from serving.bin_counter import BinCounter
from serving.bin_requests import JSON, PhotoSources, read_request
from serving.photo_checks import decode_photo
from serving.request_errors import RequestError
from stand_ins.served_model import drawn_photo, encoded
from visits.chain import with_other_photos

BOX = {"quantity": 1, "length": 9.0, "width": 6.0, "height": 4.0, "weight": 2.0}
PHOTO, BEFORE = encoded(drawn_photo()), encoded(drawn_photo(seed=1))


@pytest.fixture(scope="module")
def endpoint(run_dir: Path) -> inference.Endpoint:
    """Return an endpoint whose model has item heads."""
    return inference.Endpoint(BinCounter(run_dir / "model", num_threads=1), PhotoSources())


def answer(endpoint: inference.Endpoint, content: dict[str, Any]) -> dict[str, Any]:
    found = inference.predict_fn(read_request(json.dumps(content), JSON), endpoint)
    assert isinstance(found, inference.Answers)
    return found.rows[0]


def question(items: list[Any] | None, **more: Any) -> dict[str, Any]:
    return {"image": in_base64(PHOTO), "expected_items": items, **more}


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        read_request(json.dumps(content), JSON)
    assert caught.value.status == 400
    return caught.value.reason


def test_a_record_is_judged_by_the_items_that_it_names(endpoint: inference.Endpoint) -> None:
    plain = answer(endpoint, {"image": in_base64(PHOTO), "expected_quantity": 2})
    found = answer(endpoint, question([BOX, BOX]))
    # What the photo shows does not depend on what is expected.
    for name in ("count", "probabilities", "expected_count"):
        assert found[name] == plain[name]
    assert (found["expected_quantity"], found["judged_by"]) == (2, "count and items")
    assert found["expected_volume"] == 432.0
    assert found["seen_volume_low"] < found["seen_volume"] < found["seen_volume_high"]
    assert found["probability_wrong"] != pytest.approx(plain["probability_wrong"], abs=1e-4)
    counter = endpoint.counter
    assert counter.item_settings is not None
    prepare = counter.preparation
    seen = counter.look([decode_photo(PHOTO, prepare.size, prepare.resample)])
    assert seen.items is not None
    (asked,), _ = read_request(json.dumps(question([BOX, BOX])), JSON)
    record = asked.expected_items
    assert record is not None
    given = counter.item_settings.counts_given(seen.probabilities, seen.items, [record])
    assert found["probability_wrong"] == pytest.approx(1 - given[0, 1], abs=1e-5)


def test_with_the_visit_before_both_count(endpoint: inference.Endpoint) -> None:
    previous = {"previous": {"image": in_base64(BEFORE), "count": 3}}
    plain = answer(endpoint, {"image": in_base64(PHOTO), "expected_quantity": 2, **previous})
    found = answer(endpoint, question([BOX, BOX], **previous))
    assert (found["probabilities"], found["change"]) == (plain["probabilities"], plain["change"])
    counter = endpoint.counter
    assert counter.item_settings is not None
    prepare = counter.preparation
    seen = counter.look([decode_photo(PHOTO, prepare.size, prepare.resample)])
    (asked,), _ = read_request(json.dumps(question([BOX, BOX])), JSON)
    assert seen.items is not None
    assert asked.expected_items is not None
    records = [asked.expected_items]
    given = counter.item_settings.counts_given(seen.probabilities, seen.items, records)
    counts = np.array([list(plain["probabilities"].values())])
    weights = counter.visit_model.weights
    expected = with_other_photos(counts, seen.probabilities, given, weights)
    assert found["probability_wrong"] == pytest.approx(1 - expected[0, 1], abs=1e-4)


def test_csv_has_further_columns_behind_the_others(endpoint: inference.Endpoint) -> None:
    body = {"instances": [question([BOX, BOX]), {"image": in_base64(PHOTO)}]}
    found = inference.predict_fn(read_request(json.dumps(body), JSON), endpoint)
    head, first, second = inference.output_fn(found, "text/csv").splitlines()
    assert head.endswith(
        "runtime,judged_by,expected_volume,seen_volume,seen_volume_low,seen_volume_high"
    )
    assert ",count and items,432.0," in first
    assert second.endswith(",,,,,")


@pytest.mark.parametrize(
    "item",
    [
        {"quantity": 2},
        {"quantity": 2, "length": 0, "width": 0.0, "height": None, "weight": 1e9},
        {"quantity": 2, "asin": "B00X", "name": "<b>", "length": {"unit": "IN", "value": 1e9}},
    ],
)
def test_what_is_missing_or_absurd_is_not_known(
    item: dict[str, Any], endpoint: inference.Endpoint
) -> None:
    found = answer(endpoint, question([item]))
    assert (found["expected_quantity"], found["expected_volume"]) == (2, None)
    assert 0 <= found["probability_wrong"] <= 1


def test_units_are_those_of_the_bucket(endpoint: inference.Endpoint) -> None:
    metric = {
        "quantity": 2,
        **{n: {"unit": "centimeters", "value": 2.54 * BOX[n]} for n in ("length", "width")},
        "height": {"unit": "IN", "value": 4.0},
        "weight": {"unit": "ounces", "value": 32},
    }
    one, other = (answer(endpoint, question([each])) for each in (metric, BOX | {"quantity": 2}))
    assert one["expected_volume"] == other["expected_volume"]
    assert one["probability_wrong"] == pytest.approx(other["probability_wrong"], abs=1e-5)


def test_no_items_and_more_than_the_model_counts_are_a_persons(
    endpoint: inference.Endpoint,
) -> None:
    for items, quantity in (([], 0), ([BOX] * 200, 200), ([BOX | {"quantity": 10**6}], 10**6)):
        found = answer(endpoint, question(items))
        assert (found["expected_quantity"], found["probability_wrong"]) == (quantity, None)
        assert found["reason"] == "the model counts 1 to 5 items only"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (question([BOX], expected_quantity=3), 'come to 1, and "expected_quantity" is 3'),
        ({"image": "x", "expected_items": {"quantity": 1}}, "has to be a list of 1000 items"),
        ({"image": "x", "expected_items": [BOX] * 1001}, "has to be a list of 1000 items"),
        (question([BOX, {"length": 3}]), 'Item 2 of "expected_items" has no "quantity"'),
        (question([BOX, "a box"]), 'Item 2 of "expected_items" has no "quantity"'),
        (question([BOX | {"quantity": 1.5}]), '"quantity" has to be a whole number'),
        (question([BOX | {"length": "9"}]), "length '9' is not a number"),
        (
            question([BOX | {"weight": {"unit": "stone", "value": 1}}]),
            "unit 'stone' of weight is not known",
        ),
    ],
)
def test_items_that_are_none_are_refused_with_what_to_mend(
    content: dict[str, Any], reason: str
) -> None:
    assert reason in refused(content)


def test_a_model_without_item_heads_judges_by_the_count_and_says_so(
    run_dir: Path, tmp_path: Path
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    for path in model_dir.glob("item_heads.*"):
        path.unlink()
    plain = inference.Endpoint(BinCounter(model_dir, num_threads=1), PhotoSources())
    found = answer(plain, question([BOX, BOX]))
    assert (found["judged_by"], found["seen_volume"], found["expected_volume"]) == (
        *("count", None),
        432.0,
    )
    assert found["probability_wrong"] == pytest.approx(1 - found["probabilities"]["2"], abs=1e-5)


def test_an_empty_list_is_no_record_of_unknown_items() -> None:
    (asked,), _ = read_request(json.dumps(question([])), JSON)
    assert (asked.expected_quantity, asked.expected_items) == (0, NO_ITEMS)
    (asked,), _ = read_request(json.dumps(question(None, expected_quantity=2)), JSON)
    assert (asked.expected_quantity, asked.expected_items) == (2, None)
    assert math.isnan(NO_ITEMS.volume)
