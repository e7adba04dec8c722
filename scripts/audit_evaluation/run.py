"""What a finished run says of its test split, read for an evaluation of the audit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audit_evaluation.cases import JudgedBins, JudgedItems
from count_distribution import counts_of_labels
from items.evidence import SMALLEST, recorded_items
from items.settings import read_settings
from items.sizes import SIZES
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, VisitModel

PREDICTIONS, CHANGES = "predictions_test.parquet", "changes_test.parquet"
COLUMN = "probability_"
RECORD = ("record_quantities", "record_volumes", "record_weights")
STEP = ("earlier_id", "later_id", "earlier_quantity", "later_quantity")
VOLUMES = ("volume_change", "volume_change_spread")
AGAIN = "run scripts/train.py with --do_predict"


def judged_bins(run_dir: Path, model: VisitModel) -> JudgedBins:
    """Return the bins of a run's predictions, with what its change head says where it has one.

    Args:
        model: of the run's model folder.

    Raises: ValueError: no predictions, or damaged ones, or files that do not belong together.
    """
    path = run_dir / PREDICTIONS
    if not path.exists():
        raise ValueError(f"{path} is missing: {AGAIN}.")
    try:
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(COLUMN)]
        counts = counts_of_labels([name.removeprefix(COLUMN) for name in names])
        bins = JudgedBins(
            ids=table["id"].to_pylist(),
            groups=table["bin_group"].to_pylist(),
            true=np.searchsorted(counts, table["expected_quantity"].to_numpy()),
            probabilities=_columns(table, names),
            counts=counts,
        )
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged, {AGAIN}: {error}") from error
    bins = replace(bins, items=_items(path, table, counts, run_dir / "model"))
    changes = run_dir / CHANGES
    return _with_steps(bins, changes, model) if changes.exists() else bins


def _items(
    path: Path, table: pa.Table, counts: tuple[int, ...], model_dir: Path
) -> JudgedItems | None:
    """Return what the run's item heads say; None where it has none.

    None too where its records told too little to hold them against that, or there were no pairs to
    learn from how.

    Raises: ValueError: a file is damaged, or they do not belong together.
    """
    settings = read_settings(model_dir)
    if settings is None or settings.usual is None or settings.powers is None:
        return None
    if settings.usual.counts != counts:
        raise ValueError(f"{model_dir} and {path} are of other counts: {AGAIN}.")
    if RECORD[0] not in table.column_names:
        return None
    spreads = [f"items_{name}_spread" for name in SIZES]
    distinct = [f"items_distinct_{COLUMN}{n + 1}" for n in range(settings.max_distinct)]
    try:
        answers = _columns(table, [*(f"items_{name}" for name in SIZES), *spreads, *distinct])
        lists = zip(*(table[n].to_pylist() for n in ("expected_quantity", *RECORD)), strict=True)
        records = [recorded_items(*of_bin) for of_bin in lists]
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged, {AGAIN}: {error}") from error
    if not np.isfinite(answers).all():
        raise ValueError(f"{path} is damaged, {AGAIN}: what is said of items are no numbers.")
    # As the heads say them: logarithms of spreads and of probabilities.
    answers[:, len(SIZES) :] = np.log(np.maximum(answers[:, len(SIZES) :], SMALLEST))
    return JudgedItems(answers, records, settings)


def _with_steps(bins: JudgedBins, path: Path, model: VisitModel) -> JudgedBins:
    """Return the bins with what the change head says of their steps."""
    if model.settings is None or model.settings.counts != bins.counts:
        raise ValueError(
            f"{path} is there, and the run's model has no change head of its counts "
            f"({HEAD_SETTINGS}): {AGAIN}."
        )
    try:
        table = pq.read_table(path)
        said = _columns(table, [f"{COLUMN}{change:+d}" for change in possible_changes(bins.counts)])
        steps = list(zip(*(table[name].to_pylist() for name in STEP), strict=True))
        volumes = _columns(table, list(VOLUMES)) if VOLUMES[0] in table.column_names else None
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged, {AGAIN}: {error}") from error
    quantity = [bins.counts[column] for column in bins.true]
    expected = [
        (bins.ids[earlier], bins.ids[later], quantity[earlier], quantity[later])
        for earlier, later in bins.steps.tolist()
    ]
    if steps != expected:
        raise ValueError(f"{path} is of other predictions than {PREDICTIONS}: {AGAIN}.")
    if not (np.abs(said.sum(axis=1) - 1) < 1e-3).all() or (said < 0).any():  # NaN is neither
        raise ValueError(f"{path} is damaged, {AGAIN}: these are no probabilities.")
    if bins.items is None or volumes is None:
        return replace(bins, changes=said)
    if not (volumes[:, 1] > 0).all() or not np.isfinite(volumes).all():
        raise ValueError(f"{path} is damaged, {AGAIN}: what is said of volumes are no numbers.")
    volumes[:, 1] = np.log(volumes[:, 1])
    return replace(bins, changes=said, items=replace(bins.items, volume_changes=volumes))


def _columns(table: pa.Table, names: list[str]) -> np.ndarray:
    return np.column_stack([table[name].cast(pa.float64()).to_numpy() for name in names])
