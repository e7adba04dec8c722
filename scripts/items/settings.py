"""What a model folder knows of items: item_heads.json, beside the heads' weights."""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from items.evidence import (
    MOST_CONTENTS,
    Powers,
    RecordedItems,
    UsualItems,
    counts_with_items,
    item_evidence,
    missing_items,
)
from items.sizes import SIZES
from items.steps import GivenNeighbour, UsualChanges, given_neighbour, mirrored, step_evidence
from one_line_parser import reason_of
from output_files import whole_file

HEADS_SETTINGS, HEADS_WEIGHTS = "item_heads.json", "item_heads.safetensors"


@dataclass(frozen=True)
class ItemSettings:
    """What item heads are, and how their answers are held against a record.

    Args:
        max_distinct: the greatest number of distinct items that is told.
        sizes: what the means and spreads are of, in their order.
        spread_factors: (len(sizes),), what the spreads were multiplied by when they were
            calibrated; None where they were not.
        temperature: what the logits of the distinct items were divided by.
        usual: what is in bins, as the training records have it; None where they tell too little.
        powers: how much each witness counts, fitted on pairs of visits of the validation split;
            None where there are none: records are not held against the answers then.
        num_pairs: how many these are.
        usual_changes: how the volume of all items changes, as the training records have it; None
            where they tell too little.
    """

    max_distinct: int
    sizes: tuple[str, ...] = SIZES
    spread_factors: tuple[float, ...] | None = None
    temperature: float = 1.0
    usual: UsualItems | None = None
    powers: Powers | None = None
    num_pairs: int = 0
    usual_changes: UsualChanges | None = None

    @property
    def num_answers(self) -> int:
        """How many numbers the heads say of a photo, of items.answers."""
        return 2 * len(self.sizes) + self.max_distinct

    @property
    def judges_records(self) -> bool:
        """Whether the items of a record can be held against the answers."""
        return self.usual is not None and self.powers is not None

    def counts_given(
        self, probabilities: np.ndarray, answers: np.ndarray, records: Sequence[RecordedItems]
    ) -> np.ndarray:
        """Return how likely each count is by photos and the items of their records.

        Where records are not held against the answers they change nothing.

        Args:
            probabilities: float (num_photos, num_counts), by the photos.
            answers: of items.answers.
            records: (num_photos,).

        Returns: float (num_photos, num_counts); rows sum to 1.
        """
        if self.usual is None or self.powers is None:
            return probabilities
        evidence = item_evidence(answers, records, self.usual)
        return counts_with_items(probabilities, evidence, self.powers)

    def given_neighbours(
        self,
        answers: np.ndarray,
        records: Sequence[RecordedItems],
        neighbours: Sequence[RecordedItems],
        told: np.ndarray | None,
    ) -> GivenNeighbour:
        """Return items.steps.given_neighbour; only where judges_records. Args: as there."""
        assert self.usual is not None
        assert self.powers is not None
        given = (answers, records, neighbours, told, self.usual, self.powers)
        return given_neighbour(*given, self.usual_changes)

    def step_evidence(
        self,
        answers: np.ndarray,
        records: Sequence[RecordedItems],
        steps: np.ndarray,
        told: np.ndarray | None,
    ) -> np.ndarray | None:
        """Return by how much likelier each two counts are at each step, as items.steps has it.

        Args:
            answers: float (num_rows, ...), of items.answers. records: (num_rows,).
            steps: int (num_steps, 2), rows, the earlier one first.
            told: float (num_steps, 2), as in given_neighbour, of the later visits.

        Returns: float (num_steps, num_counts, num_counts), logarithms; None where records are not
            held against answers.
        """
        if self.usual is None or not self.judges_records:
            return None
        before, after = ([records[row] for row in rows] for rows in steps.T.tolist())
        ahead = self.given_neighbours(answers[steps[:, 1]], after, before, told)
        other = None if told is None else mirrored(told)
        back = self.given_neighbours(answers[steps[:, 0]], before, after, other)
        num_steps = np.bincount(steps.ravel(), minlength=len(records))[steps]
        return step_evidence(ahead, back, before, after, self.usual.counts, num_steps)

    def missing(
        self, counts: np.ndarray, answers: np.ndarray, record: RecordedItems
    ) -> np.ndarray | None:
        """Return items.evidence.missing_items; None where records are not held against answers.

        Args:
            counts: float (num_counts,), by all that is known. answers: (..,), to one photo.
        """
        if self.usual is None or self.powers is None:
            return None
        return missing_items(answers, record, counts, self.usual, self.powers)


def write_settings(folder: Path, settings: ItemSettings) -> None:
    """Write item_heads.json into a model folder, whole."""
    with whole_file(folder / HEADS_SETTINGS) as temporary:
        temporary.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def read_settings(folder: Path) -> ItemSettings | None:
    """Return what write_settings wrote, None where there is nothing.

    Raises: ValueError: the file cannot be read.
    """
    path = folder / HEADS_SETTINGS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        for name in ("sizes", "spread_factors"):
            content[name] = content[name] and tuple(content[name])
        if content["usual"] is not None:
            content["usual"] = UsualItems(**{n: _tuples(v) for n, v in content["usual"].items()})
        if content["powers"] is not None:
            content["powers"] = Powers(**content["powers"])
        if (changes := content.get("usual_changes")) is not None:
            content["usual_changes"] = UsualChanges(**{n: _tuples(v) for n, v in changes.items()})
        settings = ItemSettings(**content)
        _check(settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({reason_of(error)}): copy the model folder again."
        ) from error
    return settings


def _check(settings: ItemSettings) -> None:
    """Check that what is read are numbers, as many as there should be. Raises: ValueError."""
    if settings.sizes != SIZES:
        raise ValueError(f"its heads tell other sizes than {', '.join(SIZES)}")
    if not isinstance(settings.max_distinct, int) or settings.max_distinct < 1:
        raise ValueError("max_distinct is no number of items")
    powers = () if settings.powers is None else astuple(settings.powers)
    if not (np.array(powers, dtype=np.float64) >= 0).all():
        raise ValueError("a power is below 0")
    if settings.usual is None:
        return
    num_counts = len(settings.usual.counts)
    if settings.usual_changes is not None:
        of_changes = np.array(astuple(settings.usual_changes), dtype=np.float64)
        if of_changes.shape != (2, num_counts, num_counts) or not np.isfinite(of_changes).all():
            raise ValueError("usual changes are not a number for each two counts")
        if not (of_changes[1] > 0).all():
            raise ValueError("spreads of usual changes are not all above 0")
    shapes = {
        "counts": (num_counts,),
        **dict.fromkeys(("means", "spreads"), (num_counts, 2)),
        "distinct": (num_counts, settings.max_distinct),
        **dict.fromkeys(("volumes", "weights"), (MOST_CONTENTS,)),
    }
    for name, shape in shapes.items():
        values = np.array(getattr(settings.usual, name), dtype=np.float64)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} of what is usual are not {shape} numbers")
        if name != "means" and not (values > 0).all():
            raise ValueError(f"{name} of what is usual are not all above 0")


def _tuples(values: Any) -> Any:
    return tuple(_tuples(value) for value in values) if isinstance(values, list) else values
