"""Read a bucket's metadata into a catalog; what a killed run has read is not read again."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from obstore.store import ObjectStore
from tqdm import tqdm

from catalog.bin_groups import group_bins, neighbouring_ids
from catalog.bin_records import PLAIN_NAME, parse_bin_record, set_aside_record
from catalog.file import CATALOG_SCHEMA, open_beside, write_catalog
from catalog.parts import CatalogParts
from command_line import InputError, read_json
from object_store import UnansweredError, list_ids, open_store, read_objects

CHART_NAME = "bins_by_count.png"
IDS_NAMED = 10  # in an error; the whole list could fill screens


def build_catalog(
    source: str, output: str | Path, bin_ids: Collection[str] | None = None
) -> pa.Table:
    """Read a source's metadata into a table of CATALOG_SCHEMA, sorted by id; write and return it.

    What was read lies in the folder `<output>.parts` until the catalog is written, so that a run
    that was killed or lost its connection goes on where it was.

    Args:
        source: a folder, file:// or s3:// URL laid out like the bucket (`metadata/<id>.json`).
        output: the parquet file to write, a path or an s3:// URL.
        bin_ids: only these bins, with the rest of their runs; None: all that the source lists.

    Raises:
        InputError: there is no such source, or no metadata in it.
        UnansweredError: some records did not arrive; the others are kept.
        obstore.exceptions.BaseError, OSError: source or output failed.
    """
    store = open_store(source)
    if bin_ids is None:
        listed = list_ids(store, "metadata", ".json")
        if not listed:
            raise InputError(f"--source {source}: no metadata/<id>.json there.")
        # A photo without metadata is a bin, too: its record is set aside.
        listed += list_ids(store, "bin-images", ".jpg")
    else:
        listed = list(bin_ids)
    wanted = pc.unique(pa.array(listed, pa.string()))
    wanted = wanted.take(pc.sort_indices(wanted))
    output_store, name = open_beside(output, "--output", create=True)
    with CatalogParts(output_store, f"{name}.parts", repr(store)) as parts:
        _read_records(store, wanted, parts)
        catalog = _wanted_groups(parts.table(), wanted)
        # A group is a run in the bucket's own ids, so a neighbour that is not wanted still holds
        # two wanted bins together: read on at both ends, as far as each run goes.
        while bin_ids is not None and _read_records(
            store, neighbouring_ids(catalog["id"].combine_chunks()), parts, progress=False
        ):
            catalog = _wanted_groups(parts.table(), wanted)
    write_catalog(catalog, output_store, name)
    parts.remove()
    return catalog


def _read_records(
    store: ObjectStore, bin_ids: pa.Array, parts: CatalogParts, progress: bool = True
) -> int:
    """Read the metadata of the bins that the parts lack; return how many those were."""
    missing = bin_ids.filter(pc.invert(pc.is_in(bin_ids, value_set=parts.ids())))
    is_plain = pc.match_substring_regex(missing, f"^{PLAIN_NAME}$")
    for bin_id in missing.filter(pc.invert(is_plain)).to_pylist():
        parts.add(parse_bin_record(bin_id, b""))  # says so, and its id gets into no path
    missing_plain = missing.filter(is_plain)

    async def read_plain(bar: tqdm) -> None:
        paths = (f"metadata/{bin_id}.json" for bin_id in missing_plain.to_pylist())
        async for path, content, problem in read_objects(store, paths):
            bin_id = path.removeprefix("metadata/").removesuffix(".json")
            if content is None:
                reason = "no metadata" if problem == "missing" else f"metadata: {problem}"
                parts.add(set_aside_record(bin_id, reason))
            else:
                parts.add(parse_bin_record(bin_id, content))
            bar.update()

    with tqdm(
        desc="metadata",
        total=len(bin_ids),
        initial=len(bin_ids) - len(missing_plain),
        unit="bins",
        disable=not progress,
    ) as bar:
        asyncio.run(read_plain(bar))
    return len(missing)


def _wanted_groups(records: pa.Table, wanted: pa.Array) -> pa.Table:
    """Return the catalog of the groups that have a wanted bin."""
    ids = records["id"].combine_chunks()
    groups = group_bins(ids, records["asins"].combine_chunks())
    wanted_groups = pc.unique(groups.filter(pc.is_in(ids, value_set=wanted)))
    catalog = records.append_column("bin_group", groups).select(CATALOG_SCHEMA.names)
    return catalog.filter(pc.is_in(groups, value_set=wanted_groups)).cast(CATALOG_SCHEMA)


def read_bin_list(path: Path) -> list[str]:
    """Return the ids of a list such as the Udacity subset's: {"1": ["data/metadata/00152.json"]}.

    Raises: InputError: the file is not such a list.
    """
    try:
        lists = read_json(path.read_bytes())
        if not isinstance(lists, dict) or not all(isinstance(n, list) for n in lists.values()):
            raise TypeError("no lists of names by count")
        bin_ids = {Path(name).stem for names in lists.values() for name in names}
        "".join(bin_ids).encode()  # JSON may hold half a character
    except OSError as error:
        raise InputError(f"--bin_list {path}: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f'--bin_list {path}: expected JSON such as {{"1": ["data/metadata/00152.json", ...]}} '
            f"({error})."
        ) from error
    if not bin_ids:
        raise InputError(f"--bin_list {path}: no bin in it.")
    return sorted(bin_ids)


def describe_unanswered(error: UnansweredError) -> str:
    """Return which records did not arrive, in one line."""
    names = [Path(path).stem for path in error.paths]
    more = f" and {len(names) - IDS_NAMED:,} more" if len(names) > IDS_NAMED else ""
    return (
        f"the metadata of {len(names):,} bins did not arrive ({error.reason}): "
        f"{', '.join(names[:IDS_NAMED])}{more}."
    )
