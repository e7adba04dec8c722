"""Say what more training photos are worth, from runs with fewer of them.

    python metrics/learning_curve.py runs/curve/* --output learning_curve.png

Give runs of one recipe with three or more numbers of training photos (train.py
--max_train_samples), best with several seeds each, all tested on the same photos. The table has the
means of each number's runs; below it a power law is fitted to them, and says what other numbers of
photos would give. Intervals are 95 %: of the bootstrap over bin groups, and those of the law over
runs, too. What they do not know is what other training photos would have given, and whether the law
holds that far.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compare_runs import markdown, read_json, read_predictions_file
from evaluation import Evaluation, read_evaluation
from group_bootstrap import bootstrap_means
from learning_curve_picture import CurvePanel, draw_panels
from power_law import EXPONENTS, PowerLaws, fitted_laws
from strict_parser import StrictParser

MIN_SIZES = 3  # a law has three numbers
NUM_LAWS = 1_000
FORETOLD = (20_000, 200_000)  # photos
NUM_POINTS = 100  # of a law's line in the picture
# What may differ among the runs of a curve: their names, places and photos.
OF_A_RUN = {
    *("seed", "data_seed", "output_dir", "model_dir", "run_name", "logging_dir"),
    *("dataset_dir", "dataset_fingerprint", "dataset_settings", "max_train_samples", "versions"),
    *("do_eval", "do_predict", "dataloader_num_workers", "use_cpu", "disable_tqdm"),
    "model_name_or_path",  # is in `model`
}


@dataclass(frozen=True)
class Figure:
    """What a curve shows."""

    heading: str
    digits: int
    best: float | None  # an error is what is missing to it; None: the figure is an error

    def error_of(self, value: np.ndarray) -> np.ndarray:
        """Return the figure as an error, or an error as the figure."""
        return value if self.best is None else self.best - value

    def cell(self, value: float, low: float, high: float) -> str:
        """Return a cell of the table."""
        low, high = sorted((low, high))
        return f"{value:.{self.digits}f} [{low:.{self.digits}f}, {high:.{self.digits}f}]"


FIGURES = (
    Figure("accuracy %", 1, 100.0),
    Figure("RMSE", 3, None),
    Figure("nats", 3, None),
)


@dataclass(frozen=True)
class Run:
    """A run on the test split."""

    num_photos: int  # that it was trained on
    flags: dict[str, Any]  # of its training
    evaluation: Evaluation


@dataclass(frozen=True)
class Curve:
    """The figures of FIGURES by the number of training photos.

    Args:
        num_photos, num_runs: int (num_sizes,).
        values: float (num_figures, num_sizes), means over the runs.
        drawn: float (num_figures, num_draws, num_sizes), the same of other bins.
        drawn_runs: the same, of other bins and other runs.
    """

    num_photos: np.ndarray
    num_runs: np.ndarray
    values: np.ndarray
    drawn: np.ndarray
    drawn_runs: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """Value, low and high of each figure, float (num_figures, 3, num_sizes)."""
        low, high = np.percentile(self.drawn, [2.5, 97.5], axis=1)
        return np.stack([self.values, low, high], axis=1)


def read_run(folder: Path) -> Run:
    """Return a run with its predictions.

    Raises: ValueError: a file is missing or damaged, or it was not trained here.
    """
    evaluation = read_evaluation(read_predictions_file(folder))
    details = read_json(folder / "arguments.json")
    trained = folder
    if not details.get("do_train"):  # the run only tested the model of another one
        trained = Path(details.get("model_name_or_path") or "").parent
        if not (trained / "arguments.json").is_file():
            raise ValueError(f"{folder} was not trained, and the run of its model is not at hand.")
        details = read_json(trained / "arguments.json")
    num_photos = read_json(trained / "all_results.json").get("train_samples")
    if not num_photos:
        raise ValueError(f"{trained / 'all_results.json'} does not say how many photos it took.")
    flags = {name: value for name, value in details.items() if name not in OF_A_RUN}
    model = Path(str(details.get("model")))  # one folder may have been named in several ways
    flags["model"] = str(model.resolve()) if model.exists() else str(model)
    flags["image_size"] = (details.get("dataset_settings") or {}).get("image_size")
    return Run(int(num_photos), flags, evaluation)


def curve_of(runs: Sequence[Run]) -> Curve:
    """Return the figures by the number of training photos.

    Raises: ValueError: too few numbers, or not all tested on the same photos.
    """
    first = runs[0].evaluation
    if any(not np.array_equal(run.evaluation.ids, first.ids) for run in runs):
        raise ValueError("These runs have different test splits: give runs tested on one.")
    runs_of = {
        size: [column for column, run in enumerate(runs) if run.num_photos == size]
        for size in sorted({run.num_photos for run in runs})
    }
    if len(runs_of) < MIN_SIZES:
        raise ValueError(
            f"These runs were trained on {len(runs_of)} different numbers of photos: a curve wants "
            f"{MIN_SIZES} and more, such as of --max_train_samples."
        )
    columns = [column for run in runs for column in columns_of(run.evaluation)]
    means, drawn = bootstrap_means(first.group, np.column_stack(columns).astype(float))
    # Of all: figure, draw, run; the first draw is what was measured.
    figures = np.vstack([means, drawn]).reshape(len(drawn) + 1, len(runs), -1).transpose(2, 0, 1)
    figures[1] **= 0.5
    generator = np.random.default_rng(0)
    of_sizes, of_other_runs = [], []
    for members in runs_of.values():
        of_sizes.append(figures[:, :, members].mean(axis=2))
        chosen = generator.choice(members, size=(len(drawn), len(members)))
        others = np.take_along_axis(figures[:, 1:], chosen[None], axis=2).mean(axis=2)
        # Drawn from k runs, means of k vary by (k - 1) / k of what they do.
        middle, k = of_sizes[-1][:, 1:], len(members)
        of_other_runs.append(middle + (others - middle) * np.sqrt(k / max(k - 1, 1)))
    by_size = np.stack(of_sizes, axis=2)
    return Curve(
        num_photos=np.array(list(runs_of)),
        num_runs=np.array([len(members) for members in runs_of.values()]),
        values=by_size[:, 0],
        drawn=by_size[:, 1:],
        drawn_runs=np.stack(of_other_runs, axis=2),
    )


def columns_of(evaluation: Evaluation) -> list[np.ndarray]:
    """Return of each bin what FIGURES are means of; the root of the squared error is taken last."""
    nats = evaluation.negative_log_likelihood
    return [100 * evaluation.is_right, evaluation.squared_error, nats]


def laws_of(curve: Curve) -> list[tuple[PowerLaws, PowerLaws]]:
    """Return each figure's law, and the laws of what was drawn, which say how sure it is."""
    found = []
    for index, figure in enumerate(FIGURES):
        measured = figure.error_of(curve.values[index])[None]
        drawn = figure.error_of(curve.drawn_runs[index, :NUM_LAWS])
        fit = [
            fitted_laws(curve.num_photos, errors, curve.num_runs) for errors in (measured, drawn)
        ]
        found.append((fit[0], fit[1]))
    return found


def foretold(
    figure: Figure, laws: tuple[PowerLaws, PowerLaws], num_photos: np.ndarray
) -> np.ndarray:
    """Return what a law says of these numbers of photos: value, low, high; (3, num_sizes)."""
    value = laws[0].at(num_photos)
    bounds = np.percentile(laws[1].at(num_photos), [2.5, 97.5], axis=0)
    return figure.error_of(np.concatenate([value, bounds]))


def measured_table(curve: Curve) -> str:
    """Return the means of each number of photos."""
    measured = curve.measured
    rows = [
        [f"{size:,}", str(curve.num_runs[place])]
        + [figure.cell(*measured[index, :, place]) for index, figure in enumerate(FIGURES)]
        for place, size in enumerate(curve.num_photos)
    ]
    return markdown(["training photos", "runs", *(figure.heading for figure in FIGURES)], rows)


def foretold_table(laws: Sequence[tuple[PowerLaws, PowerLaws]], num_photos: Sequence[int]) -> str:
    """Return what the laws say of other numbers of photos, and the laws."""
    sizes = np.array(num_photos)
    cells = [foretold(figure, law, sizes).T for figure, law in zip(FIGURES, laws, strict=True)]
    rows = [
        [f"{size:,}", *(f.cell(*c[place]) for f, c in zip(FIGURES, cells, strict=True))]
        for place, size in enumerate(sizes)
    ]
    rows.append(["exponent of the law", *(exponent_cell(*law) for law in laws)])
    return markdown(["foretold", *(figure.heading for figure in FIGURES)], rows)


def exponent_cell(law: PowerLaws, drawn: PowerLaws) -> str:
    """Return how fast an error falls, and between which bounds."""
    bounds = np.nanpercentile(drawn.exponent, [2.5, 97.5])
    value, low, high = (exponent_text(number) for number in (law.exponent[0], *bounds))
    return f"{value} [{low}, {high}]"


def exponent_text(exponent: float) -> str:
    """Return an exponent; at an end of what was tried it may lie beyond."""
    if np.isnan(exponent):
        return "none"
    beyond = {EXPONENTS[0]: "<= ", EXPONENTS[-1]: ">= "}
    return f"{beyond.get(exponent, '')}{exponent:.2f}"


def panels_of(
    curve: Curve, laws: Sequence[tuple[PowerLaws, PowerLaws]], num_photos: Sequence[int]
) -> list[CurvePanel]:
    """Return what the picture shows: each figure, from the smallest number to the largest."""
    ends = [*curve.num_photos, *num_photos]
    sizes = np.union1d(np.geomspace(min(ends), max(ends), NUM_POINTS), num_photos)
    return [
        CurvePanel(
            heading=figure.heading,
            num_photos=curve.num_photos,
            measured=curve.measured[index],
            sizes=sizes,
            law=foretold(figure, law, sizes),
            foretold=np.searchsorted(sizes, num_photos).tolist(),
            digits=figure.digits,
        )
        for index, (figure, law) in enumerate(zip(FIGURES, laws, strict=True))
    ]


def differing_flags(runs: Sequence[Run]) -> list[str]:
    """Return the flags in which the runs differ, though a curve should differ in photos alone.

    A flag that a run's record lacks came after it.
    """
    names = sorted({name for run in runs for name in run.flags})
    said = {
        name: {json.dumps(run.flags[name]) for run in runs if name in run.flags} for name in names
    }
    return [name for name, values in said.items() if len(values) > 1]


def main(argv: list[str] | None = None) -> None:
    """Print the curve of the runs named on the command line, and draw it if asked to."""
    parser = StrictParser(__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--num_photos",
        nargs="+",
        type=number_of_photos,
        default=FORETOLD,
        help="numbers of training photos to foretell; default: 20000 200000",
    )
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw the curve into this file")
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        runs = [read_run(folder) for folder in arguments.run_dirs]
        curve = curve_of(runs)
        laws = laws_of(curve)
        print(f"{measured_table(curve)}\n\n{foretold_table(laws, arguments.num_photos)}")
        if curve.num_runs.min() == 1:
            print("\nSingle runs: what another seed would change is in no interval.")
        if flags := differing_flags(runs):
            print(f"\nNot the photos alone: these runs differ in {', '.join(flags)}, too.")
        if arguments.output:
            draw_panels(panels_of(curve, laws, arguments.num_photos), arguments.output)
            print(f"\nPicture: {arguments.output}")


def number_of_photos(text: str) -> int:
    """Return a number of photos. Raises: ValueError: it is none, or below 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


number_of_photos.__name__ = "number of 1 or more"  # what argparse names in "invalid ... value"


if __name__ == "__main__":
    main()
