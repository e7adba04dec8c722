"""What a model folder knows of visits: change_head.json, beside the error model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from one_line_parser import reason_of
from output_files import whole_file
from visits.chain import (
    BELIEVED,
    BELIEVED_WITHOUT_CHANGES,
    ChainWeights,
    possible_changes,
    usual_steps,
    with_unchanged_rate,
)
from visits.error_model import ErrorModel, read_error_model

HEAD_SETTINGS, HEAD_WEIGHTS = "change_head.json", "change_head.safetensors"


@dataclass(frozen=True)
class ChangeSettings:
    """What a change head is, beside its weights.

    Args:
        counts: (num_counts,), items, of the model.
        num_features: of a position in the network's last layer.
        learned_rate: share of the pairs in training that showed one photo twice.
        unchanged_rate: share of the visits in the training records that nothing had changed at
            since the visit before: what is taken where a user does not say better.
        temperature: what the head's logits were divided by when it was calibrated.
        weights: of what photos and changes say, fitted on the validation split.
        weights_without_changes: the same where no head is asked.
        num_steps: pairs of visits in the validation split that these were fitted on.
        tells_volumes: whether the head says how the volume of all items has changed, too.
    """

    counts: tuple[int, ...]
    num_features: int
    learned_rate: float
    unchanged_rate: float
    temperature: float = 1.0
    weights: ChainWeights = BELIEVED
    weights_without_changes: ChainWeights = BELIEVED_WITHOUT_CHANGES
    num_steps: int = 0
    tells_volumes: bool = False


@dataclass(frozen=True)
class VisitModel:
    """All that a model folder knows of visits.

    Args:
        error_model: how counts change, as records have shown it.
        settings: of the change head; None where there is none.
    """

    error_model: ErrorModel
    settings: ChangeSettings | None = None

    @property
    def weights(self) -> ChainWeights:
        """How much each kind of evidence counts."""
        return self.settings.weights if self.settings else BELIEVED_WITHOUT_CHANGES

    @property
    def unchanged_rate(self) -> float:
        """How often a visit finds nothing changed, where a user does not say.

        Without a change head nothing but the pairs whose records differ is known. That no other was
        seen among these is no proof that there is none: training says so in the same way.
        """
        if self.settings is not None:
            return self.settings.unchanged_rate
        return 0.5 / (self.error_model.num_pairs + 1)

    def usual(self, counts: Sequence[int], unchanged_rate: float | None = None) -> np.ndarray:
        """Return how often a bin goes from a count to another: visits.chain.usual_steps.

        Args:
            unchanged_rate: as a user gives it; default: what this model takes for it.
        """
        rate = self.unchanged_rate if unchanged_rate is None else unchanged_rate
        return usual_steps(self.error_model.record_probabilities(counts), rate)

    def changes(self, answers: np.ndarray, unchanged_rate: float | None = None) -> np.ndarray:
        """Return what the head's answers say where so many visits find nothing changed.

        Args:
            answers: float (num_steps, num_changes), the softmax of its logits; what it says of
                volumes behind them is passed over.
            unchanged_rate: as in usual.
        """
        assert self.settings is not None
        answers = answers[:, : len(possible_changes(self.settings.counts))]
        rate = self.unchanged_rate if unchanged_rate is None else unchanged_rate
        return with_unchanged_rate(answers, self.settings.counts, self.settings.learned_rate, rate)


def read_visit_model(folder: Path) -> VisitModel:
    """Return what a model folder knows of visits.

    Raises: ValueError: one of its files is damaged.
    """
    return VisitModel(read_error_model(folder) or ErrorModel(), read_settings(folder))


def write_settings(folder: Path, settings: ChangeSettings) -> None:
    """Write change_head.json into a model folder, whole."""
    with whole_file(folder / HEAD_SETTINGS) as temporary:
        temporary.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def read_settings(folder: Path) -> ChangeSettings | None:
    """Return what write_settings wrote, None where there is nothing.

    Raises: ValueError: the file cannot be read.
    """
    path = folder / HEAD_SETTINGS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        for name in ("weights", "weights_without_changes"):
            content[name] = ChainWeights(**content[name])
        return ChangeSettings(**content | {"counts": tuple(content["counts"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({reason_of(error)}): copy the model folder again."
        ) from error
