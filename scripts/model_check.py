"""One drawn photo and the model's answer to it, kept with the run.

Who takes the model from the run later, from an archive or on another machine, asks it again
(sagemaker_jobs/push_to_hub.py does): the same answer needs the same weights, labels and image
processor. The photo is in the file, so nobody has to draw it again.
"""

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bin_trainer import BinTrainer


def check_photo(image_size: int) -> np.ndarray:
    """Return a photo of soft shades and hard edges, uint8 (image_size, image_size, 3)."""
    rows, columns = np.indices((image_size, image_size)) / image_size
    is_box = (np.floor(4 * rows) + np.floor(3 * columns)) % 2
    channels = [255 * rows, 255 * (1 - columns), 80 + 120 * is_box]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_check(path: Path, trainer: BinTrainer, image_size: int) -> None:
    """Write a PNG of image_size in base64, and the logits for it in the order of the labels."""
    photo = check_photo(image_size)
    batch = torch.from_numpy(photo).permute(2, 0, 1)[None]
    inputs = {"pixel_values": batch, "labels": torch.zeros(1, dtype=torch.int64)}
    _, logits, _ = trainer.prediction_step(trainer.model.eval(), inputs, prediction_loss_only=False)
    png = io.BytesIO()
    Image.fromarray(photo).save(png, format="png")
    content = {
        "photo_png_base64": base64.b64encode(png.getvalue()).decode(),
        "logits": logits[0].float().tolist(),
    }
    Path(f"{path}.part").write_text(json.dumps(content) + "\n")
    os.replace(f"{path}.part", path)
