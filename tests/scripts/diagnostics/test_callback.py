"""Real trainings with --diagnostics: healthy, broken on purpose, and interrupted."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from playwright.sync_api import Browser
from torch import nn
from transformers import TrainerCallback

from diagnostics.layer_statistics import silent_share
from diagnostics.plots import short_name
from diagnostics.record import Record, gather, read_record
from tiny_model import TINY_VIT
from training.arguments import BinTrainingArguments, ModelArguments
from training.bin_dataset import decoded_photos, load_bins
from training.bin_trainer import BinTrainer
from training.models import load_image_processor, load_model

LABELS = ["1", "2", "3", "4", "5"]
# What a slow or busy machine may say of any run.
OF_TIME = {"device_waiting", "step_time_outliers"}


@pytest.fixture
def train_tiny(dataset_dir: Path, tmp_path: Path) -> Callable[..., BinTrainer]:
    """Return a function that trains a tiny ViT on drawn bins, with a fault where one is given."""

    def train_tiny(
        prepare: Callable[[BinTrainer], None] | None = None,
        *,
        folder: str = "run",
        config: dict[str, Any] | None = None,
        keep: Callable[[Dataset], Dataset] = lambda rows: rows,
        resume: bool = False,
        **flags: Any,
    ) -> BinTrainer:
        config_dir = tmp_path / "config"
        config_dir.mkdir(exist_ok=True)
        (config_dir / "config.json").write_text(json.dumps(TINY_VIT | (config or {})))
        arguments = ModelArguments(config_name=str(config_dir))
        dataset = load_bins(str(dataset_dir), ["train", "validation"])
        torch.manual_seed(0)
        values: dict[str, Any] = {
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "eval_strategy": "no",
            "save_strategy": "no",
            "diagnostics": True,
            "diagnostics_interval": 1,
            "max_steps": 5,
        }
        (tmp_path / folder).mkdir(exist_ok=True)
        trainer = BinTrainer(
            model=load_model(arguments, LABELS, 32, train=True),
            args=BinTrainingArguments(
                output_dir=str(tmp_path / folder),
                do_train=True,
                disable_tqdm=True,
                **(values | flags),
            ),
            image_processor=load_image_processor(arguments, 32),
            counts=(1, 2, 3, 4, 5),
            is_pretrained=False,
            train_dataset=decoded_photos(keep(dataset["train"]), None),
            eval_dataset=decoded_photos(dataset["validation"], None),
        )
        if prepare:
            prepare(trainer)
        checkpoints = sorted((tmp_path / folder).glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if resume else None)
        return trainer

    return train_tiny


def fired(trainer: BinTrainer) -> set[str]:
    assert trainer.diagnostics is not None
    return {f.name for f in trainer.diagnostics.findings if f.state == "fires"}


def record_of(trainer: BinTrainer) -> list[dict[str, Any]]:
    return read_record(Path(str(trainer.args.output_dir)) / "diagnostics.jsonl")


def first_layer(trainer: BinTrainer) -> nn.Module:
    return next(m for m in trainer.model.modules() if isinstance(m, nn.ModuleList))[0]


# ---- Faults


def no_gradient_below(trainer: BinTrainer) -> None:
    """Let next to nothing of the gradient through the first layer."""

    def squash(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        output.register_hook(lambda gradient: gradient * 1e-9)

    first_layer(trainer).register_forward_hook(squash)


def silence(trainer: BinTrainer) -> None:
    """Bias a layer so far down that its activation function lets nothing through."""
    wide = next(m for m in first_layer(trainer).modules() if getattr(m, "out_features", 0) == 64)
    nn.init.constant_(wide.bias, -100.0)


def without_most_fives(rows: Dataset) -> Dataset:
    label = np.array(rows["label"])
    return rows.select(np.flatnonzero((label < 4) | (np.cumsum(label == 4) == 1)))


def two_of_each(rows: Dataset) -> Dataset:
    label = np.array(rows["label"])
    return rows.select(np.concatenate([np.flatnonzero(label == kind)[:2] for kind in range(5)]))


def slow_photos(trainer: BinTrainer) -> None:
    """Decode every photo as if it were a hundred; as slow on any machine, next to a step."""
    decode = trainer.train_dataset.format["format_kwargs"]["transform"]

    def decode_often(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for _ in range(100):
            decode(rows)
        return decode(rows)

    trainer.train_dataset = trainer.train_dataset.with_transform(decode_often)


class Stumbles(TrainerCallback):
    """Makes every tenth step many times as long as the others, whatever the machine."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % 10 == 5:
            photos = torch.zeros(4, 3, 32, 32)
            with torch.no_grad():
                for _ in range(60):
                    kwargs["model"](pixel_values=photos)


# Every step sees the same photos: its loss varies by their flips alone.
ALL_AT_ONCE = {"keep": lambda rows: rows.select(range(64)), "per_device_train_batch_size": 64}
ALL_AT_ONCE |= {"max_steps": 44, "diagnostics_interval": 10}


@pytest.mark.parametrize(
    ("rule", "fault", "flags"),
    [
        ("loss_not_decreasing", None, ALL_AT_ONCE | {"learning_rate": 0.0}),
        ("exploding_gradients", None, {"learning_rate": 1e9, "max_grad_norm": 0, "optim": "sgd"}),
        ("vanishing_gradients", no_gradient_below, {}),
        ("poor_initialisation", None, {"config": {"initializer_range": 5.0}, "max_steps": 1}),
        ("poor_initialisation", None, {"config": {"initializer_range": 1e-6}, "max_steps": 1}),
        ("dead_layers", silence, {}),
        ("class_imbalance", None, {"keep": without_most_fives, "max_steps": 1}),
        ("device_waiting", slow_photos, {"max_steps": 44, "diagnostics_interval": 10}),
        (
            "step_time_outliers",
            lambda trainer: trainer.add_callback(Stumbles),
            {"max_steps": 46, "diagnostics_interval": 10},
        ),
    ],
)
def test_a_rule_fires_on_a_run_that_is_broken_so(
    rule: str,
    fault: Callable[[BinTrainer], None] | None,
    flags: dict[str, Any],
    train_tiny: Callable[..., BinTrainer],
) -> None:
    trainer = train_tiny(fault, **flags)
    assert rule in fired(trainer)
    assert fired(trainer) <= {rule} | OF_TIME


def test_a_model_that_learns_a_few_photos_by_heart_is_overfit(
    train_tiny: Callable[..., BinTrainer],
) -> None:
    trainer = train_tiny(
        keep=two_of_each,
        per_device_train_batch_size=10,
        max_steps=60,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=10,
        diagnostics_interval=10,
        load_best_model_at_end=False,
    )
    assert fired(trainer) - OF_TIME == {"overfit"}


SCALED_DOWN: dict[str, dict[str, Any]] = {
    "convnext": {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2},
    "focalnet": {
        "embed_dim": 8,
        "hidden_sizes": [8, 16],
        "depths": [2, 2],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "use_layerscale": True,
        "layerscale_value": 1e-6,
    },
    "beit": {"layer_scale_init_value": 1e-6, "patch_size": 8, "num_hidden_layers": 2},
}


@pytest.mark.parametrize("kind", SCALED_DOWN)
def test_nothing_has_vanished_where_branches_begin_scaled_down(
    kind: str, train_tiny: Callable[..., BinTrainer]
) -> None:
    config = {"model_type": kind, "image_size": 32, **SCALED_DOWN[kind]}
    trainer = train_tiny(config=config, learning_rate=1e-5)
    smallest = np.nanmin(gather(record_of(trainer)).of_layers("gradient_rms"))
    assert 0 < smallest < 1e-7
    assert fired(trainer) <= OF_TIME


def test_a_model_that_goes_on_from_one_that_has_learnt_is_not_blamed_for_it(
    train_tiny: Callable[..., BinTrainer],
) -> None:
    flags = {"keep": two_of_each, "per_device_train_batch_size": 10, "diagnostics_interval": 10}
    first = train_tiny(folder="first", learning_rate=5e-3, max_steps=20, **flags)

    def go_on(trainer: BinTrainer) -> None:
        trainer.model.load_state_dict(first.model.state_dict())

    second = train_tiny(go_on, folder="second", learning_rate=0.0, max_steps=44, **flags)
    assert second.diagnostics is not None
    (finding,) = (f for f in second.diagnostics.findings if f.name == "loss_not_decreasing")
    assert finding.state == "quiet"
    assert "It had learnt before" in finding.evidence
    assert fired(second) <= OF_TIME


def test_no_rule_but_those_of_time_fires_on_a_healthy_run_and_its_weights_are_the_same(
    train_tiny: Callable[..., BinTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"max_steps": 60, "eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps"}
    flags |= {"save_steps": 20, "diagnostics_interval": 10, "learning_rate": 3e-3}
    flags |= {"per_device_train_batch_size": 32}
    trainer = train_tiny(**flags, trace_steps="11-12")
    assert fired(trainer) <= OF_TIME
    folder = Path(str(trainer.args.output_dir))
    figures = gather(record_of(trainer))
    assert figures.steps.tolist() == list(range(1, 61))
    assert [line["step"] for line in figures.layers] == [1, 10, 20, 30, 40, 50, 60]
    assert [line["step"] for line in figures.evaluations] == [20, 40, 60]
    assert np.isfinite(figures.of_layers("gradient_rms")).all()
    assert figures.of_layers("silent").max() < 0.5
    assert figures.is_traced.sum() == 2
    with gzip.open(folder / "trace.json.gz") as trace:
        assert "aten::addmm" in {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert f"of 9 rules fire, see {folder / 'diagnostics.html'}" in capsys.readouterr().out
    unwatched = train_tiny(folder="unwatched", **flags | {"diagnostics": False})
    for name, weight in unwatched.model.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name]), name


def test_the_losses_are_trainers_own(train_tiny: Callable[..., BinTrainer]) -> None:
    trainer = train_tiny(logging_steps=1, gradient_accumulation_steps=3)
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert gather(record_of(trainer)).losses == pytest.approx(logged, rel=1e-4)
    norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    measured = [line["gradient_norm"] for line in gather(record_of(trainer)).layers]
    assert measured == pytest.approx(norms, rel=1e-4)


def test_a_run_that_goes_on_measures_every_step_once(
    train_tiny: Callable[..., BinTrainer], tmp_path: Path
) -> None:
    flags = {"save_strategy": "steps", "save_steps": 4, "diagnostics_interval": 3}
    train_tiny(max_steps=6, **flags)
    record = tmp_path / "run" / "diagnostics.jsonl"
    with record.open("a") as file:
        file.write('{"kind": "steps", "step": 9, "los')  # killed
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    trainer = train_tiny(max_steps=8, resume=True, **flags)
    figures = gather(record_of(trainer))
    assert figures.steps.tolist() == list(range(1, 9))
    assert [line["step"] for line in figures.layers] == [1, 3, 6]


def test_numbers_that_are_not_finite_are_null_in_the_record(tmp_path: Path) -> None:
    record = Record(tmp_path / "diagnostics.jsonl", 0)
    record.add("run", 0)
    figures = {"step_seconds": [0.1] * 2, "data_seconds": [0.0] * 2}
    record.add("steps", 2, losses=[1.2345678, float("nan")], **figures)
    text = record.path.read_text()
    assert '"losses": [1.2346, null]' in text
    assert np.isnan(gather(read_record(record.path)).losses).tolist() == [False, True]


def test_a_layer_is_told_from_its_likes_by_a_short_name() -> None:
    assert short_name("vit.encoder.layer.11.attention.attention.key") == "11 attention.key"
    assert short_name("resnet.encoder.stages.3.layers.2.convolution") == "3.2 layers.convolution"
    assert short_name("classifier") == "classifier"


def test_silent_units_are_those_that_no_photo_moves() -> None:
    output = torch.rand(4, 10, 8, 8) + 0.1
    output[:, :3] = 0
    assert silent_share(output).item() == pytest.approx(0.3)
    tokens = torch.rand(4, 7, 10) - 0.5
    tokens[..., 0] = 1e-5
    assert silent_share(tokens).item() == pytest.approx(0.1)
    assert silent_share(torch.zeros(2, 5)).item() == 1.0


@pytest.mark.slow
def test_the_page_is_as_wide_as_the_window_and_complains_of_nothing(
    train_tiny: Callable[..., BinTrainer], tmp_path: Path, browser: Browser
) -> None:
    train_tiny(silence, max_steps=12, trace_steps="3-4", save_strategy="steps", save_steps=6)
    page_path = tmp_path / "run" / "diagnostics.html"
    assert not re.search(r"""(src|href)=["'](?!#|data:)|<script""", page_path.read_text())
    for width in (390, 1280):
        page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
        problems: list[str] = []
        page.on("console", lambda message, seen=problems: seen.append(message.text))
        page.goto(page_path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert page.locator(".fires strong").first.inner_text() == "Dead layers"
        assert page.locator("svg .curve").count() > 8
        assert problems == []
