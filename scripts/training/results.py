"""What a finished run leaves: predictions of the test split, calibration, and a check of the model.

The check is one drawn photo and the model's answer to it. Who takes the model from the run later,
from an archive or on another machine, asks it again (sagemaker_jobs/push_to_hub.py does): the same
answer needs the same weights, labels and image processor. The photo is in the file, so nobody has
to draw it again.
"""

import base64
import filecmp
import io
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image
from transformers.trainer_utils import PredictionOutput

from count_distribution import counts_of_labels, mode_count
from output_files import sync, whole_file
from training.bin_dataset import decoded_photos
from training.bin_trainer import BinTrainer
from training.calibration import before_and_after
from training.checkpoints import plain_write_errors
from training.evaluation import softmax
from training.run_folder import PREDICTIONS, remove_results


def write_model(trainer: BinTrainer, model_dir: Path) -> None:
    """Write model and image processor into a model folder, each file whole.

    Figures and predictions of the run folder go before weights that they are not of are there.

    Raises: OSError: a file cannot be written.
    """
    # On its own disk, and moved: there may be no room for another copy of the weights.
    saved = model_dir / "saved.part"
    shutil.rmtree(saved, ignore_errors=True)
    try:
        with plain_write_errors(model_dir):
            trainer.model.save_pretrained(saved)
        trainer.image_processor.save_pretrained(saved)
        for path in saved.iterdir():
            sync(path)
            with suppress(PermissionError):  # safetensors' files are the user's alone
                path.chmod(saved.stat().st_mode & 0o666)
        weights = [path.name for path in saved.glob("*.safetensors")]
        has_trained = trainer.state.global_step > trainer.first_step
        # A run that was stopped here has trained before.
        if has_trained or filecmp.cmpfiles(saved, model_dir, weights, shallow=False)[0] != weights:
            remove_results(Path(str(trainer.args.output_dir)))
        for path in sorted(saved.iterdir()):
            os.replace(path, model_dir / path.name)
        sync(model_dir)
    finally:
        shutil.rmtree(saved, ignore_errors=True)


def predict_test_split(trainer: BinTrainer, test: Dataset, max_samples: int | None) -> None:
    """Write the test figures and predictions_test.parquet into the run folder."""
    prediction = trainer.predict(decoded_photos(test, max_samples))
    trainer.log(prediction.metrics)
    trainer.save_metrics("test", prediction.metrics)
    if trainer.calibration:
        temperature = trainer.calibration["calibration_temperature"]
        before = prediction.predictions * temperature
        trainer.calibration |= before_and_after("test", before, prediction.label_ids, temperature)
        report_calibration(trainer)
    if trainer.is_world_process_zero():
        num_bins = min(len(test), max_samples or len(test))
        table = prediction_table(test.select(range(num_bins)), prediction)
        with whole_file(Path(str(trainer.args.output_dir)) / PREDICTIONS) as temporary:
            pq.write_table(table, temporary)


def report_calibration(trainer: BinTrainer) -> None:
    """Print what the temperature changed, and add it to the results."""
    if trainer.calibration and trainer.is_world_process_zero():
        trainer.save_metrics("calibration", trainer.calibration)
        values = (
            f"{name.removeprefix('calibration_')}={value:.4g}"
            for name, value in trainer.calibration.items()
        )
        print("calibration", *values, flush=True)


def prediction_table(bins: Dataset, prediction: PredictionOutput) -> pa.Table:
    """Return one row a bin: what the inventory expects, what the model counts, how sure it is.

    Args:
        bins: (num_bins,) rows, those that were predicted, in order.
        prediction: logits, float (num_bins, num_counts), and labels, int (num_bins,).
    """
    # Several processes shared the work: a row in the wrong place would give a bin another's count.
    assert np.array_equal(prediction.label_ids, bins["label"]), "predictions out of order"
    probabilities = softmax(prediction.predictions)
    label_names = bins.features["label"].names
    return pa.table(
        {
            **bins.select_columns(["id", "bin_group", "expected_quantity"])[:],
            "count": mode_count(probabilities, counts_of_labels(label_names)),
            **{
                f"probability_{name}": probabilities[:, label]
                for label, name in enumerate(label_names)
            },
        }
    )


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
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")
