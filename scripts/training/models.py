"""Load a model that counts, and the image processor that belongs to it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    cached_file,
    is_torchvision_available,
)

from count_distribution import counts_of_labels
from items.heads import load_item_heads
from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS, ItemSettings
from one_line_parser import reason_of
from recipe.regularization import forget_cached
from side_heads import read_side_heads
from training.arguments import ModelArguments
from training.position_embeddings import fitted_to, uncovered_pixels
from visits.error_model import ERROR_MODEL, ErrorModel
from visits.head import load_head
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, VisitModel, read_visit_model

# Pillow's code for what data_prep/dataset/photos.py resizes with.
BILINEAR = 2


def load_model(
    arguments: ModelArguments, label_names: Sequence[str], image_size: int, train: bool
) -> PreTrainedModel:
    """Return an image classifier with one logit a count.

    Args:
        label_names: the dataset's labels, which become the model's.
        image_size: edge of the dataset's square photos, pixels.
        train: whether the model is to be trained; if not, its labels must be the dataset's already,
            and its photos of the dataset's size.

    Raises:
        ValueError: the model takes photos of another size, or counts something else.
        OSError: there is no such model.
        ImportError: it needs a library that is not installed.
    """
    labels = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: label for label, name in enumerate(label_names)},
    }
    source = model_source(arguments)
    try:
        config = AutoConfig.from_pretrained(source, revision=arguments.model_revision)
        if not train and list(config.id2label.values()) != list(label_names):
            raise ValueError(
                f"The model's labels {list(config.id2label.values())[:9]} are not the dataset's "
                f"{list(label_names)}: evaluate a model that was trained on these, or add "
                "--do_train."
            )
        if arguments.config_name:
            config = AutoConfig.from_pretrained(source, **labels)
            config.architectures = config.architectures or []  # None stops some families
            model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
        else:
            model = AutoModelForImageClassification.from_pretrained(
                source,
                revision=arguments.model_revision,
                # A new head where the model was trained on other labels.
                ignore_mismatched_sizes=train,
                # A checkpoint in half precision would stay so, and train badly.
                dtype=torch.float32,
                **labels,
            )
            if train:
                model = fitted_to(model, image_size)
    except ImportError as error:
        raise ImportError(_lacking(source, error)) from error
    except (ValueError, OSError):
        raise
    # The libraries raise nearly anything for what they cannot make a model of.
    except Exception as error:
        raise ValueError(f"{source} cannot be loaded ({reason_of(error)}).") from error
    check_answer(model, len(label_names), image_size)
    if train:
        say_what_is_uncovered(model, image_size)
    return model


def say_what_is_uncovered(model: PreTrainedModel, image_size: int) -> None:
    """Print a line where the patches of a model leave an edge of the photos out."""
    unseen, patch = uncovered_pixels(model, image_size)
    if unseen:
        print(
            f"Patches of {patch} pixels leave {unseen} of {image_size} out, right and below: "
            f"--image_size {image_size - unseen} or {image_size - unseen + patch} loses nothing.",
            file=sys.stderr,
        )


def check_answer(model: PreTrainedModel, num_counts: int, image_size: int) -> None:
    """Check that a model takes photos of this size, answers with counts, and can be loaded again.

    A photo tells more than the config: some networks take any size, whatever their config says, and
    some families take no photos at all.

    Raises: ValueError: it does not.
    """
    kind = type(model).__name__
    name = type(model.config).__name__
    labels = type(model.config).from_dict(model.config.to_dict()).num_labels
    if model.config.num_labels != num_counts or labels != num_counts:
        raise ValueError(
            f"{kind} cannot be trained here: its {name} forgets its labels when it is saved. "
            "Choose another model."
        )
    photo = torch.zeros(1, 3, image_size, image_size)
    is_training = model.training
    try:
        with torch.no_grad():
            answer = tuple(model.eval()(pixel_values=photo).logits.shape)
    except Exception as error:
        # Models of text and images keep the size with their half for images.
        made_for = getattr(getattr(model.config, "vision_config", model.config), "image_size", None)
        if made_for in (None, image_size, [image_size, image_size]):
            raise ValueError(
                f"{kind} cannot count photos of {image_size} pixels ({reason_of(error)}): choose "
                "another model, or build the dataset with another --image_size."
            ) from error
        raise ValueError(
            f"The model takes photos of {made_for} pixels, the dataset's have {image_size}: build "
            f"the dataset with --image_size {made_for}, or choose another model."
        ) from error
    finally:
        model.train(is_training)
        forget_cached(model)
    if answer != (1, num_counts):
        raise ValueError(f"{kind} answers with {answer}, not with one number a count.")


def load_change_head(
    model: PreTrainedModel, arguments: ModelArguments, image_size: int
) -> VisitModel:
    """Give a model the change head that lies beside it, if there is one.

    Returns: what its folder, or its repository, knows of visits.
    Raises: ValueError: a file of the head is damaged, or the model's counts are not the head's.
    """
    folder = _folder_with(arguments, HEAD_SETTINGS, HEAD_WEIGHTS, ERROR_MODEL)
    if folder is None:
        return VisitModel(ErrorModel())
    settings = load_head(model, folder, image_size)
    counts = counts_of_labels([name for _, name in sorted(model.config.id2label.items())])
    if settings.counts != counts:
        raise ValueError(
            f"{folder / HEAD_SETTINGS} belongs to a model of other counts ({settings.counts[0]} to "
            f"{settings.counts[-1]}): copy the model folder again."
        )
    return read_visit_model(folder)


def load_heads_of_items(
    model: PreTrainedModel, arguments: ModelArguments, image_size: int
) -> ItemSettings | None:
    """Give a model the item heads that lie beside it, if there are any.

    Returns: what they are; None where there are none.
    Raises: ValueError: a file of theirs is damaged.
    """
    folder = _folder_with(arguments, HEADS_SETTINGS, HEADS_WEIGHTS)
    return None if folder is None else load_item_heads(model, folder, image_size)


def _folder_with(arguments: ModelArguments, *names: str) -> Path | None:
    """Return where these files lie beside a model; None where the first one does not.

    They are fetched, one by one, where the model is on the Hub.
    """
    found = [
        cached_file(
            model_source(arguments),
            name,
            revision=arguments.model_revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for name in names
    ]
    return None if found[0] is None else Path(found[0]).parent


def _lacking(source: str, error: ImportError) -> str:
    """Return what a model needs that is not installed, in one line."""
    if "timm" in str(error):
        return (
            f"{source} is a timm model, which needs timm and torchvision: the training container "
            "has both; here they must fit the torch that is installed."
        )
    return f"{source} needs a library that is not installed ({reason_of(error)})."


def load_image_processor(
    arguments: ModelArguments, image_size: int, train: bool = True
) -> ViTImageProcessor:
    """Return a processor that prepares a photo of any size exactly as training saw it.

    Whatever the model came with (ResNets bring a centre crop, which can cut an item away), photos
    are squeezed to a square with the resampler of data_prep, then normalized with the mean and
    standard deviation that the model knows. The class resizes with Pillow; where torchvision is
    installed, AutoImageProcessor prefers one that resizes with torchvision unless it is given
    use_fast=False.

    Args:
        train: whether the model is to be trained; if not, its photos must be of this size already.

    Raises:
        ValueError: nobody knows what the model's own processor does to a photo, or it prepares
            those of a finished model in another size.
        OSError: a pretrained model comes without one.
        ImportError: it needs a library that is not installed.
    """
    mean, std = list(IMAGENET_STANDARD_MEAN), list(IMAGENET_STANDARD_STD)  # from scratch
    if arguments.model_name_or_path:
        source = model_source(arguments)
        try:
            config = AutoConfig.from_pretrained(source, revision=arguments.model_revision)
            if config.model_type == "timm_wrapper" and not is_torchvision_available():
                raise ImportError("timm and torchvision")  # or its processor is said to be missing
            own = AutoImageProcessor.from_pretrained(source, revision=arguments.model_revision)
        except ImportError as error:
            raise ImportError(_lacking(source, error)) from error
        made_for = (getattr(own, "size", None) or {}).get("height")
        if not train and made_for not in (None, image_size):
            raise ValueError(
                f"The model was trained on photos of {made_for} pixels, the dataset's have "
                f"{image_size}: build the dataset with --image_size {made_for}."
            )
        mean, std = normalization_of(own, image_size)
    return ViTImageProcessor(
        size={"height": image_size, "width": image_size},
        resample=BILINEAR,
        image_mean=mean,
        image_std=std,
        do_convert_rgb=True,
    )


def normalization_of(image_processor: Any, image_size: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation, of three channels each, that a processor normalizes with.

    It is asked with a black, a white and a red photo, not read: some processors keep both numbers
    elsewhere (timm's), or use them twice (EfficientNet's), or not at all.

    Raises: ValueError: it does something else than to normalize each channel.
    """
    kind = type(image_processor).__name__
    try:
        black, white, red = (
            _middle_pixel(image_processor, colour, image_size)
            for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0))
        )
    except Exception as error:
        raise ValueError(
            f"The model's {kind} cannot be asked how it normalizes ({reason_of(error)}): choose "
            "another model."
        ) from error
    if not (white > black).all():
        raise ValueError(f"The model's {kind} makes no difference of black and white photos.")
    if not np.allclose(red, [white[0], black[1], black[2]], atol=1e-4):
        print(
            f"The model's {kind} gives it the colours in another order: it starts from what it "
            "knows of those, and learns these.",
            file=sys.stderr,
        )
    std = 1 / (white - black)
    found = [[round(float(value), 6) for value in values] for values in (-black * std, std)]
    # What the processor says, to the last digit, where it is what it does.
    said: Any = [getattr(image_processor, name, None) for name in ("image_mean", "image_std")]
    is_so = all(
        values and np.allclose(values, what, atol=1e-4)
        for values, what in zip(said, found, strict=True)
    )
    mean, std = said if is_so else found
    return list(mean), list(std)


def _middle_pixel(image_processor: Any, colour: tuple[int, ...], image_size: int) -> np.ndarray:
    photo = Image.new("RGB", (image_size, image_size), colour)
    # The middle one: some processors add a margin.
    pixels = image_processor(images=photo, return_tensors="pt")["pixel_values"][0]
    height, width = pixels.shape[1:]
    return np.asarray(pixels, dtype=np.float64)[:, height // 2, width // 2].reshape(3)


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
    try:
        loaded, report = type(model).from_pretrained(
            checkpoint, dtype=model.dtype, output_loading_info=True
        )
        if lacking := {name: keys for name, keys in report.items() if keys}:
            raise ValueError(f"these are not the model's weights: {lacking}")
        model.load_state_dict(loaded.state_dict() | read_side_heads(model, checkpoint))
    except Exception as error:  # a damaged file makes transformers raise nearly anything
        raise ValueError(f"{checkpoint} cannot be loaded ({reason_of(error)}).") from error
    forget_cached(model)
