"""What a search tries: the ranges of three hyperparameters, and what it calls a good trial."""

import math
from dataclasses import dataclass

from jobs.metric_definitions import REGEXES
from jobs.training_job import Hyperparameters

# train.py's flags that a search chooses.
LEARNING_RATE = "learning_rate"
BATCH_SIZE = "per_device_train_batch_size"
EPOCHS = "num_train_epochs"

# On the validation split alone: a search that reads test_* would fit the test split.
OBJECTIVES = tuple(name for name in REGEXES if name.startswith("eval_"))


@dataclass(frozen=True)
class SearchSpace:
    """Ranges, each with its ends.

    Args:
        learning_rates: lowest and highest, searched on a log scale.
        batch_sizes: photos a device and step.
        epochs: fewest and most.

    Raises: ValueError: a range that holds nothing to choose from.
    """

    learning_rates: tuple[float, float]
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, int]

    def __post_init__(self) -> None:
        low, high = self.learning_rates
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"--learning_rate_range {low:g} {high:g}: give a lowest rate above 0 and a higher "
                "one."
            )
        fewest, most = self.epochs
        if not 1 <= fewest < most:
            raise ValueError(
                f"--epochs_range {fewest} {most}: give a lowest number above 0 and a higher one."
            )
        if min(self.batch_sizes) < 1 or len({*self.batch_sizes}) < len(self.batch_sizes):
            raise ValueError(
                f"--batch_sizes {' '.join(map(str, self.batch_sizes))}: give different numbers "
                "above 0."
            )

    def one_point(self) -> Hyperparameters:
        """Return a point of the space, for train.py to check the flags with."""
        return {
            LEARNING_RATE: self.learning_rates[0],
            BATCH_SIZE: self.batch_sizes[0],
            EPOCHS: self.epochs[0],
        }


# By recipe.
SPACES = {
    "vit": SearchSpace((1e-4, 1e-3), (32, 64, 128), (2, 6)),
    # What was searched for ResNets on these photos before.
    "resnet34": SearchSpace((1e-3, 1e-1), (32, 64, 128, 256), (10, 30)),
}
