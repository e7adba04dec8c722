"""The catalog of a bucket: one parquet file, a row a bin. Read it, write it."""

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
from object_store import describe_failure, open_store, write_object

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
