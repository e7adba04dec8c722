"""Divide bins into train, validation and test without leaks: whole bin groups on one side."""

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from command_line import InputError

SPLITS = ("train", "validation", "test")


def hash_order(seed: int, name: str) -> bytes:
    """Return a key that puts names in an order that is random, and the same on every machine."""
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def split_fractions(validation_fraction: float | None, test_fraction: float) -> dict[str, float]:
    """Return the share of each split; those of share 0 are left out.

    Args:
        validation_fraction: None takes 0.1, or as much of it as the test split leaves.

    Raises: InputError: the two exceed 1.
    """
    if validation_fraction is None:
        validation_fraction = min(0.1, 1 - test_fraction)
    if validation_fraction + test_fraction > 1:
        raise InputError(
            f"--validation_fraction {validation_fraction} and --test_fraction {test_fraction} "
            "exceed 1 together: lower one of them."
        )
    shares = (1 - validation_fraction - test_fraction, validation_fraction, test_fraction)
    # A rest such as 1 - 0.3 - 0.7 = 5e-17 is no split.
    return {split: share for split, share in zip(SPLITS, shares, strict=True) if share > 1e-9}


def assign_splits(
    groups: pa.Array | pa.ChunkedArray,
    counts: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
) -> np.ndarray:
    """Return the split of each bin, whole groups in one split.

    The groups are taken in an order that a hash of seed and name decides, larger ones first, and
    each goes where its counts are most wanting, so that every count has nearly the same share in
    every split. A plain draw would not do: with 545 bins a share of 26 % scatters by 2 points.
    The order of the bins is of no matter.

    Args:
        groups: string (num_bins,): what is kept together; no null.
        counts: int (num_bins,), items.
        fractions: split -> its share of the bins, above 0; the shares sum to 1.

    Returns: int8 (num_bins,): which of the splits, in the order of `fractions`.
    """
    encoded = pc.dictionary_encode(pa.chunked_array(groups).combine_chunks())
    codes = encoded.indices.to_numpy().astype(np.int64)
    order = _order_of_groups(encoded.dictionary.to_pylist(), np.bincount(codes), seed)
    values, count_codes, totals = np.unique(counts, return_inverse=True, return_counts=True)
    # What a group holds: the entries first[group] to first[group + 1] of these two lists.
    pairs, pair_sizes = np.unique(codes * len(values) + count_codes, return_counts=True)
    first = np.searchsorted(pairs, np.arange(len(order) + 1) * len(values)).tolist()
    held_counts, numbers = (pairs % len(values)).tolist(), pair_sizes.tolist()

    wanted = [[share * total for total in totals.tolist()] for share in fractions.values()]
    held = [[0] * len(values) for _ in fractions]
    assigned = np.empty(len(order), dtype=np.int8)
    for group in order.tolist():
        entries = range(first[group], first[group + 1])
        best, least = 0, math.inf
        for split in range(len(wanted)):
            # How much the squared distance from the wanted numbers grows, relative to their size.
            excess = 0.0
            for entry in entries:
                count, number = held_counts[entry], numbers[entry]
                aim = wanted[split][count]
                excess += number * (2 * (held[split][count] - aim) + number) / aim
            if excess < least:
                best, least = split, excess
        for entry in entries:
            held[best][held_counts[entry]] += numbers[entry]
        assigned[group] = best
    return assigned[codes]


def num_leaked(
    groups: pa.Array | pa.ChunkedArray, is_train: np.ndarray, is_test: np.ndarray
) -> int:
    """Return how many test bins have a photo of the same bin, with another count, in training."""
    in_train = pc.is_in(groups, value_set=pc.unique(groups.filter(pa.array(is_train))))
    return int(np.count_nonzero(in_train.to_numpy(zero_copy_only=False) & is_test))


def _order_of_groups(names: list[str], sizes: np.ndarray, seed: int) -> np.ndarray:
    digests = np.frombuffer(b"".join(hash_order(seed, name) for name in names), dtype=">u8")
    high, low = digests.reshape(-1, 2).T
    return np.lexsort((low, high, -sizes))
