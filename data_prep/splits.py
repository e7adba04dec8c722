"""Divide bins into train, validation and test without leaks: whole bin groups on one side."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

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
    counts_by_group: Mapping[str, Sequence[int]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split of each group.

    The groups are taken in an order that a hash of seed and name decides, larger ones first, and
    each goes where its counts are most wanting, so that every count has nearly the same share in
    every split. A plain draw would not do: with 545 bins a share of 26 % scatters by 2 points.

    Args:
        counts_by_group: group -> the count of each of its bins, items.
        fractions: split -> its share of the bins, above 0; the shares sum to 1.
    """
    totals = Counter(count for counts in counts_by_group.values() for count in counts)
    wanted = {
        (split, count): fraction * total
        for split, fraction in fractions.items()
        for count, total in totals.items()
    }
    held: Counter[tuple[str, int]] = Counter()

    def excess_after(split: str, group_counts: Mapping[int, int]) -> float:
        """How much the squared distance from the wanted numbers grows, relative to their size."""
        return sum(
            number
            * (2 * (held[split, count] - wanted[split, count]) + number)
            / wanted[split, count]
            for count, number in group_counts.items()
        )

    assigned = {}
    for group in sorted(
        counts_by_group, key=lambda name: (-len(counts_by_group[name]), hash_order(seed, name))
    ):
        group_counts = Counter(counts_by_group[group])
        split = min(fractions, key=lambda name: excess_after(name, group_counts))
        for count, number in group_counts.items():
            held[split, count] += number
        assigned[group] = split
    return assigned
