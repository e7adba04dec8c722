import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from dataset_builds import build, rows
from items.heads import attach_item_heads, item_heads_of
from items.settings import HEADS_WEIGHTS
from paths import ROOT
from recipe import augmentation
from recipe.augmentation import random_moves
from recipe.regularization import TRAINED_WEIGHTS
from side_heads import read_side_heads
from training.arguments import BinTrainingArguments, ModelArguments
from training.bin_dataset import (
    dataset_fingerprint,
    decoded_photos,
    items_of,
    load_bins,
    share_checked,
    steps_of,
    with_more,
)
from training.bin_trainer import BinTrainer
from training.evaluation import MetricsLine, counting_metrics, softmax
from training.models import load_image_processor, load_model
from training.trainer_flags import DECIDE_WEIGHTS, MAY_CHANGE
from visits.batches import with_unchanged
from visits.head import attach_head
from visits.settings import HEAD_WEIGHTS

LABELS = ["1", "2", "3", "4", "5"]


def make_trainer(
    dataset_dir: Path, config_dir: Path, output_dir: Path, *, has_heads: Any = True, **flags: Any
) -> BinTrainer:
    dataset = load_bins(str(dataset_dir), ["train", "validation"])
    arguments = ModelArguments(config_name=str(config_dir))
    flags = {"bf16": False} | flags  # the same sums on every CPU
    torch.manual_seed(0)
    model = load_model(arguments, LABELS, 32, train=True)
    if has_heads:
        attach_head(model, num_changes=9, image_size=32)
        attach_item_heads(model, max_distinct=5, image_size=32)
    return BinTrainer(
        model=model,
        args=BinTrainingArguments(
            output_dir=str(output_dir), do_train=True, disable_tqdm=True, **flags
        ),
        image_processor=load_image_processor(arguments, 32),
        counts=(1, 2, 3, 4, 5),
        is_pretrained=True,
        train_dataset=decoded_photos(dataset["train"], 64),
        eval_dataset=decoded_photos(dataset["validation"], None),
    )


def test_the_line_names_split_step_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    state = TrainerState(global_step=60, epoch=1.5, is_world_process_zero=True)
    line, control = MetricsLine(), TrainerControl()
    arguments = BinTrainingArguments(output_dir="unused")
    line.on_log(
        arguments, state, control, {"eval_loss": 1.397123456, "eval_mae": 1e-05, "epoch": 1.5}
    )
    line.on_log(arguments, state, control, {"loss": 1.5, "learning_rate": 2e-5, "epoch": 1.5})
    assert capsys.readouterr().out.splitlines() == [
        "metrics split=validation step=60 epoch=1.5 loss=1.39712 mae=1e-05",
        "metrics split=train step=60 epoch=1.5 loss=1.5 learning_rate=2e-05",
    ]


def test_the_loss_of_an_evaluation_is_the_mean_negative_log_likelihood() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    labels = np.arange(50) % 5
    compute = counting_metrics((1, 2, 3, 4, 5))

    class Prediction:
        predictions, label_ids = logits, labels

    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    assert compute(Prediction())["loss"] == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(softmax(logits), torch.tensor(logits).softmax(1), rtol=1e-5)


def test_evaluation_is_in_full_precision_also_when_training_is_not(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        dataset_dir, config_dir, tmp_path, bf16=True, max_steps=4, per_device_train_batch_size=8
    )
    untrained = trainer.predict(trainer.eval_dataset).predictions
    trainer.train()
    after_training = trainer.predict(trainer.eval_dataset).predictions
    assert np.abs(after_training - untrained).max() > 1e-3
    exact = make_trainer(dataset_dir, config_dir, tmp_path / "exact", regularize=False)
    exact.model.set_attn_implementation(trainer.model.config._attn_implementation)
    exact.model.load_state_dict(trainer.model.state_dict())
    expected = exact.predict(exact.eval_dataset).predictions
    assert np.array_equal(after_training, expected)


def test_gradients_of_accumulated_batches_are_those_of_one_large_batch(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    weights = []
    for batch_size, accumulated in ((32, 1), (8, 4)):
        trainer = make_trainer(
            dataset_dir,
            config_dir,
            tmp_path / str(batch_size),
            has_heads=False,  # small batches part visits that a large one compares
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            eval_strategy="no",
            save_strategy="no",
        )
        # Flips are drawn batch by batch, so the two would see other photos.
        trainer.train_dataset = trainer.train_dataset.with_transform(symmetric_photos)
        trainer.train()
        weights.append(trainer.model.classifier.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def symmetric_photos(rows: dict) -> dict:
    """Return photos that a flip does not change, a different one for each label."""
    labels = rows["label"]
    photos = [torch.full((32, 32, 3), 40 * label, dtype=torch.uint8) for label in labels]
    return {"pixel_values": photos, "labels": labels}


def test_metrics_lines_are_written_by_training(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(dataset_dir, config_dir, tmp_path, num_train_epochs=1, logging_steps=1).train()
    lines = re.findall(r"^metrics split=(\w+) step=(\d+) .*loss=\S+", capsys.readouterr().out, re.M)
    assert lines == [("train", "1"), ("validation", "1"), ("train", "1")]


@pytest.mark.parametrize("mixup", [False, True])
def test_a_checked_bin_weighs_as_much_as_it_is_given(
    mixup: bool, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    def losses(weight: float, checked: list[bool]) -> list[float]:
        """Return the loss of a batch of which one photo after the other is all that weighs."""
        flags = {"mixup": mixup, "augment_geometry": False, "regularize": False}
        trainer = make_trainer(dataset_dir, config_dir, tmp_path, has_heads=None, **flags)
        batch = next(iter(trainer.get_train_dataloader()))
        batch = {name: values[:4] for name, values in batch.items()}
        batch["is_checked"] = torch.tensor(checked)
        batch["partner"] = torch.tensor([1, 0, 3, 2])
        trainer.check_weights = torch.tensor([1.0, weight])
        trainer.model.eval()
        torch.manual_seed(0)  # of the shares that are mixed
        return [trainer.compute_loss(trainer.model, batch).item()]

    (plain,) = losses(1, [False] * 4)
    (doubled,) = losses(2, [True] * 4)
    assert doubled == pytest.approx(2 * plain, rel=1e-5)
    first, rest = losses(0, [False, False, True, True]), losses(0, [True, True, False, False])
    # Photos are mixed within these pairs: what one half weighs, and what the other.
    assert first[0] + rest[0] == pytest.approx(plain, rel=1e-5)
    assert min(*first, *rest) > 0


FULL_RECIPE = {
    "loss": "soft_labels",
    "class_weights": "balanced",
    "augment_geometry": True,
    "augment_colour": True,
    "mixup": True,
    "regularize": True,
}


class EvaluatedWeights(TrainerCallback):
    """Keeps what each evaluation saw, to compare with what is loaded from files later."""

    def __init__(self, trainer: BinTrainer) -> None:
        self.trainer = trainer
        self.at_step: dict[int, dict[str, torch.Tensor]] = {}

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        average = self.trainer.average
        model = self.trainer.model if average is None else average.model
        weights = model.state_dict()
        self.at_step[state.global_step] = {name: weights[name].clone() for name in weights}


@pytest.mark.parametrize("recipe", [{}, FULL_RECIPE], ids=["plain", "full"])
def test_the_best_weights_are_those_of_the_best_checkpoint(
    recipe: dict[str, Any], dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        dataset_dir, config_dir, tmp_path, num_train_epochs=3, learning_rate=0.02, **recipe
    )
    evaluated = EvaluatedWeights(trainer)
    trainer.add_callback(evaluated)
    # The first epoch is the best one, whatever the photos say.
    trainer.compute_metrics = lambda prediction: {"loss": trainer.state.global_step}
    trainer.train()
    assert list(evaluated.at_step) == [1, 2, 3]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, evaluated.at_step[1][name]), name
    last = evaluated.at_step[3]["classifier.weight"]
    assert not torch.equal(trainer.model.classifier.weight, last)


@pytest.mark.parametrize("metric", ["loss", "eval_loss"])
def test_the_best_weights_are_best_at_counts_and_changes_together(
    metric: str, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, metric_for_best_model=metric)
    judged = []
    for counts, changes in ((1.5, 1.2), (1.4, 1.4), (1.6, 1.0)):
        metrics = {"eval_loss": counts, "eval_change_loss": changes}
        trainer.state.global_step += 1
        judged.append(trainer._determine_best_metric(metrics, trial=None))
    assert judged == [True, False, True]
    assert trainer.state.best_metric == pytest.approx(2.6)


def test_what_is_shown_twice_is_seen_under_another_light(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, mixup=False, augment_geometry=False)
    batch = with_unchanged(next(iter(trainer.get_train_dataloader())))
    torch.manual_seed(0)
    shown, _ = trainer._augmented(batch)
    twice = len(batch["seen_twice"])
    assert twice == 4
    first, again = shown[:twice], shown[-twice:]
    apart = (first - again).abs().mean(dim=(1, 2, 3))
    assert 0.01 < float(apart.min()) <= float(apart.max()) < 1.0


def test_an_evaluation_with_changes_counts_each_photo_as_one_without_and_looks_at_it_once(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, regularize=False)
    photos, steps = trainer.eval_dataset, steps_of(trainer.eval_dataset)
    num_visits = len(np.unique(steps))
    assert 0 < num_visits < len(photos)  # so that some are alone
    seen: list[int] = []
    handle = trainer.model.base_model.register_forward_hook(
        lambda network, inputs, output: seen.append(len(output.last_hidden_state))
    )
    together = trainer.predict(photos)
    handle.remove()
    # But for the middle one of three visits, which is in two pairs.
    assert sum(seen) == len(photos) - num_visits + 2 * len(steps)
    del trainer.model.change_head
    alone = trainer.predict(photos)
    assert np.array_equal(together.label_ids, alone.label_ids)
    np.testing.assert_allclose(together.predictions, alone.predictions, atol=1e-5)
    for name, value in alone.metrics.items():
        if "runtime" not in name and "second" not in name:
            assert together.metrics[name] == pytest.approx(value, abs=1e-5), name


def test_what_is_shown_twice_lies_as_far_apart_as_two_visits_do(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, mixup=False)
    moves: list[torch.Tensor] = []

    def noted(*given: Any) -> torch.Tensor:
        moves.append(random_moves(*given))
        return moves[-1]

    monkeypatch.setattr(augmentation, "random_moves", noted)
    torch.manual_seed(0)
    for batch in 20 * [next(iter(trainer.get_train_dataloader()))]:
        batch = with_unchanged(batch)
        trainer._augmented(batch)
    shifts = torch.stack(moves)[:, :, :, 2]
    in_steps = (shifts[:, batch["later"]] - shifts[:, batch["earlier"]]).norm(dim=2)
    is_twice = torch.isin(batch["later"], batch["seen_twice"])
    # Half a frame is 1: four of 112 pixels, and next to none.
    assert float(in_steps[:, is_twice].median()) > 4 / 112
    assert float(in_steps[:, ~is_twice].median()) < 1 / 112


def test_changes_are_learned_with_the_counts(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        dataset_dir, config_dir, tmp_path, num_train_epochs=12, learning_rate=3e-3, mixup=False
    )
    trainer.eval_dataset = trainer.train_dataset  # what it has seen it knows
    before = trainer.evaluate()["eval_change_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_change_loss"] < before - 0.2
    assert (tmp_path / "checkpoint-12" / HEAD_WEIGHTS).is_file()


def test_items_are_learned_with_the_counts(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(
        dataset_dir, config_dir, tmp_path, num_train_epochs=12, learning_rate=3e-3, mixup=False
    )
    trainer.eval_dataset = trainer.train_dataset  # what it has seen it knows
    heads = item_heads_of(trainer.model)
    assert heads is not None
    heads.start_from(torch.from_numpy(items_of(trainer.train_dataset)))
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_items_volume_r2"] > before["eval_items_volume_r2"] + 0.1
    trainer.calibrate()
    assert trainer.item_settings is not None
    assert trainer.item_settings.spread_factors is not None
    assert (tmp_path / "checkpoint-12" / HEADS_WEIGHTS).is_file()


def test_each_answer_is_that_of_its_photo_alone_in_pairs_and_without(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path)
    photos = trainer.eval_dataset
    prediction = trainer.predict(photos)
    assert len(steps_of(photos)) > 1
    assert len(photos) > len(np.unique(steps_of(photos)))  # some have no other visit
    model = trainer.model.eval()
    for row in range(0, len(photos), 5):
        with torch.no_grad():
            pixel_values = photos[row]["pixel_values"].permute(2, 0, 1)[None]
            logits = model(pixel_values=trainer._normalized(pixel_values)).logits
            items = item_heads_of(model)()  # type: ignore[misc]
        np.testing.assert_allclose(prediction.predictions[row], logits[0], atol=1e-5)
        assert trainer.item_answers is not None
        np.testing.assert_allclose(trainer.item_answers[row], items[0], atol=1e-5)


@pytest.mark.parametrize(
    "saves", [{"save_strategy": "steps", "save_steps": 2}, {"save_strategy": "best"}]
)
def test_the_best_checkpoint_is_there_whatever_is_saved_besides(
    saves: dict[str, Any], dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    flags = {"num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 1, **saves}
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, learning_rate=0.02, **flags)
    evaluated = EvaluatedWeights(trainer)
    trainer.add_callback(evaluated)
    trainer.compute_metrics = lambda prediction: {"loss": trainer.state.global_step}
    trainer.train()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, evaluated.at_step[1][name]), name


def test_training_goes_on_without_the_average_that_is_evaluated_and_saved(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    flags = {"num_train_epochs": 3, "learning_rate": 1e-3, "regularize": True}
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, save_total_limit=9, **flags)
    evaluated = EvaluatedWeights(trainer)
    trainer.add_callback(evaluated)
    trainer.train()
    for step in (1, 2, 3):
        folder = tmp_path / f"checkpoint-{step}"
        kept = AutoModelForImageClassification.from_pretrained(folder).state_dict()
        kept |= read_side_heads(trainer.model, folder)
        trained = load_file(folder / TRAINED_WEIGHTS)
        for name, tensor in evaluated.at_step[step].items():
            assert torch.equal(kept[name], tensor), name
        is_same = torch.equal(trained["classifier.weight"], kept["classifier.weight"])
        assert is_same == (step == 1)


def test_each_part_of_what_regularizes_can_be_left_out(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    flags = {"regularize": True, "average_weights": False, "drop_path": 0.0}
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, max_steps=1, **flags)
    assert trainer.average is None
    hooks = [hook for m in trainer.model.modules() for hook in m._forward_hooks.values()]
    assert not any("DropPath" in type(hook).__name__ for hook in hooks)
    trainer.train()
    assert not (tmp_path / "checkpoint-1" / TRAINED_WEIGHTS).exists()


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [({}, "vit"), (FULL_RECIPE, "vit"), (FULL_RECIPE | {"bf16": True}, "resnet")],
    ids=["plain", "full", "full-resnet"],
)
def test_training_that_goes_on_ends_with_the_weights_of_one_that_was_not_interrupted(
    recipe: dict[str, Any], kind: str, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    if kind == "resnet":
        small = {"hidden_sizes": [4, 8, 16, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
        config_dir = tmp_path
        content = {"model_type": kind, "embedding_size": 4, "image_size": 32, **small}
        (config_dir / "config.json").write_text(json.dumps(content))
    flags = {"num_train_epochs": 3, "learning_rate": 1e-3, "save_total_limit": 9, **recipe}
    whole = make_trainer(dataset_dir, config_dir, tmp_path, **flags)
    whole.train()
    resumed = make_trainer(dataset_dir, config_dir, tmp_path, **flags)
    with torch.no_grad():
        for parameter in resumed.model.parameters():
            parameter.fill_(7.0)  # all of them have to come from the checkpoint
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_checkpoint_that_lacks_a_weight_is_not_loaded_in_part(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    make_trainer(dataset_dir, config_dir, tmp_path, num_train_epochs=1).train()
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, tmp_path / "checkpoint-1" / "model.safetensors", {"format": "pt"})
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, num_train_epochs=2)
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_lower_layers_of_a_pretrained_model_learn_slower(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    rates = {}
    for is_pretrained in (True, False):
        flags = {"learning_rate": 2e-5, "warmup_steps": 0, "regularize": True}
        trainer = make_trainer(dataset_dir, config_dir, tmp_path, **flags)
        trainer.is_pretrained = is_pretrained
        trainer.create_optimizer_and_scheduler(10)
        rates[is_pretrained] = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates[False] == {2e-5}
    assert len(rates[True]) == 4
    assert max(rates[True]) == 2e-5


def test_calibration_brings_the_loss_of_the_validation_split_down_and_no_answer_changes(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, regularize=False)
    with torch.no_grad():
        trainer.model.classifier.weight.mul_(50)
    before = trainer.predict(trainer.eval_dataset)
    trainer.calibrate()
    after = trainer.predict(trainer.eval_dataset)
    temperature = trainer.calibration["calibration_temperature"]
    assert temperature > 1.5
    np.testing.assert_allclose(after.predictions * temperature, before.predictions, rtol=1e-4)
    for moment, prediction in (("before", before), ("after", after)):
        assert trainer.calibration[f"calibration_eval_loss_{moment}"] == pytest.approx(
            prediction.metrics["test_loss"], rel=1e-5
        )
    assert after.metrics["test_loss"] < before.metrics["test_loss"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="asks what happens without a GPU")
@pytest.mark.parametrize(("bf16", "attention"), [(True, "eager"), (False, "sdpa")])
def test_on_a_cpu_attention_has_the_form_that_is_faster_in_the_trainings_precision(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, bf16: bool, attention: str
) -> None:
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, bf16=bf16)
    assert trainer.model.config._attn_implementation == attention


# Other values than those by default, of all that decides the weights.
OTHER_WEIGHTS = {
    "seed": 5,
    "data_seed": 6,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 3,
    "learning_rate": 2e-3,
    "warmup_steps": 2,
    "weight_decay": 0.2,
    "max_grad_norm": 0.5,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "bf16": True,
    "label_smoothing_factor": 0.1,
    "dataloader_drop_last": True,
    "metric_for_best_model": "accuracy",
    "optim": "adamw_torch",
    "lr_scheduler_type": "cosine_with_restarts",
    "lr_scheduler_kwargs": {"num_cycles": 2},
}
# An evaluation draws a number where the training draws its own: more of them, other weights.
EVALUATIONS = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_delay": 2,
    "eval_on_start": True,
    "save_strategy": "steps",
}
# And of what else may change while a run goes on.
WITHOUT_EFFECT = {
    "eval_accumulation_steps": 1,
    "per_device_eval_batch_size": 7,
    "save_steps": 2,
    "save_total_limit": 1,
    "logging_strategy": "epoch",
    "logging_steps": 3,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,
    "log_level": "error",
    "log_level_replica": "error",
    "log_on_each_node": False,
    "run_name": "another",
    "project": "another",
    "dataloader_num_workers": 1,
    "dataloader_prefetch_factor": 3,
    "gradient_checkpointing": True,
    "full_determinism": True,
    "ddp_timeout": 60,
    "load_best_model_at_end": False,
}


@pytest.fixture
def global_switches() -> Iterator[None]:
    """Put back what --full_determinism and --log_level change for the whole process."""
    environment, level = os.environ.copy(), transformers.logging.get_verbosity()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    transformers.logging.set_verbosity(level)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("global_switches")
def test_no_weight_depends_on_what_may_change_while_a_run_goes_on(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    weights = []
    flags = {"num_train_epochs": 2, "per_device_train_batch_size": 32, **FULL_RECIPE, **EVALUATIONS}
    flags["load_best_model_at_end"] = False
    for name, changes in (("plain", {}), ("other", WITHOUT_EFFECT)):
        trainer = make_trainer(dataset_dir, config_dir, tmp_path / name, **flags | changes)
        assert trainer.args.untried == []
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_all_that_is_tried_is_tried_here_or_by_every_run() -> None:
    by_every_run = {"num_train_epochs", "max_steps", "output_dir", "do_train", "do_eval"}
    by_every_run |= {"do_predict", "resume_from_checkpoint", "disable_tqdm"}
    elsewhere = {"push_to_hub", "hub_model_id", "hub_token", "hub_private_repo"}  # test_hub.py
    elsewhere |= {"hub_strategy", "report_to"}  # test_trackers.py
    elsewhere |= {"auto_find_batch_size"}  # budget/test_batch_size.py
    elsewhere |= {"greater_is_better", "use_cpu", "local_rank", "dataloader_pin_memory"}
    assert set(DECIDE_WEIGHTS) == OTHER_WEIGHTS.keys()
    assert set(MAY_CHANGE) == {*EVALUATIONS, *WITHOUT_EFFECT, *by_every_run, *elsewhere}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}, "optim": "sgd"},
        {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": None, "optim": "adamw_torch_fused"},
    ],
    ids=["adamw", "sgd", "fused"],
)
def test_a_run_goes_on_to_the_bit_whatever_decides_its_weights(
    changes: dict[str, Any], dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    flags = {"num_train_epochs": 2, "save_total_limit": 9, **FULL_RECIPE, **OTHER_WEIGHTS}
    flags |= EVALUATIONS | {"eval_steps": 2, "save_steps": 2}
    whole = make_trainer(dataset_dir, config_dir, tmp_path, **flags | changes)
    assert whole.args.untried == []
    whole.train()
    checkpoints = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    resumed = make_trainer(dataset_dir, config_dir, tmp_path, **flags | changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / checkpoints[0]))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_of_one_checkpoint_a_finished_run_keeps_the_newest_too(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    flags = {"num_train_epochs": 3, "save_total_limit": 1}
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, **flags)
    # The first epoch is the best one, whatever the photos say.
    trainer.compute_metrics = lambda prediction: {"loss": trainer.state.global_step}
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-3"}


# Notes of each step which photos a process sees, and which chance they meet.
WATCHED_TRAINING = """
import hashlib, json, sys
from pathlib import Path
import torch
from training.arguments import BinTrainingArguments, ModelArguments
from training.bin_dataset import decoded_photos, load_bins, steps_of
from training.bin_trainer import BinTrainer
from training.models import load_image_processor, load_model

dataset_dir, config_dir, output_dir = sys.argv[1:]

class Watched(BinTrainer):
    seen, chances = [], []

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.seen += [hashlib.md5(p.numpy().tobytes()).hexdigest() for p in inputs["pixel_values"]]
        self.chances.append(hashlib.md5(torch.get_rng_state().numpy().tobytes()).hexdigest())
        return super().compute_loss(model, inputs, *args, **kwargs)

args = BinTrainingArguments(
    output_dir=output_dir, do_train=True, do_eval=True, num_train_epochs=2, bf16=False,
    per_device_train_batch_size=8, per_device_eval_batch_size=7, learning_rate=0.02,
    load_best_model_at_end=False, save_total_limit=9,
)
dataset = load_bins(dataset_dir, ["train", "validation"])
arguments = ModelArguments(config_name=config_dir)
torch.manual_seed(0)
trainer = Watched(
    model=load_model(arguments, ["1", "2", "3", "4", "5"], 32, train=True),
    args=args,
    image_processor=load_image_processor(arguments, 32),
    counts=(1, 2, 3, 4, 5),
    is_pretrained=False,
    train_dataset=decoded_photos(dataset["train"], 64),
    eval_dataset=decoded_photos(dataset["validation"], None),
)
trainer.train()
logits = trainer.predict(trainer.eval_dataset).predictions.tolist()
if args.process_index == 0:
    trainer.model.save_pretrained(output_dir + "/model")
notes = {"seen": trainer.seen, "chances": trainer.chances, "logits": logits}
Path(output_dir, f"notes-{args.process_index}.json").write_text(json.dumps(notes))
"""


@pytest.mark.slow
def test_processes_share_out_photos_meet_their_own_chance_and_evaluate_the_model_that_is_saved(
    dataset_dir: Path, tmp_path: Path
) -> None:
    small = {"hidden_sizes": [4, 8, 16, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
    content = {"model_type": "resnet", "embedding_size": 4, "image_size": 32, **small}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "watched.py").write_text(WATCHED_TRAINING)
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        + [str(tmp_path / "watched.py"), str(dataset_dir), str(tmp_path), str(tmp_path)],
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MASTER_PORT": "0",
            "PYTHONPATH": str(ROOT / "scripts"),
        },
    )
    one, two = (json.loads((tmp_path / f"notes-{rank}.json").read_text()) for rank in (0, 1))
    epoch = len(one["seen"]) // 2
    for start in (0, epoch):
        assert len({*one["seen"][start:][:epoch], *two["seen"][start:][:epoch]}) == 2 * epoch == 64
    assert not set(one["chances"]) & set(two["chances"])
    saved = make_trainer(dataset_dir, tmp_path, tmp_path / "saved", regularize=False)
    saved.model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    logits = saved.predict(saved.eval_dataset).predictions
    assert logits.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(one["logits"], logits, atol=1e-6)


def test_a_dataset_with_marks_says_which_bins_were_checked(
    bucket: Path, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    checked = rows(dataset_dir, "train")[:20]
    lines = [f"{row['id']},{row['expected_quantity']},right," for row in checked]
    marks = tmp_path / "marks.csv"
    marks.write_text("id,expected_quantity,mark,counted\n" + "\n".join(lines) + "\n")
    marked_dir = build(bucket, tmp_path / "bins", "--test_fraction", "0.2", "--marks", str(marks))
    dataset = load_bins(str(marked_dir), ["train"])
    share = share_checked(dataset["train"])
    assert share == pytest.approx(20 / len(dataset["train"]))
    assert share_checked(load_bins(str(dataset_dir), ["train"])["train"]) == 0
    assert dataset_fingerprint(dataset) != dataset_fingerprint(
        load_bins(str(dataset_dir), ["train"])
    )
    trainer = make_trainer(marked_dir, config_dir, tmp_path / "run", checked_weight=3)
    trainer.train_dataset = with_more(decoded_photos(dataset["train"], None), True, True)
    batch = trainer.get_train_dataloader().__iter__().__next__()
    assert batch["is_checked"].dtype == torch.bool
    is_checked = torch.cat([batch["is_checked"] for batch in trainer.get_train_dataloader()])
    assert int(is_checked.sum()) == 20
    # However many were checked, the rate of learning stays what it is.
    assert trainer.check_weights is not None
    of_first = share_checked(decoded_photos(dataset["train"], 64))
    of_photos = trainer.check_weights @ torch.tensor([1 - of_first, of_first])
    assert float(of_photos) == pytest.approx(1)
    assert trainer.check_weights[1] == pytest.approx(3 * float(trainer.check_weights[0]))
    assert np.isfinite(trainer.train().training_loss)
