"""How many wrong bins an audit finds, measured on records that were made wrong. Pure functions.

A case is a photo with a record. Two kinds of wrong ones are made, of whole counts that the model
knows, always a tenth of the cases:

    real pairs        the photo of one state of a bin with the record of its other state. The right
                      ones are the same photos with their own records, so that nothing but the
                      record tells the two apart.
    symmetric errors  any photo with a record that is one item off, up or down alike.

The audit is not told how many are wrong: it estimates that, as audit.py does. What it decides if it
is told the true share, half or twice of it stands beside, and what is saved without it: by checking
all bins, none, those of which the model counts something else, or what an audit decides without
photos.

It is drawn anew many times which cases are wrong, and a figure is the mean over the draws. An
interval holds 95 % of what that mean is when whole bin groups are drawn again (bootstrap).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditing.decisions import (
    CHECK,
    DECISIONS,
    OK,
    WRONG,
    Costs,
    corrected_count,
    count_posterior,
    count_weights,
    decide,
    expected_costs,
    reweighted,
    wrong_probability,
)
from auditing.error_model import ErrorModel, neighbouring_pairs
from auditing.wrong_rate import WrongRate, estimate_wrong_rate

NUM_DRAWS = 200
NUM_RESAMPLES = 200
SEED = 0
WRONG_SHARE = 0.1
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)
NUM_LEVELS = 10
# At the first, checking all bins is worth something with a tenth wrong; at the second it saves
# nothing, at the third it loses.
COSTS = (Costs(20, 1), Costs(10, 1), Costs(5, 1))
TOLD = (WRONG_SHARE, WRONG_SHARE / 2, 2 * WRONG_SHARE)
AUDIT = "audit"
RIVALS = ("check all", "check none", "count differs", "records alone", "photo-free prior")


@dataclass(frozen=True)
class JudgedBins:
    """What the model says of a test split, whose records are right.

    Args:
        ids, groups: (num_bins,); a group may be None where it is not known.
        true: int (num_bins,), the column of the count that each bin holds.
        probabilities: float (num_bins, num_counts).
        counts: (num_counts,), items.
    """

    ids: Sequence[str]
    groups: Sequence[str | None]
    true: np.ndarray
    probabilities: np.ndarray
    counts: tuple[int, ...]

    @property
    def group_index(self) -> np.ndarray:
        """Int (num_bins,): a number for each group; a bin without one is a group of its own."""
        named = [
            group or f"bin {row}" for row, group in enumerate(self.groups)
        ]  # no group is named so
        return np.unique(named, return_inverse=True)[1]


@dataclass(frozen=True)
class Cases:
    """Photos that may get a wrong record, and which.

    Args:
        rows: int (num_cases,), into the test bins.
        wrong_records: (num_cases,), the columns that a wrong record may be drawn from; each has one
            at least.
    """

    name: str
    rows: np.ndarray
    wrong_records: list[np.ndarray]

    def draw(self, true: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a record for each case, the column, WRONG_SHARE of them wrong."""
        recorded = true[self.rows].copy()
        num_wrong = round(WRONG_SHARE * len(self.rows))
        for case in generator.choice(len(self.rows), size=num_wrong, replace=False):
            recorded[case] = generator.choice(self.wrong_records[case])
        return recorded


def real_pairs(bins: JudgedBins) -> Cases:
    """Return the photos that show a bin of which another photo shows the state before or after."""
    others: dict[int, list[int]] = {}
    for first, second in neighbouring_pairs(bins.ids, bins.groups):
        if bins.true[first] != bins.true[second]:
            others.setdefault(int(first), []).append(int(bins.true[second]))
            others.setdefault(int(second), []).append(int(bins.true[first]))
    rows = sorted(others)
    return Cases("real_pairs", np.array(rows, dtype=int), [np.array(others[row]) for row in rows])


def symmetric_errors(bins: JudgedBins) -> Cases:
    """Return all photos, each with the counts next to its own."""
    last = len(bins.counts) - 1
    neighbours = [np.array([c for c in (t - 1, t + 1) if 0 <= c <= last]) for t in bins.true]
    rows = np.flatnonzero([len(columns) > 0 for columns in neighbours])
    return Cases("symmetric_errors", rows, [neighbours[row] for row in rows])


def evaluate_audit(
    bins: JudgedBins,
    error_model: ErrorModel,
    costs: Sequence[Costs],
    progress: Callable[[], None],
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """Return the figures of both kinds of cases, ready for JSON.

    Args:
        costs: to say what decisions save at each.
        progress: called after each draw, 2 * num_draws times in all.

    Raises: ValueError: too few cases for a tenth of them to be wrong.
    """
    kinds = {}
    for cases in (real_pairs(bins), symmetric_errors(bins)):
        if len(cases.rows) < 10:
            raise ValueError(f"only {len(cases.rows)} test photos can get a record of {cases.name}")
        kinds[cases.name] = _evaluate_cases(bins, cases, error_model, costs, progress, num_draws)
    return {
        "wrong_share": WRONG_SHARE,
        "num_draws": num_draws,
        "num_pairs_of_error_model": error_model.num_pairs,
        "kinds": kinds,
    }


def _evaluate_cases(
    bins: JudgedBins,
    cases: Cases,
    error_model: ErrorModel,
    costs: Sequence[Costs],
    progress: Callable[[], None],
    num_draws: int,
) -> dict[str, Any]:
    generator = np.random.default_rng(SEED)
    weights = _group_weights(bins.group_index[cases.rows], generator)
    probabilities, true = bins.probabilities[cases.rows], bins.true[cases.rows]
    likelihood = error_model.record_probabilities(bins.counts)
    most_likely = probabilities.argmax(axis=1)
    draws: list[np.ndarray] = []
    levels: dict[str, list[np.ndarray]] = {}
    rates: list[WrongRate] = []
    for _ in range(num_draws):
        recorded = cases.draw(bins.true, generator)
        is_wrong = recorded != true
        rates.append(estimate_wrong_rate(probabilities, recorded, likelihood))
        posteriors = _posteriors(probabilities, recorded, likelihood, rates[-1].value)
        for name in _audits():
            suspicion = wrong_probability(posteriors[name], recorded)
            levels.setdefault(name, []).append(np.column_stack([suspicion, is_wrong]))
        differs = most_likely != recorded
        found, area = ranking_figures(levels[AUDIT][-1][:, 0], is_wrong, weights)
        rule_found, rule_area = ranking_figures(differs.astype(float), is_wrong, weights)
        money = [
            column
            for each in costs
            for column in _savings(posteriors, recorded, true, differs, each).values()
        ]
        shares = weights @ np.column_stack(money) / weights.sum(axis=1, keepdims=True)
        draws.append(np.column_stack([found, area, rule_found, rule_area, shares]))
        progress()
    # (1 + NUM_RESAMPLES, num_figures): the first row is of the bins as they are.
    figures = np.nanmean(draws, axis=0)  # NaN: of few groups none with a wrong record was drawn
    num_ranking = 2 * (len(BUDGETS) + 1)
    names = [f"found {budget}" for budget in BUDGETS] + ["area"]
    names += [f"rule_found {budget}" for budget in BUDGETS] + ["rule_area"]
    column = dict(zip(names, figures[:, :num_ranking].T, strict=True))
    return {
        "num_photos": len(cases.rows),
        "num_groups": len(np.unique(bins.group_index[cases.rows])),
        "estimated_rate": {
            bound: float(np.mean([getattr(rate, bound) for rate in rates]))
            for bound in ("value", "low", "high", "is_learned")
        },
        "budgets": [
            {
                "budget": budget,
                "found": _interval(column[f"found {budget}"]),
                "times_random": _interval(column[f"found {budget}"] / budget),
                "precision": _interval(column[f"found {budget}"] * WRONG_SHARE / budget),
                "rule_found": _interval(column[f"rule_found {budget}"]),
                "rule_times_random": _interval(column[f"rule_found {budget}"] / budget),
                "times_rule": _interval(column[f"found {budget}"] / column[f"rule_found {budget}"]),
            }
            for budget in BUDGETS
        ],
        "area_under_curve": _interval(column["area"]),
        "rule_area_under_curve": _interval(column["rule_area"]),
        "calibration": _calibration(np.concatenate(levels[AUDIT])),
        "calibration_error_if_told": {
            f"{rate:g}": _calibration(np.concatenate(levels[_told(rate)]))[
                "expected_calibration_error"
            ]
            for rate in TOLD
        },
        "savings": [
            _savings_per_thousand(part, each)
            for part, each in zip(
                np.split(figures[:, num_ranking:], len(costs), axis=1), costs, strict=True
            )
        ],
    }


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


def _group_weights(group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return how often each case is there: once, then as whole groups are drawn again."""
    names, index = np.unique(group, return_inverse=True)
    drawn = [
        np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        for _ in range(NUM_RESAMPLES)
    ]
    return np.vstack([np.ones(len(group)), np.array(drawn)[:, index]])


def _told(rate: float) -> str:
    return f"{AUDIT}, told {rate:.0%}"


def _audits() -> tuple[str, ...]:
    return (AUDIT, *map(_told, TOLD))


def _posteriors(
    probabilities: np.ndarray, recorded: np.ndarray, likelihood: np.ndarray, estimated: float
) -> dict[str, np.ndarray]:
    """Return how likely each count is, to the audits and to those who see no photo."""

    def learned(seen: np.ndarray, rate: float) -> np.ndarray:
        leaning = reweighted(seen, count_weights(seen, recorded, likelihood, rate))
        return count_posterior(leaning, recorded, likelihood, rate)

    rates = dict(zip(_audits(), (estimated, *TOLD), strict=True))
    usual = np.broadcast_to(probabilities.mean(axis=0), probabilities.shape)
    return {
        **{name: learned(probabilities, rate) for name, rate in rates.items()},
        # What these records say of how often each count is there, and nothing else.
        "records alone": learned(
            np.full_like(probabilities, 1 / probabilities.shape[1]), estimated
        ),
        # What a model says that answers as this one does on average, whatever the photo.
        "photo-free prior": count_posterior(usual, recorded, likelihood, estimated),
    }


def _savings(
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
        **{name: by_posterior[name] for name in _audits()},
        "check all": with_checks(every),
        "check none": with_checks(~every),
        "count differs": with_checks(differs),
        **{name: by_posterior[name] for name in RIVALS if name in by_posterior},
    }


def _interval(figures: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(figures[1:], [2.5, 97.5])
    return {"value": float(figures[0]), "low": float(low), "high": float(high)}


def _savings_per_thousand(figures: np.ndarray, costs: Costs) -> dict[str, Any]:
    """Return what each way saves, ready for JSON.

    Args:
        figures: (1 + NUM_RESAMPLES, 3 * ways), a bin's, in the order of _savings.
    """
    names = (*_audits(), *RIVALS)
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
                "saved": _interval(1000 * saved[:, way]),
                "checked": _interval(checked[:, way]),
                "right_records_written_over": _interval(1000 * written_over[:, way]),
            }
            for way, name in enumerate(names)
        ],
        "best_rival": RIVALS[best],
        "more_than_best_rival": _interval(1000 * (saved[:, 0] - rivals[:, best])),
    }


def _calibration(levels: np.ndarray) -> dict[str, Any]:
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
