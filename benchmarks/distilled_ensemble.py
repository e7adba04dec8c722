"""Measure what one model learns from the average of several: the ensemble, distilled.

    python benchmarks/distilled_ensemble.py --dataset_dir data/bins --output_dir runs/recipe \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Trains the default recipe once a seed, and then once a seed a model that learns from what all of
those say of each photo, as it is shown in training, beside its label. Source: Hinton, Vinyals and
Dean, Distilling the knowledge in a neural network, 2015; of photos that both see alike: Beyer et
al., Knowledge distillation: a good teacher is patient and consistent, CVPR 2022. Reads validation
alone. A run that is finished is not repeated: another weight, length or number of seeds wants
another --output_dir. Other words on the command line are train.py's.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from training_recipe import (
    CHOSEN,
    TRAIN,
    Trainings,
    has_figure,
    screening_table,
    validation_figures,
)

sys.path.insert(0, str(TRAIN.parent))


class Lesson:
    """Mixes what finished models say of photos into the targets of the one that learns.

    Args:
        models: model folders.
        weight: of what they say, 0 to 1; the rest is the label's.
        in_bf16: whether they are asked in bfloat16.
    """

    def __init__(self, models: Sequence[Path], weight: float, in_bf16: bool) -> None:
        self.teachers = [AutoModelForImageClassification.from_pretrained(path) for path in models]
        self.weight, self.in_bf16 = weight, in_bf16
        self.shown = torch.empty(0)

    def see(self, model: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        """Keep the photos that the learning model is asked about; a forward pre-hook."""
        self.shown = named["pixel_values"]

    @torch.no_grad()
    def taught(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the targets of the first of these photos, float (batch, num_counts)."""
        photos = self.shown[: len(targets)]
        with torch.autocast(photos.device.type, torch.bfloat16, enabled=self.in_bf16):
            said = [
                teacher.to(photos.device)(pixel_values=photos).logits for teacher in self.teachers
            ]
        return targets.lerp(torch.stack(said).float().softmax(-1).mean(dim=0), self.weight)


def train_taught(lesson: Lesson, argv: list[str]) -> None:
    """Run train.py on a model whose targets a lesson mixes."""
    train: Any = importlib.import_module("train")
    bin_trainer: Any = importlib.import_module("training.bin_trainer")
    load_model: Callable[..., Any] = train.load_model
    counting_loss: Callable[..., Any] = bin_trainer.counting_loss

    def load(*arguments: Any) -> Any:
        model = load_model(*arguments)
        model.register_forward_pre_hook(lesson.see, with_kwargs=True)
        return model

    def loss(name: str, logits: torch.Tensor, targets: torch.Tensor, *more: Any) -> torch.Tensor:
        return counting_loss(name, logits, lesson.taught(targets), *more)

    train.load_model, bin_trainer.counting_loss = load, loss
    try:
        train.main(argv)
    finally:
        train.load_model, bin_trainer.counting_loss = load_model, counting_loss


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument(
        "--num_train_epochs", default="8", help="of those that are taught; default: %(default)s"
    )
    parser.add_argument("--weight", type=float, default=0.7, help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    flags = [*more, "--disable_tqdm", "true"]
    trainings = Trainings(arguments.output_dir, flags, "1e-3", arguments.seeds, predicts=False)
    teachers = [trainings.run(CHOSEN, seed) for seed in arguments.seeds]
    device: Any = importlib.import_module("training.device")
    in_bf16 = device.device_has_bf16(on_cpu=not torch.cuda.is_available())
    lesson = Lesson([run_dir / "model" for run_dir in teachers], arguments.weight, in_bf16)
    flags += ["--num_train_epochs", arguments.num_train_epochs, "--do_train", "--do_eval"]
    taught = []
    for seed in arguments.seeds:
        run_dir = arguments.output_dir / f"taught-seed{seed}"
        if not has_figure(run_dir, "eval_accuracy"):
            train_taught(lesson, [*flags, "--output_dir", str(run_dir), "--seed", str(seed)])
        taught.append(run_dir)
    figures = {
        name: [validation_figures(run_dir) for run_dir in run_dirs]
        for name, run_dirs in (("default", teachers), ("taught by all of these", taught))
    }
    print(screening_table(figures))


if __name__ == "__main__":
    main()
