"""Each rule on figures that are healthy but for one fault."""

from typing import Any

import numpy as np
import pytest

from diagnostics.record import Line, gather
from diagnostics.rules import RULES, findings
from log_lines import read_figures

NUM_STEPS = 100
LAYERS = ["embeddings", "layer.0", "layer.1", "classifier"]


def healthy() -> list[Line]:
    """Return the record of a run whose loss falls from 1.6 to 1.2, as does that of validation."""
    random = np.random.default_rng(0)
    losses = np.linspace(1.6, 1.2, NUM_STEPS) + random.normal(0, 0.05, NUM_STEPS)
    lines: list[Line] = [
        {
            "kind": "run",
            "step": 0,
            "layers": LAYERS,
            "activations": ["layer.0.act", "layer.1.act"],
            "num_counts": 5,
            "photos_by_count": {"1": 40, "2": 80, "3": 100, "4": 85, "5": 65},
            "class_weights": "none",
            "precision": "fp32",
            "num_workers": 2,
            "kept_by": "loss",
            "greater_is_better": False,
        }
    ]
    for step in (1, *range(10, NUM_STEPS + 1, 10)):
        first: Line = {"initial_loss": 1.65, "answer_spread": 0.1}
        first |= {"constant_layers": [], "head_is_zero": False}
        measured = {
            "gradient_norm": 1.0 + step / NUM_STEPS,
            "gradient_rms": [1e-3, 5e-4, 6e-4, 1e-2],
            "gradient_max": [1e-2, 1e-2, 1e-2, 1e-1],
            "silent": [0.0, 0.1],
        }
        lines.append({"kind": "layers", "step": step, **measured, **(first if step == 1 else {})})
    for end in range(10, NUM_STEPS + 1, 10):
        seconds = 0.2 + random.uniform(0, 0.02, 10)
        lines.append(
            {
                "kind": "steps",
                "step": end,
                "losses": losses[end - 10 : end].tolist(),
                "step_seconds": seconds.tolist(),
                "data_seconds": (0.01 * seconds).tolist(),
                "own_seconds": 0.001,
            }
        )
    for step, loss in ((50, 1.45), (100, 1.3)):
        evaluation = {"kind": "evaluation", "step": step, "loss": loss, "epoch": step / 50}
        lines.append(evaluation)
    return lines


def of_kind(lines: list[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def change_layers(lines: list[Line], **figures: Any) -> None:
    for line in of_kind(lines, "layers"):
        line.update(figures)


def loss_stays(lines: list[Line]) -> None:
    random = np.random.default_rng(1)
    for line in of_kind(lines, "steps"):
        line["losses"] = random.normal(1.6, 0.02, 10).tolist()


def loss_rises(lines: list[Line]) -> None:
    for line in of_kind(lines, "steps"):
        line["losses"] = [3.0 - loss for loss in line["losses"]]


def validation_loss_rises(lines: list[Line]) -> None:
    of_kind(lines, "evaluation")[-1]["loss"] = 1.7


def validation_loss_rises_when_nothing_is_left_to_learn(lines: list[Line]) -> None:
    random = np.random.default_rng(2)
    for line in of_kind(lines, "steps"):
        level = 1.6 if line["step"] <= 20 else 0.01 if line["step"] <= 50 else 0.012
        line["losses"] = (level * random.uniform(0.9, 1.1, 10)).tolist()
    for line, loss in zip(of_kind(lines, "evaluation"), (1.3, 3.0), strict=True):
        line["loss"] = loss


def loss_is_lost(lines: list[Line]) -> None:
    of_kind(lines, "steps")[-1]["losses"] = [None] * 10


def gradient_is_lost(lines: list[Line]) -> None:
    of_kind(lines, "layers")[-1]["gradient_norm"] = None


def gradient_grows(lines: list[Line]) -> None:
    for power, line in enumerate(of_kind(lines, "layers")):
        line["gradient_norm"] = 2.0**power


def gradient_vanishes(lines: list[Line]) -> None:
    change_layers(lines, gradient_rms=[1e-9, 1e-7, 1e-5, 1e-2])


def first_answers_are_sure(lines: list[Line]) -> None:
    of_kind(lines, "layers")[0]["initial_loss"] = 9.0


def first_loss_is_no_number(lines: list[Line]) -> None:
    of_kind(lines, "layers")[0]["initial_loss"] = None


def first_answers_are_one(lines: list[Line]) -> None:
    of_kind(lines, "layers")[0]["answer_spread"] = 1e-7


def layers_are_constant(lines: list[Line]) -> None:
    of_kind(lines, "layers")[0]["constant_layers"] = ["layer.0"]


def layer_gets_no_gradient(lines: list[Line]) -> None:
    change_layers(lines, gradient_rms=[1e-3, 0, 6e-4, 1e-2], gradient_max=[1e-2, 0, 1e-2, 0.1])


def units_are_silent(lines: list[Line]) -> None:
    change_layers(lines, silent=[0.0, 0.9])


def count_is_rare(lines: list[Line]) -> None:
    lines[0]["photos_by_count"] = {"1": 3, "2": 80, "3": 100, "4": 85, "5": 65}


def count_is_missing(lines: list[Line]) -> None:
    lines[0]["photos_by_count"] = {"1": 0, "2": 80, "3": 100, "4": 85, "5": 65}


def weights_cannot_make_up_for_a_missing_count(lines: list[Line]) -> None:
    count_is_missing(lines)
    lines[0]["class_weights"] = "balanced"


def photos_are_late(lines: list[Line]) -> None:
    for line in of_kind(lines, "steps"):
        line["data_seconds"] = [0.3 * seconds for seconds in line["step_seconds"]]


def some_steps_are_slow(lines: list[Line]) -> None:
    for line in of_kind(lines, "steps"):
        line["step_seconds"][4] *= 5


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("loss_not_decreasing", loss_stays),
        ("loss_not_decreasing", loss_rises),
        ("overfit", validation_loss_rises),
        ("overfit", validation_loss_rises_when_nothing_is_left_to_learn),
        ("exploding_gradients", loss_is_lost),
        ("exploding_gradients", gradient_is_lost),
        ("exploding_gradients", gradient_grows),
        ("vanishing_gradients", gradient_vanishes),
        ("poor_initialisation", first_answers_are_sure),
        ("poor_initialisation", first_loss_is_no_number),
        ("poor_initialisation", first_answers_are_one),
        ("poor_initialisation", layers_are_constant),
        ("dead_layers", layer_gets_no_gradient),
        ("dead_layers", units_are_silent),
        ("class_imbalance", count_is_rare),
        ("class_imbalance", count_is_missing),
        ("class_imbalance", weights_cannot_make_up_for_a_missing_count),
        ("device_waiting", photos_are_late),
        ("step_time_outliers", some_steps_are_slow),
    ],
)
def test_a_rule_fires_on_its_own_fault_and_no_other_does(rule: str, fault: Any) -> None:
    lines = healthy()
    fault(lines)
    found = findings(gather(lines))
    assert [finding.name for finding in found if finding.state == "fires"] == [rule]
    assert found[0].evidence
    assert found[0].advice
    # metrics/parse_logs.py meets these words in a job's log, and takes them for no figure.
    assert read_figures(f"diagnostics {rule}: {found[0].evidence} {found[0].advice}") == ([], "")


def test_no_rule_fires_on_a_healthy_run() -> None:
    assert {finding.state for finding in findings(gather(healthy()))} == {"quiet"}


def test_every_rule_has_a_fault_above() -> None:
    (mark,) = test_a_rule_fires_on_its_own_fault_and_no_other_does.pytestmark
    assert {rule for rule, _ in mark.args[1]} == {rule.name for rule in RULES}


def test_a_run_that_has_hardly_begun_is_not_judged() -> None:
    lines = healthy()
    begun = [lines[0], *of_kind(lines, "layers")[:1], *of_kind(lines, "steps")[:1]]
    states = {finding.name: finding.state for finding in findings(gather(begun))}
    # What the first step shows, it shows at once.
    known = {"poor_initialisation", "class_imbalance"}
    assert {name for name, state in states.items() if state == "quiet"} == known
    assert {state for name, state in states.items() if name not in known} == {"unknown"}


def test_what_is_meant_is_no_finding() -> None:
    lines = healthy()
    count_is_rare(lines)
    lines[0]["class_weights"] = "balanced"
    first_answers_are_one(lines)
    of_kind(lines, "layers")[0]["head_is_zero"] = True
    of_kind(lines, "layers")[0]["answer_spread"] = None  # of a batch of one photo
    assert "fires" not in [finding.state for finding in findings(gather(lines))]
    # fp16 finds its scale by letting gradients overflow.
    lines[0]["precision"] = "fp16"
    of_kind(lines, "layers")[1]["gradient_norm"] = None
    # The profiler slows down what it watches.
    some_steps_are_slow(lines)
    lines.append({"kind": "trace", "step": NUM_STEPS, "first_step": 1, "operators": []})
    states = [finding.state for finding in findings(gather(lines))]
    assert "fires" not in states


def test_a_run_that_comes_apart_is_not_overfit() -> None:
    lines = healthy()
    loss_rises(lines)
    validation_loss_rises(lines)
    states = {finding.name: finding.state for finding in findings(gather(lines))}
    assert (states["overfit"], states["loss_not_decreasing"]) == ("quiet", "fires")


def test_branches_that_begin_scaled_down_have_not_vanished() -> None:
    lines = healthy()
    change_layers(lines, gradient_rms=[1e-3, 1e-9, 1e-9, 1e-2])
    assert "fires" not in [finding.state for finding in findings(gather(lines))]


def test_a_model_that_has_learnt_before_need_not_learn_more() -> None:
    lines = healthy()
    loss_stays(lines)
    of_kind(lines, "layers")[0]["initial_loss"] = 1.2
    found = {finding.name: finding for finding in findings(gather(lines))}
    assert found["loss_not_decreasing"].state == "quiet"
    assert "It had learnt before" in found["loss_not_decreasing"].evidence
    lines = healthy()
    loss_rises(lines)  # that it may not
    of_kind(lines, "layers")[0]["initial_loss"] = 1.2
    assert [f.name for f in findings(gather(lines)) if f.state == "fires"] == [
        "loss_not_decreasing"
    ]


def test_a_loss_that_is_too_noisy_to_tell_is_no_finding() -> None:
    lines = healthy()
    random = np.random.default_rng(1)
    for line in of_kind(lines, "steps"):
        line["losses"] = random.normal(1.6, 0.5, 10).tolist()
    states = {finding.name: finding.state for finding in findings(gather(lines))}
    assert states["loss_not_decreasing"] == "unknown"


def test_a_best_model_that_is_kept_is_named() -> None:
    lines = healthy()
    validation_loss_rises(lines)
    assert "keeps the model of epoch 1." in findings(gather(lines))[0].evidence
    for accuracy, line in zip((0.3, 0.4), of_kind(lines, "evaluation"), strict=True):
        line["accuracy"] = accuracy
    lines[0] |= {"kept_by": "accuracy", "greater_is_better": True}
    assert "keeps the model of epoch 2." in findings(gather(lines))[0].evidence
    lines[0] |= {"kept_by": None}
    assert "keeps the model of epoch 2." in findings(gather(lines))[0].evidence
