"""How SageMaker, and a search on this machine, read metrics from the lines that train.py prints.

Two forms carry each metric: train.py's own line (`metrics split=validation step=60 epoch=1
loss=1.3971 accuracy=0.371`) and Trainer's dictionary, whose values 5.x quotes and 4.x did not
(`{'eval_loss': '1.397'}`).
"""

import re

NUMBER = r"(-?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?|nan|inf))"
# AWS takes forty: the RMSE of each count, and most rivals of the changes, are in the log alone.
EVALUATED = (
    *("loss", "accuracy", "within_one_accuracy", "mae", "mae_mode", "rmse", "rmse_mode"),
    *("quadratic_weighted_kappa", "change_loss"),
    *(f"accuracy_{count}" for count in range(1, 6)),
)
# Of the test split alone.
CHANGES_AND_VISITS = (
    *("change_direction", "change_direction_by_single_counts", "change_count_accuracy"),
    *("change_count_rmse", "change_count_loss", "change_calibration_error"),
    *("visits_accuracy", "visits_rmse", "visits_loss"),
)
SPLITS = {"eval": "validation", "test": "test"}


def _regex(split: str, name: str, key: str) -> str:
    """Return the expression, with one group, for a metric in both forms."""
    return rf"(?:metrics split={split} .* {name}=|'{key}': '?){NUMBER}"


REGEXES = {
    "train_loss": _regex("train", "loss", "loss"),
    "learning_rate": _regex("train", "learning_rate", "learning_rate"),
    "train_samples_per_second": _regex("train", "samples_per_second", "train_samples_per_second"),
    **{
        f"{prefix}_{name}": _regex(split, name, f"{prefix}_{name}")
        for prefix, split in SPLITS.items()
        for name in EVALUATED
    },
    **{f"test_{name}": _regex("test", name, f"test_{name}") for name in CHANGES_AND_VISITS},
}


def metric_definitions() -> list[dict[str, str]]:
    """Return what an estimator takes; AWS allows forty."""
    return [{"Name": name, "Regex": regex} for name, regex in REGEXES.items()]


def metric_values(name: str, log: str) -> list[float]:
    """Return every value of a metric in a log, in order.

    Args:
        name: one of REGEXES.
    """
    pattern = re.compile(REGEXES[name])
    matches = (pattern.search(line) for line in log.splitlines())
    return [float(match[1]) for match in matches if match]


def is_better_when_larger(name: str) -> bool:
    """Say whether a metric should grow: what is right or agrees should, no error or loss."""
    return any(word in name for word in ("accuracy", "kappa", "direction"))
