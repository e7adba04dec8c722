"""How many wrong bins an audit finds, measured on records that were made wrong. Pure functions.

A case is a photo with a record. Two kinds of wrong ones are made, of whole counts that the model
knows, always a tenth of the cases:

    real pairs        the photo of one state of a bin with the record of its other state. The right
                      ones are the same photos with their own records, so that nothing but the
                      record tells the two apart.
    symmetric errors  any photo with a record that is one item off, up or down alike.

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

NUM_DRAWS = 200
NUM_RESAMPLES = 200
SEED = 0
WRONG_SHARE = 0.1
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75)
NUM_LEVELS = 10
MONEY = ["saved", "rule_saved", "random_saved"]


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
    bins: JudgedBins, error_model: ErrorModel, costs: Costs | None, progress: Callable[[], None]
) -> dict[str, Any]:
    """Return the figures of both kinds of cases, ready for JSON.

    Args:
        costs: to say what the audit's decisions save; None leaves that out.
        progress: called after each draw, 2 * NUM_DRAWS times in all.

    Raises: ValueError: too few cases for a tenth of them to be wrong.
    """
    kinds = {}
    for cases in (real_pairs(bins), symmetric_errors(bins)):
        if len(cases.rows) < 10:
            raise ValueError(f"only {len(cases.rows)} test photos can get a record of {cases.name}")
        kinds[cases.name] = _evaluate_cases(bins, cases, error_model, costs, progress)
    return {
        "wrong_share": WRONG_SHARE,
        "num_draws": NUM_DRAWS,
        "num_pairs_of_error_model": error_model.num_pairs,
        "kinds": kinds,
    }


def _evaluate_cases(
    bins: JudgedBins,
    cases: Cases,
    error_model: ErrorModel,
    costs: Costs | None,
    progress: Callable[[], None],
) -> dict[str, Any]:
    generator = np.random.default_rng(SEED)
    weights = _group_weights(bins.group_index[cases.rows], generator)
    probabilities, true = bins.probabilities[cases.rows], bins.true[cases.rows]
    likelihood = error_model.record_probabilities(bins.counts)
    most_likely = probabilities.argmax(axis=1)
    draws, levels = [], []
    for _ in range(NUM_DRAWS):
        recorded = cases.draw(bins.true, generator)
        is_wrong = recorded != true
        weights_of_counts = count_weights(probabilities, recorded, likelihood, WRONG_SHARE)
        leaning = reweighted(probabilities, weights_of_counts)
        posterior = count_posterior(leaning, recorded, likelihood, WRONG_SHARE)
        suspicion = wrong_probability(posterior, recorded)
        found, area = ranking_figures(suspicion, is_wrong, weights)
        rule_found, rule_area = ranking_figures(
            (most_likely != recorded).astype(float), is_wrong, weights
        )
        saved = (
            []
            if costs is None
            else _savings(posterior, recorded, true, most_likely, bins.counts, costs)
        )
        money = [weights @ column / weights.sum(axis=1) for column in saved]
        draws.append(np.column_stack([found, area, rule_found, rule_area, *money]))
        levels.append(np.column_stack([suspicion, is_wrong]))
        progress()
    # (1 + NUM_RESAMPLES, num_figures): the first row is of the bins as they are.
    figures = np.nanmean(draws, axis=0)  # NaN: of few groups none with a wrong record was drawn
    names = [f"found {budget}" for budget in BUDGETS] + ["area"]
    names += [f"rule_found {budget}" for budget in BUDGETS] + ["rule_area"]
    names += [] if costs is None else MONEY
    column = dict(zip(names, figures.T, strict=True))
    return {
        "num_photos": len(cases.rows),
        "num_groups": len(np.unique(bins.group_index[cases.rows])),
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
        "calibration": _calibration(np.concatenate(levels)),
        "savings": None if costs is None else _savings_per_thousand(column, costs),
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


def _savings(
    posterior: np.ndarray,
    recorded: np.ndarray,
    true: np.ndarray,
    most_likely: np.ndarray,
    counts: Sequence[int],
    costs: Costs,
) -> list[np.ndarray]:
    """Return what is saved at each case against leaving all records, in the currency of `costs`.

    Returns: (num_cases,) each: by the audit's decisions; by checking where the most likely count
        differs; by as many checks as the audit's at random places.
    """
    decision = np.array(DECISIONS)[decide(expected_costs(posterior, recorded, costs))]
    is_wrong, is_checked = recorded != true, decision == CHECK
    written_wrong = corrected_count(posterior, recorded, counts) != np.asarray(counts)[true]
    left_wrong = np.select([decision == OK, is_checked], [is_wrong, False], written_wrong)
    saved_by_check = costs.missed_error * is_wrong - costs.manual_check
    return [
        costs.missed_error * (is_wrong * 1.0 - left_wrong) - costs.manual_check * is_checked,
        np.where(most_likely != recorded, saved_by_check, 0.0),
        is_checked.mean() * saved_by_check,
    ]


def _interval(figures: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(figures[1:], [2.5, 97.5])
    return {"value": float(figures[0]), "low": float(low), "high": float(high)}


def _savings_per_thousand(column: Mapping[str, np.ndarray], costs: Costs) -> dict[str, Any]:
    return {
        "cost_missed_error": costs.missed_error,
        "cost_manual_check": costs.manual_check,
        **{name: _interval(1000 * column[name]) for name in MONEY},
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


def print_evaluation(figures: dict[str, Any]) -> None:
    """Print a table of each kind of wrong records."""

    def with_interval(figure: dict[str, float], factor: float, digits: int) -> str:
        value, low, high = (f"{factor * figure[k]:.{digits}f}" for k in ("value", "low", "high"))
        return f"{value} [{low}, {high}]"

    for name, kind in figures["kinds"].items():
        print(
            f"\n{name.replace('_', ' ').capitalize()}: {kind['num_photos']:,} photos in "
            f"{kind['num_groups']:,} bin groups, {figures['wrong_share']:.0%} of the records wrong"
        )
        print(
            "| checked | wrong bins found % | of those checked, wrong % | times random "
            "| 'count differs', times random |"
        )
        print(f"|{'--:|' * 5}")
        for row in kind["budgets"]:
            print(
                f"| {row['budget']:.0%} | {with_interval(row['found'], 100, 1)} "
                f"| {with_interval(row['precision'], 100, 1)} "
                f"| {with_interval(row['times_random'], 1, 2)} "
                f"| {with_interval(row['rule_times_random'], 1, 2)} |"
            )
        print(
            f"Area under the ROC curve: {with_interval(kind['area_under_curve'], 1, 3)}, of the "
            f"rule {with_interval(kind['rule_area_under_curve'], 1, 3)}."
        )
        error = kind["calibration"]["expected_calibration_error"]
        print(f"Calibration error of the probability to be wrong: {100 * error:.1f} %.")
        if kind["savings"]:
            saved = kind["savings"]
            print(
                f"Saved per 1,000 bins, at {saved['cost_missed_error']:g} an error and "
                f"{saved['cost_manual_check']:g} a check: "
                f"{with_interval(saved['saved'], 1, 0)}; by checking where the count differs "
                f"{with_interval(saved['rule_saved'], 1, 0)}; by as many checks at random "
                f"{with_interval(saved['random_saved'], 1, 0)}."
            )
