"""Measure what a year of audits finds, where people's marks make the next model, and where not.

    python benchmarks/simulated_year.py --source ../shared/abid --output_dir runs/year \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

The bins of a bucket are divided, whole bin groups together, into those of the time before, of which
the first model learns, and the weeks of a year. A tenth of the records of bins with another visit
are wrong: they are that of the other visit, with its items. Each week is audited with
--review_budget 0.05, each photo alone (no two visits here have equal records, so that one beside
another would tell on itself). What is found is known from then on; each quarter a model is trained
anew on all bins so far. Beside one another stand

    random checks       as many bins, drawn
    first model         never trained again
    ... recalibrated    the same, after each quarter with what all its marks say so far (audit.py
                        --recalibrate)
    records             trained each quarter on the records, as they are
    records and marks   the loop: what was found makes labels right, and checked bins weigh three
                        times as much (build_dataset.py --marks, train.py --checked_weight 3)

Which records are wrong is drawn once for the year that is lived through, whose marks and trainings
follow from it; what a week's audit finds is the mean over that and further draws of the week's
records. Figures are means over the seeds, with 95 % bootstrap intervals over bin groups. A run that
is finished is not repeated, one that was killed goes on. Other words on the command line are
train.py's.
"""

import argparse
import csv
import importlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt

from training_recipe import bootstrap_means, interval, markdown, run_training

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

COUNTS = (1, 2, 3, 4, 5)
NUM_WEEKS, NUM_QUARTERS = 52, 4
QUARTERS = [f"quarter {quarter + 1}" for quarter in range(NUM_QUARTERS)]
SHARE_BEFORE, SHARE_WRONG, BUDGET = 0.25, 0.1, 0.05
CHECKED_WEIGHT = 3
NUM_DRAWS = 8
BATCH = 64
# What a visit's record says, in a catalog of data_prep.
RECORD = ("count", "quantities_match", "asins", "quantities", "volumes", "weights", "unknown_units")
RANDOM, FIRST, RECALIBRATED = "random checks", "first model", "... recalibrated"
RECORDS, LOOP = "records", "records and marks"
COLOURS = {RANDOM: "#a0aec0", FIRST: "#718096", RECORDS: "#2b6cb0", LOOP: "#c05621"}


@dataclass(frozen=True)
class Year:
    """A year of a warehouse: which bins are seen when, and which records are wrong.

    Args:
        bins: of the catalog, those with COUNTS; a row a photo.
        week: int (num_bins,), from 0 on; -1: before the year.
        others: row -> the rows whose record it has where it is wrong: the visits beside it.
        seed: of the draws.
    """

    bins: pa.Table
    week: np.ndarray
    others: Mapping[int, Sequence[int]]
    seed: int

    @cached_property
    def ids(self) -> list[str]:
        return self.bins["id"].to_pylist()

    @cached_property
    def count(self) -> np.ndarray:
        return self.bins["count"].to_numpy()

    def records(self, draw: int) -> np.ndarray:
        """Return whose record each bin has, int (num_bins,), rows: its own, where that is right.

        Args:
            draw: 0 is the year that is lived through.
        """
        recorded = np.arange(len(self.week))
        for week in range(-1, NUM_WEEKS):
            generator = np.random.default_rng([self.seed, draw, week + 1])
            rows = [row for row in np.flatnonzero(self.week == week).tolist() if row in self.others]
            for row in generator.permutation(rows)[: round(SHARE_WRONG * len(rows))].tolist():
                recorded[row] = generator.choice(self.others[row])
        return recorded

    def rows_of(self, quarter: int) -> np.ndarray:
        """Return the bins that are seen in a quarter of the year, from 0 on."""
        return np.flatnonzero(self.week * NUM_QUARTERS // NUM_WEEKS == quarter)

    def is_before(self, quarter: int) -> np.ndarray:
        """Return which bins were seen before a quarter began, bool (num_bins,)."""
        return self.week * NUM_QUARTERS < quarter * NUM_WEEKS


def year_of(catalog: pa.Table, seed: int) -> Year:
    """Divide a bucket's bins into the time before and the weeks."""
    counts = catalog["count"].to_pandas()
    is_used = catalog["set_aside"].to_pandas().isna() & counts.isin(COUNTS)
    bins = catalog.filter(pa.array(is_used)).combine_chunks()
    groups = np.array(bins["bin_group"].to_pylist())
    names, group = np.unique(groups, return_inverse=True)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(names))
    sizes = np.bincount(group)
    seen = np.empty(len(names))
    seen[order] = (np.cumsum(sizes[order]) - sizes[order]) / len(bins)
    weeks = np.floor((seen - SHARE_BEFORE) / (1 - SHARE_BEFORE) * NUM_WEEKS).astype(int)
    ids, count = bins["id"].to_pylist(), bins["count"].to_numpy()
    steps = importlib.import_module("visits.neighbours").visit_steps(ids, groups.tolist())
    others: dict[int, list[int]] = {}
    for one, other in [*steps.tolist(), *steps[:, ::-1].tolist()]:
        if count[one] != count[other]:
            others.setdefault(one, []).append(other)
    return Year(bins, np.maximum(weeks, -1)[group], others, seed)


@dataclass(frozen=True)
class Look:
    """What a model says of the bins of a quarter, and of each with each record that it may have.

    Args:
        rows: int (num_rows,), of the year's bins.
        probabilities: float (num_rows, num_counts), by the photo.
        given: (row, whose record) -> the same, by the photo and that record's items.
    """

    rows: np.ndarray
    probabilities: np.ndarray
    given: Mapping[tuple[int, int], np.ndarray]


class Warehouse:
    """What has been built and trained of one seed's year, in a folder.

    Args:
        photos: id of a bin -> its JPEG, as data_prep made it.
        flags: of train.py.
    """

    def __init__(
        self,
        year: Year,
        catalog: pa.Table,
        source: str,
        photos: Mapping[str, bytes],
        folder: Path,
        flags: Sequence[str],
        image_size: int,
    ) -> None:
        self.year, self.source, self.photos, self.folder = year, source, photos, folder
        self.flags, self.image_size = flags, image_size
        self.records = year.records(draw=0)
        folder.mkdir(parents=True, exist_ok=True)
        place = {bin_id: row for row, bin_id in enumerate(catalog["id"].to_pylist())}
        taken = np.arange(len(catalog))
        for row, bin_id in enumerate(year.ids):
            taken[place[bin_id]] = place[year.ids[self.records[row]]]
        for name in RECORD:
            column = catalog.column_names.index(name)
            of_record = catalog[name].combine_chunks().take(pa.array(taken))
            catalog = catalog.set_column(column, catalog.schema.field(name), of_record)
        pq.write_table(catalog, folder / "catalog.parquet")

    def dataset(self, quarter: int, marks: Sequence[Path] = ()) -> Path:
        """Return the dataset of all bins that were seen before a quarter, built if need be."""
        name = f"q{quarter}-marked" if marks else f"q{quarter}"
        excluded = self.folder / f"{name}-exclude.csv"
        later = np.flatnonzero(~self.year.is_before(quarter))
        excluded.write_text("id\n" + "".join(f"{self.year.ids[row]}\n" for row in later))
        command = [sys.executable, ROOT / "data_prep/build_dataset.py", "--source", self.source]
        command += ["--catalog", self.folder / "catalog.parquet", "--exclude", excluded]
        command += ["--output_dir", self.folder / name, "--image_size", self.image_size]
        command += ["--test_fraction", 0, "--seed", self.year.seed]
        command += ["--marks", *marks] if marks else []
        run([str(word) for word in command], self.folder / f"{name}.log")
        return self.folder / name

    def model(self, name: str, dataset: Path, more: Sequence[str] = ()) -> Path:
        """Return the model of a training on a dataset, trained if need be."""
        flags = ["--dataset_dir", str(dataset), "--seed", str(self.year.seed)]
        flags += ["--learn_changes", "false", "--do_train", "--do_eval", *more, *self.flags]
        run_training(self.folder / name, flags, "eval_accuracy")
        return self.folder / name / "model"

    def look(self, model_dir: Path, rows: np.ndarray) -> tuple[Look, Any]:
        """Return what a model says of bins, and the model."""
        counter = importlib.import_module("serving.bin_counter").BinCounter(model_dir, 2)
        decode = importlib.import_module("serving.photo_checks").decode_photo
        recorded_items = importlib.import_module("items.evidence").recorded_items
        size, resample = counter.preparation.size, counter.preparation.resample
        told, answers = [], []
        for start in range(0, len(rows), BATCH):
            ids = [self.year.ids[row] for row in rows[start : start + BATCH]]
            seen = counter.look([decode(self.photos[name], size, resample) for name in ids])
            told.append(seen.probabilities)
            answers.append(seen.items)
        probabilities, items = np.concatenate(told), np.concatenate(answers)
        columns = ("count", "quantities", "volumes", "weights")
        of_bins = [self.year.bins[name].to_pylist() for name in columns]
        records = list(map(recorded_items, *of_bins))
        given = {}
        for place, row in enumerate(rows.tolist()):
            for other in (row, *self.year.others.get(row, ())):
                of_photo = probabilities[place : place + 1], items[place : place + 1]
                with_items = counter.item_settings.counts_given(*of_photo, [records[other]])
                given[row, other] = with_items[0]
        return Look(rows, probabilities, given), counter


def run(command: Sequence[str], log_path: Path) -> None:
    """Run one of the project's entries. Exits with its log's name if it fails."""
    with log_path.open("w") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status != 0:
        sys.exit(f"{Path(command[1]).name} failed with exit code {status}: see {log_path}.")


def checked_in_week(
    year: Year, look: Look, counter: Any, week: int, recorded: np.ndarray, recalibration: Any
) -> np.ndarray:
    """Return the bins that an audit of a week has checked, int (num_checked,), rows of the year.

    Args:
        recorded: of Year.records. recalibration: None where there is none.
    """
    rows = look.rows[year.week[look.rows] == week]
    part = part_of(year, look, rows, recorded)
    judge = judge_of(counter, recalibration)
    told = recalibration is not None
    judge = judge.learning_from_records([part], len(rows), is_rate_given=told)
    return rows[judge.spend([part])]


def part_of(year: Year, look: Look, rows: np.ndarray, recorded: np.ndarray) -> Any:
    """Return bins as scripts/audit.py holds them, with the records that they have."""
    place = np.searchsorted(look.rows, rows)
    return importlib.import_module("auditing.parts").Part(
        first=0,
        ids=[year.ids[row] for row in rows],
        recorded=[str(year.count[recorded[row]]) for row in rows],
        expected=year.count[recorded[rows]],
        problem=[""] * len(rows),
        note=[""] * len(rows),
        items=[[]] * len(rows),
        probabilities=look.probabilities[place],
        with_items=np.array([look.given[row, recorded[row]] for row in rows.tolist()]),
        item_answers=None,
        compared=np.full(len(rows), -1),
        changes=np.full((len(rows), 2 * len(COUNTS) - 1), np.nan),
    )


def judge_of(counter: Any, recalibration: Any) -> Any:
    """Return a judge of scripts/audit.py with a budget."""
    rates = importlib.import_module("auditing.wrong_rate")
    module = importlib.import_module("auditing.recalibration")
    return importlib.import_module("auditing.verdicts").Judge(
        counts=counter.counts,
        error_model=counter.visit_model.error_model,
        wrong_rate=rates.WrongRate(rates.DEFAULT_WRONG_RATE)
        if recalibration is None
        else recalibration.wrong_rate,
        costs=None,
        review_budget=BUDGET,
        recalibration=recalibration or module.Recalibration(),
    )


def recalibrated(
    year: Year, looks: Sequence[Look], counter: Any, recorded: np.ndarray, checked: np.ndarray
) -> Any:
    """Return what the marks of checked bins say, as scripts/audit.py --recalibrate finds it."""
    module = importlib.import_module("auditing.marked_bins")
    visits = importlib.import_module("auditing.visits_of_bins")
    checks = importlib.import_module("auditing.checked_bins")
    parts = [part_of(year, look, look.rows, recorded) for look in looks]
    rows = np.concatenate([look.rows for look in looks])
    expected = np.concatenate([part.expected for part in parts])
    none = np.empty(0, dtype=int)  # each photo is judged alone
    source = SimpleNamespace(
        expected=expected, num_bins=len(rows), visits=visits.VisitOrder(none, none)
    )
    seen = visits.SeenVisits(
        np.concatenate([part.with_items for part in parts]),
        np.concatenate([part.compared for part in parts]),
        np.concatenate([part.changes for part in parts]),
        pa.array([name for part in parts for name in part.ids]),
    )
    places = np.flatnonzero(np.isin(rows, checked)).tolist()
    found = checks.CheckedBins(
        counts={place: int(year.count[rows[place]]) for place in places},
        recorded={place: int(expected[place]) for place in places},
    )
    marked = module.marked_bins(found, expected, seen, counter.counts)
    return module.recalibrated(marked, source, seen, lambda: parts, counter, None)


def write_marks(path: Path, year: Year, recorded: np.ndarray, checked: Sequence[int]) -> None:
    """Write what a person found in bins, as the review page exports it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "expected_quantity", "mark", "counted"])
        for row in checked:
            expected, count = year.count[recorded[row]], year.count[row]
            mark = "right" if expected == count else "wrong"
            writer.writerow([year.ids[row], expected, mark, count])


def lived_through(warehouse: Warehouse, progress: Any) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Live through a year in each way.

    Returns: by way how often each bin was found wrong in an audit of its week, float (num_bins,),
        the mean over the draws; and of each quarter the accuracies of its models.
    """
    year = warehouse.year
    draws = [year.records(draw) for draw in range(NUM_DRAWS)]
    found = {way: np.zeros(len(year.week)) for way in (RANDOM, FIRST, RECALIBRATED, RECORDS, LOOP)}
    accuracies = []
    first = warehouse.model("first", warehouse.dataset(0))
    marks: list[Path] = []
    recalibration, checked_by_first, looks = None, [], []
    for quarter in range(NUM_QUARTERS):
        models = {FIRST: first, RECORDS: first, LOOP: first}
        if quarter:
            weighed = ["--checked_weight", str(CHECKED_WEIGHT)]
            by_records, by_marks = warehouse.dataset(quarter), warehouse.dataset(quarter, marks)
            models[RECORDS] = warehouse.model(f"records-q{quarter}", by_records)
            models[LOOP] = warehouse.model(f"loop-q{quarter}", by_marks, weighed)
        rows = year.rows_of(quarter)
        seen = {model: warehouse.look(model, rows) for model in set(models.values())}
        accuracies.append(
            {
                way: float((1 + seen[model][0].probabilities.argmax(1) == year.count[rows]).mean())
                for way, model in models.items()
            }
        )
        found_by_people: list[int] = []
        for week in np.unique(year.week[rows]).tolist():
            for draw, recorded in enumerate(draws):
                of_week = rows[year.week[rows] == week]
                is_wrong = year.count[recorded] != year.count
                share = int(BUDGET * len(of_week)) / len(of_week)
                found[RANDOM][of_week] += share * is_wrong[of_week] / NUM_DRAWS
                ways = [(way, seen[model], None) for way, model in models.items()]
                ways.append((RECALIBRATED, seen[first], recalibration))
                chosen: dict[str, np.ndarray] = {}
                for way, (look, counter), calibration in ways:
                    chosen[way] = checked_in_week(year, look, counter, week, recorded, calibration)
                    found[way][chosen[way]] += is_wrong[chosen[way]] / NUM_DRAWS
                if draw == 0:
                    found_by_people += chosen[LOOP].tolist()
                    checked_by_first += chosen[RECALIBRATED].tolist()
            progress.update()
        marks.append(warehouse.folder / f"marks-q{quarter}.csv")
        write_marks(marks[-1], year, draws[0], found_by_people)
        looks.append(seen[first][0])
        checked = np.array(checked_by_first)
        recalibration = recalibrated(year, looks, seen[first][1], draws[0], checked)
    return found, accuracies


def table_of(years: Sequence[Year], found: Sequence[Mapping[str, np.ndarray]]) -> str:
    """Return the wrong bins that are found a week, in each quarter and in the whole year.

    Args:
        found: of lived_through, of each seed.
    """
    names = sorted({name for year in years for name in year.bins["bin_group"].to_pylist()})
    place = {name: row for row, name in enumerate(names)}
    ways = list(found[0])
    periods = [*range(NUM_QUARTERS), None]
    # A group is a row: what its bins add to each period's figure, by way and seed.
    values = np.zeros((len(names), len(periods), len(ways), len(years)))
    for column, (year, of_seed) in enumerate(zip(years, found, strict=True)):
        rows = np.array([place[name] for name in year.bins["bin_group"].to_pylist()])
        for period, quarter in enumerate(periods):
            is_in = year.week >= 0
            if quarter is not None:
                is_in = np.isin(np.arange(len(rows)), year.rows_of(quarter))
            weeks = NUM_WEEKS if quarter is None else NUM_WEEKS / NUM_QUARTERS
            for way, name in enumerate(ways):
                np.add.at(values[:, period, way, column], rows[is_in], of_seed[name][is_in] / weeks)
    flat = values.mean(axis=3).reshape(len(names), -1)
    drawn = np.vstack([flat.mean(axis=0), bootstrap_means(np.array(names), flat)]) * len(names)
    drawn = drawn.reshape(len(drawn), len(periods), len(ways))
    table = []
    for way, name in enumerate(ways):
        cells = [interval(drawn[:, period, way], ".2f") for period in range(len(periods))]
        ahead = drawn[:, -1, way] - drawn[:, -1, ways.index(RECORDS)]
        table.append([name, *cells, "" if name == RECORDS else interval(ahead, "+.2f")])
    header = ["wrong bins found a week", *QUARTERS, "year", f"year, against {RECORDS}"]
    return markdown(header, table)


def accuracy_table(accuracies: Sequence[Sequence[Mapping[str, float]]]) -> str:
    """Return how many counts of each quarter's bins were right when they came, by way.

    Args:
        accuracies: of lived_through, of each seed.
    """
    rows = []
    for way in (FIRST, RECORDS, LOOP):
        means = [
            np.mean([of_seed[quarter][way] for of_seed in accuracies])
            for quarter in range(NUM_QUARTERS)
        ]
        rows.append([way, *(f"{mean:.1%}" for mean in means)])
    header = ["counts of new photos that are right", *QUARTERS]
    return markdown(header, rows)


def draw_year(years: Sequence[Year], found: Sequence[Mapping[str, np.ndarray]], path: Path) -> None:
    """Draw how many wrong bins were found up to each week, means over the seeds."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    weeks = np.arange(NUM_WEEKS + 1)
    for way, colour in COLOURS.items():
        sums = [
            np.bincount(year.week[year.week >= 0], of_seed[way][year.week >= 0], NUM_WEEKS)
            for year, of_seed in zip(years, found, strict=True)
        ]
        curves = np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)
        axes.fill_between(
            weeks, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            weeks,
            curves.mean(0),
            color=colour,
            linewidth=1.8,
            label=f"{curves.mean(0)[-1]:.0f}  {way}",
        )
    for quarter in range(1, NUM_QUARTERS):
        axes.axvline(quarter * NUM_WEEKS / NUM_QUARTERS, color="#cbd5e0", linewidth=0.8, zorder=0)
    axes.set(xlabel="week; a line where models are trained again", xlim=(0, NUM_WEEKS))
    axes.set_title(f"Wrong bins found, checking {BUDGET:.0%} a week", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=144)
    plt.close(figure)


def photos_of(folder: Path) -> dict[str, bytes]:
    """Return the photos of a dataset folder, by their bins' ids."""
    photos: dict[str, bytes] = {}
    for path in sorted((folder / "data").glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "image"])
        images = table["image"].to_pylist()
        names = table["id"].to_pylist()
        photos |= {name: image["bytes"] for name, image in zip(names, images, strict=True)}
    return photos


def main() -> None:
    """Live through what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="laid out like the bucket")
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="gets a folder for each seed"
    )
    parser.add_argument("--image_size", type=int, default=112, help="default: %(default)s pixels")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--picture", type=Path, help="default: OUTPUT_DIR/year.png")
    arguments, flags = parser.parse_known_args()
    output_dir: Path = arguments.output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    catalog_path = output_dir / "catalog.parquet"
    prep = ROOT / "data_prep"
    command = [sys.executable, str(prep / "build_catalog.py"), "--source", arguments.source]
    run([*command, "--output", str(catalog_path)], output_dir / "catalog.log")
    command = [sys.executable, str(prep / "build_dataset.py"), "--source", arguments.source]
    command += ["--catalog", str(catalog_path), "--output_dir", str(output_dir / "photos")]
    command += ["--image_size", str(arguments.image_size), "--test_fraction", "1"]
    run(command, output_dir / "photos.log")
    catalog, photos = pq.read_table(catalog_path), photos_of(output_dir / "photos")
    years, found, right = [], [], []
    with tqdm(total=NUM_WEEKS * len(arguments.seeds), unit="weeks", disable=None) as progress:
        for seed in arguments.seeds:
            year = year_of(catalog, seed)
            folder = output_dir / f"seed{seed}"
            given = (year, catalog, arguments.source, photos, folder, flags, arguments.image_size)
            of_seed, accuracies = lived_through(Warehouse(*given), progress)
            years.append(year)
            found.append(of_seed)
            right.append(accuracies)
    sizes = [np.bincount(year.week + 1, minlength=NUM_WEEKS + 1) for year in years]
    wrong = [(year.count[year.records(0)] != year.count)[year.week >= 0].sum() for year in years]
    print(
        f"{sizes[0].sum():,} photos, {np.mean([size[0] for size in sizes]):,.0f} before the year, "
        f"{np.mean([size[1:].mean() for size in sizes]):.0f} a week, of which "
        f"{np.mean(wrong) / NUM_WEEKS:.1f} have a wrong record; seeds "
        f"{', '.join(map(str, arguments.seeds))}\n"
    )
    print(table_of(years, found), end="\n\n")
    print(accuracy_table(right))
    picture = arguments.picture or output_dir / "year.png"
    draw_year(years, found, picture)
    print(f"\nPicture: {picture}")


if __name__ == "__main__":
    main()
