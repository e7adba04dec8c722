"""How many wrong bins an audit finds, measured on records that were made wrong. Pure functions.

Cases are photos with records, of which a tenth is made wrong: cases.py says how, and
what is known of each before its record is seen. From that an audit takes how likely the record is
to be wrong, and decides. It is not told how many are wrong: it estimates that, as audit.py does.
What it decides if it is told the true share, half or twice of it stands beside, and what is saved
without it: by checking all bins, none, those of which the model counts something else, or what an
audit decides without photos.

Where visits are known, others judge the same records, and know less: two single counts and how
counts usually change; the photo alone; the records alone. They are told the true share of wrong
ones, which favours them if anything.

How likely a record is to be wrong depends on how wrong records come about. Of real changes, all who
know the count before know that too, and so are at their best. 'By the error model' is the audit
that does not: as audit.py does, to which nobody says it, it takes what a wrong record says to
depend on what the bin holds alone.

It is drawn anew many times which cases are wrong, and a figure is the mean over the draws. An
interval holds 95 % of what that mean is when whole bin groups are drawn again (bootstrap).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from audit_evaluation.cases import RECORDS, WRONG_SHARE, Cases, JudgedBins, Knowledge
from audit_evaluation.figures import (
    AUDIT,
    BUDGETS,
    TOLD,
    audits,
    calibration,
    group_weights,
    interval,
    ranking_figures,
    savings,
    savings_per_thousand,
    told,
)
from auditing.decisions import (
    Costs,
    count_posterior,
    count_weights,
    reweighted,
    wrong_probability,
)
from auditing.wrong_rate import WrongRate, estimate_wrong_rate

NUM_DRAWS = 200
SEED = 0
RULE = "count differs"


def evaluate_audit(
    bins: JudgedBins,
    kinds: Sequence[Cases],
    costs: Sequence[Costs],
    progress: Callable[[], None],
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """Return the figures of all kinds of cases, ready for JSON.

    Args:
        kinds: of cases.cases_of, of these bins.
        costs: to say what decisions save at each.
        progress: called after each draw, num_draws times for each kind.
    """
    return {
        "wrong_share": WRONG_SHARE,
        "num_draws": num_draws,
        "kinds": {
            cases.name: _evaluate_cases(bins, cases, costs, progress, num_draws) for cases in kinds
        },
    }


def _evaluate_cases(
    bins: JudgedBins,
    cases: Cases,
    costs: Sequence[Costs],
    progress: Callable[[], None],
    num_draws: int,
) -> dict[str, Any]:
    generator = np.random.default_rng(SEED)
    weights = group_weights(bins.group_index[cases.rows], generator)
    audit, true = cases.audit, bins.true[cases.rows]
    draws: list[np.ndarray] = []
    levels: dict[str, list[np.ndarray]] = {}
    rates: list[WrongRate] = []
    for _ in range(num_draws):
        recorded = cases.draw(bins.true, generator)
        is_wrong = recorded != true
        known = audit.given(recorded)
        rates.append(estimate_wrong_rate(known, recorded, audit.record_probabilities))
        posteriors = _posteriors(cases, recorded, rates[-1].value)
        judging = posteriors | {
            name: _learned(known, recorded, WRONG_SHARE) for name, known in cases.rivals.items()
        }
        for name in (*audits(), *cases.rivals):
            suspicion = wrong_probability(judging[name], recorded)
            levels.setdefault(name, []).append(np.column_stack([suspicion, is_wrong]))
        differs = known.argmax(axis=1) != recorded
        scores = [differs if n == RULE else levels[n][-1][:, 0] for n in _ranked(cases)]
        ranked = [ranking_figures(score.astype(float), is_wrong, weights) for score in scores]
        money = [
            column
            for each in costs
            for column in savings(posteriors, recorded, true, differs, each).values()
        ]
        shares = weights @ np.column_stack(money) / weights.sum(axis=1, keepdims=True)
        draws.append(np.column_stack([part for figures in ranked for part in figures] + [shares]))
        progress()
    # (1 + NUM_RESAMPLES, num_figures): the first row is of the bins as they are.
    figures = np.nanmean(draws, axis=0)  # NaN: of few groups none with a wrong record was drawn
    ranking, money_figures = np.split(figures, [len(_ranked(cases)) * (len(BUDGETS) + 1)], axis=1)
    by_name = dict(zip(_ranked(cases), np.split(ranking, len(_ranked(cases)), axis=1), strict=True))
    errors = {name: calibration(np.concatenate(of_name)) for name, of_name in levels.items()}
    return {
        "num_cases": len(cases.rows),
        "num_photos": len(np.unique(cases.rows)),
        "num_groups": len(np.unique(bins.group_index[cases.rows])),
        "estimated_rate": {
            bound: float(np.mean([getattr(rate, bound) for rate in rates]))
            for bound in ("value", "low", "high", "is_learned")
        },
        **_found(by_name[AUDIT], by_name[RULE]),
        "calibration": errors[AUDIT],
        "calibration_error_if_told": {
            f"{rate:g}": errors[told(rate)]["expected_calibration_error"] for rate in TOLD
        },
        "rivals": {
            name: _of_rival(by_name[name], by_name[AUDIT])
            | {"calibration_error_if_told": errors[name]["expected_calibration_error"]}
            for name in cases.rivals
        },
        "savings": [
            savings_per_thousand(part, each)
            for part, each in zip(np.split(money_figures, len(costs), axis=1), costs, strict=True)
        ],
    }


def _ranked(cases: Cases) -> tuple[str, ...]:
    """Return the names of all who say which cases are to be checked first."""
    return (AUDIT, RULE, *cases.rivals)


def _found(audit: np.ndarray, rule: np.ndarray) -> dict[str, Any]:
    """Return what the audit finds, and the rule, ready for JSON.

    Args:
        audit, rule: float (1 + NUM_RESAMPLES, num_budgets + 1), what is found at each of BUDGETS,
            and the area.
    """
    return {
        "budgets": [
            {
                "budget": budget,
                "found": interval(found),
                "times_random": interval(found / budget),
                "precision": interval(found * WRONG_SHARE / budget),
                "rule_found": interval(rule_found),
                "rule_times_random": interval(rule_found / budget),
                "times_rule": interval(found / rule_found),
            }
            for budget, found, rule_found in zip(BUDGETS, audit.T, rule.T, strict=False)
        ],
        "area_under_curve": interval(audit[:, -1]),
        "rule_area_under_curve": interval(rule[:, -1]),
    }


def _of_rival(rival: np.ndarray, audit: np.ndarray) -> dict[str, Any]:
    """Return what a rival finds, and by how much the audit is ahead of it. Args: as in _found."""
    return {
        "budgets": [
            {
                "budget": budget,
                "found": interval(found),
                "times_random": interval(found / budget),
                "audit_times_random_more": interval((of_audit - found) / budget),
            }
            for budget, found, of_audit in zip(BUDGETS, rival.T, audit.T, strict=False)
        ],
        "area_under_curve": interval(rival[:, -1]),
        "audit_area_more": interval(audit[:, -1] - rival[:, -1]),
    }


def _learned(known: Knowledge, recorded: np.ndarray, rate: float) -> np.ndarray:
    """Return how likely each count is to who learns from the records how often each is there."""
    given = (recorded, known.record_probabilities, rate)
    probabilities = known.given(recorded)
    leaning = reweighted(probabilities, count_weights(probabilities, *given))
    return count_posterior(leaning, *given)


def _posteriors(cases: Cases, recorded: np.ndarray, estimated: float) -> dict[str, np.ndarray]:
    """Return how likely each count is, to the audits and to those who see no photo."""
    audit = cases.audit
    rates = dict(zip(audits(), (estimated, *TOLD), strict=True))
    known = audit.given(recorded)
    shape = known.shape
    usual = np.broadcast_to(known.mean(axis=0), shape)
    unknown = Knowledge(np.full(shape, 1 / shape[1]), audit.record_probabilities)
    return {
        **{name: _learned(audit, recorded, rate) for name, rate in rates.items()},
        # What these records say of how often each count is there, and nothing else.
        "records alone": _learned(cases.rivals.get(RECORDS, unknown), recorded, estimated),
        # What a model says that answers as this one does on average, whatever the photo.
        "photo-free prior": count_posterior(usual, recorded, audit.record_probabilities, estimated),
    }
