"""The rows of a dataset folder that a run was evaluated on."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as arrow_dataset


def rows_of_split(
    dataset: Path, ids: Sequence[str], columns: Sequence[str], split: str = "test"
) -> pa.Table:
    """Return columns of a split's rows, in the order of the ids.

    Raises: ValueError: no such split, or one of the ids is not in it.
    """
    shards = sorted(str(path) for path in dataset.glob(f"data/{split}-*.parquet"))
    if not shards:
        raise ValueError(f"--dataset {dataset} has no {split} split (data/{split}-*.parquet).")
    table = arrow_dataset.dataset(shards).to_table(
        columns=["id", *columns], filter=arrow_dataset.field("id").isin(list(ids))
    )
    row_of = {bin_id: row for row, bin_id in enumerate(table["id"].to_pylist())}
    missing = [bin_id for bin_id in ids if bin_id not in row_of]
    if missing:
        raise ValueError(
            f"--dataset {dataset} lacks {len(missing):,} of the predicted bins, such as "
            f"{missing[0]}: give the dataset that this run was evaluated on."
        )
    return table.take([row_of[bin_id] for bin_id in ids])
