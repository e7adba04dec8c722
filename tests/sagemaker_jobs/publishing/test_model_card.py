import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load, set_client_factory
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils._http import default_client_factory

from launching.recipe import RECIPES
from publishing.model_card import base_model, model_card, those_who_know_less
from stand_ins.hub_server import HubServer
from training.command_line import make_parser, parse_arguments, resolved_arguments
from training.trainer_flags import DECIDE_WEIGHTS

COUNTS = ["1", "2", "3"]
ARGUMENTS = {
    "model_name_or_path": "google/vit-base-patch16-224-in21k",
    "dataset_fingerprint": "0123456789abcdef",
    "dataset_settings": {"source": "s3://aft-vbi-pds", "split_by": "bin_group"},
    "learning_rate": 2e-5,
    "num_train_epochs": 5.0,
    "bf16": True,
    "fp16": False,
    "seed": 42,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "versions": {"torch": "2.0", "transformers": "5.0"},
}


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


FIGURES = {
    "num_bins": 10,
    "num_groups": 8,
    "overall": {
        "accuracy": figure(0.6),
        "within_one_accuracy": figure(0.9),
        "mae": figure(0.5),
        "rmse": figure(0.8),
        "negative_log_likelihood": figure(1.1),
    },
    "confusion_matrix": [[1, 1, 0], [0, 4, 1], [1, 1, 1]],
    "by_count": [
        {"key": key, "num_bins": 3, "accuracy": figure(0.5), "rmse": figure(0.7)}
        for key in (1, 2, 3)
    ],
    "reliability": [{"num_bins": 10, "confidence": 0.7, "accuracy": 0.6}],
    "expected_calibration_error": 0.1,
}


def card(**arguments: Any) -> str:
    return model_card("ann/bins", {**ARGUMENTS, **arguments}, COUNTS, FIGURES)


@pytest.fixture
def through_the_local_hub(hub: HubServer) -> Iterator[HubServer]:
    """ModelCard.validate asks huggingface.co, whatever HF_ENDPOINT says: lead it here."""

    def to_local_hub(request: Any) -> None:
        assert request.url.host == "huggingface.co"
        # huggingface_hub 1 has httpx for its client, 2.4 httpx2.
        local = type(request.url)(hub.url)
        request.url = request.url.copy_with(scheme="http", host=local.host, port=local.port)

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {"request": [to_local_hub]}
        return made

    set_client_factory(client)
    yield hub
    set_client_factory(default_client_factory)


def test_the_hub_takes_the_card(through_the_local_hub: HubServer) -> None:
    ModelCard(card()).validate()
    (request,) = through_the_local_hub.received
    assert request.path == "/api/validate-yaml"
    with pytest.raises(ValueError, match="license"):
        ModelCard(card().replace("license: cc-by-nc-sa-3.0", "license: free")).validate()


def test_the_header_holds_each_figure_with_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(card())
    header = metadata_load(path)
    assert header is not None
    assert header["license"] == "cc-by-nc-sa-3.0"
    assert header["pipeline_tag"] == "image-classification"
    assert header["base_model"] == "google/vit-base-patch16-224-in21k"
    name, results = model_index_to_eval_results(header["model-index"])
    assert name == "bins"
    assert {result.metric_type: result.metric_value for result in results} == {
        kind: row["value"]
        for kind, row in FIGURES["overall"].items()  # type: ignore[attr-defined]
    }
    assert results[0].metric_name == "Accuracy [95 % interval 0.5 to 0.7]"
    assert results[0].dataset_name == "Amazon Bin Image Dataset, 1 to 3 items, split by bin"
    assert ModelCard(card()).data.to_dict()["model-index"] == header["model-index"]


def test_the_text_says_what_a_reader_has_to_know() -> None:
    text = card()
    for part in (
        "always answering 2 is right for 50.0%",
        "| 3 | 3 | 50.0% [40.0%, 60.0%] | 0.700 [0.600, 0.800] |",
        "The expected calibration error is 0.100",
        "more sure than it is right",
        "CC BY-NC-SA 3.0 US",
        "no near-copy of a test photo",
        'pipeline("image-classification", model="ann/bins")',
        "--model_name_or_path google/vit-base-patch16-224-in21k",
        "--learning_rate 2e-05",
        "--bf16",
        "torch 2.0, transformers 5.0",
        "best loss on the validation split",
        "plots/confusion_matrix.png",
    ):
        assert part in text, part
    assert "--fp16" not in text


def test_changes_are_told_beside_their_rivals_where_they_were_measured() -> None:
    assert "What changed" not in card()
    visits = {
        "num_pairs": 1200,
        "num_groups": 400,
        "changes": {
            "both photos compared": {
                "direction": figure(0.8),
                "count_accuracy": figure(0.7),
                "count_rmse": figure(0.5),
                "count_loss": figure(0.7),
                "calibration_error": {"value": 0.03},
            },
            "records alone": {"count_loss": figure(1.06)},
        },
        "visits": {"its own photo": {name: figure(0.4) for name in ("accuracy", "rmse", "loss")}},
    }
    text = model_card("ann/bins", ARGUMENTS, COUNTS, {**FIGURES, "visits": visits})
    assert "1,200 pairs of test photos in 400 bins" in text
    row = "| both photos compared | 80.0% [70.0%, 90.0%] | 70.0% [60.0%, 80.0%] "
    assert row + "| 0.500 [0.400, 0.600] | 0.700 [0.600, 0.800] | 3.0% |" in text
    assert "| records alone |  |  |  | 1.060 [0.960, 1.160] |  |" in text
    assert "| its own photo | 40.0% [30.0%, 50.0%] | 0.400 [0.300, 0.500] " in text


def test_sizes_of_items_are_told_where_they_were_measured() -> None:
    assert "What the items are" not in card()
    items = {
        "sizes": {"volume": {"r2": figure(0.7), "covered": figure(0.9)}},
        "distinct_accuracy": figure(0.5),
    }
    text = model_card("ann/bins", ARGUMENTS, COUNTS, {**FIGURES, "items": items})
    assert "| volume of all items | 70.0% [60.0%, 80.0%] | 90.0% [80.0%, 100.0%] |" in text
    assert "| number of distinct items: right | 50.0% [40.0%, 60.0%] |  |" in text
    assert "weight" not in text.split("## What the items are")[1].split("|---|")[1].split("##")[0]


def test_what_an_audit_finds_is_told_where_it_was_measured() -> None:
    assert "Finding wrong records" not in card()
    kind = {
        "budgets": [
            {
                "budget": budget,
                "found": figure(2 * budget),
                "precision": figure(0.2),
                "times_random": figure(2.0),
                "rule_times_random": figure(1.2),
            }
            for budget in (0.15, 0.2)
        ],
        "calibration": {"expected_calibration_error": 0.021},
        "estimated_rate": figure(0.2),
        "savings": [
            {
                "cost_missed_error": 20.0,
                "cost_manual_check": 1.0,
                "ways": [
                    {"name": "audit", "saved": figure(1200.0), "checked": figure(0.88)},
                    {"name": "audit, told 10%", "saved": figure(1300.0), "checked": figure(0.9)},
                    {"name": "check all", "saved": figure(1000.0), "checked": figure(1.0)},
                ],
                "best_rival": "check all",
                "more_than_best_rival": figure(200.0),
            }
        ],
    }
    kinds = {"real_pairs": kind, "symmetric_errors": kind}
    audit = {"wrong_share": 0.1, "kinds": kinds}
    text = model_card("ann/bins", ARGUMENTS, COUNTS, {**FIGURES, "audit": audit})
    row = "| real pairs | 20% | 40.0% [30.0%, 50.0%] | 20.0% [10.0%, 30.0%] "
    assert row + "| 2.000 [1.900, 2.100] | 1.200 [1.100, 1.300] |" in text
    assert (
        "made wrong (real pairs: the record of the bin's state before or after a pick; symm" in text
    )
    words = " ".join(text.split())
    assert "Real pairs: the audit takes 20.0% [10.0%, 30.0%] of the records for wrong" in words
    assert "to be wrong has a calibration error of 2.1%. S" in words
    row = "| real pairs | 20 : 1 | 1,200 [1,200, 1,200] | 88% | 1,300 [1,300, 1,300] "
    assert row + "| check all, 1,000 [1,000, 1,000] | 200 [200, 200] |" in text
    assert "| real pairs | 15%" not in text
    # Of an audit that was measured before visits were.
    assert "those who know less" not in text


def test_those_who_know_less_stand_beside_the_audit_of_visits() -> None:
    budgets = [{"budget": 0.2, "times_random": figure(3.9), "found": figure(0.78)}]
    rival = {
        "budgets": [{"budget": 0.2, "times_random": figure(3.2)}],
        "area_under_curve": figure(0.83),
        "calibration_error_if_told": 0.024,
    }
    kind = {
        "budgets": budgets,
        "area_under_curve": figure(0.89),
        "calibration_error_if_told": {"0.05": 0.05, "0.1": 0.012},
        "rivals": {"photo alone": rival},
    }
    alone = kind | {"rivals": {}}
    words = "\n".join(those_who_know_less({"real_pairs": alone, "real_changes": kind}, 0.1))
    assert "| real changes | audit | 3.900 [3.800, 4.000] | 0.890 [0.790, 0.990] | 1.2% |" in words
    row = "| real changes | photo alone | 3.200 [3.100, 3.300] | 0.830 [0.730, 0.930] | 2.4% |"
    assert row in words
    assert "| real pairs |" not in words


def test_a_split_that_leaks_or_is_unknown_is_said_to() -> None:
    assert "**The split leaks**" in card(dataset_settings={"split_by": "random"})
    assert "may have been" in card(dataset_settings=None)


def test_paths_of_somebodys_machine_stay_there() -> None:
    text = card(
        model_name_or_path="/home/ann/models/vit-tiny",
        dataset_settings={"source": "/home/ann/mirror", "split_by": "bin_group"},
        output_dir="/home/ann/runs",
    )
    assert "/home/ann" not in text
    assert "--model_name_or_path vit-tiny" in text
    assert "base_model" not in text


def test_a_record_of_strangers_brings_no_markup() -> None:
    hostile = "<script>x</script>](http://evil) `|\n---\nlicense: mit"
    text = card(
        model_name_or_path=hostile, optim=hostile, versions={hostile: hostile}, seed=hostile
    )
    assert "<script>" not in text
    assert "](http://evil)" not in text
    assert text.count("\n---\n") == 1
    assert ModelCard(text).data.to_dict()["license"] == "cc-by-nc-sa-3.0"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_the_training_command_has_all_of_a_recipe(path: Path) -> None:
    recipe = json.loads(path.read_text())["flags"]
    resolved = trained_by(card(**{"model_name_or_path": None, **recipe}))
    assert {name: resolved[name] for name in recipe} == recipe


def trained_by(text: str) -> dict[str, Any]:
    """Return what the training command of a card asks for."""
    command = text.split("## How it was trained")[1].split("```")[1].replace("\\\n", " ")
    train_flags = shlex.split(command.split("scripts/train.py")[1])
    return resolved_arguments(*parse_arguments(make_parser(None), train_flags))


# All that decides weights, and is no recipe's: none of these values is the default.
UNUSUAL = {
    **{"seed": 0, "data_seed": 0, "per_device_train_batch_size": 3, "max_grad_norm": 0.0},
    **{"gradient_accumulation_steps": 3, "learning_rate": 3e-4, "weight_decay": 0.0},
    **{"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}},
    **{"warmup_steps": 0.0, "optim": "sgd", "adam_beta1": 0.8, "adam_beta2": 0.9},
    **{"adam_epsilon": 1e-6, "bf16": False, "label_smoothing_factor": 0.1},
    **{"dataloader_drop_last": True, "metric_for_best_model": "rmse", "checked_weight": 3.0},
    **{"calibrate": False, "learn_items": False, "mixup": False, "max_steps": 20},
    **{"max_hours": 2.5, "load_best_model_at_end": False, "eval_strategy": "no"},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_training_command_has_what_differs_from_the_usual(name: str) -> None:
    with_its_type = {"lr_scheduler_type": "polynomial"} if name == "lr_scheduler_kwargs" else {}
    asked = {**with_its_type, name: UNUSUAL[name]}
    assert trained_by(card(**asked))[name] == UNUSUAL[name]


def test_all_that_decides_weights_is_in_the_training_command() -> None:
    assert set(DECIDE_WEIGHTS) <= UNUSUAL.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("google/vit", "google/vit"), ("./runs/a", None), ("../m/vit", None), ("scripts/x/y", None)],
)
def test_only_an_id_of_the_hub_is_a_base_model(name: str, expected: str | None) -> None:
    assert base_model({"model_name_or_path": name}) == expected
