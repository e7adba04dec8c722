from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset import photos as bin_images
from paths import ROOT, real_path
from training import models
from training.arguments import ModelArguments
from training.models import load_image_processor, load_model

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
