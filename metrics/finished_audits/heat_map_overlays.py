"""What an audit with --heat_maps found, drawn to lie over its photos: read off its folder."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
from PIL import Image

# As scripts/auditing/parts.py and scripts/reviewing have them: names, the bytes of a map, and the
# colours of the review page, which those who are colour-blind tell apart, too.
AUDIT, HEAT_MAPS = "audit.json", "heat_maps.parquet"
WEIGHTS, SETTINGS = "model.safetensors", ("config.json", "preprocessor_config.json")
OF_A_DATASET = "dataset "
STRONGEST = 127
MORE, FEWER, OPAQUE = (255, 120, 0), (0, 110, 255), 200


def read_overlays(audit_dir: Path, model_dir: Path, ids: Sequence[str]) -> dict[str, bytes]:
    """Return a PNG with a pixel a place for each of these bins that the audit's page shows.

    Orange speaks for more items, blue for fewer; it is to be stretched over the whole photo.

    Args:
        ids: of bins of one split of a dataset.

    Raises: ValueError: the audit drew no heat maps, or is of another model or of other bins; or a
        file is damaged. OSError: one cannot be read.
    """
    path = audit_dir / HEAT_MAPS
    again = "python scripts/audit.py --heat_maps with this --output_dir"
    if not path.is_file():
        raise ValueError(f"--heat_maps {audit_dir} holds no {HEAT_MAPS}: {again} makes it.")
    try:
        audited = json.loads((audit_dir / AUDIT).read_text())
        model, bins = str(audited["model"]), str(audited["bins"])
        is_wanted = arrow_dataset.field("id").isin(pa.array(ids, pa.string()))
        found = arrow_dataset.dataset(path).to_table(columns=["id", "counted"], filter=is_wanted)
        maps = {row["id"]: row["counted"] for row in found.to_pylist() if row["counted"]}
        overlays = {bin_id: overlay(content) for bin_id, content in maps.items()}
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(
            f"--heat_maps {audit_dir} is damaged ({' '.join(str(error).split())}): remove it and "
            "audit anew."
        ) from error
    if model != _identity(model_dir):
        raise ValueError(
            f"--heat_maps {audit_dir} is of another model than {model_dir}: "
            "give an audit of that one."
        )
    # A csv may name other photos by the same ids.
    if (ids and not overlays) or not bins.startswith(OF_A_DATASET):
        raise ValueError(
            f"--heat_maps {audit_dir} is of other bins: audit the split that the run was tested "
            "on, with --bins DATASET --split test."
        )
    return overlays


def overlay(places: bytes) -> bytes:
    """Return a map, signed bytes of a square, row by row, as a PNG.

    Opaque by the square of the strength, so that weak places do not veil the photo.
    """
    strengths = np.frombuffer(places, np.int8).astype(float) / STRONGEST
    edge = round(len(strengths) ** 0.5)
    strengths = strengths.reshape(edge, edge)
    pixels = np.empty((edge, edge, 4), np.uint8)
    pixels[..., :3] = np.where((strengths > 0)[..., None], MORE, FEWER)
    pixels[..., 3] = np.round(OPAQUE * np.square(strengths))
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return png.getvalue()


def _identity(model_dir: Path) -> str:
    """Return by what audit.json knows a model. Raises: ValueError: a file of it is missing."""
    try:
        with (model_dir / WEIGHTS).open("rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        settings = b"".join((model_dir / name).read_bytes() for name in SETTINGS)
    except OSError as error:
        raise ValueError(
            f"--heat_maps wants the model folder of the run, to compare it ({error})."
        ) from error
    return hashlib.sha256(version.encode() + settings).hexdigest()
