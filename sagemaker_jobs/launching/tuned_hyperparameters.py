"""What a tuning job on AWS has found: its trials, and what its best one was trained with."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from jobs.metric_definitions import is_better_when_larger
from jobs.search_space import BATCH_SIZE, EPOCHS, LEARNING_RATE
from jobs.training_job import Hyperparameters
from launching.recipe import Recipe
from launching.train_flags import merged

TUNED = (LEARNING_RATE, BATCH_SIZE, EPOCHS)
# What tune.py sets for a trial alone: that it leaves the test split alone.
OF_A_TRIAL = ("do_predict",)
# What the SDK and AWS add, for the container.
OF_AWS = ("sagemaker_", "_tuning_objective_metric")
MODEL = ("model_name_or_path", "config_name")


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    `status` is AWS's word: Completed, Stopped (early, as no better than the others), Failed,
    InProgress. `objective` is None where the trial told none; `reason` says why it failed.
    """

    name: str
    status: str
    objective: float | None
    learning_rate: float
    batch_size: int
    epochs: int
    reason: str = ""


def has_figure(trial: Trial) -> bool:
    """Say whether a trial has told the objective, and a number."""
    return trial.objective is not None and math.isfinite(trial.objective)


def best_trial(trials: Sequence[Trial], objective: str) -> Trial | None:
    """Return the best of the trials that were completed, the first of several; None without any."""
    completed = [trial for trial in trials if trial.status == "Completed" and has_figure(trial)]
    choose = max if is_better_when_larger(objective) else min
    return choose(completed, key=lambda trial: trial.objective or 0.0, default=None)


def tuned_values(trial: Trial) -> dict[str, float | int]:
    """Return what the search chose for a trial, by train.py's flags."""
    return dict(zip(TUNED, (trial.learning_rate, trial.batch_size, trial.epochs), strict=True))


def describe_tuning_job(sagemaker: Any, name: str) -> dict[str, Any]:
    """Return what AWS says of a tuning job.

    Args:
        sagemaker: a boto3 client.

    Raises: ValueError: there is no such job.
    """
    try:
        return sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
            raise
        raise ValueError(
            f"{name}: there is no such tuning job in {sagemaker.meta.region_name}; "
            "`aws sagemaker list-hyper-parameter-tuning-jobs` names those that there are."
        ) from error


def objective_of(description: Mapping[str, Any]) -> str:
    """Return the metric that a tuning job made better."""
    config = description["HyperParameterTuningJobConfig"]
    return config["HyperParameterTuningJobObjective"]["MetricName"]


def trials_of(sagemaker: Any, name: str) -> list[Trial]:
    """Return the trials of a tuning job, in the order in which they began.

    Raises: ValueError: it did not search what tune.py searches.
    """
    request = {"HyperParameterTuningJobName": name, "SortBy": "CreationTime"}
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        **request, SortOrder="Ascending"
    )
    try:
        return [_trial(summary) for page in pages for summary in page["TrainingJobSummaries"]]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{name} is no search of tune.py, or of another version: look at it in AWS's console."
        ) from error


def _trial(summary: Mapping[str, Any]) -> Trial:
    tuned = decoded(summary["TunedHyperParameters"])
    told = summary.get("FinalHyperParameterTuningJobObjectiveMetric")
    return Trial(
        name=summary["TrainingJobName"],
        status=summary["TrainingJobStatus"],
        objective=float(told["Value"]) if told else None,
        learning_rate=float(tuned[LEARNING_RATE]),
        batch_size=int(tuned[BATCH_SIZE]),
        epochs=int(tuned[EPOCHS]),
        reason=summary.get("FailureReason", ""),
    )


def decoded(hyperparameters: Mapping[str, str]) -> Hyperparameters:
    """Return hyperparameters without the JSON that they travel in, and without AWS's own."""
    return {
        name: json.loads(value)
        for name, value in hyperparameters.items()
        if not name.startswith(OF_AWS)
    }


def tuned_hyperparameters(
    name: str, recipe: Recipe, given: Hyperparameters, sagemaker: Any
) -> Hyperparameters:
    """Return what the best trial of a tuning job was trained with, for a recipe to train again.

    Args:
        given: the command line's own.
        sagemaker: a boto3 client.

    Raises: ValueError: no such job, no trial is completed, or the search was for another model.
    """
    described = describe_tuning_job(sagemaker, name)
    best = best_trial(trials_of(sagemaker, name), objective_of(described))
    if best is None:
        raise ValueError(
            f"--from_tuning_job {name}: no trial is completed; "
            f"`python sagemaker_jobs/tune.py --report {name}` says more."
        )
    trained = sagemaker.describe_training_job(TrainingJobName=best.name)["HyperParameters"]
    tuned = {key: value for key, value in decoded(trained).items() if key not in OF_A_TRIAL}
    if not any(key in given for key in MODEL) and (flags := model_flags(recipe, tuned)):
        raise ValueError(
            f"--from_tuning_job {name} searched for another model than {recipe.name} trains: "
            f"give the --recipe of that model, or add {flags}."
        )
    return merged(recipe.hyperparameters, tuned)


def model_flags(recipe: Recipe, hyperparameters: Mapping[str, Any]) -> str:
    """Return the flag that names the model of hyperparameters; empty if it is the recipe's own."""
    return " ".join(
        f"--{key} {hyperparameters[key]}"
        for key in MODEL
        if key in hyperparameters and hyperparameters[key] != recipe.hyperparameters.get(key)
    )
