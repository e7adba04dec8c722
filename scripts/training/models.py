"""Load a model that counts, and the image processor that belongs to it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from training.arguments import ModelArguments

# Pillow's code for what data_prep/dataset/photos.py resizes with.
BILINEAR = 2


def load_model(
    arguments: ModelArguments, label_names: Sequence[str], image_size: int, train: bool
) -> PreTrainedModel:
    """Return an image classifier with one logit a count.

    Args:
        label_names: the dataset's labels, which become the model's.
        image_size: edge of the dataset's square photos, pixels.
        train: whether the model is to be trained; if not, its labels must be the dataset's already.

    Raises:
        ValueError: the model takes photos of another size, or counts something else.
        OSError: there is no such model.
    """
    labels = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: label for label, name in enumerate(label_names)},
    }
    source = model_source(arguments)
    config = AutoConfig.from_pretrained(source, revision=arguments.model_revision)
    # Models of text and images keep the size with their half for images.
    expected_size = getattr(getattr(config, "vision_config", config), "image_size", image_size)
    if expected_size not in (image_size, [image_size, image_size]):
        raise ValueError(
            f"The model takes photos of {expected_size} pixels, the dataset's have {image_size}: "
            f"build the dataset with --image_size {expected_size}, or choose another model."
        )
    if not train and list(config.id2label.values()) != list(label_names):
        raise ValueError(
            f"The model's labels {list(config.id2label.values())[:9]} are not the dataset's "
            f"{list(label_names)}: evaluate a model that was trained on these, or add --do_train."
        )
    if arguments.config_name:
        return AutoModelForImageClassification.from_config(
            AutoConfig.from_pretrained(source, **labels), dtype=torch.float32
        )
    return AutoModelForImageClassification.from_pretrained(
        source,
        revision=arguments.model_revision,
        # A new head where the model was trained on other labels.
        ignore_mismatched_sizes=train,
        # A checkpoint in half precision would stay so, and train badly.
        dtype=torch.float32,
        **labels,
    )


def load_image_processor(arguments: ModelArguments, image_size: int) -> ViTImageProcessor:
    """Return a processor that prepares a photo of any size exactly as training saw it.

    Whatever the model came with (ResNets bring a centre crop, which can cut an item away), photos
    are squeezed to a square with the resampler of data_prep, then normalized with the mean and
    standard deviation that the model knows. The class resizes with Pillow; where torchvision is
    installed, AutoImageProcessor prefers one that resizes with torchvision unless it is given
    use_fast=False.

    Raises: OSError: a pretrained model comes without a processor, so nobody knows its mean.
    """
    mean, std = IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD  # for a model from scratch
    if arguments.model_name_or_path:
        own = AutoImageProcessor.from_pretrained(
            model_source(arguments), revision=arguments.model_revision
        )
        # A few processors do not normalize, and say so with None.
        mean = getattr(own, "image_mean", None) or [0.0, 0.0, 0.0]
        std = getattr(own, "image_std", None) or [1.0, 1.0, 1.0]
    return ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=BILINEAR,
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=True,
    )


def model_source(arguments: ModelArguments) -> str:
    """Return where the model is: a folder, a Hub id, or one of the configs beside this file.

    Raises: ValueError: a folder without a model, or no such config.
    """
    name = str(arguments.config_name or arguments.model_name_or_path)
    if arguments.config_name and not Path(name).is_dir():
        shipped = Path(__file__).parent.parent / "model_configs"
        if name not in {path.name for path in shipped.iterdir()}:
            raise ValueError(f"--config_name {name}: there is no such folder.")
        return str(shipped / name)
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1  # a Hub id has one slash
    if is_path and not Path(name).is_dir():
        raise ValueError(f"--model_name_or_path {name}: there is no such folder.")
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise ValueError(f"{name} holds no config.json: the model of a run is in RUN/model.")
    return name


def load_strictly(model: PreTrainedModel, checkpoint: Path) -> None:
    """Load a checkpoint's weights, every one of them.

    Trainer's own loading takes no notice of weights that it does not find, and transformers 5.10.2
    to 5.23.0 renames those of a ViT in its files (transformers issues 43701 and 48805).

    Raises: ValueError: weights are missing, too many or of another shape.
    """
    loaded, report = type(model).from_pretrained(
        checkpoint, dtype=model.dtype, output_loading_info=True
    )
    if any(report.values()):
        raise ValueError(f"{checkpoint} does not hold this model's weights: {report}")
    model.load_state_dict(loaded.state_dict())
