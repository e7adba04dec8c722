import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_evaluation.cases import JudgedBins
from audit_evaluation.run import judged_bins
from drawn_visits import COUNTS, drawn_visits
from items.sizes import SIZES
from visits.chain import possible_changes
from visits.settings import VisitModel, read_visit_model

BINS, MODEL = drawn_visits(1.0, 0.5, num_pairs=10)


def predictions(bins: JudgedBins) -> pa.Table:
    return pa.table(
        {
            "id": bins.ids,
            "bin_group": bins.groups,
            "expected_quantity": np.array(COUNTS)[bins.true],
            **{f"probability_{c}": bins.probabilities[:, i] for i, c in enumerate(COUNTS)},
        }
    )


def changes(bins: JudgedBins) -> pa.Table:
    earlier, later = bins.steps.T
    assert bins.changes is not None
    return pa.table(
        {
            "earlier_id": np.array(bins.ids)[earlier],
            "later_id": np.array(bins.ids)[later],
            "earlier_quantity": np.array(COUNTS)[bins.true[earlier]],
            "later_quantity": np.array(COUNTS)[bins.true[later]],
            **{
                f"probability_{change:+d}": bins.changes[:, column]
                for column, change in enumerate(possible_changes(COUNTS))
            },
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    pq.write_table(predictions(BINS), tmp_path / "predictions_test.parquet")
    pq.write_table(changes(BINS), tmp_path / "changes_test.parquet")
    return tmp_path


def test_bins_and_what_is_said_of_their_changes_are_those_of_the_files(run: Path) -> None:
    bins = judged_bins(run, MODEL)
    assert (bins.ids, bins.groups, bins.counts) == (BINS.ids, BINS.groups, COUNTS)
    assert (bins.true == BINS.true).all()
    assert (bins.probabilities == BINS.probabilities).all()
    assert bins.changes is not None
    assert BINS.changes is not None
    assert (bins.changes == BINS.changes).all()


def test_items_are_told_where_the_run_has_learned_of_them(run_dir: Path) -> None:
    model = read_visit_model(run_dir / "model")
    items = judged_bins(run_dir, model).items
    assert items is not None
    assert items.settings.usual is not None
    table = pq.read_table(run_dir / "predictions_test.parquet")
    assert [record.quantities for record in items.records] == [
        tuple(quantities) for quantities in table["record_quantities"].to_pylist()
    ]
    volume = SIZES.index("volume")
    assert items.answers[:, volume].tolist() == table["items_volume"].to_pylist()
    spreads = np.exp(items.answers[:, len(SIZES) + volume])
    assert spreads == pytest.approx(table["items_volume_spread"].to_numpy())
    assert np.exp(items.answers[:, 2 * len(SIZES) :]).sum(axis=1) == pytest.approx(1)


def test_damaged_items_are_named(run_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    path = run / "predictions_test.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["items_weight_spread"]), path)
    with pytest.raises(ValueError, match=r"predictions_test.parquet is damaged.*items_weight_spr"):
        judged_bins(run, read_visit_model(run / "model"))


def test_an_older_run_says_nothing_of_changes(run: Path) -> None:
    (run / "changes_test.parquet").unlink()
    assert judged_bins(run, MODEL).changes is None


@pytest.mark.parametrize(
    "table",
    [
        changes(replace(BINS, ids=[f"1{name}" for name in BINS.ids])),
        changes(replace(BINS, true=(BINS.true + 1) % 5)),
        changes(BINS).slice(1),
    ],
)
def test_changes_of_other_predictions_are_refused(run: Path, table: pa.Table) -> None:
    pq.write_table(table, run / "changes_test.parquet")
    with pytest.raises(ValueError, match=r"is of other predictions than predictions_test.parquet"):
        judged_bins(run, MODEL)


def test_damaged_changes_are_named_and_nothing_is_taken_from_them(run: Path) -> None:
    path = run / "changes_test.parquet"
    whole, content = changes(BINS), path.read_bytes()
    column = whole.column_names.index("probability_+0")
    for table in (
        whole.drop_columns(["probability_+0"]),
        whole.set_column(column, "probability_+0", pa.array([np.nan] * len(whole))),
        whole.set_column(column, "probability_+0", pa.array([0.9] * len(whole))),
        whole.set_column(column, "probability_+0", pa.array([None] * len(whole), pa.float64())),
        whole.set_column(column, "probability_+0", pa.array(["much"] * len(whole))),
        whole.drop_columns(["later_id"]),
        None,
    ):
        if table is None:
            path.write_bytes(content[: len(content) // 2])
        else:
            pq.write_table(table, path)
        with pytest.raises(ValueError, match=r"changes_test.parquet is damaged, run scripts"):
            judged_bins(run, MODEL)


def test_changes_beside_a_model_without_a_head_of_their_counts_are_refused(run: Path) -> None:
    assert MODEL.settings is not None
    for settings in (None, replace(MODEL.settings, counts=(1, 2, 3))):
        with pytest.raises(ValueError, match=r"no change head of its counts \(change_head.json\)"):
            judged_bins(run, VisitModel(MODEL.error_model, settings))
