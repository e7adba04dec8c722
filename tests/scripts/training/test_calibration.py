import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTForImageClassification,
)

from model_families import IMAGE_SIZE, TINY_CONFIGS
from paths import ROOT
from tiny_model import TINY_VIT
from training import calibration
from training.calibration import (
    HIGHEST,
    LOWEST,
    calibration_figures,
    fitted_temperature,
    fold_temperature,
    log_probabilities,
)


def honest_bins(num_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels that are drawn with the very probabilities these give."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=1.5, size=(num_bins, 5))
    cumulative = np.exp(log_probabilities(logits)).cumsum(axis=1)
    labels = (generator.random((num_bins, 1)) > cumulative[:, :4]).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_spoiled_honest_logits_is_found(temperature: float) -> None:
    logits, labels = honest_bins(20_000)
    assert fitted_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03)


def test_the_fitted_temperature_has_the_least_loss() -> None:
    logits, labels = honest_bins(300)
    fitted = fitted_temperature(logits * 3, labels)
    best = calibration_figures(logits * 3 / fitted, labels)["loss"]
    for other in (0.9 * fitted, 0.99 * fitted, 1.01 * fitted, 1.1 * fitted):
        assert calibration_figures(logits * 3 / other, labels)["loss"] > best


def test_a_model_that_is_always_right_or_wrong_gets_a_temperature_with_an_end() -> None:
    logits = 10 * np.eye(5)
    assert fitted_temperature(logits, np.arange(5)) == pytest.approx(LOWEST)
    assert fitted_temperature(logits, (np.arange(5) + 1) % 5) == pytest.approx(HIGHEST)


def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy() -> None:
    # 10 bins, all predicted with a probability of 0.95, of which 7 are right.
    logits = np.log(np.array([[0.95, 0.05]] * 10))
    figures = calibration_figures(logits, np.array([0] * 7 + [1] * 3))
    assert figures["error"] == pytest.approx(0.25)
    assert figures["loss"] == pytest.approx(-(7 * np.log(0.95) + 3 * np.log(0.05)) / 10)
    logits, labels = honest_bins(20_000)
    assert calibration_figures(logits, labels)["error"] < 0.01
    assert calibration_figures(logits * 3, labels)["error"] > 0.1


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_folding_divides_the_logits_and_leaves_all_else_alone(kind: str, tmp_path: Path) -> None:
    config = TINY_VIT
    if kind == "resnet":
        config = json.loads((ROOT / "scripts/model_configs/resnet34/config.json").read_text())
    labels = {str(label): str(label + 1) for label in range(5)}
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    model = AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    photos = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values=photos).logits
        fold_temperature(model, 2.0, 32)
        after = model(pixel_values=photos).logits
    assert float(before.abs().max()) > 0
    torch.testing.assert_close(after, before / 2)


def test_layers_within_that_have_as_many_outputs_as_counts_are_left_alone() -> None:
    """Swin of version 2 has a linear layer with an output for each of its heads."""
    config = AutoConfig.for_model("swinv2", **TINY_CONFIGS["swinv2"], num_labels=5)
    model = AutoModelForImageClassification.from_config(config).eval()
    within = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 5
    ]
    assert len(within) > 1
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    fold_temperature(model, 2.0, IMAGE_SIZE)
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {"classifier.weight"}  # its bias is zero


def test_a_distilled_model_has_two_classifiers() -> None:
    config = AutoConfig.for_model("deit", **TINY_CONFIGS["deit"], num_labels=5)
    model = DeiTForImageClassificationWithTeacher(config).eval()
    photos = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        before = model(pixel_values=photos).logits
        fold_temperature(model, 3.0, IMAGE_SIZE)
        torch.testing.assert_close(model(pixel_values=photos).logits, before / 3)


def test_a_logit_near_zero_is_rounded_by_more_than_itself() -> None:
    config = AutoConfig.for_model("vit", **TINY_CONFIGS["vit"], num_labels=5)
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=10, generator=torch.Generator().manual_seed(0))
        logits = calibration._drawn_logits(model, IMAGE_SIZE)[0]
        model.classifier.bias[:4] = -logits[:4] * (1 - 2**-20)
    near_zero = calibration._drawn_logits(model, IMAGE_SIZE)[0]
    assert (near_zero[:4] != 0).all()
    assert near_zero[:4].abs().max() < 1e-4 * near_zero[4].abs()
    before = model.classifier.weight.clone()
    fold_temperature(model, 3.0, IMAGE_SIZE)
    torch.testing.assert_close(model.classifier.weight, before / 3)


def test_a_model_whose_logits_are_no_linear_layers_is_refused_and_left_alone() -> None:
    config = AutoConfig.for_model("vit", **TINY_CONFIGS["vit"], num_labels=5)

    class Normalized(ViTForImageClassification):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            output = super().forward(pixel_values)
            output.logits = output.logits / output.logits.norm(dim=1, keepdim=True)
            return output

    model = Normalized(config)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    with pytest.raises(ValueError, match="Normalized ends in no linear layer"):
        fold_temperature(model, 2.0, IMAGE_SIZE)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert model.training
