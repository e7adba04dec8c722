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
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from count_distribution import counts_of_labels, mode_count
from items.answers import told_items
from items.evidence import RecordedItems, fit_powers, item_evidence, usual_items
from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS, ItemSettings
from items.settings import write_settings as write_item_settings
from items.sizes import SIZES, volume_changes
from items.steps import usual_changes
from output_files import sync, whole_file
from side_heads import save_side_heads, without_side_heads
from training.bin_dataset import (
    decoded_photos,
    first_bins,
    has_items,
    items_of,
    recorded_items_of,
    steps_of,
)
from training.bin_trainer import BinTrainer
from training.calibration import before_and_after
from training.checkpoints import plain_write_errors
from training.evaluation import softmax
from training.run_folder import CHANGES, PREDICTIONS, VALIDATION_PREDICTIONS, remove_results
from visits.batches import share_unchanged
from visits.chain import Visits, fit_weights, possible_changes, visit_posteriors
from visits.error_model import ErrorModel
from visits.head import head_of
from visits.measures import change_figures, pair_outcomes, visit_figures
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, ChangeSettings, VisitModel, write_settings


def write_model(trainer: BinTrainer, model_dir: Path) -> None:
    """Write model, image processor and side heads into a model folder, each file whole.

    Figures and predictions of the run folder go before weights that they are not of are there.

    Raises: OSError: a file cannot be written.
    """
    # On its own disk, and moved: there may be no room for another copy of the weights.
    saved = model_dir / "saved.part"
    shutil.rmtree(saved, ignore_errors=True)
    try:
        with plain_write_errors(model_dir):
            state = trainer.model.state_dict()
            trainer.model.save_pretrained(saved, state_dict=without_side_heads(state))
            save_side_heads(state, saved)
        if trainer.visit_model.settings is not None:
            write_settings(saved, trainer.visit_model.settings)
        if trainer.item_settings is not None:
            write_item_settings(saved, trainer.item_settings)
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
        for name in (HEAD_SETTINGS, HEAD_WEIGHTS, HEADS_SETTINGS, HEADS_WEIGHTS):
            if not (saved / name).exists():  # of an earlier training into this folder
                (model_dir / name).unlink(missing_ok=True)
        for path in sorted(saved.iterdir()):
            os.replace(path, model_dir / path.name)
        sync(model_dir)
    finally:
        shutil.rmtree(saved, ignore_errors=True)


def fit_visit_model(
    trainer: BinTrainer, error_model: ErrorModel, validation: PredictionOutput | None
) -> VisitModel:
    """Return what a trained model knows of visits: how the answers of its head are to be taken.

    The weights of the evidence are fitted on the validation split, where there is one.

    Args:
        error_model: of the training split.
        validation: of BinTrainer.calibrate; None where that was not asked for.
    """
    head = head_of(trainer.model)
    if head is None:
        return VisitModel(error_model)
    records = np.asarray(trainer.train_dataset.with_format(None)["expected_quantity"])
    steps = steps_of(trainer.train_dataset)
    num_unchanged = int((records[steps[:, 0]] == records[steps[:, 1]]).sum())
    settings = ChangeSettings(
        counts=trainer.counts,
        num_features=head.num_features,
        tells_volumes=head.volumes is not None,
        learned_rate=share_unchanged(len(steps), len(records), trainer.args.train_batch_size),
        # As if one pair more had been seen, half of which had not changed.
        unchanged_rate=(num_unchanged + 0.5) / (len(steps) + 1),
        temperature=trainer.calibration.get("calibration_change_temperature", 1.0),
    )
    model = VisitModel(error_model, settings)
    if trainer.eval_dataset is None or len(steps_of(trainer.eval_dataset)) == 0:
        return model
    prediction = validation or trainer.predict(trainer.eval_dataset)
    visits = predicted_visits(trainer, trainer.eval_dataset, prediction, model)
    given = (visits, model.usual(trainer.counts), prediction.label_ids)
    fitted = replace(
        settings,
        weights=fit_weights(*given),
        weights_without_changes=fit_weights(*given, with_changes=False),
        num_steps=len(visits.steps),
    )
    return VisitModel(error_model, fitted)


def fit_item_settings(
    trainer: BinTrainer, error_model: ErrorModel, validation: PredictionOutput | None
) -> ItemSettings | None:
    """Return what a trained model knows of items: how its heads' answers are held against a record.

    The powers of the witnesses are fitted on pairs of visits of the validation split, where there
    are some: each photo with its own record, and with the other visit's.

    Args: as in fit_visit_model.
    """
    settings = trainer.item_settings
    if settings is None:
        return None
    records = recorded_items_of(trainer.train_dataset)
    usual = usual_items(records, trainer.counts, settings.max_distinct)
    steps = steps_of(trainer.train_dataset)
    of_changes = usual_changes(
        volume_changes(items_of(trainer.train_dataset), steps),
        np.asarray(trainer.train_dataset.with_format(None)["label"])[steps],
        trainer.counts,
    )
    settings = replace(settings, usual=usual, usual_changes=of_changes)
    photos = trainer.eval_dataset
    if usual is None and trainer.is_world_process_zero():
        print(
            "Records are not held against what photos show of items: of some count no two training "
            "records tell volume and weight.",
            file=sys.stderr,
        )
    if usual is None or photos is None or not has_items(photos):
        return settings
    prediction = validation or trainer.predict(photos)
    assert trainer.item_answers is not None
    steps = steps_of(photos)
    changed = steps[prediction.label_ids[steps[:, 0]] != prediction.label_ids[steps[:, 1]]]
    if len(changed) == 0:
        return settings
    rows = np.concatenate([changed, changed[:, ::-1]]).ravel()
    held_against = np.concatenate([changed, changed]).ravel()
    records = recorded_items_of(photos)
    evidence = item_evidence(
        trainer.item_answers[rows], [records[row] for row in held_against], usual
    )
    powers = fit_powers(
        softmax(prediction.predictions)[rows],
        evidence,
        prediction.label_ids[held_against],
        rows == held_against,
        error_model.record_probabilities(trainer.counts),
    )
    return replace(settings, powers=powers, num_pairs=len(changed))


def predicted_visits(
    trainer: BinTrainer, photos: Dataset, prediction: PredictionOutput, model: VisitModel
) -> Visits:
    """Return what the model said of the photos and the pairs that it was asked about last."""
    steps = steps_of(photos)
    assert trainer.change_logits is not None
    assert len(trainer.change_logits) == len(steps)
    changes = model.changes(softmax(trainer.change_logits))
    return Visits(softmax(prediction.predictions), steps, changes, trainer.counts)


def write_validation_predictions(
    trainer: BinTrainer, validation: Dataset, max_samples: int | None
) -> None:
    """Write what was just evaluated into the run folder: what metrics/drift.py compares with."""
    assert trainer.evaluated is not None
    if trainer.is_world_process_zero():
        table = prediction_table(first_bins(validation, max_samples), trainer.evaluated)
        with whole_file(Path(str(trainer.args.output_dir)) / VALIDATION_PREDICTIONS) as temporary:
            pq.write_table(table, temporary)


def predict_test_split(
    trainer: BinTrainer, test: Dataset, max_samples: int | None, model: VisitModel
) -> None:
    """Write the test figures, and both files of predictions, into the run folder."""
    test = first_bins(test, max_samples)
    photos = decoded_photos(test, None)
    prediction = trainer.predict(photos)
    visits = table = None
    if model.settings is not None and len(steps_of(photos)):
        visits = predicted_visits(trainer, photos, prediction, model)
        figures = figures_of_visits(visits, prediction.label_ids, model)
        prediction.metrics.update({f"test_{name}": value for name, value in figures.items()})
        outcomes = outcomes_of_pairs(visits, prediction.label_ids, model)
        table = change_table(test, visits, outcomes)
        if trainer.volume_changes is not None:
            table = with_volume_changes(table, trainer.volume_changes)
    trainer.log(prediction.metrics)
    trainer.save_metrics("test", prediction.metrics)
    if trainer.is_world_process_zero():
        path = Path(str(trainer.args.output_dir)) / CHANGES
        if table is None:  # there may be one of other photos
            path.unlink(missing_ok=True)
        else:
            with whole_file(path) as temporary:
                pq.write_table(table, temporary)
    if temperature := trainer.calibration.get("calibration_temperature"):
        before = prediction.predictions * temperature
        trainer.calibration |= before_and_after("test", before, prediction.label_ids, temperature)
        report_calibration(trainer)
    if trainer.is_world_process_zero():
        table = prediction_table(test, prediction)
        if visits is not None:
            table = with_all_visits(table, visits, model)
        if trainer.item_answers is not None and has_items(photos):
            table = with_told_items(table, trainer.item_answers, items_of(photos))
            table = with_recorded_items(table, recorded_items_of(photos))
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


def prediction_table(bins: Dataset, prediction: PredictionOutput | EvalLoopOutput) -> pa.Table:
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


def figures_of_visits(visits: Visits, true: np.ndarray, model: VisitModel) -> dict[str, float]:
    """Return all figures of visits and changes: change_..., visits_... and visits_single_..."""
    assert model.settings is not None
    usual, settings = model.usual(visits.counts), model.settings
    weights = settings.weights
    changes = change_figures(visits, true, usual, weights, settings.weights_without_changes)
    together = visit_figures(visits, true, usual, weights)
    return {f"change_{name}": value for name, value in changes.items()} | {
        f"visits_{name}": value for name, value in together.items()
    }


def outcomes_of_pairs(visits: Visits, true: np.ndarray, model: VisitModel) -> dict[str, np.ndarray]:
    """Return visits.measures.pair_outcomes, as they are weighted here."""
    assert model.settings is not None
    settings = model.settings
    weights = (settings.weights, settings.weights_without_changes)
    return pair_outcomes(visits, true, model.usual(visits.counts), *weights)


def with_all_visits(table: pa.Table, visits: Visits, model: VisitModel) -> pa.Table:
    """Return predictions, and what all photos of a bin say together of those with other visits.

    These columns are null for a photo without another visit.
    """
    together = visit_posteriors(visits, model.weights, model.usual(visits.counts))
    is_alone = np.ones(len(together), dtype=bool)
    is_alone[visits.steps.ravel()] = False
    for column, count in enumerate(visits.counts):
        values = pa.array(together[:, column], mask=is_alone)
        table = table.append_column(f"visits_probability_{count}", values)
    return table


def with_told_items(table: pa.Table, answers: np.ndarray, targets: np.ndarray) -> pa.Table:
    """Return predictions, and what is said of the items, beside what their records say of them.

    Of each size items_SIZE, a logarithm, its spread, and the recorded one, null where there is
    none; of the number of distinct items the recorded one, and the probabilities.

    Args:
        answers: float (num_bins, 2 * len(SIZES) + max_distinct), of items.heads.
        targets: float (num_bins, len(SIZES) + 1), of items_of.
    """
    told = told_items(answers)
    for column, name in enumerate(SIZES):
        table = table.append_column(f"items_{name}", pa.array(told.means[:, column]))
        table = table.append_column(f"items_{name}_spread", pa.array(told.spreads[:, column]))
        recorded = pa.array(targets[:, column], from_pandas=True)  # NaN: null
        table = table.append_column(f"items_{name}_recorded", recorded)
    recorded = pa.array(targets[:, -1], pa.int64(), from_pandas=True)
    table = table.append_column("items_distinct_recorded", recorded)
    for column, probabilities in enumerate(told.distinct.T):
        values = pa.array(probabilities)
        table = table.append_column(f"items_distinct_probability_{column + 1}", values)
    return table


def with_recorded_items(table: pa.Table, records: Sequence[RecordedItems]) -> pa.Table:
    """Return predictions, and the items of each record, (num_bins,): lists of one length."""
    types = {"quantities": pa.int64(), "volumes": pa.float64(), "weights": pa.float64()}
    for name, of_items in types.items():
        lists = [getattr(record, name) for record in records]
        values = pa.array(lists, pa.list_(of_items), from_pandas=True)  # NaN: null
        table = table.append_column(f"record_{name}", values)
    return table


def change_table(bins: Dataset, visits: Visits, outcomes: dict[str, np.ndarray]) -> pa.Table:
    """Return one row for each two visits that follow each other: their ids, counts and the change.

    Args:
        bins: rows of `visits`, with the record's count of each.
        outcomes: of outcomes_of_pairs, from which the figures of changes are means.
    """
    columns = bins.select_columns(["id", "bin_group", "expected_quantity"])[:]
    named = {name: np.asarray(values) for name, values in columns.items()}
    earlier, later = visits.steps.T
    changes = possible_changes(visits.counts)
    return pa.table(
        {
            "earlier_id": named["id"][earlier],
            "later_id": named["id"][later],
            "bin_group": named["bin_group"][later],
            "earlier_quantity": named["expected_quantity"][earlier],
            "later_quantity": named["expected_quantity"][later],
            **{
                f"probability_{change:+d}": visits.changes[:, column]
                for column, change in enumerate(changes)
            },
            **outcomes,
        }
    )


def with_volume_changes(table: pa.Table, told: np.ndarray) -> pa.Table:
    """Return changes, and what is said of volumes: a logarithm, and how far off it may be.

    Args:
        told: float (num_steps, 2), as items.heads.volume_change_loss takes it.
    """
    table = table.append_column("volume_change", pa.array(told[:, 0]))
    return table.append_column("volume_change_spread", pa.array(np.exp(told[:, 1])))


def check_photo(image_size: int) -> np.ndarray:
    """Return a photo of soft shades and hard edges, uint8 (image_size, image_size, 3)."""
    rows, columns = np.indices((image_size, image_size)) / image_size
    is_box = (np.floor(4 * rows) + np.floor(3 * columns)) % 2
    channels = [255 * rows, 255 * (1 - columns), 80 + 120 * is_box]
    return np.stack(channels, axis=-1).astype(np.uint8)


def write_check(path: Path, trainer: BinTrainer, image_size: int) -> None:
    """Write drawn photos, PNGs of image_size in base64, and the model's answers to them.

    These are the logits of the counts in the order of the labels, where there are item heads their
    answers, and where there is a change head the logits of the changes from another photo to it,
    and what it says of volumes, if anything.
    """
    photo = check_photo(image_size)
    earlier = photo[::-1].copy()
    labels = torch.zeros(1, dtype=torch.int64)
    one = {"pixel_values": _batch(photo), "labels": labels}
    answers = _answer(trainer, one)
    content = {"photo_png_base64": _png(photo), "logits": answers["counts"][0].tolist()}
    if "items" in answers:
        content["item_answers"] = answers["items"][0].tolist()
    if (head := head_of(trainer.model)) is not None:
        pair = one | {"earlier_pixel_values": _batch(earlier), "earlier_labels": labels}
        content["earlier_photo_png_base64"] = _png(earlier)
        said = _answer(trainer, pair)["changes"][0].tolist()
        content["change_logits"] = said[: head.num_changes]
        if head.volumes is not None:
            content["volume_change"] = said[head.num_changes :]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def _batch(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)[None]


def _png(photo: np.ndarray) -> str:
    png = io.BytesIO()
    Image.fromarray(photo).save(png, format="png")
    return base64.b64encode(png.getvalue()).decode()


def _answer(trainer: BinTrainer, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the answers of BinTrainer.prediction_step, by name."""
    return trainer.prediction_step(trainer.model.eval(), inputs, prediction_loss_only=False)[1]
