"""Measure the change head against its rival: both photos of a pair merged into one input.

    python benchmarks/early_merge.py --dataset_dir data/bins --output_dir runs/merged \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Trains a ViT twice by the default recipe, once with the change head, which compares what the last
layer makes of each photo, and once with both photos stacked into six channels, the patch embedding
doubled, and all layers of the network behind it. Reads validation alone, after the last epoch and
before any calibration: the loss of the changes and that of the counts; and what a pair costs to
answer. A run that is finished is not repeated. Other words on the command line are train.py's.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from training_recipe import has_figure, markdown

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

# No checkpoint: train.py would not know the doubled embedding in it.
FLAGS = ["--do_train", "--do_eval", "--calibrate", "false", "--save_strategy", "no"]
FLAGS += ["--load_best_model_at_end", "false", "--learn_items", "false"]
NUM_PAIRS, ROUNDS = 16, 5


class MergedHead(nn.Module):
    """Answers as a ChangeHead does, by asking the whole network about both photos at once.

    The layers behind the doubled patch embedding are those that count photos. Both directions are
    asked, so that one is the mirror of the other, as in the change head.

    Args:
        model: a ViT, whose patch embedding the doubled one begins with, each half of it.
        num_changes: how many changes the counts allow.
    """

    def __init__(self, model: Any, num_changes: int) -> None:
        super().__init__()
        network = model.base_model
        single = network.embeddings.patch_embeddings.projection
        double = nn.Conv2d(
            2 * single.in_channels, single.out_channels, single.kernel_size, single.stride
        )
        double.weight.data = torch.cat([single.weight.data / 2] * 2, dim=1)
        double.bias.data = single.bias.data.clone()
        # There, so that it learns at the rate of what takes photos in.
        network.embeddings.merged = double
        network.register_forward_pre_hook(self._keep, with_kwargs=True)
        self.networks = [network]  # in a list: its weights are the model's, not the head's
        self.num_features = single.out_channels
        self.classifier = nn.Linear(single.out_channels, num_changes)
        self.shown = torch.empty(0)
        self.num_changes, self.volumes = num_changes, None

    def _keep(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        self.shown = inputs[0] if inputs else named["pixel_values"]

    def projected(self) -> torch.Tensor:
        """Return the photos that the model was asked about last."""
        return self.shown

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return the logits of the changes, float (num_pairs, num_changes)."""
        ahead = self._logits(torch.cat([before, after], dim=1))
        return (ahead + self._logits(torch.cat([after, before], dim=1)).flip(-1)) / 2

    def _logits(self, both: torch.Tensor) -> torch.Tensor:
        network = self.networks[0]
        patches = network.embeddings.merged(both).flatten(2).transpose(1, 2)
        first = network.embeddings.cls_token.expand(len(both), -1, -1)
        tokens = torch.cat([first, patches], dim=1) + network.embeddings.position_embeddings
        seen = network.layernorm(network.encoder(tokens).last_hidden_state)
        return self.classifier(seen[:, 0])

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Divide the logits of all answers from now on."""
        for parameter in self.classifier.parameters():
            parameter.div_(temperature)


def attach_merged_head(
    model: Any, num_changes: int, image_size: int, tells_volumes: bool = False
) -> None:
    """Give a model the rival's head, as attach_head gives it the change head."""
    model.change_head = MergedHead(model, num_changes)


def price_of_a_pair(attach: Callable[[Any, int, int], None]) -> float:
    """Return how many photos' time a pair takes, of a ViT-Tiny with random weights."""
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, num_labels=5)
    model: Any = ViTForImageClassification(config)
    attach(model, 9, config.image_size)
    model.eval()
    photos = torch.randn(2 * NUM_PAIRS, 3, config.image_size, config.image_size)

    def seconds(with_changes: bool) -> float:
        start = perf_counter()
        with torch.no_grad():
            model(pixel_values=photos)
            projected = model.change_head.projected() if with_changes else None
            if projected is not None:
                model.change_head(projected[:NUM_PAIRS], projected[NUM_PAIRS:])
        return perf_counter() - start

    seconds(True)
    ratios = sorted(seconds(True) / seconds(False) for _ in range(ROUNDS))
    return 2 * ratios[ROUNDS // 2]


def main() -> None:
    """Train both, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, help="folder of the two runs", type=Path)
    arguments, flags = parser.parse_known_args()
    train: Any = importlib.import_module("train")
    attached = {"change_head": train.attach_head, "early_merge": attach_merged_head}
    rows = []
    for name, attach in attached.items():
        run_dir = arguments.output_dir / name
        if not has_figure(run_dir, "eval_change_loss"):
            train.attach_head = attach
            train.main([*flags, "--output_dir", str(run_dir), *FLAGS])
        figures = json.loads((run_dir / "all_results.json").read_text())
        rows.append(
            [
                name.replace("_", " "),
                f"{figures['eval_change_loss']:.3f}",
                f"{figures['eval_loss']:.3f}",
                f"{price_of_a_pair(attach):.2f}",
            ]
        )
    print(markdown(["validation split", "changes, nats", "counts, nats", "photos a pair"], rows))


if __name__ == "__main__":
    main()
