import json
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import photos as bin_images
from model_families import TINY_CONFIGS
from paths import ROOT, real_path
from tiny_model import TINY_VIT
from training import models
from training.arguments import ModelArguments
from training.models import (
    forget_cached,
    load_image_processor,
    load_model,
    load_strictly,
    normalization_of,
)

LABELS = ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("name", "image_size"), [("vit_demo", 64), ("resnet34", 224)])
def test_the_shipped_configs_make_models_with_one_logit_a_count(name: str, image_size: int) -> None:
    arguments = ModelArguments(config_name=str(ROOT / "scripts" / "model_configs" / name))
    model = load_model(arguments, LABELS, image_size, train=True).eval()
    with torch.no_grad():
        logits = model(pixel_values=torch.zeros(2, 3, image_size, image_size)).logits
    assert logits.shape == (2, 5)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id["1"] == 0


def test_the_shipped_resnet34_has_the_published_size() -> None:
    model = load_model(ModelArguments(config_name="resnet34"), LABELS, 224, train=True)
    # He et al. (2015): 21.8 million with 1000 classes, of which 0.5 are the last layer.
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters == pytest.approx(21.3e6, rel=0.01)


def test_a_model_of_another_photo_size_is_refused(config_dir: Path) -> None:
    arguments = ModelArguments(config_name=str(config_dir))
    with pytest.raises(ValueError, match="takes photos of 32 pixels, the dataset's have 64"):
        load_model(arguments, LABELS, 64, train=True)


def test_a_model_of_other_labels_is_not_evaluated(run_dir: Path) -> None:
    arguments = ModelArguments(model_name_or_path=str(run_dir / "model"))
    with pytest.raises(ValueError, match="are not the dataset's"):
        load_model(arguments, ["0", "1", "2", "3", "4"], 32, train=False)


def test_a_pretrained_model_keeps_its_body_and_gets_a_new_head(run_dir: Path) -> None:
    arguments = ModelArguments(model_name_or_path=str(run_dir / "model"))
    own = load_model(arguments, LABELS, 32, train=False)
    other = load_model(arguments, ["0", "1", "2"], 32, train=True)
    assert other.config.num_labels == 3
    for name, weight in own.vit.state_dict().items():
        assert torch.equal(weight, other.vit.state_dict()[name])


@pytest.mark.parametrize("name", ["./nowhere", "../models/nowhere", "/nowhere", "runs/x/model"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        load_model(ModelArguments(model_name_or_path=name), LABELS, 32, train=True)


def test_the_folder_of_a_run_is_not_that_of_its_model(run_dir: Path) -> None:
    arguments = ModelArguments(model_name_or_path=str(run_dir))
    with pytest.raises(ValueError, match="the model of a run is in RUN/model"):
        load_model(arguments, LABELS, 32, train=False)


def test_serving_resizes_with_the_resampler_that_data_prep_used() -> None:
    assert models.BILINEAR == bin_images.RESAMPLE


def test_photos_are_squeezed_not_cropped_whatever_the_model_came_with(config_dir: Path) -> None:
    processor = load_image_processor(ModelArguments(config_name=str(config_dir)), 32)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    pixels = processor(photo, return_tensors="np")["pixel_values"][0]
    expected = np.array(photo.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_allclose(pixels * 0.5 + 0.5, expected / 255, atol=1e-6)


def test_the_mean_and_deviation_of_a_pretrained_model_are_kept() -> None:
    path = real_path("models/vit-tiny-patch16-224")
    processor = load_image_processor(ModelArguments(model_name_or_path=str(path)), 224)
    assert list(processor.image_mean) == [0.5, 0.5, 0.5]


def test_a_finished_model_is_not_evaluated_on_photos_of_another_size(run_dir: Path) -> None:
    """Also where the network would take them, as a convolutional one does."""
    arguments = ModelArguments(model_name_or_path=str(run_dir / "model"))
    with pytest.raises(ValueError, match="trained on photos of 32 pixels, the dataset's have 64"):
        load_image_processor(arguments, 64, train=False)
    assert load_image_processor(arguments, 64).size["height"] == 64


def saved_processor(folder: Path, **content: object) -> ModelArguments:
    """Return the arguments for a model folder that holds an image processor alone."""
    (folder / "config.json").write_text(json.dumps(TINY_VIT))
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return ModelArguments(model_name_or_path=str(folder))


@pytest.mark.parametrize(
    ("content", "mean", "std"),
    [
        (
            {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3]}
            | {"image_std": [0.4, 0.5, 0.6]},
            [0.1, 0.2, 0.3],
            [0.4, 0.5, 0.6],
        ),
        # It says a mean, and does not use it.
        (
            {"image_processor_type": "ViTImageProcessor", "do_normalize": False}
            | {"image_mean": [0.1, 0.2, 0.3]},
            [0.0, 0.0, 0.0],
            [1.0, 1.0, 1.0],
        ),
        # It divides by the deviation twice.
        (
            {"image_processor_type": "EfficientNetImageProcessor", "image_mean": [0.5, 0.4, 0.3]}
            | {"image_std": [0.5, 0.5, 0.25], "include_top": True},
            [0.5, 0.4, 0.3],
            [0.25, 0.25, 0.0625],
        ),
        # It puts photos on a larger canvas.
        (
            {"image_processor_type": "DonutImageProcessor", "size": {"height": 80, "width": 48}}
            | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            [0.5] * 3,
            [0.5] * 3,
        ),
    ],
)
def test_a_model_is_normalized_for_as_its_own_processor_does(
    content: dict[str, object], mean: list[float], std: list[float], tmp_path: Path
) -> None:
    processor = load_image_processor(saved_processor(tmp_path, **content), 64)
    assert list(processor.image_mean) == pytest.approx(mean, abs=1e-5)
    assert list(processor.image_std) == pytest.approx(std, abs=1e-5)


def test_a_processor_that_swaps_colours_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = saved_processor(tmp_path, image_processor_type="MobileViTImageProcessor")
    assert list(load_image_processor(arguments, 64).image_std) == [1.0, 1.0, 1.0]
    assert "colours in another order" in capsys.readouterr().err


def test_a_processor_that_gives_no_pixels_is_refused(tmp_path: Path) -> None:
    arguments = saved_processor(
        tmp_path, image_processor_type="ImageGPTImageProcessor", clusters=[[-1.0] * 3, [1.0] * 3]
    )
    with pytest.raises(ValueError, match="cannot be asked how it normalizes"):
        load_image_processor(arguments, 64)


class ProcessorOfTimm:
    """Keeps its numbers where timm does, and takes and gives what timm's does."""

    data_config: ClassVar = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}

    def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
        assert return_tensors == "pt"
        pixels = torch.from_numpy(np.array(images)).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in self.data_config.values())
        return {"pixel_values": (pixels - mean) / std}


def test_the_mean_of_a_timm_model_is_found_where_no_attribute_says_it() -> None:
    mean, std = normalization_of(ProcessorOfTimm(), 64)
    assert mean == pytest.approx([0.48, 0.46, 0.41], abs=1e-5)
    assert std == pytest.approx([0.27, 0.26, 0.28], abs=1e-5)


def test_a_processor_that_sees_no_difference_of_black_and_white_is_refused() -> None:
    class Blind(ProcessorOfTimm):
        def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, torch.Tensor]:
            return super().__call__(Image.new("RGB", images.size), return_tensors)

    with pytest.raises(ValueError, match="Blind makes no difference of black and white photos"):
        normalization_of(Blind(), 64)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_a_timm_model_says_in_one_line_what_it_needs(tmp_path: Path) -> None:
    content = {"architecture": "vit_tiny_patch16_224", "num_classes": 5}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "timm_wrapper", **content}))
    for arguments in (
        ModelArguments(model_name_or_path=str(tmp_path)),
        ModelArguments(config_name=str(tmp_path)),
    ):
        with pytest.raises(ImportError, match="needs timm and torchvision"):
            load_model(arguments, LABELS, 224, train=True)
    with pytest.raises(ImportError, match="needs timm and torchvision"):
        load_image_processor(ModelArguments(model_name_or_path=str(tmp_path)), 224)


def family(folder: Path, name: str, **more: object) -> ModelArguments:
    content = {"model_type": name, **TINY_CONFIGS[name], **more}
    (folder / "config.json").write_text(json.dumps(content))
    return ModelArguments(config_name=str(folder))


@pytest.mark.parametrize("name", ["dinov2", "efficientnet", "mobilenet_v2", "swin"])
def test_a_network_that_takes_any_size_is_not_refused_for_that_of_its_config(
    name: str, tmp_path: Path
) -> None:
    model = load_model(family(tmp_path, name, image_size=128), LABELS, 64, train=True)
    assert model(pixel_values=torch.zeros(2, 3, 64, 64)).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pvt", "PvtConfig forgets its labels"),
        ("imagegpt", "cannot count photos of 64 pixels"),
        ("siglip2", "cannot count photos of 64 pixels"),
    ],
)
def test_a_family_that_cannot_count_is_refused_before_the_training(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(family(tmp_path, name), LABELS, 64, train=True)


def test_weights_of_another_model_are_one_line(tmp_path: Path) -> None:
    model = load_model(family(tmp_path, "vit"), LABELS, 64, train=True)
    other = load_model(family(tmp_path, "vit", hidden_size=64), LABELS, 64, train=True)
    other.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="checkpoint") as error_info:
        load_strictly(model, tmp_path / "checkpoint")
    assert len(str(error_info.value)) < 800


def test_what_a_model_keeps_of_its_weights_goes_with_them(tmp_path: Path) -> None:
    model = load_model(family(tmp_path, "levit"), LABELS, 64, train=True).eval()
    photos = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model(pixel_values=photos)  # keeps its attention biases
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        forget_cached(model)
        changed = model(pixel_values=photos).logits
        fresh = type(model)(model.config)
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(changed, fresh.eval()(pixel_values=photos).logits)
    assert not model.training
