"""Build the image dataset that training reads: photos and counts, split without leaks.

    python data_prep/build_dataset.py --output_dir data/bins --max_bins 20000

reads the public bucket; --source names a mirror. The output folder is one that
`datasets.load_dataset` and the Hugging Face Hub read: parquet shards in data/, a card in README.md,
and beside them catalog.parquet, set_aside.jsonl (each bin that was wanted and cannot be used, with
its reason) and statistics/. It can be killed at any moment: the same command again goes on with the
shards that are missing.
"""

import argparse
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow as pa
from obstore.exceptions import BaseError
from tqdm import tqdm

from build_catalog import build_catalog, read_bin_list, read_catalog, write_catalog
from command_line import EntryParser, InputError, fraction, natural_number, positive_integer
from dataset_card import dataset_card
from dataset_totals import DatasetTotals, add_up, channel_line, count_table
from object_store import describe_failure, open_store
from shards import (
    Shard,
    ShardStatistics,
    ShardWriter,
    WantedBin,
    dataset_schema,
    plan_shards,
    write_shards,
)
from splits import assign_splits, hash_order, split_fractions
from whole_files import whole_file

# The task: bins with 1 to 5 items, as in the published projects on this dataset.
MIN_COUNT, MAX_COUNT = 1, 5
GO_ON = "Once that is mended, the same command goes on from here.\n"


def make_parser() -> EntryParser:
    """Return the parser of this entry's flags."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "--source",
        default="s3://aft-vbi-pds",
        help="folder, file:// or s3:// URL laid out like the bucket (default: %(default)s)",
    )
    parser.add_argument(
        "--catalog",
        type=Path,
        help="catalog of data_prep/build_catalog.py (default: built in the output folder)",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="the dataset folder")
    parser.add_argument(
        "--bin_list",
        type=Path,
        help='keep only these bins: JSON such as {"1": ["data/metadata/00152.json"]}; their '
        "neighbours' metadata is read as well, for the groups",
    )
    parser.add_argument(
        "--max_bins", type=positive_integer, help="keep this many bins, drawn by --seed"
    )
    for name, default, extreme in (("min", MIN_COUNT, "fewest"), ("max", MAX_COUNT, "most")):
        parser.add_argument(
            f"--{name}_count",
            type=natural_number,
            default=default,
            help=f"the {extreme} items of a bin that is kept (default: %(default)s)",
        )
    parser.add_argument(
        "--image_size",
        type=positive_integer,
        default=224,
        help="edge of the square photos, pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--validation_fraction",
        type=fraction,
        help="share of the bins, 0 to 1 (default: 0.1, or what --test_fraction leaves)",
    )
    parser.add_argument(
        "--test_fraction",
        type=fraction,
        default=0.1,
        help="share of the bins, 0 to 1; 1.0 puts every bin in test (default: %(default)s)",
    )
    parser.add_argument(
        "--split_by",
        choices=("bin_group", "random"),
        default="bin_group",
        help="random leaks, as published splits do: for comparison only (default: %(default)s)",
    )
    parser.add_argument(
        "--num_workers",
        type=positive_integer,
        default=os.cpu_count() or 1,
        help="processes that fetch and resize (default: one a core)",
    )
    parser.add_argument("--seed", type=natural_number, default=42, help="default: %(default)s")
    parser.add_argument(
        "--check",
        action="store_true",
        help="check the flags and the files that they name, and do nothing else",
    )
    return parser


def dataset_settings(
    arguments: argparse.Namespace, fractions: Mapping[str, float], listed: Sequence[str] | None
) -> dict[str, object]:
    """Return what the bytes of the dataset depend on; files that were named stand as digests."""

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    named = ("source", "min_count", "max_count", "max_bins", "image_size")
    return {
        **{
            name: getattr(arguments, name) for name in (*named, "test_fraction", "split_by", "seed")
        },
        "validation_fraction": fractions.get("validation", 0.0),
        "bin_list": listed and digest("\n".join(listed).encode()),
        "catalog": arguments.catalog and digest(arguments.catalog.read_bytes()),
    }


def claim_output_dir(output_dir: Path, settings: dict[str, object]) -> None:
    """Make the output folder this dataset's, or check that it is.

    A folder without any shard may be claimed anew: nothing in it took long but the catalog, which
    stays where it is still the right one.

    Raises: InputError: it holds something else, or a dataset of other settings.
    """
    path = output_dir / "settings.json"
    if not path.exists():
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise InputError(f"--output_dir {output_dir} is in use: choose another or empty it.")
    else:
        try:
            recorded = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} cannot be read: choose another --output_dir.") from error
        differing = [name for name in settings if recorded.get(name) != settings[name]]
        if differing and (output_dir / "statistics").exists():
            raise InputError(
                f"--output_dir {output_dir} holds a dataset of other settings ("
                + ", ".join(f"{n} {recorded.get(n)!r}, now {settings[n]!r}" for n in differing)
                + "): choose another folder, or remove this one."
            )
        if any(name in differing for name in ("source", "catalog", "bin_list")):
            (output_dir / "catalog.parquet").unlink(missing_ok=True)
    with whole_file(path) as part:
        part.write_text(json.dumps(settings, indent=2) + "\n")


def select_bins(
    catalog: pa.Table,
    listed: set[str] | None,
    min_count: int,
    max_count: int,
    max_bins: int | None,
    seed: int,
) -> tuple[list[WantedBin], int, list[dict[str, str]]]:
    """Return the bins to fetch, how many are out of range, and the unusable records.

    Args:
        listed: keep only these ids; None keeps all.
        max_bins: at most this many, drawn group by group.
    """
    wanted, out_of_range, set_aside = [], 0, []
    for row in catalog.to_pylist():
        if listed is not None and row["id"] not in listed:
            continue
        if row["set_aside"]:
            set_aside.append({"id": row["id"], "reason": row["set_aside"]})
        elif not min_count <= row["count"] <= max_count:
            out_of_range += 1
        else:
            wanted.append(
                WantedBin(
                    row["id"], row["count"], row["bin_group"], row["asins"], row["quantities"]
                )
            )
    if listed is not None:
        absent = sorted(listed - set(catalog["id"].to_pylist()))
        set_aside += [{"id": bin_id, "reason": "not in the catalog"} for bin_id in absent]
    if max_bins is not None:
        wanted.sort(key=lambda a_bin: (hash_order(seed, a_bin.bin_group), a_bin.id))
        wanted = wanted[:max_bins]
    return wanted, out_of_range, set_aside


def divide_bins(
    bins: list[WantedBin], fractions: dict[str, float], split_by: str, seed: int
) -> dict[str, list[WantedBin]]:
    """Return the bins of each split, in an order that mixes counts and groups."""
    # What is kept together: the photos of one bin, or with a random split each photo by itself.
    unit_of = {b.id: b.bin_group if split_by == "bin_group" else b.id for b in bins}
    counts_by_unit: dict[str, list[int]] = {}
    for a_bin in bins:
        counts_by_unit.setdefault(unit_of[a_bin.id], []).append(a_bin.count)
    split_of = assign_splits(counts_by_unit, fractions, seed)
    divided: dict[str, list[WantedBin]] = {split: [] for split in fractions}
    for a_bin in sorted(bins, key=lambda a_bin: hash_order(seed, a_bin.id)):
        divided[split_of[unit_of[a_bin.id]]].append(a_bin)
    return {split: members for split, members in divided.items() if members}


def report(totals: DatasetTotals, label_names: Sequence[str], num_out_of_range: int) -> str:
    """Return the summary that ends a build."""
    reasons = Counter(entry["reason"] for entry in totals.set_aside)
    lines = [
        f"Kept {totals.num_kept:,} bins with {label_names[0]} to {label_names[-1]} items; "
        f"{num_out_of_range:,} out of range; {len(totals.set_aside):,} set aside"
        + (" (named in set_aside.jsonl):" if reasons else "."),
        *(f"  {number:,}  {reason}" for reason, number in reasons.most_common()),
        "",
        count_table(totals, label_names),
        "",
        channel_line(totals),
    ]
    return "\n".join(lines)


def write_missing_shards(
    writer: ShardWriter, shards: Sequence[Shard], num_workers: int
) -> list[ShardStatistics]:
    """Write the shards that are not there yet, with progress; return the statistics of all."""
    statistics, missing = [], []
    for shard in shards:
        finished = writer.finished(shard)
        if finished:
            statistics.append(finished)
        else:
            missing.append(shard)
    num_bins = sum(len(shard.bins) for shard in shards)
    num_finished = num_bins - sum(len(shard.bins) for shard in missing)
    with tqdm(desc="photos", total=num_bins, initial=num_finished, unit="bins") as bar:
        for shard_statistics in write_shards(writer, missing, num_workers):
            statistics.append(shard_statistics)
            bar.update(shard_statistics.num_bins)
    return statistics


def build_dataset(arguments: argparse.Namespace) -> None:
    """Build the dataset that the flags describe, or go on with it.

    Raises:
        InputError: the flags, the source or the output folder are at fault.
        obstore.exceptions.BaseError: the source failed after its own retries.
    """
    if arguments.min_count > arguments.max_count:
        raise InputError(f"--min_count {arguments.min_count} exceeds --max_count: swap them.")
    fractions = split_fractions(arguments.validation_fraction, arguments.test_fraction)
    listed = read_bin_list(arguments.bin_list) if arguments.bin_list else None
    if arguments.check:
        return
    open_store(arguments.source)  # a wrong source must not claim the output folder
    given_catalog = read_catalog(arguments.catalog) if arguments.catalog else None
    settings = dataset_settings(arguments, fractions, listed)
    claim_output_dir(arguments.output_dir, settings)

    catalog_path = arguments.output_dir / "catalog.parquet"
    if not catalog_path.exists():
        if given_catalog is None:
            given_catalog = build_catalog(arguments.source, listed)
        write_catalog(given_catalog, catalog_path)
    wanted, num_out_of_range, set_aside = select_bins(
        read_catalog(catalog_path),
        None if listed is None else set(listed),
        arguments.min_count,
        arguments.max_count,
        arguments.max_bins,
        arguments.seed,
    )
    if not wanted:
        raise InputError(
            f"No usable bin with {arguments.min_count} to {arguments.max_count} items among the "
            f"{num_out_of_range + len(set_aside):,} of {arguments.source}: widen the range."
        )
    divided = divide_bins(wanted, fractions, arguments.split_by, arguments.seed)

    label_names = [str(count) for count in range(arguments.min_count, arguments.max_count + 1)]
    writer = ShardWriter(
        arguments.source,
        arguments.output_dir,
        arguments.image_size,
        label_names,
        dataset_schema(label_names),
    )
    # The card comes last: a folder that has one is complete.
    card_path = arguments.output_dir / "README.md"
    card_path.unlink(missing_ok=True)
    statistics = write_missing_shards(writer, plan_shards(divided), arguments.num_workers)
    totals = add_up(statistics, set_aside)
    if totals.num_kept == 0:
        (reason, number), *_ = Counter(e["reason"] for e in totals.set_aside).most_common(1)
        raise InputError(
            f"None of the {len(wanted):,} photos wanted could be used ({number:,}: {reason}): "
            f"check that --source {arguments.source} is where they are, and remove "
            f"{arguments.output_dir}."
        )
    with whole_file(arguments.output_dir / "set_aside.jsonl") as path:
        path.write_text("".join(json.dumps(entry) + "\n" for entry in totals.set_aside))
    with whole_file(card_path) as path:
        path.write_text(dataset_card(totals, label_names, settings))
    print(report(totals, label_names, num_out_of_range))
    print(f"\nNext: {next_command(arguments.output_dir, arguments.image_size, list(totals.kept))}")


def next_command(dataset_dir: Path, image_size: int, splits: Sequence[str]) -> str:
    """Return the command that trains on this dataset, or evaluates where it has a test split."""
    flags = ["--dataset_dir", str(dataset_dir)]
    if "train" not in splits:
        flags += ["--model_name_or_path", "MODEL_FOLDER", "--output_dir", "runs/evaluation"]
    elif image_size == 64:
        flags += ["--config_name", "scripts/model_configs/vit_demo"]
        flags += ["--output_dir", f"runs/{dataset_dir.name}_vit_demo"]
        flags += ["--learning_rate", "1e-3", "--num_train_epochs", "9"]
    else:
        # The Hub's ViTs take 224 pixels; a ResNet takes any size.
        name = "google/vit-base-patch16-224-in21k" if image_size == 224 else "microsoft/resnet-34"
        flags += ["--model_name_or_path", name, "--output_dir", f"runs/{name.split('/')[1]}"]
    does = {"train": "--do_train", "validation": "--do_eval", "test": "--do_predict"}
    flags += [does[split] for split in splits]
    if "train" in splits and "validation" not in splits:
        flags += ["--eval_strategy", "no"]
    return f"python scripts/train.py {shlex.join(flags)}"


def main(argv: list[str] | None = None) -> None:
    """Build a dataset from the command line."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        build_dataset(arguments)
    except InputError as error:
        parser.error(str(error))
    except (BaseError, OSError) as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_failure(error)}\n{GO_ON}")
    except BrokenProcessPool:
        reason = "a worker process died; if memory ran out, lower --num_workers"
        parser.exit(1, f"{parser.prog}: stopped: {reason}.\n{GO_ON}")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped. The same command goes on from here.\n")


if __name__ == "__main__":
    main()
