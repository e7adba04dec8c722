"""How large a finished model is, and how fast: read off its folder, without loading it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

# As scripts/serving has them.
WEIGHTS = "model.safetensors"
EXPORT_RECORD = Path("openvino/export.json")
PREPARATION = "preprocessor_config.json"


@dataclass(frozen=True)
class Size:
    """All weights of a model folder: those of heads beside the model are among them.

    Args:
        photo_edge: pixels of the square that photos are made to; None where the folder does not
            say.
    """

    num_parameters: int
    num_bytes: int
    photo_edge: int | None


def size_of(model_dir: Path) -> Size | None:
    """Return how large a model is; None where the folder holds no weights.

    Raises: ValueError: weights or preparation are damaged, with their path.
    """
    paths = [*model_dir.glob("*.safetensors")]
    if not paths:
        return None
    return Size(
        sum(map(_num_parameters, paths)),
        sum(path.stat().st_size for path in paths),
        _photo_edge(model_dir / PREPARATION),
    )


def _photo_edge(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        size = dict(json.loads(path.read_text())).get("size")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    # Others' models may say it in another way.
    return size.get("height") if isinstance(size, dict) else None


def _num_parameters(path: Path) -> int:
    """Return how many numbers a file holds. What a batch norm counts is among them."""
    try:
        with safe_open(path, framework="numpy") as weights:
            names = weights.keys()
            return sum(prod(weights.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


@dataclass(frozen=True)
class Speed:
    """How long a photo takes, as export_model.py measured it.

    Args:
        milliseconds: by form: safetensors, and what export_model.py kept.
        machine: its CPU and how many threads; "" where an earlier version did not write it.
    """

    milliseconds: Mapping[str, float]
    machine: str


def speed_of(model_dir: Path) -> Speed | None:
    """Return how fast a model is.

    Returns: None where export_model.py did not run, did not measure (--precision), or did so for
        other weights than those that are there.
    Raises: ValueError: what it wrote is damaged, with its path.
    """
    path, weights = model_dir / EXPORT_RECORD, model_dir / WEIGHTS
    if not (path.is_file() and weights.is_file()):
        return None
    try:
        record = json.loads(path.read_text())
        tried = record.get("tried")
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not tried or not digest.startswith(record["version"]):
            return None
        kept = record["precision"]
        # A CPU without bf16 computes in f32 what was tried as bf16.
        tried_as = {"safetensors": "safetensors", kept: kept if kept in tried else "bf16"}
        milliseconds = {form: float(tried[of]["milliseconds"]) for form, of in tried_as.items()}
        return Speed(milliseconds, str(record.get("tried_on", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
