"""Read the split that the dataset's own challenge published, and take a validation split from it.

The lists name bins by their place, `[index, count]` for the id `index + 1` in five digits, and give
the labels: 0 to 5 items, 324,735 bins for training and 36,032 for validation. The published figures
are on the latter, so it is `test` here, where nothing is chosen by it. The challenge split photo by
photo: near-copies of its validation photos are in its training list.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.bin_records import LARGEST_QUANTITY
from command_line import InputError, read_json
from dataset.splits import assign_splits


def read_official_bins(
    train: Path,
    validation: Path,
    min_count: int,
    max_count: int,
    catalog: pa.Table | None = None,
) -> pa.Table:
    """Return the bins of the two official lists that have `min_count` to `max_count` items.

    Args:
        train: the official training list, JSON.
        validation: the official validation list, JSON.
        catalog: of data_prep/build_catalog.py: gives the bins' groups.

    Returns: the columns id (string), count (int32), bin_group (string; null where it is unknown)
        and split ("train", or "test" for the official validation list), sorted by id.

    Raises: InputError: a file is not such a list, the lists share a bin, no bin has such a count,
        or none is in the catalog.
    """
    named = {"--official_train": train, "--official_validation": validation}
    (train_ids, train_counts), (test_ids, test_counts) = (
        _read_list(flag, path) for flag, path in named.items()
    )
    in_both = pc.drop_null(pc.unique(train_ids.filter(pc.is_in(train_ids, value_set=test_ids))))
    if len(in_both):
        raise InputError(
            f"--official_validation {validation}: {len(in_both):,} of its bins are in {train} too, "
            f"such as {in_both[0]}: give the challenge's two lists."
        )
    bins = pa.table(
        {
            "id": pa.concat_arrays([train_ids, test_ids]),
            "count": pa.concat_arrays([train_counts, test_counts]),
            "split": pa.array(["train"] * len(train_ids) + ["test"] * len(test_ids)),
        }
    )
    in_range = pc.and_(
        pc.greater_equal(bins["count"], min_count), pc.less_equal(bins["count"], max_count)
    )
    bins = bins.filter(in_range).sort_by("id")
    if bins.num_rows == 0:
        raise InputError(
            f"--official_train {train}, --official_validation {validation}: no bin with "
            f"{min_count} to {max_count} items in them: widen the range."
        )
    groups = pa.nulls(bins.num_rows, pa.string())
    if catalog is not None:
        rows = pc.index_in(bins["id"], value_set=catalog["id"])
        groups = catalog["bin_group"].take(rows)
        if groups.null_count == bins.num_rows:
            raise InputError("--catalog: none of the official lists' bins is in it.")
    return bins.append_column("bin_group", groups).select(["id", "count", "bin_group", "split"])


def hold_out_validation(bins: pa.Table, validation_fraction: float, seed: int) -> pa.Table:
    """Return the table of read_official_bins with a share of "train" made "validation".

    Whole groups; a bin of which the group is unknown is one by itself.

    Args: validation_fraction: of the official training list, 0 to 1.
    """
    shares = {"train": 1 - validation_fraction, "validation": validation_fraction}
    fractions = {split: share for split, share in shares.items() if share > 0}
    is_train = pc.equal(bins["split"], "train").to_numpy()
    train = bins.filter(pa.array(is_train))
    units = pc.coalesce(train["bin_group"], train["id"])
    splits = np.array(bins["split"].to_pylist(), dtype=object)
    if train.num_rows:
        assigned = assign_splits(units, train["count"].to_numpy(), fractions, seed)
        splits[is_train] = np.array(list(fractions), dtype=object)[assigned]
    column = bins.schema.get_field_index("split")
    return bins.set_column(column, "split", pa.array(splits, pa.string()))


def _read_list(flag: str, path: Path) -> tuple[pa.Array, pa.Array]:
    """Return ids and counts of a list. Raises: InputError: it is none, or names a bin twice."""
    try:
        entries = read_json(path.read_bytes())
        if not isinstance(entries, list) or not entries:
            raise ValueError("no list with entries")
    except OSError as error:
        raise InputError(f"{flag} {path}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(
            f"{flag} {path}: expected JSON such as [[4, 4], [5, 5], ...] ({error})."
        ) from error
    for number, entry in enumerate(entries, start=1):
        if not _is_index_and_count(entry):
            raise InputError(
                f"{flag} {path}: entry {number:,} is {str(entry)[:40]}, expected [index, count], "
                "two integers of 0 or more."
            )
    ids = pa.array([f"{index + 1:05d}" for index, _ in entries], pa.string())
    names = pc.value_counts(ids)
    repeated = names.field("values").filter(pc.greater(names.field("counts"), 1))
    if len(repeated):
        raise InputError(f"{flag} {path}: {len(repeated):,} bins are there twice: {repeated[0]}.")
    return ids, pa.array([count for _, count in entries], pa.int32())


def _is_index_and_count(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(type(number) is int and 0 <= number <= LARGEST_QUANTITY for number in entry)
    )
