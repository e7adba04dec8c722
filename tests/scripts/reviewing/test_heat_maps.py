import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageClassification

from model_families import IMAGE_SIZE, TINY_CONFIGS
from reviewing.heat_maps import EDGE, heat_maps
from tiny_model import TINY_VIT

COUNTS = (1, 2, 3)
# What cannot be trained here: test_model_families.py says why.
NOT_TRAINED = {"dinat", "imagegpt", "pvt", "shieldgemma2", "siglip2", "timm_wrapper"}
CELLS, PIXELS = 4, 8  # of the drawn photos: in a row, and in a cell
TINY_RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
    "layer_type": "basic",
}


def model_of(config: dict[str, Any]) -> Any:
    config = copy.deepcopy(config)
    made = AutoConfig.for_model(config.pop("model_type"), **config, num_labels=len(COUNTS))
    made.architectures = []  # None stops some families
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(made).eval()


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS.keys() - NOT_TRAINED))
def test_every_family_has_maps(family: str) -> None:
    model = model_of({"model_type": family, **TINY_CONFIGS[family]})
    photos = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    photos[1] = 0.5  # of one colour: nothing is anywhere
    maps = heat_maps(model, photos, COUNTS)
    assert maps.shape == (2, EDGE, EDGE)
    assert maps.isfinite().all()
    assert not maps[1].any()


@pytest.mark.parametrize("size", [42, 64])  # of photos: 64 pixels are no multiple of the places
def test_of_an_answer_that_is_linear_the_maps_are_what_each_place_adds(size: int) -> None:
    class Brightness(torch.nn.Module):
        """One logit for each count, all of them of the brightness of the left half."""

        def forward(self, pixel_values: torch.Tensor) -> Any:
            left = pixel_values[..., : size // 2].mean(dim=(1, 2, 3))
            return SimpleNamespace(logits=left[:, None] * torch.tensor(COUNTS))

    photos = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    maps = heat_maps(Brightness(), photos, COUNTS)
    brightness = (photos - photos.mean(dim=(2, 3), keepdim=True))[..., : size // 2]
    assert not maps[:, :, EDGE // 2 + 1 :].any()
    if size % EDGE == 0:
        torch.testing.assert_close(maps.sum(dim=(1, 2)), brightness.mean(dim=(1, 2, 3)))


def drawn(num_photos: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return photos of one to three bright cells on noise, and where these are.

    Returns: float (num_photos, 3, 32, 32); bool (num_photos, 4, 4).
    """
    generator = torch.Generator().manual_seed(seed)
    number = torch.randint(1, 4, (num_photos, 1), generator=generator)
    order = torch.rand(num_photos, CELLS**2, generator=generator).argsort(dim=1).argsort(dim=1)
    is_item = (order < number).view(-1, CELLS, CELLS)
    noise = torch.randn(num_photos, 3, CELLS * PIXELS, CELLS * PIXELS, generator=generator)
    return 0.3 * noise + 2.0 * as_pixels(is_item), is_item


def as_pixels(cells: torch.Tensor) -> torch.Tensor:
    return cells.float().repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)[:, None]


# A ViT of two layers mixes patches before it counts them: its maps are less sharp.
@pytest.mark.parametrize(
    ("config", "least"), [(TINY_VIT, 0.6), (TINY_RESNET, 0.95)], ids=["vit", "resnet"]
)
def test_the_map_of_a_model_that_has_learned_to_count_lies_on_the_items(
    config: dict[str, Any], least: float
) -> None:
    model = model_of(config)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    model.train()
    for step in range(250):
        photos, is_item = drawn(32, seed=step)
        labels = is_item.sum(dim=(1, 2)) - 1
        functional.cross_entropy(model(pixel_values=photos).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    photos, is_item = drawn(100, seed=1000)

    def hotter(of: Any) -> float:
        """Return how often an item is hotter than a place without one; of mere chance 0.5."""
        maps = functional.adaptive_avg_pool2d(heat_maps(of, photos, COUNTS), CELLS)
        return float((maps[is_item][:, None] > maps[~is_item]).float().mean())

    assert hotter(model) > least > 0.5 > hotter(model_of(config))
