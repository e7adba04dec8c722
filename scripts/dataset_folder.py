"""A dataset folder of data_prep/build_dataset.py: which files hold which split, and whether all do.

Training and audits read it through this, and so refuse the same folders. Its files are opened by
their names, whatever characters these have: a library that takes patterns or URLs would read
another dataset for bins[1].
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from count_distribution import counts_of_labels
from one_line_parser import reason_of

COLUMNS = ("image", "label", "id", "bin_group", "expected_quantity", "asins", "quantities")
ITEM_COLUMNS = ("volumes", "weights")  # a folder that was built before these has neither
CHECKED = "checked"  # what a person found, null where nobody looked: of build_dataset.py --marks
SHARD = re.compile(r"(\w+)-\d+-of-\d+\.parquet")
BUILD = "run data_prep/build_dataset.py"
AGAIN = f"copy the dataset again, or {BUILD}"


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset that is whole, as far as its files' footers and its records say.

    Args:
        shards: the files of each split that holds bins, in the order of their rows.
        num_bins: how many each of these splits holds.
        label_names: the name of each label id, a count in items.
        columns: that training and audits read.
    """

    path: Path
    shards: dict[str, list[Path]]
    num_bins: dict[str, int]
    label_names: tuple[str, ...]
    columns: tuple[str, ...]

    def tables(self, split: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield a split's rows, a row group at a time; default: all of `columns`.

        Raises: ValueError: a shard is damaged.
        """
        for path in self.shards[split]:
            with open_shard(path) as parquet:
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group, columns=list(columns or self.columns))

    def table(self, split: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of a split. Raises: ValueError: a shard is damaged."""
        return pa.concat_tables(self.tables(split, columns))


def open_dataset(folder: Path) -> DatasetFolder:
    """Open a dataset folder, and check that it is whole.

    Raises: ValueError: no such folder, an unfinished dataset, one that lacks a shard or a column,
        or labels that are not the counts of the records.
    """
    if not folder.is_dir():
        raise ValueError(f"No dataset folder {folder}: {BUILD} first.")
    if not (folder / "README.md").is_file():
        raise ValueError(
            f"{folder} is not a finished dataset (no README.md): {BUILD}; a build that was cut off "
            "goes on with the same command."
        )
    shards: dict[str, list[Path]] = {}
    # Names with a dot in front are a Mac's notes on the files that it copied.
    for path in sorted((folder / "data").glob("[!.]*.parquet")):
        if not (found := SHARD.fullmatch(path.name)):
            raise ValueError(f"{path} is no shard of a dataset (SPLIT-NNNNN-of-NNNNN): move it.")
        shards.setdefault(found[1], []).append(path)
    if not shards:
        raise ValueError(f"{folder} holds no bins (data/*.parquet): {AGAIN}.")
    schemas: dict[Path, pa.Schema] = {}
    num_bins = dict.fromkeys(shards, 0)
    for split, paths in shards.items():
        for path in paths:
            with open_shard(path) as parquet:
                schemas[path] = parquet.schema_arrow
                num_bins[split] += parquet.metadata.num_rows
    label_names = _labels(folder, schemas)
    shards = {split: paths for split, paths in shards.items() if num_bins[split]}
    for split, named in _sizes_on_card(folder).items():
        if num_bins.get(split, 0) != named:
            raise ValueError(
                f"{folder} holds {num_bins.get(split, 0):,} bins of the split {split}, and its "
                f"README.md names {named:,}: a shard is missing, or one too many; {AGAIN}."
            )
    names = next(iter(schemas.values())).names
    columns = (*COLUMNS, *(name for name in (*ITEM_COLUMNS, CHECKED) if name in names))
    dataset = DatasetFolder(folder, shards, num_bins, label_names, columns)
    for split in shards:
        _check_records(dataset, split)
    return dataset


@contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a shard; whatever goes wrong until it is closed is said of the shard.

    Raises: ValueError: it cannot be read.
    """
    try:
        with path.open("rb") as file, pq.ParquetFile(file) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read ({reason_of(error)}): {AGAIN}.") from error


def check_contents(folder: Path, shard: Path) -> None:
    """Check a shard against the digest that its build recorded, where its statistics are there.

    Reads the whole file: a second a gigabyte.

    Raises: ValueError: it differs, cannot be read, or the build wrote no such file: without rows.
    """
    path = folder / "statistics" / f"{shard.stem}.json"
    try:
        if not path.is_file():
            return
        recorded = json.loads(path.read_text())["sha256"]
        with shard.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{shard} cannot be checked ({reason_of(error)}): {AGAIN}.") from error
    if recorded is None:
        raise ValueError(f"{shard} is no file of its build ({path} names none): move it.")
    if digest != recorded:
        raise ValueError(
            f"{shard} is damaged (its SHA-256 is not the one in {path}, from its build): {AGAIN}."
        )


def _labels(folder: Path, schemas: dict[Path, pa.Schema]) -> tuple[str, ...]:
    """Return the names of the labels, which `datasets` keeps beside the schema."""
    first = next(iter(schemas.values()))
    for path, schema in schemas.items():
        if missing := [name for name in COLUMNS if name not in schema.names]:
            raise ValueError(f"No column {', '.join(missing)} in {path}: {BUILD}.")
        if not schema.equals(first, check_metadata=True):
            raise ValueError(f"{path} has other columns or labels than the other shards: {AGAIN}.")
    try:
        features = json.loads(first.metadata[b"huggingface"])["info"]["features"]
        names = tuple(features["label"]["names"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The labels of {folder} are not counts: they have no names; {BUILD}."
        ) from error
    counts_of_labels(names)
    return names


def _sizes_on_card(folder: Path) -> dict[str, int]:
    """Return how many bins each split has by README.md; nothing where it does not say."""
    card = folder / "README.md"
    try:
        parts = card.read_text(encoding="utf-8").split("---\n", 2)
        header = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
        splits = header.get("dataset_info", {}).get("splits", [])
        return {split["name"]: int(split["num_examples"]) for split in splits}
    except (OSError, ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{card} is damaged ({reason_of(error)}): {AGAIN}.") from error


def _check_records(dataset: DatasetFolder, split: str) -> None:
    records = dataset.table(split, ["label", "expected_quantity"]).to_pydict()
    count_of = dict(enumerate(counts_of_labels(dataset.label_names)))
    # -1: a label that has no name.
    counts = [count_of.get(label, -1) for label in records["label"]]
    if counts != records["expected_quantity"]:
        raise ValueError(f"Labels of {dataset.path}, {split} differ from the quantities: {BUILD}.")
