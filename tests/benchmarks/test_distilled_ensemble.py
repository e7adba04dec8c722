import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from distilled_ensemble import Lesson, train_taught


def test_targets_get_the_share_of_the_teachers_mean(run_dir: Path) -> None:
    lesson = Lesson([run_dir / "model"] * 2, weight=0.25, in_bf16=False)
    photos = torch.randn(4, 3, 32, 32)
    model = AutoModelForImageClassification.from_pretrained(run_dir / "model")
    with torch.no_grad():
        said = model(pixel_values=photos).logits.softmax(-1)
    lesson.see(model, (), {"pixel_values": photos})
    labels = torch.eye(5)[:3]  # the fourth photo is one that is shown twice
    torch.testing.assert_close(lesson.taught(labels), 0.75 * labels + 0.25 * said[:3])


def test_what_is_taught_ends_elsewhere_than_what_learns_from_labels(
    run_dir: Path, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    argv = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    argv += ["--do_eval", "--num_train_epochs", "1", "--max_train_samples", "32"]
    argv += ["--learning_rate", "1e-3", "--disable_tqdm", "true"]
    losses = []
    for weight in (0.0, 1.0):
        lesson = Lesson([run_dir / "model"], weight, in_bf16=False)
        output_dir = tmp_path / str(weight)
        train_taught(lesson, [*argv, "--output_dir", str(output_dir)])
        losses.append(json.loads((output_dir / "all_results.json").read_text())["train_loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)
