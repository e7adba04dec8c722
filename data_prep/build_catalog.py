"""Read the metadata of all bins into one parquet file, a row a bin.

    python data_prep/build_catalog.py --source ../shared/abid --output data/catalog.parquet

A row holds the id (a string), the count, the items' ASINs, quantities, volumes and weights, the
group of photos that show the same bin, and for a record that cannot be used the reason. Beside the
file comes bins_by_count.png. It can be killed at any moment: the same command again reads only what
is missing. build_dataset.py builds a catalog itself; run this alone to look at a bucket first, or
to build several datasets from one catalog.
"""

import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from obstore.exceptions import BaseError

from catalog.bin_visits import count_visits
from catalog.count_chart import LARGEST_BAR, draw_counts
from catalog.file import bins_by_count, open_beside
from catalog.item_sizes import sizes_line
from catalog.reading import CHART_NAME, build_catalog, describe_unanswered, read_bin_list
from command_line import EntryParser, InputError, say
from dataset.splits import assign_splits, num_leaked
from object_store import UnansweredError, describe_failure, write_object
from whole_files import check_platform

GO_ON = "The same command goes on from here.\n"
UNITS_NAMED = 10
# What the published projects on this dataset do: 1 to 5 items, a tenth drawn photo by photo.
USUAL_COUNTS, USUAL_TEST_FRACTION, USUAL_SEED = (1, 5), 0.1, 42


def main(argv: list[str] | None = None) -> None:
    """Build a catalog from the command line."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "--source",
        default="s3://aft-vbi-pds",
        help="folder, file:// or s3:// URL laid out like the bucket (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        required=True,
        help="the parquet file to write, a path or an s3:// URL; until it is complete, what was "
        "read lies in the folder OUTPUT.parts beside it",
    )
    parser.add_argument(
        "--bin_list",
        type=Path,
        help="only these bins, and the neighbours that belong to their groups: JSON such as "
        '{"1": ["data/metadata/00152.json"]}',
    )
    arguments = parser.parse_args(argv)
    try:
        check_platform()
        bin_ids = read_bin_list(arguments.bin_list) if arguments.bin_list else None
        catalog = build_catalog(arguments.source, arguments.output, bin_ids)
        chart = draw_counts({"bins": bins_by_count(catalog)}, f"Bins of {arguments.source}")
        write_object(open_beside(arguments.output, "--output")[0], CHART_NAME, chart)
    except InputError as error:
        parser.error(str(error))
    except UnansweredError as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_unanswered(error)} {GO_ON}")
    except (BaseError, OSError) as error:
        parser.exit(1, f"{parser.prog}: stopped: {describe_failure(error)}. {GO_ON}")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped. {GO_ON}")
    flags = ["--source", arguments.source, "--catalog", arguments.output]
    if arguments.bin_list:
        flags += ["--bin_list", str(arguments.bin_list)]
    flags += ["--output_dir", "data/bins"]
    say(
        describe_catalog(catalog),
        f"\nNext: python data_prep/build_dataset.py {shlex.join(flags)}",
    )


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
        _visits_line(catalog),
        _leak_line(catalog),
        sizes_line(catalog),
        *_unknown_units(catalog),
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


def _with_usual_counts(catalog: pa.Table) -> pa.Table:
    """Return the rows of the counts that published projects keep: id, count, bin_group."""
    fewest, most = USUAL_COUNTS
    in_range = pc.and_(
        pc.greater_equal(catalog["count"], fewest), pc.less_equal(catalog["count"], most)
    )
    return catalog.select(["id", "count", "bin_group"]).filter(in_range)


def _unknown_units(catalog: pa.Table) -> list[str]:
    """Return a line that names the units that no size could be read of; none where all could."""
    units = pc.value_counts(pc.list_flatten(catalog["unknown_units"])).to_pylist()
    if not units:
        return []
    units.sort(key=lambda unit: (-unit["counts"], unit["values"]))
    named = ", ".join(f"{unit['values']} in {unit['counts']:,}" for unit in units[:UNITS_NAMED])
    more = f" and {len(units) - UNITS_NAMED:,} more" if len(units) > UNITS_NAMED else ""
    return [f"Sizes in units that are not known count as missing; records: {named}{more}."]


def _visits_line(catalog: pa.Table) -> str:
    fewest, most = USUAL_COUNTS
    is_usable = pc.is_valid(catalog["count"])
    every = count_visits(catalog.select(["id", "count", "bin_group"]).filter(is_usable))
    usual = count_visits(_with_usual_counts(catalog))
    return (
        f"{every.num_bins_again:,} bins were visited twice and more: {every.num_pairs:,} pairs of "
        f"neighbouring visits. Of the photos with {fewest} to {most} items alone: "
        f"{usual.num_bins_again:,} bins, {usual.num_pairs:,} pairs."
    )


def _leak_line(catalog: pa.Table) -> str:
    fewest, most = USUAL_COUNTS
    kept = _with_usual_counts(catalog)
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


if __name__ == "__main__":
    main()
