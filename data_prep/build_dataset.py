"""Build the image dataset that training reads: photos and counts, split without leaks.

    python data_prep/build_dataset.py --output_dir data/bins --max_bins 20000

reads the public bucket; --source names a mirror. The output, a folder or an s3:// URL, is one that
`datasets.load_dataset` and the Hugging Face Hub read: parquet shards in data/, a card in README.md
with its chart, and beside them catalog.parquet, set_aside.jsonl (each bin that was wanted and
cannot be used, with its reason) and statistics/. It can be killed at any moment: the same command
again goes on with the shards that are missing.

Many machines share the work with --resource_config: each writes the shards that fall to it. When
all are done the same command with --finish instead writes the card.
"""

import argparse
import csv
import json
import os
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore
from tqdm import tqdm

from bin_images import MAX_PIXELS
from build_catalog import build_catalog, read_bin_list
from catalog import open_beside, read_catalog
from command_line import EntryParser, InputError, fraction, natural_number, positive_integer
from dataset_finish import CARD, UnfinishedError, finish_dataset
from dataset_plan import (
    LEFT_OUT,
    PlannedShard,
    Selection,
    draw_bins,
    leave_out,
    plan_shards,
    select_bins,
    select_official_bins,
    split_bins,
)
from dataset_settings import CATALOG, claim_output, dataset_settings
from dataset_totals import DatasetTotals, channel_line, count_table
from object_store import (
    MOST_UNANSWERED,
    UnansweredError,
    describe_failure,
    has_object,
    open_store,
    read_object,
    write_object,
)
from official_split import hold_out_validation, read_official_bins
from shards import ShardWriter, finished_shards, write_shards
from splits import SPLITS, split_fractions
from whole_files import remove_leftovers

# The task: bins with 1 to 5 items, as in the published projects on this dataset.
MIN_COUNT, MAX_COUNT = 1, 5
LARGEST_COUNT = 2**31 - 1
GO_ON = "Once that is mended, the same command goes on from here.\n"
# What decides how the work is done, not what comes out.
HOW = ("num_workers", "resource_config", "finish", "check")


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
        help="catalog of data_prep/build_catalog.py, a file or s3:// URL (default: built in the "
        "output)",
    )
    parser.add_argument(
        "--output_dir", required=True, help="the dataset: a folder or an s3://BUCKET/PREFIX URL"
    )
    parser.add_argument(
        "--bin_list",
        type=Path,
        help='keep only these bins: JSON such as {"1": ["data/metadata/00152.json"]}; their '
        "neighbours' metadata is read as well, for the groups",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="CSV",
        help="leave out the bins of the column id, such as label_errors.csv of scripts/audit.py "
        "--label_errors; all others stay in the splits that they have without it",
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
        type=image_edge,
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
        help="share of the bins, 0 to 1; 1.0 puts every bin in test (default: 0.1)",
    )
    parser.add_argument(
        "--split_by",
        choices=("bin_group", "random", "official"),
        default="bin_group",
        help="random leaks, as published splits do: for comparison only; official is the "
        "challenge's own split, its validation list being the test split (default: %(default)s)",
    )
    for name, file in (("train", "counting_train.json"), ("validation", "counting_val.json")):
        parser.add_argument(
            f"--official_{name}", type=Path, help=f"the challenge's list {file}, [[index, count]]"
        )
    parser.add_argument(
        "--num_workers",
        type=positive_integer,
        default=os.cpu_count() or 1,
        help="processes that fetch and resize (default: one a core)",
    )
    parser.add_argument("--seed", type=natural_number, default=42, help="default: %(default)s")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument(
        "--resource_config",
        type=Path,
        help="write only this machine's shards: JSON with hosts and current_host, as SageMaker has "
        "it in /opt/ml/config/resourceconfig.json",
    )
    stage.add_argument(
        "--finish", action="store_true", help="write the card of shards that are all done"
    )
    stage.add_argument(
        "--check",
        action="store_true",
        help="check the flags and the lists that they name, and do nothing else",
    )
    return parser


def image_edge(text: str) -> int:
    """Parse the edge of the photos. Raises: argparse.ArgumentTypeError: too large, or no number."""
    edge = positive_integer(text)
    if edge**2 > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f"{text} makes photos of over 25 megapixels")
    return edge


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError where flags do not go together."""
    if arguments.min_count > arguments.max_count:
        raise InputError(f"--min_count {arguments.min_count} exceeds --max_count: swap them.")
    lists = (arguments.official_train, arguments.official_validation)
    if arguments.split_by == "official":
        if None in lists:
            raise InputError(
                "--split_by official needs --official_train and --official_validation."
            )
        for path in lists:
            if not path.is_file():
                raise InputError(f"{path}: there is no such list of the official split.")
        if arguments.test_fraction is not None:
            raise InputError("--test_fraction: the official validation list is the test split.")
    elif lists != (None, None):
        raise InputError("--official_train and --official_validation need --split_by official.")


def read_rank(path: Path | None) -> tuple[int, int]:
    """Return this machine's place among the hosts, and how many there are; alone without a file.

    Raises: InputError: the file is no resource config.
    """
    if path is None:
        return 0, 1
    try:
        config = json.loads(path.read_text())
        hosts = sorted(config["hosts"])
        return hosts.index(config["current_host"]), len(hosts)
    except OSError as error:
        raise InputError(f"--resource_config {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'--resource_config {path}: expected {{"current_host": "algo-1", "hosts": ["algo-1", '
            "...]}."
        ) from error


def read_excluded(path: Path) -> list[str]:
    """Return the ids of a csv's column id, sorted.

    Raises: InputError: the file is no such csv.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "id" not in (reader.fieldnames or ()):
                raise InputError(f"--exclude {path}: the first line must name a column id.")
            # No plain id begins with an apostrophe: it keeps spreadsheets from running a cell.
            return sorted({(row["id"] or "").removeprefix("'") for row in reader})
    except OSError as error:
        raise InputError(f"--exclude {path}: {error.strerror}.") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"--exclude {path}: not a csv ({error}).") from error


def is_own_catalog(arguments: argparse.Namespace) -> bool:
    """Say whether --catalog names the one that lies in the output."""

    def place(location: str) -> str:
        return location if "://" in location else os.path.realpath(location)

    own = f"{arguments.output_dir.rstrip('/')}/{CATALOG}"
    return arguments.catalog is not None and place(arguments.catalog) == place(own)


def catalog_content(location: str) -> bytes:
    """Return the bytes of a catalog. Raises: InputError: it is none."""
    read_catalog(location)
    content = read_object(*open_beside(location, "--catalog"))
    assert content is not None
    return content


def own_catalog(
    store: ObjectStore,
    arguments: argparse.Namespace,
    given: bytes | None,
    listed: Sequence[str] | None,
) -> pa.Table | None:
    """Return the output's catalog, which is put or built there where it is missing.

    None where an official split does without.

    Raises: InputError: it takes one machine to build it. UnansweredError: metadata did not arrive.
    """
    location = f"{arguments.output_dir.rstrip('/')}/{CATALOG}"
    if not has_object(store, CATALOG):
        if given is not None:
            write_object(store, CATALOG, given)
        elif arguments.split_by == "official":
            return None
        elif arguments.resource_config or arguments.finish:
            raise InputError(
                f"{location} is missing: first run python data_prep/build_catalog.py "
                f"{shlex.join(['--source', arguments.source, '--output', location])}"
            )
        else:
            return build_catalog(arguments.source, location, listed)
    return read_catalog(location)


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
    writer: ShardWriter,
    store: ObjectStore,
    bins: pa.Table,
    planned: Sequence[PlannedShard],
    num_workers: int,
) -> None:
    """Write the shards that are not done yet, with progress.

    Raises: UnansweredError: after all the others, photos of some did not arrive; or at once, after
        as many of them as make an outage.
    """
    finished = finished_shards(store, [shard.name for shard in planned])
    missing = [shard for shard in planned if shard.name not in finished]
    if not missing:
        return
    with suppress(FileNotFoundError):
        obstore.delete(store, CARD)
    num_bins = sum(len(shard.rows) for shard in planned)
    num_finished = sum(statistics.num_bins for statistics in finished.values())
    unanswered: dict[str, str] = {}
    with tqdm(desc="photos", total=num_bins, initial=num_finished, unit="bins") as bar:
        shards = (shard.shard(bins) for shard in missing)
        for outcome in write_shards(writer, shards, min(num_workers, len(missing))):
            if isinstance(outcome, UnansweredError):
                unanswered |= outcome.reasons
                if len(unanswered) >= MOST_UNANSWERED:
                    break
            else:
                bar.update(outcome.num_bins)
    if unanswered:
        raise UnansweredError(unanswered)


def wanted_bins(
    arguments: argparse.Namespace,
    fractions: dict[str, float],
    catalog: pa.Table | None,
    listed: Sequence[str] | None,
    excluded: Collection[str],
) -> Selection:
    """Return the bins that the flags ask for, each with its split.

    Raises: InputError: there is none, or none of those to exclude is among them.
    """
    limits = arguments.min_count, arguments.max_count
    if arguments.split_by == "official":
        lists = arguments.official_train, arguments.official_validation
        official = read_official_bins(*lists, 0, LARGEST_COUNT, catalog)
        selection = select_official_bins(official, catalog, listed, *limits)
    else:
        assert catalog is not None
        selection = select_bins(catalog, listed, *limits)
    bins, num_others = selection.bins, selection.num_out_of_range + len(selection.set_aside)
    if bins.num_rows == 0:
        raise InputError(
            f"No usable bin with {limits[0]} to {limits[1]} items among the {num_others:,} of "
            f"{arguments.source}: widen the range."
        )
    if arguments.max_bins is not None:
        bins = draw_bins(bins, arguments.max_bins, arguments.seed)
    if arguments.split_by == "official":
        bins = hold_out_validation(bins, fractions.get("validation", 0.0), arguments.seed)
    else:
        bins = split_bins(bins, fractions, arguments.split_by, arguments.seed)
    # Last, so that no other bin changes its split.
    bins, left_out = leave_out(bins, excluded)
    if excluded and not any(entry["reason"] == LEFT_OUT for entry in left_out):
        raise InputError(
            f"--exclude {arguments.exclude}: none of its ids is among the bins, such as "
            f"{min(excluded)!r}; a spreadsheet drops leading zeros: give the csv as it was written."
        )
    return replace(selection, bins=bins, set_aside=[*selection.set_aside, *left_out])


def build_dataset(arguments: argparse.Namespace) -> None:
    """Build the dataset that the flags describe, or go on with it.

    Raises:
        InputError: the flags, the source or the output are at fault.
        UnansweredError: photos or metadata did not arrive in spite of all retries.
        UnfinishedError: --finish, and shards are missing.
        OSError, obstore.exceptions.BaseError: source or output failed.
    """
    check_flags(arguments)
    rank, num_machines = read_rank(arguments.resource_config)
    if arguments.split_by == "official":
        fractions = split_fractions(arguments.validation_fraction, 0.0)
    else:
        test_fraction = 0.1 if arguments.test_fraction is None else arguments.test_fraction
        fractions = split_fractions(arguments.validation_fraction, test_fraction)
    listed = read_bin_list(arguments.bin_list) if arguments.bin_list else None
    excluded = read_excluded(arguments.exclude) if arguments.exclude else []
    if arguments.check:
        if arguments.split_by == "official":
            read_official_bins(
                arguments.official_train,
                arguments.official_validation,
                arguments.min_count,
                arguments.max_count,
            )
        return
    open_store(arguments.source)  # a wrong source must not claim the output
    is_own = is_own_catalog(arguments)
    given = catalog_content(arguments.catalog) if arguments.catalog else None
    settings = dataset_settings(arguments, fractions, listed, excluded, None if is_own else given)

    store = open_store(arguments.output_dir, "--output_dir", create=not arguments.finish)
    alone = not (arguments.resource_config or arguments.finish)
    settings = claim_output(store, arguments.output_dir, settings, is_own, alone)
    catalog = own_catalog(store, arguments, given, listed)
    selection = wanted_bins(arguments, fractions, catalog, listed, excluded)
    planned = plan_shards(selection.bins, SPLITS, arguments.seed)
    label_names = [str(count) for count in range(arguments.min_count, arguments.max_count + 1)]
    if not arguments.finish:
        writer = ShardWriter(
            arguments.source, arguments.output_dir, arguments.image_size, label_names
        )
        own = planned[rank::num_machines]
        write_missing_shards(writer, store, selection.bins, own, arguments.num_workers)
    if arguments.resource_config:
        print(f"The {len(own):,} of {len(planned):,} shards that fall to this machine are done.")
        print(f"\nNext, when all machines are done: {build_command(arguments)} --finish")
        return
    totals = finish_dataset(
        store,
        [shard.name for shard in planned],
        selection.set_aside,
        label_names,
        settings,
        build_command(arguments),
    )
    if isinstance(store, LocalStore) and store.prefix is not None:
        remove_leftovers(Path(store.prefix))
    print(report(totals, label_names, selection.num_out_of_range))
    command = next_command(arguments.output_dir, arguments.image_size, list(totals.kept))
    print(f"\nNext: {command}")


def build_command(arguments: argparse.Namespace) -> str:
    """Return the command that makes this dataset, wherever the work is done."""
    parser = make_parser()
    flags = [
        part
        for name, value in vars(arguments).items()
        if name not in HOW and value != parser.get_default(name)
        for part in (f"--{name}", str(value))
    ]
    return f"python data_prep/build_dataset.py {shlex.join(flags)}"


def next_command(dataset_dir: str, image_size: int, splits: Sequence[str]) -> str:
    """Return the command that trains on this dataset, or evaluates where it has a test split."""
    name = Path(dataset_dir).name
    folder = f"data/{name}" if "://" in dataset_dir else dataset_dir
    flags = ["--dataset_dir", folder]
    if "train" not in splits:
        flags += ["--model_name_or_path", "MODEL_FOLDER", "--output_dir", "runs/evaluation"]
    elif image_size == 64:
        flags += ["--config_name", "scripts/model_configs/vit_demo"]
        flags += ["--output_dir", f"runs/{name}_vit_demo"]
        flags += ["--num_train_epochs", "12", "--per_device_train_batch_size", "32"]
        flags += ["--augment_geometry", "false", "--mixup", "false"]
    else:
        # The Hub's ViTs take 224 pixels; a ResNet takes any size. Rates as in sagemaker_jobs/.
        is_vit = image_size == 224
        model = "google/vit-base-patch16-224-in21k" if is_vit else "microsoft/resnet-34"
        flags += ["--model_name_or_path", model, "--output_dir", f"runs/{model.split('/')[1]}"]
        flags += ["--learning_rate", "3e-4" if is_vit else "1e-3"]
    does = {"train": "--do_train", "validation": "--do_eval", "test": "--do_predict"}
    flags += [does[split] for split in splits]
    if "train" in splits and "validation" not in splits:
        flags += ["--eval_strategy", "no"]
    copy = (
        ""
        if folder == dataset_dir
        else f"{shlex.join(['aws', 's3', 'sync', dataset_dir, folder])} && "
    )
    return f"{copy}python scripts/train.py {shlex.join(flags)}"


def main(argv: list[str] | None = None) -> None:
    """Build a dataset from the command line."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        build_dataset(arguments)
    except InputError as error:
        parser.error(str(error))
    except UnansweredError as error:
        parser.exit(
            1,
            f"{parser.prog}: stopped: did not arrive in spite of all retries: "
            f"{', '.join(error.paths)} ({len(error.paths):,} in all; {error.reason})\n"
            f"The rest is kept; this goes on from here: {build_command(arguments)}\n",
        )
    except UnfinishedError as error:
        parser.exit(1, f"{parser.prog}: {error} To do them: {build_command(arguments)}\n")
    except OSError as error:
        # obstore's errors name no errno: one that does is of the output, which is written here.
        reason = describe_failure(error)
        if error.strerror:
            reason = f"--output_dir {arguments.output_dir}: {error.strerror}."
        parser.exit(1, f"{parser.prog}: stopped: {reason}\n{GO_ON}")
    except BaseError as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_failure(error)}\n{GO_ON}")
    except BrokenProcessPool:
        reason = "a worker process died; if memory ran out, lower --num_workers"
        parser.exit(1, f"{parser.prog}: stopped: {reason}.\n{GO_ON}")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped. The same command goes on from here.\n")


if __name__ == "__main__":
    main()
