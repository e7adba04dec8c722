"""What a recipe is: a model, how it is trained, and what to expect of it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Flags of train.py that belong together, and the machine that they suit.

    `name` is the entry's and the middle of a job's name, `max_run` the seconds after which
    SageMaker stops the job, `expectation` what such a run gave, and who says so.
    """

    name: str
    hyperparameters: Mapping[str, str | float | bool]
    instance_type: str
    max_run: int
    expectation: str


# What every recipe does with its model. bf16 halves a step on the GPUs that the recipes name.
EVERY_RECIPE = {"do_train": True, "do_eval": True, "do_predict": True, "bf16": True}
