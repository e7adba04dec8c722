import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from model_families import IMAGE_SIZE, TINY_CONFIGS, TRANSFORMER, TWO_TOWERS
from training.arguments import ModelArguments
from training.models import load_model
from training.position_embeddings import fitted_to, interpolated, uncovered_pixels

LABELS = ["1", "2", "3", "4", "5"]
# With a class token; with one of the teacher, too; none; and one that interpolates for itself.
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": TRANSFORMER,
    "deit": TRANSFORMER,
    "vit_msn": TRANSFORMER,
    "ijepa": TRANSFORMER,
    "clip": TWO_TOWERS,
    "siglip": TWO_TOWERS,
    "dinov2": TRANSFORMER,
    "dinov2_with_registers": TRANSFORMER,
}


def drawn(family: str) -> PreTrainedModel:
    """Return a random model of the tests' size, whose positions differ from each other."""
    config = AutoConfig.for_model(family, **copy.deepcopy(FAMILIES[family]), num_labels=5)
    config.architectures = []
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "position" in name:
            torch.nn.init.normal_(parameter)
    return model


# DINOv2 with registers smooths its positions whatever their number, the others never; here they are
# smoothed where there are fewer of them.
@pytest.mark.parametrize(
    ("family", "image_size"),
    [
        (family, size)
        for family in FAMILIES
        for size in ([32] if family.endswith("with_registers") else [96, 112])
    ],
)
def test_photos_of_another_size_are_seen_as_transformers_has_the_model_see_them(
    family: str, image_size: int
) -> None:
    model = drawn(family)
    photos = torch.randn(2, 3, image_size, image_size)
    fitted = fitted_to(model, image_size)
    # DINOv2 interpolates unasked.
    asked = {} if family.startswith("dinov2") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = model(pixel_values=photos, **asked).logits
        torch.testing.assert_close(fitted(pixel_values=photos).logits, expected)
    config = getattr(fitted.config, "vision_config", fitted.config)
    assert config.image_size == image_size
    assert not fitted.training


def test_a_model_of_this_size_stays_as_it_is() -> None:
    model = drawn("vit")
    assert fitted_to(model, IMAGE_SIZE) is model


def test_a_network_without_positions_says_the_size_and_keeps_its_weights() -> None:
    config = AutoConfig.for_model("convnext", hidden_sizes=[8, 8], depths=[1, 1], num_stages=2)
    model = AutoModelForImageClassification.from_config(config)
    fitted = fitted_to(model, 96)
    assert fitted.config.image_size == 96
    assert all(
        torch.equal(weight, fitted.state_dict()[name])
        for name, weight in model.state_dict().items()
    )


def test_biases_between_two_places_are_no_positions_of_one(tmp_path: Path) -> None:
    """BEiT's, which reckons with other sizes itself: it stays as it is, and takes the photos."""
    config = AutoConfig.for_model("beit", **TRANSFORMER, use_relative_position_bias=True)
    config.architectures = []
    model = AutoModelForImageClassification.from_config(config)
    assert fitted_to(model, 96) is model
    model.save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    assert load_model(arguments, LABELS, 96, train=True).config.image_size == IMAGE_SIZE


def test_positions_in_between_are_interpolated_and_what_stands_in_front_stays() -> None:
    rows = torch.arange(4.0)[:, None, None].expand(4, 4, 2)  # each place says how far down it is
    positions = torch.cat([torch.full((1, 2), 9.0), rows.reshape(16, 2)])[None]
    larger = interpolated(positions, torch.Size([1, 65, 2]))
    assert larger is not None
    assert torch.equal(larger[0, 0], positions[0, 0])
    down = larger[0, 1:, 0].reshape(8, 8)
    assert torch.equal(down, down[:, :1].expand(8, 8))
    assert (down[1:, 0] > down[:-1, 0]).all()
    torch.testing.assert_close(down[:, 0] + down.flip(0)[:, 0], torch.full((8,), 3.0))


@pytest.mark.parametrize("shape", [(1, 65, 3), (1, 64 + 5, 2), (65, 2), (1, 66, 2)])
def test_what_is_no_square_grid_is_not_interpolated(shape: tuple[int, ...]) -> None:
    assert interpolated(torch.zeros(1, 17, 2), torch.Size(shape)) is None


def test_pixels_that_no_patch_covers_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn("vit").save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    load_model(arguments, LABELS, 100, train=True)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "leave 4 of 100 out" in line
    assert "--image_size 96 or 112 loses nothing" in line


def test_pixels_beside_the_patches_that_are_padded_are_seen() -> None:
    config = AutoConfig.for_model("swin", **TINY_CONFIGS["swin"])
    assert uncovered_pixels(AutoModelForImageClassification.from_config(config), 66) == (0, 0)
    assert uncovered_pixels(drawn("vit"), IMAGE_SIZE) == (0, 0)


def test_a_model_that_is_only_evaluated_keeps_the_size_that_it_was_trained_on(
    tmp_path: Path,
) -> None:
    model = drawn("vit")
    model.config.id2label = dict(enumerate(LABELS))
    model.save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    with pytest.raises(ValueError, match="takes photos of 64 pixels, the dataset's have 96"):
        load_model(arguments, LABELS, 96, train=False)
    assert load_model(arguments, LABELS, 96, train=True).config.image_size == 96
