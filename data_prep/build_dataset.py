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
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore
from tqdm import tqdm

from catalog.file import DamagedCatalogError, open_beside, read_catalog
from catalog.reading import build_catalog, read_bin_list
from command_line import InputError, say
from dataset.finish import CARD, UnfinishedError, finish_dataset
from dataset.finished import finished_shards
from dataset.flags import (
    build_command,
    check_flags,
    is_own_catalog,
    make_parser,
    next_command,
    read_excluded,
    read_rank,
)
from dataset.marks import Mark, read_marks, with_marks
from dataset.official_split import hold_out_validation, read_official_bins
from dataset.plan import (
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
from dataset.settings import CATALOG, claim_output, dataset_settings
from dataset.shards import ShardStatistics, ShardWriter, write_shards
from dataset.splits import SPLITS, split_fractions
from dataset.totals import (
    DatasetTotals,
    change_table,
    channel_line,
    count_table,
    equal_photos_line,
    visits_line,
)
from object_store import (
    MOST_UNANSWERED,
    UnansweredError,
    describe_failure,
    has_object,
    open_store,
    read_object,
    remove_object,
    write_object,
)
from whole_files import check_platform, remove_leftovers

LARGEST_COUNT = 2**31 - 1
GO_ON = "Once that is mended, the same command goes on from here.\n"


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
    makes_it = not (arguments.resource_config or arguments.finish)
    if has_object(store, CATALOG) and makes_it:
        try:
            return read_catalog(location)
        except DamagedCatalogError as error:
            tqdm.write(f"{error} That is done now.", file=sys.stderr)
            remove_object(store, CATALOG)
    if not has_object(store, CATALOG):
        if given is not None:
            write_object(store, CATALOG, given)
        elif arguments.split_by == "official":
            return None
        elif not makes_it:
            raise InputError(
                f"{location} is missing: first run python data_prep/build_catalog.py "
                f"{shlex.join(['--source', arguments.source, '--output', location])}"
            )
        else:
            return build_catalog(arguments.source, location, listed)
    return read_catalog(location)


def report(
    totals: DatasetTotals, label_names: Sequence[str], num_out_of_range: int, split_by: str
) -> str:
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
        visits_line(totals),
        "",
        *([change_table(totals, label_names), ""] if totals.num_pairs else []),
        totals.sizes_line,
        equal_photos_line(totals, split_by),
        channel_line(totals),
    ]
    return "\n".join(lines)


def write_missing_shards(
    writer: ShardWriter,
    store: ObjectStore,
    bins: pa.Table,
    planned: Sequence[PlannedShard],
    num_workers: int,
) -> dict[str, ShardStatistics]:
    """Write the shards that are not done yet, with progress; return the statistics of all.

    Raises: UnansweredError: after all the others, photos of some did not arrive; or at once, after
        as many of them as make an outage.
    """
    finished = finished_shards(store, [shard.name for shard in planned], writer.label_names)
    missing = [shard for shard in planned if shard.name not in finished]
    if not missing:
        return finished
    remove_object(store, CARD)
    num_bins = sum(len(shard.rows) for shard in planned)
    num_finished = sum(statistics.num_bins for statistics in finished.values())
    unanswered: dict[str, str] = {}
    with tqdm(desc="photos", total=num_bins, initial=num_finished, unit="bins") as bar:
        shards = (shard.shard(bins) for shard in missing)
        for name, outcome in write_shards(writer, shards, min(num_workers, len(missing))):
            if isinstance(outcome, UnansweredError):
                unanswered |= outcome.reasons
                if len(unanswered) >= MOST_UNANSWERED:
                    break
            else:
                finished[name] = outcome
                bar.update(outcome.num_bins)
    if unanswered:
        raise UnansweredError(unanswered)
    return finished


def wanted_bins(
    arguments: argparse.Namespace,
    fractions: dict[str, float],
    catalog: pa.Table | None,
    listed: Sequence[str] | None,
    excluded: Collection[str],
    marks: Mapping[str, Sequence[Mark]],
) -> Selection:
    """Return the bins that the flags ask for, each with its split.

    Raises: InputError: there is none, or none of those to exclude, or marked, is among them.
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
        if bins.num_rows == 0:
            raise InputError(
                f"--max_bins {arguments.max_bins}: each bin has more photos than that, and they "
                "stay together: raise it."
            )
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
    if marks:
        bins, wrong, unused = with_marks(bins, marks, *limits)
        left_out += wrong
        if len(unused) == len(marks):
            raise InputError(
                f"--marks: none of the {len(marks):,} marked bins is used, such as {min(marks)!r} ("
                f"{unused[0]['reason']}); a spreadsheet drops leading zeros."
            )
        for entry in unused:
            tqdm.write(f"{entry['id']}: {entry['reason']}", file=sys.stderr)
    return replace(selection, bins=bins, set_aside=[*selection.set_aside, *left_out])


def build_dataset(arguments: argparse.Namespace) -> None:
    """Build the dataset that the flags describe, or go on with it.

    Raises:
        InputError: the flags, the source or the output are at fault.
        UnansweredError: photos or metadata did not arrive in spite of all retries.
        UnfinishedError: --finish, and shards are missing.
        OSError, obstore.exceptions.BaseError: source or output failed.
    """
    check_platform()
    check_flags(arguments)
    rank, num_machines = read_rank(arguments.resource_config)
    if arguments.split_by == "official":
        fractions = split_fractions(arguments.validation_fraction, 0.0)
    else:
        test_fraction = 0.1 if arguments.test_fraction is None else arguments.test_fraction
        fractions = split_fractions(arguments.validation_fraction, test_fraction)
    listed = read_bin_list(arguments.bin_list) if arguments.bin_list else None
    excluded = read_excluded(arguments.exclude) if arguments.exclude else []
    marks = read_marks(arguments.marks) if arguments.marks else {}
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
    settings = dataset_settings(
        arguments, fractions, listed, excluded, marks, None if is_own else given
    )

    store = open_store(arguments.output_dir, "--output_dir", create=not arguments.finish)
    alone = not (arguments.resource_config or arguments.finish)
    settings = claim_output(store, arguments.output_dir, settings, is_own, alone)
    catalog = own_catalog(store, arguments, given, listed)
    selection = wanted_bins(arguments, fractions, catalog, listed, excluded, marks)
    planned = plan_shards(selection.bins, SPLITS, arguments.seed)
    label_names = [str(count) for count in range(arguments.min_count, arguments.max_count + 1)]
    if arguments.finish:
        finished = finished_shards(store, [shard.name for shard in planned], label_names)
    else:
        writer = ShardWriter(
            arguments.source, arguments.output_dir, arguments.image_size, label_names
        )
        own = planned[rank::num_machines]
        finished = write_missing_shards(writer, store, selection.bins, own, arguments.num_workers)
    if arguments.resource_config:
        say(
            f"The {len(own):,} of {len(planned):,} shards that fall to this machine are done.",
            f"\nNext, when all machines are done: {build_command(arguments)} --finish",
        )
        return
    totals = finish_dataset(
        store,
        planned,
        finished,
        selection,
        label_names,
        settings,
        build_command(arguments),
    )
    if isinstance(store, LocalStore) and store.prefix is not None:
        remove_leftovers(Path(store.prefix))
    command = next_command(arguments.output_dir, arguments.image_size, list(totals.kept))
    say(
        report(totals, label_names, selection.num_out_of_range, arguments.split_by),
        f"\nNext: {command}",
    )


def main(argv: list[str] | None = None) -> None:
    """Build a dataset from the command line."""
    parser = make_parser(__doc__)
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
    except (BaseError, OSError) as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_failure(error)}.\n{GO_ON}")
    except BrokenProcessPool:
        reason = "a worker process died; if memory ran out, lower --num_workers"
        parser.exit(1, f"{parser.prog}: stopped: {reason}.\n{GO_ON}")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped. The same command goes on from here.\n")


if __name__ == "__main__":
    main()
