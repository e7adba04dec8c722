"""Keep the records that were read so far, so that a killed run goes on where it was."""

import shutil
import sys
import uuid
from types import TracebackType

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
from obstore.store import LocalStore, ObjectStore
from tqdm import tqdm

from catalog.bin_records import BinRecord
from catalog.file import CATALOG_SCHEMA, parquet_of_table, table_of_parquet
from object_store import object_sizes, read_object, write_object

# Some seconds of reading: what a kill costs.
RECORDS_PER_PART = 4096
PART = ".parquet"
RECORD_SCHEMA = pa.schema([field for field in CATALOG_SCHEMA if field.name != "bin_group"])


class CatalogParts:
    """The records of one source: in memory as columns, and in a folder as parquet parts.

    As a context manager it writes what it holds when the block ends, however that ends.
    """

    def __init__(self, store: ObjectStore, folder: str, source: str) -> None:
        """Open a folder of parts; those of another source, or that cannot be read, are removed."""
        self._store, self._folder = store, folder
        self._schema = RECORD_SCHEMA.with_metadata({"source": source})
        self._waiting: list[BinRecord] = []
        self._tables: list[pa.Table] = [self._schema.empty_table()]
        for path in sorted(path for path in object_sizes(store, folder) if path.endswith(PART)):
            part = None
            try:
                part = table_of_parquet(read_object(store, path) or b"")
            except (pa.ArrowException, OSError) as error:
                reason = str(error).partition("\n")[0]
                tqdm.write(f"{path} is damaged ({reason}): read again.", file=sys.stderr)
            if part is not None and self._is_of_source(part.schema):
                self._tables.append(part.cast(self._schema))  # parquet names a list's values anew
            else:
                obstore.delete(store, path)

    def __enter__(self) -> "CatalogParts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write_waiting()

    def add(self, record: BinRecord) -> None:
        """Keep a record; every RECORDS_PER_PART of them become a part."""
        self._waiting.append(record)
        if len(self._waiting) >= RECORDS_PER_PART:
            self._write_waiting()

    def table(self) -> pa.Table:
        """Return the records as a table of RECORD_SCHEMA, sorted by id, each id once."""
        self._write_waiting()
        records = pa.concat_tables(self._tables).combine_chunks()
        records = records.take(pc.sort_indices(records["id"])).combine_chunks()
        # Two runs of the same command at once read the same records.
        ids = records["id"]
        if len(ids) > 1:
            is_new = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy()
            records = records.filter(pa.array(np.append(True, is_new)))
        return records

    def ids(self) -> pa.ChunkedArray:
        """Return the ids of the records, in no particular order."""
        self._write_waiting()
        return pa.chunked_array([chunk for table in self._tables for chunk in table["id"].chunks])

    def remove(self) -> None:
        """Remove the parts from the store."""
        obstore.delete(self._store, list(object_sizes(self._store, self._folder)))
        if isinstance(self._store, LocalStore):
            shutil.rmtree(f"{self._store.prefix}/{self._folder}", ignore_errors=True)

    def _is_of_source(self, schema: pa.Schema) -> bool:
        return schema.equals(self._schema) and schema.metadata == self._schema.metadata

    def _write_waiting(self) -> None:
        if not self._waiting:
            return
        part = pa.table(
            {
                name: [getattr(record, name) for record in self._waiting]
                for name in self._schema.names
            },
            schema=self._schema,
        )
        self._waiting.clear()
        self._tables.append(part)
        # A name of its own: two runs of the same command must not take each other's place.
        path = f"{self._folder}/{uuid.uuid4().hex}{PART}"
        write_object(self._store, path, parquet_of_table(part))
