"""The curves in csv files of parse_logs.py: which figure of which run and split, against what."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

COLUMN_TYPES = {
    **dict.fromkeys(("job", "split", "name"), pa.string()),
    **dict.fromkeys(("step", "epoch", "value"), pa.float64()),
}


@dataclass(frozen=True)
class Series:
    """One figure of one run on one split, in the order of the log; all arrays are (num_points,)."""

    job: str
    split: str
    name: str
    step: np.ndarray  # nan where the log does not say
    epoch: np.ndarray  # nan where the log does not say
    value: np.ndarray

    @property
    def is_placed(self) -> bool:
        """Say whether the log tells step or epoch of any point."""
        return bool(np.isfinite(self.step).any() or np.isfinite(self.epoch).any())

    def curve(self, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y, both (num_curve_points,), in the order of x.

        Where a place comes twice its first value counts: the second is of a run that went on from
        an earlier checkpoint, or of the best checkpoint, which is evaluated once more at the end.

        Args:
            axis: step, epoch, or share: of the run, if its points lie evenly.
        """
        if axis == "share":
            return np.arange(1, len(self.value) + 1) / len(self.value), self.value
        place = {"step": self.step, "epoch": self.epoch}[axis]
        is_known = np.isfinite(place)
        x, first = np.unique(place[is_known], return_index=True)
        return x, self.value[is_known][first]


def _read_table(path: Path) -> pa.Table:
    """Return the rows of one csv, all of them.

    Raises: ValueError: it is not what parse_logs.py writes. OSError: it cannot be read.
    """
    try:
        # Only an empty cell may stand for no number.
        table = arrow_csv.read_csv(
            path,
            convert_options=arrow_csv.ConvertOptions(column_types=COLUMN_TYPES, null_values=[""]),
        )
        twice = {name for name in table.column_names if table.column_names.count(name) > 1}
        if twice or (twice := COLUMN_TYPES.keys() - set(table.column_names)):
            raise ValueError(f"column {', '.join(sorted(twice))} is not there once")
        if table["value"].null_count:
            row = table["value"].is_null().to_pylist().index(True)
            raise ValueError(f"row {row + 1} has no value")
        if quoted := [job for job in pc.unique(table["job"]).to_pylist() if "\n" in job]:
            raise ValueError(f"an open quote makes one row of two: {quoted[0]!r}")
    except ValueError as error:  # pyarrow's own are ValueErrors
        raise ValueError(
            f"{path} is no csv of metrics/parse_logs.py, run it on the log first: {error}"
        ) from error
    return table


def read_series(paths: Sequence[Path], names: Collection[str]) -> list[Series]:
    """Return the series of some figures, runs in the order in which the files name them.

    Raises: ValueError: a file is no csv of parse_logs.py, or two files hold one job. OSError: it
        cannot be read.
    """
    file_of: dict[str, Path] = {}
    points: defaultdict[tuple[str, str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for path in paths:
        table = _read_table(path)
        for job in pc.unique(table["job"]).to_pylist():
            # Two runs under one name would be drawn as one curve.
            if file_of.setdefault(job, path) != path:
                raise ValueError(
                    f"{path} and {file_of[job]} both hold a job {job}: give one of them another "
                    "name, parse_logs.py --job."
                )
        table = table.filter(pc.is_in(table["name"], pa.array(names)))
        # An empty cell is nan, and so is a figure that was printed as nan.
        columns = [
            pc.fill_null(table[name], float("nan")).to_pylist()
            if COLUMN_TYPES[name] == pa.float64()
            else table[name].to_pylist()
            for name in COLUMN_TYPES
        ]
        for job, split, name, step, epoch, value in zip(*columns, strict=True):
            points[job, split, name].append((step, epoch, value))
    return [Series(*key, *np.array(rows).T) for key, rows in points.items()]
