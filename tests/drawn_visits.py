"""Visits in pairs, and what photos would say of them, as well as one likes: nothing is trained."""

import numpy as np

from audit_evaluation.cases import JudgedBins
from visits.chain import ChainWeights, possible_changes, with_unchanged_rate
from visits.error_model import ErrorModel
from visits.settings import ChangeSettings, VisitModel

COUNTS = (1, 2, 3, 4, 5)
# As the bucket's records have it, by and large.
PAIRS = {
    **{(1, 2): 199, (1, 3): 55, (1, 4): 20, (1, 5): 16, (2, 3): 314},
    **{(2, 4): 66, (2, 5): 30, (3, 4): 316, (3, 5): 73, (4, 5): 228},
}
# Photos and changes are drawn independently of one another, so that all of it counts in full.
FULL = ChainWeights(1.0, 1.0, 1.0)


def drawn_visits(
    noise_of_photo: float, noise_of_head: float, num_pairs: int = 150
) -> tuple[JudgedBins, VisitModel]:
    """Return pairs of visits, and a model whose probabilities of them are right.

    Args:
        noise_of_photo: items that what a photo shows is off by, one standard deviation; and
        noise_of_head: the same of the change that two photos show.
    """
    generator = np.random.default_rng(0)
    error_model = ErrorModel(PAIRS)
    usual = error_model.record_probabilities(COUNTS)
    joint = np.sqrt(usual * usual.T).ravel()
    drawn = generator.choice(len(joint), size=num_pairs, p=joint / joint.sum())
    true = np.column_stack(np.divmod(drawn, len(COUNTS))).ravel()
    changes = np.array(possible_changes(COUNTS))
    settings = ChangeSettings(
        counts=COUNTS,
        num_features=1,
        learned_rate=0.1,
        unchanged_rate=0.0,
        weights=FULL,
        weights_without_changes=ChainWeights(1.0, 0.0, 1.0),
    )
    bins = JudgedBins(
        ids=[f"{row:05d}" for row in range(2 * num_pairs)],
        groups=[f"{row - row % 2:05d}" for row in range(2 * num_pairs)],
        true=true,
        probabilities=_seen(true, np.arange(len(COUNTS)), noise_of_photo, generator),
        counts=COUNTS,
        # As it was drawn, each visit has changed.
        changes=with_unchanged_rate(
            _seen(true[1::2] - true[::2], changes, noise_of_head, generator),
            COUNTS,
            learned_rate=1 / len(changes),
            unchanged_rate=settings.unchanged_rate,
        ),
    )
    return bins, VisitModel(error_model, settings)


def _seen(
    true: np.ndarray, possible: np.ndarray, noise: float, generator: np.random.Generator
) -> np.ndarray:
    """Return how likely each possible value is, seen with noise and nothing known before."""
    shown = true + noise * generator.normal(size=len(true))
    logarithms = -0.5 * np.square((shown[:, None] - possible) / noise)
    weights = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
