"""Follow bins from visit to visit: which photos show a bin one after the other, what changed.

A visit is a photo with the record of that moment. The visits of a bin are the rows of one bin group
in the order of their ids, which is that of their numbers: 99999 comes before 100000. Two visits are
neighbours where they follow each other in this order among the rows that are kept in one split: a
photo between them that is not there, since it could not be used or its count is out of range, does
not part them. The change is the count of the later visit less that of the earlier one; each pair of
neighbours has one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.bin_groups import order_of_ids


@dataclass(frozen=True)
class Visits:
    """How often bins were visited, and what changed between neighbouring visits."""

    bins: Mapping[int, int]  # number of visits -> bins that have so many
    changes: Mapping[int, int]  # change, items -> pairs

    @property
    def num_bins_again(self) -> int:
        """Return how many bins were visited twice and more."""
        return sum(number for visits, number in self.bins.items() if visits > 1)

    @property
    def num_pairs(self) -> int:
        return sum(self.changes.values())


def count_visits(bins: pa.Table) -> Visits:
    """Count the visits among the rows that are kept in one split.

    Args:
        bins: columns id, count (items, no null) and bin_group, in any order; a row without a group
            is the one visit of a bin of its own.
    """
    units = pc.coalesce(bins["bin_group"], bins["id"])
    numbers = pc.value_counts(units).field("counts").to_pylist()
    counts = bins["count"].to_numpy()
    earlier, later = neighbouring_visits(bins["id"], units).T
    return Visits(Counter(numbers), Counter((counts[later] - counts[earlier]).tolist()))


def neighbouring_visits(ids: pa.ChunkedArray, groups: pa.ChunkedArray) -> np.ndarray:
    """Return the pairs of visits that follow each other, as this module's head defines them.

    Args:
        ids: string (num_bins,), of one split, each once.
        groups: string (num_bins,), no null.

    Returns: int (num_pairs, 2), rows, the earlier visit first.
    """
    codes = groups.combine_chunks().dictionary_encode().indices.to_numpy()
    order = order_of_ids(ids)
    order = order[np.argsort(codes[order], kind="stable")]
    is_pair = codes[order[1:]] == codes[order[:-1]]
    return np.stack([order[:-1][is_pair], order[1:][is_pair]], axis=1).astype(np.int64)
