"""Which rows of a dataset's splits are in another split too: by value, by look, or as neighbours.

Pure: whoever reads the dataset, and from where, hands columns over.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.bin_groups import next_ids
from dataset.equal_photos import HASH_BYTES, equal_pairs


@dataclass(frozen=True)
class Leak:
    """What one check found.

    Args:
        name: of the check, as a person reads it.
        is_leak: whether what was found is one, or only bears looking at.
        rows: bool (num_rows,), those that have a twin in another split.
        num_checked: rows that could be compared.
        twins: int (num_rows,), one such twin of each of them; -1 for the others.
    """

    name: str
    is_leak: bool
    rows: np.ndarray
    num_checked: int
    twins: np.ndarray


def shared_values(name: str, splits: np.ndarray, values: pa.Array) -> Leak:
    """Return the rows whose value is in another split, too.

    Args:
        splits: int (num_rows,), the split of each row.
        values: (num_rows,), of any type that can be told apart; null is like no other.
    """
    known = np.asarray(pc.is_valid(values))
    codes = np.asarray(pc.fill_null(values.dictionary_encode().indices, -1)).astype(np.int64)
    return _spread(name, splits, np.where(known, codes, -1), is_leak=True)


def near_copies(splits: np.ndarray, hashes: list[bytes]) -> Leak:
    """Return the rows whose photo looks like one of another split.

    Args:
        hashes: (num_rows,), of equal_photos.photo_hash; no bytes for what cannot be compared.
    """
    rows = np.flatnonzero([len(content) == HASH_BYTES for content in hashes])
    content = b"".join(hashes[row] for row in rows)
    looks, which = np.unique(
        np.frombuffer(content, np.uint8).reshape(-1, HASH_BYTES), axis=0, return_inverse=True
    )
    # Of each look a row a split; and the looks that are nearly the same.
    first_rows: list[dict[int, int]] = [{} for _ in looks]
    for look, row in zip(which.ravel().tolist(), rows.tolist(), strict=True):
        first_rows[look].setdefault(int(splits[row]), row)
    alike: list[list[int]] = [[look] for look in range(len(looks))]
    for one, other in equal_pairs(looks).tolist() if len(looks) else []:
        alike[one].append(other)
        alike[other].append(one)
    twins = np.full(len(splits), -1)
    for look, row in zip(which.ravel().tolist(), rows.tolist(), strict=True):
        for near in alike[look]:
            others = [at for split, at in first_rows[near].items() if split != splits[row]]
            if others:
                twins[row] = others[0]
                break
    return Leak("near copies", True, twins >= 0, len(rows), twins)


def neighbours(name: str, splits: np.ndarray, ids: pa.Array) -> Leak:
    """Return the rows whose id has the one before or after it in another split.

    Photos that follow each other often show one thing, but need not: it is no leak by itself.

    Args:
        ids: string (num_rows,); one that is no number has no neighbour, nor has any where ids are
            there twice: they begin anew somewhere.
    """
    if len(pc.unique(ids)) < len(ids):
        ids = pa.nulls(len(ids), pa.string())
    following = next_ids(ids)
    found = pc.if_else(pc.is_valid(following), pc.index_in(following, value_set=ids), None)
    followers = np.asarray(pc.fill_null(found, -1)).astype(np.int64)
    before = np.flatnonzero(followers >= 0)
    after = followers[before]
    apart = splits[before] != splits[after]
    twins = np.full(len(splits), -1)
    twins[after[apart]] = before[apart]
    twins[before[apart]] = after[apart]
    num_numbers = len(ids) - following.null_count
    return Leak(name, False, twins >= 0, num_numbers, twins)


def _spread(name: str, splits: np.ndarray, codes: np.ndarray, is_leak: bool) -> Leak:
    """Return the rows whose code is in several splits; -1 is none."""
    twins = np.full(len(splits), -1)
    known = np.flatnonzero(codes >= 0)
    order = known[np.lexsort((splits[known], codes[known]))]
    # The first and the last row of each code differ in their split, or all are in one.
    starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
    ends = np.append(starts[1:], len(order))[: len(starts)] - 1
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        first, last = order[start], order[end]
        if splits[first] != splits[last]:
            group = order[start : end + 1]
            twins[group] = np.where(splits[group] == splits[first], last, first)
    return Leak(name, is_leak, twins >= 0, len(known), twins)
