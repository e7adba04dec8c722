"""Draw what a model sees in two photos of one bin: what has changed, and so what the bin holds now.

    python metrics/explain_changes.py runs/demo --dataset data/demo

Writes RUN/explained_change.png, or --output: the photo before, what both photos say of the change,
the photo after, and what it holds: counted alone, and from the count before and the change. Of the
pairs whose change is told right it takes the one where that adds most: where the count after has
the most probability beyond what its photo alone gives it. So it shows the idea, not how well it
works: metrics/report.py and compare_runs.py tell that. Of real bins the photos are Amazon's
(CC BY-NC-SA 3.0 US).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from PIL import Image

from compare_runs import read_predictions_file
from dataset_rows import rows_of_split
from evaluation import Evaluation, read_evaluation
from strict_parser import StrictParser
from visit_figures import CHANGES, Changes, read_changes
from whole_outputs import whole_file

WIDTH, HEIGHT = 11.0, 3.1  # inches
DOTS_PER_INCH = 144
TOLD, ALONE = "#2b6cb0", "#a0aec0"  # dark and light: told apart in grey, too


@dataclass(frozen=True)
class Example:
    """Two visits of a bin, and what is said of them.

    Args:
        ids: of both visits, the earlier one first.
        counts: of both visits, items, as recorded.
        possible_counts, possible_changes: items, what the distributions are over.
        change: of the change, from both photos.
        alone: of the count after, from its own photo.
        from_before: of the count after, from the count before and the change.
    """

    ids: tuple[str, str]
    counts: tuple[int, int]
    possible_counts: np.ndarray
    possible_changes: np.ndarray
    change: np.ndarray
    alone: np.ndarray
    from_before: np.ndarray


def main(argv: list[str] | None = None) -> None:
    """Draw the picture of the run named on the command line."""
    parser = StrictParser(__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="the dataset that the run was tested on",
    )
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="default: RUN/explained_change.png"
    )
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        path = arguments.output or arguments.run_dir / "explained_change.png"
        example = read_example(arguments.run_dir)
        rows = rows_of_split(arguments.dataset, example.ids, ["image"])
        photos = [image["bytes"] for image in rows["image"].to_pylist()]
        draw_example(example, photos[0], photos[1], path)
        print(f"Picture: {path}, of the visits {example.ids[0]} and {example.ids[1]}")


def read_example(run_dir: Path) -> Example:
    """Return the visits of a run's test split that most_telling chooses.

    Raises: ValueError: the run tells no change right, or a file is missing or damaged.
    """
    changes = read_changes(run_dir)
    if changes is None:
        raise ValueError(
            f"{run_dir / CHANGES} is missing: run scripts/train.py with --do_predict, on a dataset "
            "with visits, and without --learn_changes false."
        )
    return most_telling(changes, read_evaluation(read_predictions_file(run_dir)))


def most_telling(changes: Changes, evaluation: Evaluation) -> Example:
    """Return the visits where the change adds most to the photo after, of those told right.

    Raises: ValueError: no change is told right, or the two are not of one run.
    """
    row_of = {bin_id: row for row, bin_id in enumerate(evaluation.ids)}
    counts, possible = evaluation.counts, changes.changes
    if not np.array_equal(possible, np.unique(np.subtract.outer(counts, counts))) or not (
        row_of.keys() >= set(changes.ids.ravel())
    ):
        raise ValueError(f"{CHANGES} and the run's predictions are not of one run: predict again.")
    rows = np.array([row_of[bin_id] for bin_id in changes.ids[:, 1]])
    alone = evaluation.probabilities[rows]
    from_before = np.array(
        [
            count_after(before, change, counts, possible)
            for before, change in zip(changes.counts[:, 0], changes.probabilities, strict=True)
        ]
    )
    true = changes.true_column
    is_right = (changes.probabilities.argmax(axis=1) == true) & (possible[true] != 0)
    if not is_right.any():
        raise ValueError("this run tells no change right: train for longer.")
    pairs, after = np.arange(len(rows)), np.searchsorted(counts, changes.counts[:, 1])
    added = from_before[pairs, after] - alone[pairs, after]
    pair = int(np.where(is_right, added, -np.inf).argmax())
    return Example(
        ids=(str(changes.ids[pair, 0]), str(changes.ids[pair, 1])),
        counts=(int(changes.counts[pair, 0]), int(changes.counts[pair, 1])),
        possible_counts=counts,
        possible_changes=possible,
        change=changes.probabilities[pair],
        alone=alone[pair],
        from_before=from_before[pair],
    )


def count_after(
    before: int, change: np.ndarray, counts: np.ndarray, changes: np.ndarray
) -> np.ndarray:
    """Return what a bin holds that held so many items before a change, float (num_counts,).

    Args:
        change: float (num_changes,), sums to 1.
        counts, changes: int, items, increasing.
    """
    reachable = change[np.searchsorted(changes, counts - before)]
    return reachable / reachable.sum()


def draw_example(example: Example, photo_before: bytes, photo_after: bytes, path: Path) -> None:
    """Draw two photos, what they say of the change, and the count after it.

    Args:
        photo_before, photo_after: JPEG or PNG.
    """
    before, after = example.counts
    figure, panels = plt.subplots(
        1,
        4,
        figsize=(WIDTH, HEIGHT),
        layout="constrained",
        width_ratios=[1, 1.25, 1, 1.25],
    )
    draw_photo(panels[0], photo_before, f"Before: {items(before)}, as is known")
    draw_photo(panels[2], photo_after, "After")
    change = f"{after - before:+d}"
    draw_bars(
        panels[1],
        [f"{c:+d}" if c else "0" for c in example.possible_changes],
        {"": (example.change, TOLD)},
        change,
    )
    panels[1].set_title("What both photos say of the change", fontsize=10)
    panels[1].set_xlabel(f"items more or fewer ({change} in the records)")
    draw_bars(
        panels[3],
        [str(count) for count in example.possible_counts],
        {
            "this photo alone": (example.alone, ALONE),
            f"{before} before, and the change": (example.from_before, TOLD),
        },
        str(after),
    )
    panels[3].set_title("What the bin holds now", fontsize=10)
    panels[3].set_xlabel(f"items ({after} in the records)")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
    plt.close(figure)


def items(count: int) -> str:
    """Return a number of items in words."""
    return "1 item" if count == 1 else f"{count} items"


def draw_photo(axes: Axes, content: bytes, title: str) -> None:
    """Draw a photo without a frame."""
    with Image.open(io.BytesIO(content)) as photo:
        axes.imshow(np.asarray(photo.convert("RGB")), interpolation="bicubic")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def draw_bars(
    axes: Axes, names: list[str], of: dict[str, tuple[np.ndarray, str]], recorded: str
) -> None:
    """Draw distributions beside one another.

    Args:
        names: what each bar stands for.
        of: for each distribution its label, and its probabilities (num_names,) and colour.
        recorded: the name that the records say, which is printed in bold.
    """
    width = 0.8 / len(of)
    for number, (label, (probabilities, color)) in enumerate(of.items()):
        places = np.arange(len(names)) + (number - (len(of) - 1) / 2) * width
        axes.bar(places, probabilities, width, color=color, label=label or None)
    axes.set_xticks(range(len(names)), names)
    for tick in axes.get_xticklabels():
        tick.set_fontweight("bold" if tick.get_text() == recorded else "normal")
    axes.set_ylim(0, 1.3)  # room for the legend, and one scale in both
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines[["top", "right"]].set_visible(False)
    if len(of) > 1:
        axes.legend(loc="upper right", frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
