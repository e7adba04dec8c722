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

from catalog.bin_records import PLAIN_NAME
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
        # Of one piece of each item, cubic inches and pounds; null: not known.
        pa.field("volumes", pa.list_(pa.float32())),
        pa.field("weights", pa.list_(pa.float32())),
        pa.field("unknown_units", pa.list_(pa.string())),  # of sizes that are null for it
    ]
)
# What a catalog of an earlier version lacks: all of it is null then.
SIZES = ("volumes", "weights", "unknown_units")


class DamagedCatalogError(InputError):
    """The file is no catalog, or no longer."""


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
    if isinstance(store, LocalStore):
        path = Path(str(store.prefix), name)
        if path.is_dir():
            raise InputError(
                f"{flag} {location} is a folder: give a file, such as catalog.parquet in it."
            )
        # What was read so far, and a chart, lie beside it; and it is read again.
        if path.exists() and not path.is_file():
            raise InputError(f"{flag} {location} is a device or a pipe: give a file.")
    return store, name


def write_catalog(catalog: pa.Table, store: ObjectStore, name: str) -> None:
    """Write a table of CATALOG_SCHEMA to a parquet file, which is there as a whole or not."""
    write_object(store, name, parquet_of_table(catalog.combine_chunks()))


def parquet_of_table(table: pa.Table) -> bytes:
    """Return a parquet file with a checksum of each page: zeros in the middle are no records."""
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def table_of_parquet(content: bytes) -> pa.Table:
    """Return the table in a parquet file's bytes.

    Raises: pyarrow.ArrowException, OSError: it is none, or damaged.

    The bytes are copied out of Python's memory: one of pyarrow's threads lets go of them when the
    interpreter may be ending, and would abort the process (one of three that end at once, with exit
    code 134).
    """
    copy = pa.BufferOutputStream()
    copy.write(content)
    return pq.read_table(
        pa.BufferReader(copy.getvalue()),
        use_threads=False,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def read_catalog(location: str | Path, flag: str = "--catalog") -> pa.Table:
    """Read the catalog in a file or at an s3:// URL.

    Raises: DamagedCatalogError: the file is damaged, or something else. InputError: there is none,
        or it cannot be read.
    """
    try:
        store, name = open_beside(location, flag)
        content = bytes(obstore.get(store, name).bytes())
    except FileNotFoundError as error:
        raise InputError(f"{flag} {location}: run data_prep/build_catalog.py first.") from error
    except (BaseError, OSError) as error:
        raise InputError(f"{flag} {location}: {describe_failure(error)}.") from error
    try:
        catalog = _with_sizes(table_of_parquet(content))
        _check(catalog)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DamagedCatalogError(
            f"{flag} {location}: not a catalog of data_prep/build_catalog.py, or damaged "
            f"({reason}): build it again."
        ) from error
    return catalog


def _with_sizes(catalog: pa.Table) -> pa.Table:
    if catalog.schema.equals(pa.schema([f for f in CATALOG_SCHEMA if f.name not in SIZES])):
        for name in SIZES:
            nothing = pa.nulls(catalog.num_rows, CATALOG_SCHEMA.field(name).type)
            catalog = catalog.append_column(CATALOG_SCHEMA.field(name), nothing)
    return catalog


def _check(catalog: pa.Table) -> None:
    """Raise ValueError where a table is none of write_catalog's: it may be a stranger's."""
    if not catalog.schema.equals(CATALOG_SCHEMA):
        raise ValueError("other columns")
    catalog.validate(full=True)
    for name in ("id", "asins", "quantities", "bin_group"):
        if catalog[name].null_count:
            raise ValueError(f"the column {name} has rows without a value")
    names = pc.value_counts(catalog["id"])
    twice = names.field("values").filter(pc.greater(names.field("counts"), 1))
    if len(twice):
        raise ValueError(f"{len(twice):,} ids are there twice, such as {twice[0]}")
    is_usable = pc.is_null(catalog["set_aside"])
    is_plain = pc.match_substring_regex(catalog["id"], f"^{PLAIN_NAME}$")
    usable = catalog.filter(is_usable)
    if not pc.all(pc.or_(is_plain, pc.invert(is_usable)), min_count=0).as_py():
        raise ValueError("an id is not made of letters, digits, _ and - alone")
    if (
        usable["count"].null_count
        or not pc.all(pc.greater_equal(usable["count"], 0), min_count=0).as_py()
    ):
        raise ValueError("a row has neither a count nor a reason why it cannot be used")


def bins_by_count(catalog: pa.Table) -> dict[int, int]:
    """Return the number of bins with each count, items -> bins, in rising order."""
    counts, numbers = np.unique(pc.drop_null(catalog["count"]).to_numpy(), return_counts=True)
    return dict(zip(counts.tolist(), numbers.tolist(), strict=True))
