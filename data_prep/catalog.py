"""The catalog of a bucket: one parquet file, a row a bin. Read it, write it, say what it holds."""

import io
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from command_line import InputError
from count_chart import LARGEST_BAR
from object_store import describe_failure, open_store, write_object
from splits import assign_splits, num_leaked

CATALOG_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("count", pa.int32()),  # items; null where set_aside gives a reason
        pa.field("quantities_match", pa.bool_(), nullable=False),  # the items sum to the count
        pa.field("asins", pa.list_(pa.string()), nullable=False),
        pa.field("quantities", pa.list_(pa.int32()), nullable=False),  # null: not an integer
        pa.field("bin_group", pa.string(), nullable=False),
        pa.field("set_aside", pa.string()),  # why the record cannot be used; null where it can
    ]
)
# What the published projects on this dataset do: 1 to 5 items, a tenth drawn photo by photo.
USUAL_COUNTS, USUAL_TEST_FRACTION, USUAL_SEED = (1, 5), 0.1, 42


def open_beside(location: str | Path, flag: str, create: bool = False) -> tuple[ObjectStore, str]:
    """Open the folder or bucket in which a file lies; return it with the file's name there.

    Args:
        location: a path or an `s3://BUCKET/.../NAME` URL.
        flag: what the user named it with, for the error.

    Raises: InputError: `location` names no file, or there is no such folder.
    """
    folder, slash, name = str(location).rpartition("/")
    if name in ("", ".", "..") or folder.endswith(":/"):
        raise InputError(f"{flag} {location}: give a file, such as data/catalog.parquet.")
    store = open_store(folder or slash or ".", flag, create)
    if isinstance(store, LocalStore) and Path(str(store.prefix), name).is_dir():
        raise InputError(
            f"{flag} {location} is a folder: give a file, such as catalog.parquet in it."
        )
    return store, name


def write_catalog(catalog: pa.Table, store: ObjectStore, name: str) -> None:
    """Write a table of CATALOG_SCHEMA to a parquet file, which is there as a whole or not."""
    content = io.BytesIO()
    pq.write_table(catalog.combine_chunks(), content)
    write_object(store, name, content.getvalue())


def table_of_parquet(content: bytes) -> pa.Table:
    """Return the table in a parquet file's bytes. Raises: pyarrow.ArrowException: it is none.

    The bytes are copied out of Python's memory: one of pyarrow's threads lets go of them when the
    interpreter may be ending, and would abort the process (one of three that end at once, with exit
    code 134).
    """
    copy = pa.BufferOutputStream()
    copy.write(content)
    return pq.read_table(pa.BufferReader(copy.getvalue()), use_threads=False, pre_buffer=False)


def read_catalog(location: str | Path, flag: str = "--catalog") -> pa.Table:
    """Read the catalog in a file or at an s3:// URL.

    Raises: InputError: there is none, or the file is something else.
    """
    try:
        store, name = open_beside(location, flag)
        content = bytes(obstore.get(store, name).bytes())
    except FileNotFoundError as error:
        raise InputError(f"{flag} {location}: run data_prep/build_catalog.py first.") from error
    except (BaseError, OSError) as error:
        raise InputError(f"{flag} {location}: {describe_failure(error)}.") from error
    try:
        catalog = table_of_parquet(content)
    except pa.ArrowException:
        catalog = None
    if catalog is None or not catalog.schema.equals(CATALOG_SCHEMA):
        raise InputError(f"{flag} {location}: not a catalog of data_prep/build_catalog.py.")
    return catalog


def bins_by_count(catalog: pa.Table) -> dict[int, int]:
    """Return the number of bins with each count, items -> bins, in rising order."""
    counts, numbers = np.unique(pc.drop_null(catalog["count"]).to_numpy(), return_counts=True)
    return dict(zip(counts.tolist(), numbers.tolist(), strict=True))


def describe_catalog(catalog: pa.Table) -> str:
    """Return what the catalog holds, for the person who built it: some lines of text."""
    group_sizes = pc.value_counts(catalog["bin_group"]).field("counts").to_numpy()
    reasons = pc.value_counts(pc.drop_null(catalog["set_aside"])).to_pylist()
    num_set_aside = sum(reason["counts"] for reason in reasons)
    num_differing = catalog.num_rows - pc.sum(catalog["quantities_match"]).as_py() - num_set_aside
    lines = [
        *_count_table(bins_by_count(catalog)),
        "",
        f"{catalog.num_rows:,} bins in {len(group_sizes):,} groups; "
        f"{group_sizes[group_sizes > 1].sum():,} share a group with another photo of the same bin.",
        _leak_line(catalog),
        f"{num_set_aside:,} records set aside; in {num_differing:,} more the items' quantities do "
        "not sum to the count (kept, and flagged).",
    ]
    for reason in sorted(reasons, key=lambda reason: -reason["counts"]):
        lines.append(f"  {reason['counts']:,}  {reason['values']}")
    return "\n".join(lines)


def _count_table(bins: dict[int, int]) -> list[str]:
    total = sum(bins.values())
    rows = [(str(count), number) for count, number in bins.items() if count <= LARGEST_BAR]
    beyond = [count for count in bins if count > LARGEST_BAR]
    if beyond:
        rows.append((f"{LARGEST_BAR + 1} to {beyond[-1]}", sum(bins[count] for count in beyond)))
    return [
        f"{'items':>8}  {'bins':>9}  share",
        *(f"{name:>8}  {number:>9,}  {100 * number / total:4.1f} %" for name, number in rows),
    ]


def _leak_line(catalog: pa.Table) -> str:
    fewest, most = USUAL_COUNTS
    in_range = pc.and_(
        pc.greater_equal(catalog["count"], fewest), pc.less_equal(catalog["count"], most)
    )
    kept = catalog.select(["id", "count", "bin_group"]).filter(in_range)
    fractions = {"train": 1 - USUAL_TEST_FRACTION, "test": USUAL_TEST_FRACTION}
    splits = assign_splits(kept["id"], kept["count"].to_numpy(), fractions, USUAL_SEED)
    num_test = int(np.count_nonzero(splits == 1))
    leaked = num_leaked(kept["bin_group"], splits == 0, splits == 1)
    return (
        f"A random split would leak: of the {num_test:,} bins in a test split of "
        f"{100 * USUAL_TEST_FRACTION:.0f} %, drawn photo by photo (seed {USUAL_SEED}) from the "
        f"{kept.num_rows:,} with {fewest} to {most} items, {leaked:,} "
        f"({100 * leaked / max(num_test, 1):.1f} %) have a photo of the same bin in training."
    )
