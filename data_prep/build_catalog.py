"""Read the metadata of all bins into one parquet file, a row a bin.

    python data_prep/build_catalog.py --source ../shared/abid --output data/catalog.parquet

A row holds the id (a string), the count, the items' ASINs and quantities, the group of photos that
show the same bin, and for a record that cannot be used the reason. build_dataset.py calls this
itself; run it alone to look at a bucket first, or to build several datasets from one catalog.
"""

import asyncio
import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from tqdm import tqdm

from bin_groups import group_bins, next_id, previous_ids, share_an_asin
from command_line import EntryParser, InputError
from object_store import describe_failure, list_ids, open_store, read_objects
from whole_files import whole_file

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
LARGEST_QUANTITY = 2**31 - 1


@dataclass(frozen=True)
class BinRecord:
    """What the metadata of one bin says; `count` is None where `set_aside` gives a reason."""

    id: str
    count: int | None
    asins: tuple[str, ...]
    quantities: tuple[int | None, ...]
    set_aside: str | None

    @property
    def quantities_match(self) -> bool:
        """Whether the items' quantities sum to the count (in 6 of 10,000 real files they don't)."""
        if self.count is None or None in self.quantities:
            return False
        return sum(quantity or 0 for quantity in self.quantities) == self.count


def parse_bin_record(bin_id: str, content: bytes | None) -> BinRecord:
    """Read one metadata file, whatever it holds. Never raises: what cannot be used says why.

    Args:
        content: the file's bytes, None where there is no file.
    """
    if content is None:
        return BinRecord(bin_id, None, (), (), "no metadata")
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        return BinRecord(bin_id, None, (), (), "metadata is not a JSON object")
    items = metadata.get("BIN_FCSKU_DATA")
    if not isinstance(items, dict):
        items = {}
    count, set_aside = _parse_count(metadata)
    return BinRecord(
        id=bin_id,
        count=count,
        # A lone surrogate is legal in JSON and in no other place.
        asins=tuple(asin.encode("utf-8", "replace").decode() for asin in items),
        quantities=tuple(_parse_quantity(item) for item in items.values()),
        set_aside=set_aside,
    )


def _parse_count(metadata: dict[str, Any]) -> tuple[int | None, str | None]:
    if metadata.get("EXPECTED_QUANTITY") is None:
        return None, "no EXPECTED_QUANTITY"
    quantity = metadata["EXPECTED_QUANTITY"]
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        return None, "EXPECTED_QUANTITY is not an integer"
    if quantity < 0:
        return None, "EXPECTED_QUANTITY is negative"
    if quantity > LARGEST_QUANTITY:
        return None, "EXPECTED_QUANTITY is larger than 2147483647"
    return quantity, None


def _parse_quantity(item: object) -> int | None:
    quantity = item.get("quantity") if isinstance(item, dict) else None
    if isinstance(quantity, bool) or not isinstance(quantity, int):
        return None
    return quantity if abs(quantity) <= LARGEST_QUANTITY else None


def read_records(
    store: ObjectStore, bin_ids: Iterable[str], progress: bool = True
) -> dict[str, BinRecord]:
    """Read the metadata of the bins named; a bin without metadata gets a record that says so."""

    async def read_all() -> dict[str, BinRecord]:
        paths = {f"metadata/{bin_id}.json": bin_id for bin_id in bin_ids}
        records = {}
        bar = tqdm(total=len(paths), desc="metadata", unit="bins", disable=not progress)
        async for path, content, _ in read_objects(store, paths):
            records[paths[path]] = parse_bin_record(paths[path], content)
            bar.update()
        bar.close()
        return records

    return asyncio.run(read_all())


def read_with_neighbours(store: ObjectStore, bin_ids: Iterable[str]) -> dict[str, BinRecord]:
    """Read the bins named, and each run's further bins as far as the run goes.

    A group is a run in the bucket's own ids, so a neighbour that is not wanted still holds two
    wanted bins together. Reads no more than the runs and the bins at their ends.
    """
    records = read_records(store, bin_ids)
    frontier = set(records)
    while frontier:
        neighbours = {near for bin_id in frontier for near in _neighbours(bin_id)} - records.keys()
        found = {
            bin_id: record
            for bin_id, record in read_records(store, sorted(neighbours), progress=False).items()
            if record.set_aside != "no metadata"
        }
        records.update(found)
        frontier = {
            bin_id
            for bin_id, record in found.items()
            if any(
                near in records and share_an_asin(record.asins, records[near].asins)
                for near in _neighbours(bin_id)
            )
        }
    return records


def _neighbours(bin_id: str) -> list[str]:
    follower = next_id(bin_id)
    return previous_ids(bin_id) + ([follower] if follower else [])


def read_bin_list(path: Path) -> list[str]:
    """Return the ids of a list such as the Udacity subset's: {"1": ["data/metadata/00152.json"]}.

    Raises: InputError: the file is not such a list.
    """
    try:
        lists = json.loads(path.read_text())
        if not all(isinstance(names, list) for names in lists.values()):
            raise TypeError("not lists of names")
        bin_ids = {Path(name).stem for names in lists.values() for name in names}
    except OSError as error:
        raise InputError(f"--bin_list {path}: {error.strerror}.") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f'--bin_list {path}: expected JSON such as {{"1": ["data/metadata/00152.json", ...]}}.'
        ) from error
    if not bin_ids:
        raise InputError(f"--bin_list {path}: no bin in it.")
    return sorted(bin_ids)


def build_catalog(source: str, bin_ids: Collection[str] | None = None) -> pa.Table:
    """Read a source's metadata into a table of CATALOG_SCHEMA, sorted by id.

    Args:
        source: a folder, file:// or s3:// URL laid out like the bucket (`metadata/<id>.json`).
        bin_ids: only these bins, with the rest of their runs; None: all that the source lists.

    Raises: InputError: there is no such source, or no metadata in it.
    """
    store = open_store(source)
    if bin_ids is None:
        records = read_records(store, sorted(list_ids(store, "metadata", ".json")))
    else:
        records = read_with_neighbours(store, bin_ids)
    if not records:
        raise InputError(f"--source {source}: no metadata/<id>.json there.")
    groups = group_bins({bin_id: record.asins for bin_id, record in records.items()})
    if bin_ids is not None:
        # The bins just past the end of a run were read to find that end; their own run was not.
        wanted_groups = {groups[bin_id] for bin_id in bin_ids}
        records = {name: r for name, r in records.items() if groups[name] in wanted_groups}
    ordered = [records[bin_id] for bin_id in sorted(records)]
    return pa.table(
        {
            "id": [record.id for record in ordered],
            "count": [record.count for record in ordered],
            "quantities_match": [record.quantities_match for record in ordered],
            "asins": [record.asins for record in ordered],
            "quantities": [record.quantities for record in ordered],
            "bin_group": [groups[record.id] for record in ordered],
            "set_aside": [record.set_aside for record in ordered],
        },
        schema=CATALOG_SCHEMA,
    )


def write_catalog(catalog: pa.Table, path: Path) -> None:
    """Write a table of build_catalog to a parquet file."""
    with whole_file(path) as temporary:
        pq.write_table(catalog, temporary)


def read_catalog(path: Path) -> pa.Table:
    """Read a catalog. Raises: InputError: there is none, or the file is something else."""
    try:
        catalog = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"--catalog {path}: run data_prep/build_catalog.py first.") from error
    except (pa.ArrowException, OSError):
        catalog = None
    if catalog is None or not catalog.schema.equals(CATALOG_SCHEMA):
        raise InputError(f"--catalog {path}: not a catalog of data_prep/build_catalog.py.")
    return catalog


def describe_catalog(catalog: pa.Table) -> str:
    """Return what the catalog holds, for the person who built it: some lines of text."""
    reasons = Counter(reason for reason in catalog["set_aside"].to_pylist() if reason)
    group_sizes = Counter(catalog["bin_group"].to_pylist())
    sharing = sum(size for size in group_sizes.values() if size > 1)
    differing = catalog.num_rows - sum(catalog["quantities_match"].to_pylist())
    lines = [
        f"{catalog.num_rows:,} bins in {len(group_sizes):,} groups; "
        f"{sharing:,} share a group with another photo of the same bin.",
        f"{sum(reasons.values()):,} records set aside; in {differing - sum(reasons.values()):,} "
        "more the items' quantities do not sum to the count (kept, and flagged).",
    ]
    lines += [f"  {number:,}  {reason}" for reason, number in reasons.most_common()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Build a catalog from the command line."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "--source",
        default="s3://aft-vbi-pds",
        help="folder, file:// or s3:// URL laid out like the bucket (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the parquet file to write")
    parser.add_argument(
        "--bin_list",
        type=Path,
        help="JSON list of bins: only these, and the neighbours that belong to their groups",
    )
    arguments = parser.parse_args(argv)
    try:
        bin_ids = read_bin_list(arguments.bin_list) if arguments.bin_list else None
        catalog = build_catalog(arguments.source, bin_ids)
        write_catalog(catalog, arguments.output)
    except InputError as error:
        parser.error(str(error))
    except (BaseError, OSError) as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_failure(error)}\n")
    print(describe_catalog(catalog))
    flags = ["--source", arguments.source, "--catalog", str(arguments.output)]
    if arguments.bin_list:
        flags += ["--bin_list", str(arguments.bin_list)]
    flags += ["--output_dir", "data/bins"]
    print(f"\nNext: python data_prep/build_dataset.py {shlex.join(flags)}")


if __name__ == "__main__":
    main()
