"""Many answered photos -> the values of each statistic, and what had to be left out."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from monitoring.answers import Answer
from monitoring.photo_statistics import STATISTICS, photo_statistics

COUNT, CONFIDENCE = "count", "confidence"


@dataclass(frozen=True)
class Sample:
    """What was seen.

    Args:
        counts: int (num_counts,), the counts that the model knows, items.
        values: of each statistic, float (num_photos,); fewer where a photo does not tell it.
        versions: the models that answered.
        left_out: how many photos, by the reason.
    """

    counts: tuple[int, ...]
    values: dict[str, np.ndarray]
    versions: frozenset[str]
    left_out: Counter[str]


def sample_of(answers: Iterable[Answer | None], image_size: int | None) -> Sample:
    """Return the statistics of answers and of their photos, each photo once.

    Args:
        answers: None: a photo without an answer.
        image_size: edge that photos are brought to, pixels; None: they are not looked at.

    Raises: ValueError: the answers are of different counts.
    """
    known = set[str]()
    versions = set[str]()
    counts: tuple[int, ...] = ()
    of_answers: list[tuple[float, float]] = []
    of_photos: list[np.ndarray] = []
    left_out = Counter[str]()
    for answer in answers:
        if answer is None:
            left_out["without an answer"] += 1
            continue
        name = answer.name if answer.photo is None else hashlib.sha256(answer.photo).hexdigest()
        if name and name in known:
            left_out["asked about before"] += 1
            continue
        known.add(name)
        versions.add(answer.version)
        if counts not in ((), tuple(answer.probabilities)):
            raise ValueError("the answers are of different counts, and so of different models.")
        counts = tuple(answer.probabilities)
        if answer.is_alone:
            of_answers.append((answer.count, max(answer.probabilities.values())))
        else:
            left_out["counted with a visit before: only the photo is compared"] += 1
        if image_size is None:
            continue
        if answer.photo is None:
            left_out["not at hand: only the answer is compared"] += 1
            continue
        try:
            of_photos.append(photo_statistics(answer.photo, image_size))
        except OSError:
            left_out["not to be read: only the answer is compared"] += 1
    values = {
        **columns((COUNT, CONFIDENCE), of_answers),
        **(columns(STATISTICS, of_photos) if image_size else {}),
    }
    return Sample(counts, values, frozenset(versions), left_out)


def columns(names: tuple[str, ...], rows: list) -> dict[str, np.ndarray]:
    """Return rows of numbers by column."""
    table = np.array(rows, dtype=float).reshape(-1, len(names))
    return dict(zip(names, table.T, strict=True))
