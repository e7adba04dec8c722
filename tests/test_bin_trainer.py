import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from arguments import BinTrainingArguments, ModelArguments
from bin_dataset import decoded_photos, load_bins
from bin_trainer import BinTrainer, MetricsLine, counting_metrics, softmax
from models import load_image_processor, load_model

LABELS = ["1", "2", "3", "4", "5"]


def make_trainer(dataset_dir: Path, config_dir: Path, output_dir: Path, **flags: Any) -> BinTrainer:
    dataset = load_bins(str(dataset_dir), ["train", "validation"])
    arguments = ModelArguments(config_name=str(config_dir))
    torch.manual_seed(0)
    return BinTrainer(
        model=load_model(arguments, LABELS, 32, train=True),
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
    trainer = make_trainer(dataset_dir, config_dir, tmp_path, bf16=True, num_train_epochs=1)
    trainer.train()
    after_training = trainer.predict(trainer.eval_dataset).predictions
    exact = make_trainer(dataset_dir, config_dir, tmp_path / "exact")
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
