"""What becomes of each bin: its decision with the reason, a line of decisions.csv, its place in the
list for the person who checks.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from auditing.decisions import (
    CHECK,
    DECISIONS,
    OK,
    WRONG,
    Costs,
    corrected_count,
    count_interval,
    count_posterior,
    count_weights,
    decide,
    expected_costs,
    reweighted,
    risk_without_check,
    spend_budget,
    wrong_probability,
)
from auditing.error_model import ErrorModel
from auditing.parts import Part, read_parts
from auditing.wrong_rate import WrongRate, estimate_wrong_rate
from output_files import whole_file

DECISIONS_CSV = "decisions.csv"
NUM_NAMED = 20  # bins without a plain decision, in what an audit prints
COVERAGE = 0.9
MOST_LEARNED = 20_000  # bins, which say well enough how often bins hold each count
# Of one error, in no currency, where a budget says how many checks there are.
ERROR_UNITS = Costs(missed_error=1.0, manual_check=0.0)
# What spreadsheets take for a formula; also the wide forms, which some of them fold to these, and
# behind characters that nobody sees.
UNSEEN = r"[\s\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
FORMULA = re.compile(rf"{UNSEEN}*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
COLUMNS = (
    *("id", "expected_quantity", "most_likely_count", "count_low", "count_high"),
    *("probability_wrong", "decision", "suggested_count", "expected_saving", "reason"),
)


@dataclass(frozen=True)
class Verdict:
    """One bin's. NaN and None where nothing can be said.

    Args:
        recorded: what the inventory expects, as written.
        low, high: the central interval of COVERAGE, items.
        wrong_probability: that the record is wrong.
        decision: one of DECISIONS, or empty where the bin cannot be judged.
        suggested: the count to write instead, where the decision is `wrong`.
        saving: what the decision saves on average against leaving the record, in the currency of
            the costs; with a budget in errors.
        items: what should be in the bin: dictionaries with name and quantity.
    """

    id: str
    recorded: str
    probabilities: tuple[float, ...]
    most_likely: int | None
    low: int | None
    high: int | None
    wrong_probability: float
    decision: str
    suggested: int | None
    saving: float
    reason: str
    items: Sequence[Mapping[str, Any]]

    def cells(self) -> list[str]:
        """Return the line of decisions.csv, in the order of COLUMNS."""
        return [
            harmless(self.id),
            harmless(self.recorded),
            *("" if count is None else str(count) for count in self.interval),
            "" if np.isnan(self.wrong_probability) else f"{self.wrong_probability:.6f}",
            self.decision,
            "" if self.suggested is None else str(self.suggested),
            "" if np.isnan(self.saving) else f"{self.saving:.6f}",
            harmless(self.reason),
        ]

    @property
    def interval(self) -> tuple[int | None, int | None, int | None]:
        """Most likely count and both ends, items."""
        return self.most_likely, self.low, self.high


@dataclass(frozen=True)
class Judge:
    """Decides about parts of an audit.

    Args:
        counts: what the model knows, items.
        wrong_rate: share of the records that are wrong, before a photo was looked at: as a person
            gave it, or as learned from the records.
        costs: of an error and a check; None with a budget.
        review_budget: share of the bins with a record among `counts` that can be checked.
        count_weights: (num_counts,), of auditing.decisions.count_weights.
    """

    counts: tuple[int, ...]
    error_model: ErrorModel
    wrong_rate: WrongRate
    costs: Costs | None
    review_budget: float | None
    count_weights: tuple[float, ...] | None = None

    def learning_from_records(
        self, parts: Iterable[Part], num_bins: int, is_rate_given: bool
    ) -> "Judge":
        """Return a judge who knows how often the bins hold each count, from their records.

        Unless the rate is given, also how many of the records are wrong. Of more than MOST_LEARNED
        bins a sample, evenly spread, is learned from and held.
        """
        every = -(-num_bins // MOST_LEARNED)
        probabilities, recorded = [np.empty((0, len(self.counts)))], [np.empty(0, dtype=int)]
        for part in parts:
            taken = self._is_judged(part) & ((part.first + np.arange(len(part.ids))) % every == 0)
            probabilities.append(part.probabilities[taken])
            recorded.append(np.searchsorted(self.counts, part.expected[taken]))
        known = (
            np.concatenate(probabilities),
            np.concatenate(recorded),
            self.error_model.record_probabilities(self.counts),
        )
        rate = self.wrong_rate if is_rate_given else estimate_wrong_rate(*known)
        weights = count_weights(*known, rate.value)
        return replace(self, count_weights=tuple(weights.tolist()), wrong_rate=rate)

    def verdicts(self, parts: Iterable[Part], checked: np.ndarray | None) -> Iterator[Verdict]:
        """Yield the verdict of each bin.

        Args:
            parts: from the first one on.
            checked: of `spend`, with a budget.
        """
        num_judged = 0
        for part in parts:
            judged = self._is_judged(part)
            following = num_judged + int(judged.sum())
            chosen = None if checked is None else checked[num_judged:following]
            num_judged = following
            yield from self._part_verdicts(part, judged, chosen)

    def spend(self, parts: Iterable[Part]) -> np.ndarray | None:
        """Return which of the bins with a posterior the budget is spent on; None without a budget.

        Eight bytes a bin are all that is held of those that the parts hold.
        """
        if self.review_budget is None:
            return None
        risks = [
            risk_without_check(self._posterior(part, judged), self._recorded(part, judged))
            for part in parts
            for judged in [self._is_judged(part)]
        ]
        return spend_budget(np.concatenate([*risks, np.empty(0)]), self.review_budget)

    def _is_judged(self, part: Part) -> np.ndarray:
        return np.isin(part.expected, self.counts) & ~np.isnan(part.probabilities).any(axis=1)

    def _recorded(self, part: Part, judged: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.counts, part.expected[judged])

    def _posterior(self, part: Part, judged: np.ndarray) -> np.ndarray:
        probabilities = part.probabilities[judged]
        if self.count_weights is not None:
            probabilities = reweighted(probabilities, np.array(self.count_weights))
        return count_posterior(
            probabilities,
            self._recorded(part, judged),
            self.error_model.record_probabilities(self.counts),
            self.wrong_rate.value,
        )

    def _part_verdicts(
        self, part: Part, judged: np.ndarray, chosen: np.ndarray | None
    ) -> Iterator[Verdict]:
        recorded = self._recorded(part, judged)
        posterior = self._posterior(part, judged)
        costs = expected_costs(posterior, recorded, self.costs or ERROR_UNITS)
        if (
            chosen is not None
        ):  # a check costs nothing where the budget pays it, else is not to be had
            costs[:, DECISIONS.index(CHECK)] = np.where(chosen, 0.0, np.inf)
        decision = decide(costs)
        saving = costs[:, DECISIONS.index(OK)] - costs.min(axis=1)
        suspicion = wrong_probability(posterior, recorded)
        suggested, certainty = corrected_count(posterior, recorded, self.counts)
        place = np.cumsum(judged) - 1
        has_photo = ~np.isnan(part.probabilities).any(axis=1)
        most_likely = np.asarray(self.counts)[part.probabilities.argmax(axis=1)]
        low, high = count_interval(part.probabilities, self.counts, COVERAGE)
        for row, bin_id in enumerate(part.ids):
            index = place[row]
            said = DECISIONS[decision[index]] if judged[row] else CHECK if has_photo[row] else ""
            reason = self._reason(part, row, said)
            if said == WRONG:
                reason += f" with a probability of {certainty[index]:.1%}"
            yield Verdict(
                id=bin_id,
                recorded=part.recorded[row],
                probabilities=tuple(part.probabilities[row].tolist()) if has_photo[row] else (),
                most_likely=int(most_likely[row]) if has_photo[row] else None,
                low=int(low[row]) if has_photo[row] else None,
                high=int(high[row]) if has_photo[row] else None,
                wrong_probability=float(suspicion[index]) if judged[row] else np.nan,
                decision=said,
                suggested=int(suggested[index]) if said == WRONG else None,
                saving=float(saving[index]) if judged[row] else np.nan,
                reason="; ".join(filter(None, [reason, part.note[row]])),
                items=part.items[row],
            )

    def _reason(self, part: Part, row: int, decision: str) -> str:
        if part.problem[row]:
            return part.problem[row]
        if part.expected[row] not in self.counts:
            return (
                f"expected quantity {part.expected[row]} is outside the model's counts "
                f"{self.counts[0]} to {self.counts[-1]}"
            )
        if decision == OK:
            return "photo and record agree well enough"
        if decision == WRONG:
            return "the bin holds another count"
        if self.review_budget is None:
            return "a check is expected to cost less than the errors it finds"
        return "among the bins whose check saves most"


def harmless(text: str) -> str:
    """Return text that a spreadsheet shows and does not run; OWASP's leading apostrophe."""
    return f"'{text}" if FORMULA.match(text) else text


def write_decisions(file: TextIO, verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """Write decisions.csv, and pass the verdicts on.

    In quotes throughout: a spreadsheet whose separator is a semicolon would else cut a cell there,
    and the rest of it might be a formula.
    """
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for verdict in verdicts:
        writer.writerow(verdict.cells())
        yield verdict


def checking_order(
    decision: Sequence[str] | np.ndarray, saving: np.ndarray, suspicion: np.ndarray
) -> np.ndarray:
    """Return the rows in the order in which a person looks at them.

    First where a decision saves most, then the checks of which nobody knows what they save, then
    the bins without a decision, then those that are well, the most suspicious first.
    """
    decision = np.asarray(decision)
    group = np.select(
        [np.nan_to_num(saving) > 0, decision == CHECK, decision == ""], [0, 1, 2], default=3
    )
    return np.lexsort((-np.nan_to_num(suspicion), -np.nan_to_num(saving), group))


def decide_all(
    judge: Judge, checked: np.ndarray | None, output_dir: Path, num_bins: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write decisions.csv; return the rows in checking order, and what the decisions sum up to."""
    decisions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    named: list[str] = []
    short = np.empty(num_bins, dtype="U1")
    saving, suspicion = np.empty(num_bins), np.empty(num_bins)
    verdicts = judge.verdicts(read_parts(output_dir, num_bins, judge.counts), checked)
    with (
        whole_file(output_dir / DECISIONS_CSV) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        written = write_decisions(file, verdicts)
        for row, verdict in enumerate(tqdm(written, "decisions", num_bins, unit="bins")):
            short[row] = verdict.decision[:1]
            saving[row], suspicion[row] = verdict.saving, verdict.wrong_probability
            decisions[verdict.decision] += 1
            is_odd = not verdict.decision or np.isnan(verdict.wrong_probability)
            if is_odd:
                reasons["no decision" if not verdict.decision else "outside the counts"] += 1
                if len(named) < NUM_NAMED:
                    named.append(f"{verdict.id}: {verdict.reason}")
    assert decisions.total() == num_bins, "a row that goes in comes out"
    decision = np.select([short == CHECK[0], short == ""], [CHECK, ""], default=OK)
    return checking_order(decision, saving, suspicion), {
        "bins": num_bins,
        "decisions": {name: decisions[name] for name in (OK, CHECK, WRONG)},
        "without_decision": decisions[""],
        "outside_the_models_counts": reasons["outside the counts"],
        "expected_wrong": float(np.nansum(suspicion)),
        "expected_saving": float(np.nansum(saving)),
        "named": named,
    }
