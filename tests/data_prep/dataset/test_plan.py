import numpy as np
import pyarrow as pa
import pytest

from catalog.file import CATALOG_SCHEMA
from dataset import plan as dataset_plan
from dataset.plan import draw_bins, plan_shards, select_bins, select_official_bins, split_bins
from dataset.splits import SPLITS

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def catalog_of(num_bins: int) -> pa.Table:
    """Return a catalog in which three bins make a group, every seventh record is unusable."""
    rows = [
        {
            "id": f"{number:05d}",
            "count": None if number % 7 == 0 else number % 9,
            "quantities_match": True,
            "asins": [f"B{number}"],
            "quantities": [number % 9],
            "bin_group": f"{number - number % 3:05d}",
            "set_aside": "no EXPECTED_QUANTITY" if number % 7 == 0 else None,
        }
        for number in range(num_bins)
    ]
    return pa.Table.from_pylist(rows, schema=CATALOG_SCHEMA)


def planned_ids(bins: pa.Table, seed: int = 1) -> dict[str, list[str]]:
    shards = plan_shards(bins, SPLITS, seed)
    return {shard.name: shard.shard(bins).bins["id"].to_pylist() for shard in shards}


def test_every_record_is_wanted_or_out_of_range_or_set_aside() -> None:
    selection = select_bins(catalog_of(500), None, 1, 5)
    assert set(selection.bins["count"].to_pylist()) == {1, 2, 3, 4, 5}
    total = selection.bins.num_rows + selection.num_out_of_range + len(selection.set_aside)
    assert total == 500


def test_every_wanted_bin_is_in_one_shard_of_nearly_the_same_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_plan, "BINS_PER_SHARD", 30)
    bins = split_bins(select_bins(catalog_of(600), None, 1, 5).bins, FRACTIONS, "bin_group", 1)
    planned = planned_ids(bins)
    assert sorted(name for ids in planned.values() for name in ids) == bins["id"].to_pylist()
    train = [len(ids) for name, ids in planned.items() if name.startswith("train")]
    assert max(train) <= 30
    assert max(train) - min(train) <= 1


def test_the_plan_is_the_same_for_bins_in_any_order() -> None:
    bins = split_bins(select_bins(catalog_of(600), None, 1, 5).bins, FRACTIONS, "bin_group", 1)
    shuffled = bins.take(np.random.default_rng(0).permutation(bins.num_rows))
    assert planned_ids(shuffled) == planned_ids(bins)
    assert planned_ids(bins, seed=2) != planned_ids(bins)


def test_a_worker_gets_its_own_bins_and_no_more() -> None:
    bins = split_bins(select_bins(catalog_of(3000), None, 1, 5).bins, FRACTIONS, "random", 1)
    shard = plan_shards(bins, SPLITS, 1)[0].shard(bins)
    assert shard.bins.num_rows < bins.num_rows / 3
    assert shard.bins.get_total_buffer_size() < bins.get_total_buffer_size() / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_bins", [1, 2, 98, 99, 100, 10_000])
def test_bins_are_drawn_in_whole_groups(max_bins: int, seed: int) -> None:
    bins = select_bins(catalog_of(600), None, 0, 88).bins
    drawn = draw_bins(bins, max_bins, seed)
    groups = set(drawn["bin_group"].to_pylist())
    of_these = [row for row in bins.to_pylist() if row["bin_group"] in groups]
    assert drawn.to_pylist() == of_these
    # Some of the groups have two bins, the others three: one alone can be left over.
    assert min(max_bins, bins.num_rows) - drawn.num_rows in (0, 1)


def test_the_same_bins_are_drawn_from_any_order_and_others_for_another_seed() -> None:
    bins = select_bins(catalog_of(600), None, 1, 5).bins
    drawn = draw_bins(bins, 100, seed=1)
    shuffled = bins.take(np.random.default_rng(0).permutation(bins.num_rows))
    assert draw_bins(shuffled, 100, seed=1).sort_by("id").equals(drawn)
    assert not draw_bins(bins, 100, seed=2).equals(drawn)


def test_a_group_that_is_too_large_is_passed_over_for_smaller_ones() -> None:
    table = {"id": list("abcdefg"), "bin_group": list("aaaaafg")}
    assert draw_bins(pa.table(table), 2, seed=1)["id"].to_pylist() == ["f", "g"]
    assert draw_bins(pa.table(table), 6, seed=1).num_rows == 6
    assert draw_bins(pa.table(table).slice(0, 5), 4, seed=1).num_rows == 0


def test_a_bin_of_which_the_group_is_unknown_is_a_group_by_itself() -> None:
    bins = select_bins(catalog_of(600), None, 1, 5).bins
    column = bins.schema.get_field_index("bin_group")
    unknown = bins.set_column(column, "bin_group", pa.nulls(bins.num_rows, pa.string()))
    by_group = split_bins(unknown, FRACTIONS, "bin_group", 1)
    assert by_group["split"].equals(split_bins(unknown, FRACTIONS, "random", 1)["split"])
    assert draw_bins(unknown, 50, 1).num_rows == 50


def test_official_labels_stand_and_items_are_null_where_no_record_gives_them() -> None:
    official = pa.table(
        {
            "id": ["00001", "00002", "00900"],
            "count": pa.array([5, 0, 2], pa.int32()),
            "bin_group": pa.array(["00000", "00000", None]),
            "split": ["train", "train", "test"],
        }
    )
    selection = select_official_bins(official, catalog_of(20), ["00001", "00900", "7"], 1, 5)
    assert selection.bins["count"].to_pylist() == [5, 2]
    assert selection.bins["asins"].to_pylist() == [["B1"], None]
    assert selection.set_aside == [{"id": "7", "reason": "not in the official lists"}]
    without = select_official_bins(official, None, None, 1, 5)
    assert without.bins["asins"].to_pylist() == [None, None]
    assert without.num_out_of_range == 1
