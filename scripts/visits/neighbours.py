"""Which rows show one bin, one visit after the other."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def visit_steps(ids: Sequence[str], groups: Sequence[str | None]) -> np.ndarray:
    """Return each two visits of a bin that follow each other.

    The visits of a bin are the rows of its group in the order of their ids' numbers; ids that are
    none come last. What was left out between two of them, such as a visit to the empty bin, makes
    their step no less one. data_prep counts visits by the same rule
    (tests/contracts/test_visits.py).

    Args:
        ids: (num_rows,), the bucket's.
        groups: (num_rows,), the bin group; None where it is not known: such a row has no neighbour.

    Returns: int (num_steps, 2), rows, the earlier one first; steps in the order of the groups.
    """
    rows = [row for row, group in enumerate(groups) if group is not None]
    rows.sort(key=lambda row: (groups[row], *_place(ids[row])))
    ordered = np.array(rows, dtype=np.int64)
    in_order = [groups[row] for row in rows]
    follows = [before == after for before, after in pairwise(in_order)]
    is_step = np.array(follows, dtype=bool)
    return np.column_stack([ordered[:-1][is_step], ordered[1:][is_step]]).reshape(-1, 2)


def visit_runs(ids: Sequence[str], groups: Sequence[str | None]) -> list[list[int]]:
    """Return the rows of each bin, its visits in their order; a row without a group is a bin.

    Args: as in visit_steps.
    """
    following = dict(visit_steps(ids, groups).tolist())
    runs = []
    for row in sorted(set(range(len(ids))) - set(following.values())):
        run = [row]
        while run[-1] in following:
            run.append(following[run[-1]])
        runs.append(run)
    return runs


def _place(bin_id: str) -> tuple[float, str]:
    is_number = bin_id.isascii() and bin_id.isdecimal()
    return (int(bin_id) if is_number else math.inf), bin_id
