"""What is found, what a probability is worth, what decisions save; and intervals around it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from audit_evaluation.cases import WRONG_SHARE
from auditing.decisions import (
    CHECK,
    DECISIONS,
    OK,
    WRONG,
    Costs,
    corrected_count,
    decide,
    expected_costs,
)

BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)
NUM_RESAMPLES = 200
NUM_LEVELS = 10
# At the first, checking all bins is worth something with a tenth wrong; at the second it saves
# nothing, at the third it loses.
COSTS = (Costs(20, 1), Costs(10, 1), Costs(5, 1))
TOLD = (WRONG_SHARE, WRONG_SHARE / 2, 2 * WRONG_SHARE)
AUDIT = "audit"
RIVALS = ("check all", "check none", "count differs", "records alone", "photo-free prior")


def ranking_figures(
    score: np.ndarray, is_wrong: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is found when the cases of the highest score are checked first.

    Cases of the same score are checked in random order: the figures are those on average.

    Args:
        score: float (num_cases,). is_wrong: bool (num_cases,).
        weights: float (num_weightings, num_cases): how often each case is there.

    Returns: share of the wrong ones that are found at each of BUDGETS, (num_weightings,
        num_budgets), and the area under the ROC curve, (num_weightings,).
    """
    order = np.argsort(-score, kind="stable")
    is_last = np.append(np.diff(score[order]) != 0, True)  # of the cases of one score
    weights, is_wrong = weights[:, order], is_wrong[order]

    def cumulative_share(ordered: np.ndarray) -> np.ndarray:
        cumulative = ordered.cumsum(axis=1)
        with np.errstate(invalid="ignore"):
            ends = cumulative[:, is_last] / cumulative[:, -1:]
        return np.column_stack([np.zeros(len(weights)), ends])

    wrong_weights = weights * is_wrong
    found, alarms = cumulative_share(wrong_weights), cumulative_share(weights - wrong_weights)
    checked = cumulative_share(weights)
    area = ((found[:, 1:] + found[:, :-1]) / 2 * np.diff(alarms, axis=1)).sum(axis=1)
    at_budgets = [np.interp(BUDGETS, *curve) for curve in zip(checked, found, strict=True)]
    return np.array(at_budgets), area


def group_weights(group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return how often each case is there: once, then as whole groups are drawn again."""
    names, index = np.unique(group, return_inverse=True)
    drawn = [
        np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        for _ in range(NUM_RESAMPLES)
    ]
    return np.vstack([np.ones(len(group)), np.array(drawn)[:, index]])


def interval(figures: np.ndarray) -> dict[str, float]:
    """Return a figure with 95 % of what it is as groups are drawn again, ready for JSON.

    Args:
        figures: (1 + NUM_RESAMPLES,), the first one of the cases as they are.
    """
    low, high = np.nanpercentile(figures[1:], [2.5, 97.5])
    return {"value": float(figures[0]), "low": float(low), "high": float(high)}


def calibration(levels: np.ndarray) -> dict[str, Any]:
    """Return what the probabilities of being wrong are worth, at NUM_LEVELS levels of equal size.

    Args:
        levels: (num_draws * num_cases, 2), probability and whether it was wrong.
    """
    ordered = levels[np.argsort(levels[:, 0], kind="stable")]
    rows = [
        {"probability": float(part[:, 0].mean()), "wrong": float(part[:, 1].mean())}
        for part in np.array_split(ordered, NUM_LEVELS)
    ]
    error = float(np.mean([abs(row["probability"] - row["wrong"]) for row in rows]))
    return {"levels": rows, "expected_calibration_error": error}


def told(rate: float) -> str:
    """Return the name of an audit that is told how many records are wrong."""
    return f"{AUDIT}, told {rate:.0%}"


def audits() -> tuple[str, ...]:
    """Return the names of the audit, and of those that are told a rate."""
    return (AUDIT, *map(told, TOLD))


def savings(
    posteriors: Mapping[str, np.ndarray],
    recorded: np.ndarray,
    true: np.ndarray,
    differs: np.ndarray,
    costs: Costs,
) -> dict[str, np.ndarray]:
    """Return what each way of deciding saves at each case against leaving all records.

    Args:
        differs: bool (num_cases,), whether the model's most likely count is not the recorded one.

    Returns: float (num_cases, 3) each: in the currency of `costs`; whether the bin is checked;
        whether a right record is written over.
    """
    is_wrong = recorded != true
    saved_by_check = costs.missed_error * is_wrong - costs.manual_check

    def with_checks(is_checked: np.ndarray) -> np.ndarray:
        saved = np.where(is_checked, saved_by_check, 0.0)
        return np.column_stack([saved, is_checked, np.zeros(len(true))])

    def decided(posterior: np.ndarray) -> np.ndarray:
        decision = np.array(DECISIONS)[decide(expected_costs(posterior, recorded, costs))]
        is_checked = decision == CHECK
        suggested, _ = corrected_count(posterior, recorded, range(posterior.shape[1]))
        left_wrong = np.select([decision == OK, is_checked], [is_wrong, False], suggested != true)
        saved = costs.missed_error * (is_wrong * 1.0 - left_wrong) - costs.manual_check * is_checked
        return np.column_stack([saved, is_checked, (decision == WRONG) & ~is_wrong])

    every = np.ones(len(true), dtype=bool)
    by_posterior = {name: decided(posterior) for name, posterior in posteriors.items()}
    return {
        **{name: by_posterior[name] for name in audits()},
        "check all": with_checks(every),
        "check none": with_checks(~every),
        "count differs": with_checks(differs),
        **{name: by_posterior[name] for name in RIVALS if name in by_posterior},
    }


def savings_per_thousand(figures: np.ndarray, costs: Costs) -> dict[str, Any]:
    """Return what each way saves, ready for JSON.

    Args:
        figures: (1 + NUM_RESAMPLES, 3 * ways), a bin's, in the order of savings.
    """
    names = (*audits(), *RIVALS)
    saved, checked, written_over = figures.reshape(len(figures), len(names), 3).transpose(2, 0, 1)
    # The rival that is best here, whichever it is in another draw of the bins.
    rivals = saved[:, -len(RIVALS) :]
    best = rivals[0].argmax()
    return {
        "cost_missed_error": costs.missed_error,
        "cost_manual_check": costs.manual_check,
        "ways": [
            {
                "name": name,
                "saved": interval(1000 * saved[:, way]),
                "checked": interval(checked[:, way]),
                "right_records_written_over": interval(1000 * written_over[:, way]),
            }
            for way, name in enumerate(names)
        ],
        "best_rival": RIVALS[best],
        "more_than_best_rival": interval(1000 * (saved[:, 0] - rivals[:, best])),
    }
