"""How far off a wrong record is, learned from bins that were photographed before and after a pick.

Two visits that follow each other show one bin in two states. An inventory that missed the
pick between them holds the count of the other state: such pairs say how often a record is off by
one, two or more. train.py writes error_model.json into the model folder, audit.py
--fit_error_model into one that lacks it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from one_line_parser import reason_of
from output_files import whole_file
from visits.neighbours import visit_steps

ERROR_MODEL = "error_model.json"
# What is believed before any pair was seen, with the weight of this many pairs for each count: an
# error of one more item is half as frequent. It also keeps errors possible that no pair showed.
PRIOR_PAIRS = 10.0


@dataclass(frozen=True)
class ErrorModel:
    """The pairs that were seen: (smaller count, larger count) -> how many. Empty: the prior alone.

    A pair counts for both directions, since a record may be late (it misses a pick or a stow) and
    either is as likely.
    """

    pairs: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @property
    def num_pairs(self) -> int:
        return sum(self.pairs.values())

    def record_probabilities(self, counts: Sequence[int]) -> np.ndarray:
        """Return how likely a wrong record says each count, given what the bin holds.

        Records outside `counts` are left to a person before this is asked.

        Args:
            counts: (num_counts,), items.

        Returns: float (num_counts, num_counts): row true count, column recorded count. The diagonal
            is 0, rows sum to 1; with a single count there is no wrong record, and all is 0.
        """
        true, recorded = np.meshgrid(counts, counts, indexing="ij")
        distance = np.abs(true - recorded).astype(float)
        prior = rows_to_one(np.where(distance > 0, 0.5**distance, 0.0))
        seen = [
            [self.pairs.get((min(a, b), max(a, b)), 0) if a != b else 0 for b in counts]
            for a in counts
        ]
        return rows_to_one(PRIOR_PAIRS * prior + np.array(seen))


def rows_to_one(weights: np.ndarray) -> np.ndarray:
    """Return weights, (rows, columns), as distributions; a row of zeros stays one."""
    sums = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)


def fit_error_model(
    ids: Sequence[str], groups: Sequence[str | None], counts: Sequence[int]
) -> ErrorModel:
    """Return the error model of the pairs among some bins; of none, the prior.

    Args:
        ids, groups: as in neighbours.visit_steps.
        counts: (num_bins,), items.
    """
    states = np.sort(np.asarray(counts)[visit_steps(ids, groups)], axis=1)
    seen = Counter((int(low), int(high)) for low, high in states if low != high)
    return ErrorModel(dict(sorted(seen.items())))


def write_error_model(model_dir: Path, error_model: ErrorModel) -> None:
    """Write the pairs into a model folder as JSON: [[smaller count, larger count, pairs], ...]."""
    content = {"pairs": [[low, high, number] for (low, high), number in error_model.pairs.items()]}
    with whole_file(model_dir / ERROR_MODEL) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def read_error_model(model_dir: Path) -> ErrorModel | None:
    """Return a model folder's error model, None where it has none.

    Raises: ValueError: the file is not one.
    """
    path = model_dir / ERROR_MODEL
    if not path.exists():
        return None
    try:
        pairs = {(low, high): number for low, high, number in json.loads(path.read_text())["pairs"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, reason_of(error)) from error
    whole = all(isinstance(value, int) for key, number in pairs.items() for value in (*key, number))
    if not whole or any(not 0 <= key[0] < key[1] or number < 0 for key, number in pairs.items()):
        raise _damaged(path, "these are no pairs of counts with their numbers")
    return ErrorModel(pairs)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged ({reason}): python scripts/audit.py --fit_error_model DATASET --model "
        "MODEL writes it anew."
    )
