"""What becomes of each bin: its decision with the reason, a line of decisions.csv, its place in the
list for the person who checks.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from auditing.checked_bins import CheckedBins
from auditing.decisions import (
    CHECK,
    DECISIONS,
    OK,
    WRONG,
    Costs,
    corrected_count,
    count_interval,
    count_weights,
    decide,
    expected_costs,
    given,
    record_likelihoods,
    reweighted,
    risk_without_check,
    spend_budget,
    wrong_probability,
)
from auditing.item_hints import ItemHints, item_hints
from auditing.next_checks import entropy, most_telling
from auditing.parts import Part, read_parts
from auditing.recalibration import Recalibration
from auditing.visits_of_bins import (
    Neighbour,
    SeenVisits,
    VisitEvidence,
    VisitOrder,
    evidence_of_visits,
)
from auditing.wrong_rate import WrongRate, estimate_wrong_rate
from items.settings import ItemSettings
from output_files import whole_file
from visits.error_model import ErrorModel
from visits.settings import VisitModel

DECISIONS_CSV = "decisions.csv"
COUNTED = "counted by hand"  # how the reason of such a bin begins
NUM_NAMED = 20  # bins without a plain decision, in what an audit prints
COVERAGE = 0.9
SMALLEST = 1e-12  # of a probability
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
    *("neighbour_id", "more_than_neighbour", "probability_more_than_neighbour"),
    *("recorded_volume", "seen_volume", "likeliest_missing_item", "probability_missing"),
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
        neighbour: another visit of the bin, and what both photos say; None where there is none.
        hints: what the photo says of the record's items; None where nothing can be said.
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
    neighbour: Neighbour | None = None
    hints: ItemHints | None = None

    def cells(self) -> list[str]:
        """Return the line of decisions.csv, in the order of COLUMNS.

        A change such as -1 is a number, in a spreadsheet too, and gets no apostrophe.
        """
        near = self.neighbour
        is_compared = near is not None and near.change is not None
        return [
            harmless(self.id),
            harmless(self.recorded),
            *("" if count is None else str(count) for count in self.interval),
            "" if np.isnan(self.wrong_probability) else f"{self.wrong_probability:.6f}",
            self.decision,
            "" if self.suggested is None else str(self.suggested),
            "" if np.isnan(self.saving) else f"{self.saving:.6f}",
            harmless(self.reason),
            harmless(near.id) if near else "",
            str(near.change) if near and is_compared else "",
            f"{near.probability:.6f}" if near and is_compared else "",
            *self._cells_of_items(),
        ]

    def _cells_of_items(self) -> list[str]:
        hints = self.hints
        if hints is None:
            return [""] * 4
        recorded = "" if np.isnan(hints.recorded_volume) else f"{hints.recorded_volume:.1f}"
        cells = [recorded, f"{hints.seen_volume:.1f}", "", ""]
        if (place := hints.likeliest_missing) is not None:
            cells[2:] = harmless(str(self.items[place]["name"])), f"{hints.missing[place]:.6f}"
        return cells

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
        by_hand: what a person found.
        visits: what all visits of a bin say together; None where no bin is there twice.
        visit_faults: as in BinSource.
        item_settings: how what is said of items is held against records; None: the model says
            nothing of them.
        recalibration: what the marks of earlier audits said.
        to_learn_from: rows that are to be checked for what they tell, whatever that saves.
    """

    counts: tuple[int, ...]
    error_model: ErrorModel
    wrong_rate: WrongRate
    costs: Costs | None
    review_budget: float | None
    count_weights: tuple[float, ...] | None = None
    by_hand: CheckedBins = field(default_factory=CheckedBins)
    visits: VisitEvidence | None = None
    visit_faults: Mapping[int, str] = field(default_factory=dict)
    item_settings: ItemSettings | None = None
    recalibration: Recalibration = field(default_factory=Recalibration)
    to_learn_from: frozenset[int] = frozenset()

    @property
    def record_probabilities(self) -> np.ndarray:
        """How wrong records come about, (num_counts, num_counts): of count_posterior."""
        usual = self.error_model.record_probabilities(self.counts)
        return self.recalibration.record_probabilities(usual)

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
            probabilities.append(self.recalibration.sharpened(part.with_items[taken]))
            recorded.append(np.searchsorted(self.counts, part.expected[taken]))
        known = (
            np.concatenate(probabilities),
            np.concatenate(recorded),
            self.record_probabilities,
        )
        rate = self.wrong_rate if is_rate_given else estimate_wrong_rate(*known)
        weights = count_weights(*known, rate.value)
        return replace(self, count_weights=tuple(weights.tolist()), wrong_rate=rate)

    def knowing_visits(
        self,
        seen: SeenVisits,
        expected: np.ndarray,
        order: VisitOrder,
        model: VisitModel,
        unchanged_rate: float | None,
    ) -> "Judge":
        """Return a judge who knows what all visits of each bin say together.

        To be asked after learning_from_records: what photos say is to lean as it does for a bin
        that was seen once. A visit whose count the model does not know, by its record or by hand,
        is left out, and those around it follow each other.

        Args:
            expected: int (num_bins,), the records; order: which rows show one bin.
            unchanged_rate: as in visits_of_bins.evidence_of_visits.
        """
        rows = np.arange(len(expected))
        counted = found_in(self.by_hand.counts, rows)
        steps = order.steps(np.isin(np.where(counted < 0, expected, counted), self.counts))
        if len(steps) == 0:
            return self
        has_photo = ~np.isnan(seen.probabilities).any(axis=1)
        leaning = np.full(seen.probabilities.shape, 1 / len(self.counts))
        leaning[has_photo] = self._leaning(seen.probabilities[has_photo])
        evidence = evidence_of_visits(
            seen,
            steps,
            expected,
            leaning,
            self._likelihoods(rows, expected),
            model,
            self.counts,
            unchanged_rate,
            self.item_settings,
        )
        return replace(self, visits=evidence)

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

    def choosing_to_learn(
        self, parts: Iterable[Part], checked: np.ndarray | None, bins: np.ndarray, number: int
    ) -> "Judge":
        """Return a judge who has some more bins checked: those that tell most.

        Args:
            checked: of `spend`. bins: int (num_bins,), a number for the bin that each row shows.
        """
        risk, uncertainty = np.full(len(bins), np.nan), np.full(len(bins), np.nan)
        is_checked = found_in(self.by_hand.counts, np.arange(len(bins))) >= 0
        is_checked[list(self.by_hand.refuted)] = True
        num_judged = 0
        for part in parts:
            judged = self._is_judged(part)
            rows = part.first + np.flatnonzero(judged)
            posterior = self._posterior(part, judged)
            risk[rows] = risk_without_check(posterior, self._recorded(part, judged))
            uncertainty[rows] = entropy(self._leaning(part.with_items[judged]))
            following = num_judged + len(rows)
            if checked is not None:
                is_checked[rows] |= checked[num_judged:following]
            else:
                assert self.costs is not None
                costs = expected_costs(posterior, self._recorded(part, judged), self.costs)
                is_checked[rows] |= decide(costs) == DECISIONS.index(CHECK)
            num_judged = following
            # A record outside the counts is checked beyond any budget.
            has_photo = ~np.isnan(part.probabilities).any(axis=1)
            is_outside = has_photo & ~np.isin(part.expected, self.counts)
            is_checked[part.first + np.flatnonzero(is_outside)] = True
        chosen = most_telling(risk, uncertainty, is_checked, bins, number)
        return replace(self, to_learn_from=frozenset(chosen.tolist()))

    def corrected_counts(self, part: Part) -> np.ndarray:
        """Return the likeliest count of each bin if its record is wrong, int (num_bins,), items.

        Args:
            part: of bins with a photo and a record among the counts.
        """
        judged = self._is_judged(part)
        assert judged.all()
        posterior, recorded = self._posterior(part, judged), self._recorded(part, judged)
        return corrected_count(posterior, recorded, self.counts)[0]

    def _is_judged(self, part: Part) -> np.ndarray:
        """Return which bins photo and record decide about, bool (num_bins,)."""
        judged = np.isin(part.expected, self.counts) & ~np.isnan(part.probabilities).any(axis=1)
        rows = part.first + np.arange(len(part.ids))
        return judged & (found_in(self.by_hand.counts, rows) < 0)

    def _recorded(self, part: Part, judged: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.counts, part.expected[judged])

    def _posterior(self, part: Part, judged: np.ndarray) -> np.ndarray:
        rows = part.first + np.flatnonzero(judged)
        return self.posterior(rows, part.expected[judged], part.with_items[judged])

    def posterior(
        self, rows: np.ndarray, expected: np.ndarray, probabilities: np.ndarray
    ) -> np.ndarray:
        """Return how likely each count is by all that is known, float (num_rows, num_counts).

        Args:
            rows: int (num_rows,), of the source. expected: (num_rows,), their records, of the
                counts that the model knows.
            probabilities: float (num_rows, num_counts), by the photo and the record's items.
        """
        likelihoods = self._likelihoods(rows, expected)
        leaning = self._leaning(probabilities)
        # Where a person has ruled out a count, others are possible whatever the photo shows.
        is_ruled_out = (likelihoods == 0).any(axis=1)
        leaning[is_ruled_out] = np.maximum(leaning[is_ruled_out], SMALLEST)
        alone = given(leaning, likelihoods)
        if self.visits is None:
            return alone
        together = self.visits.posteriors[rows]
        return np.where(np.isnan(together), alone, together)

    def _leaning(self, probabilities: np.ndarray) -> np.ndarray:
        probabilities = self.recalibration.sharpened(probabilities)
        if self.count_weights is None:
            return probabilities
        return reweighted(probabilities, np.array(self.count_weights))

    def _likelihoods(self, rows: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return how likely what is known of rows beside their photos is for each count.

        Args:
            expected: int (num_rows,), their records; of one outside the counts nothing is known.

        Returns: float (num_rows, num_counts).
        """
        is_known = np.isin(expected, self.counts)
        likelihoods = np.ones((len(rows), len(self.counts)))
        likelihoods[is_known] = record_likelihoods(
            np.searchsorted(self.counts, expected[is_known]),
            self.record_probabilities,
            self.wrong_rate.value,
        )
        counted = found_in(self.by_hand.counts, rows)
        likelihoods[counted >= 0] = np.equal.outer(counted[counted >= 0], self.counts)
        ruled_out = found_in(self.by_hand.refuted, rows)
        refuted = np.equal.outer(ruled_out, self.counts)
        likelihoods = np.where(refuted, 0.0, likelihoods)
        # What a record that is known to be wrong says is that it is wrong; one that was written
        # since is a record as any other.
        is_wrong = refuted.any(axis=1) & (ruled_out == expected)
        likelihoods[is_wrong] = ~refuted[is_wrong]
        return likelihoods

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
            verdict = Verdict(
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
                reason=reason,
                items=part.items[row],
                neighbour=self.visits.neighbour_of(part.first + row) if self.visits else None,
                hints=self._hints(
                    part, row, posterior[index] if judged[row] and said != OK else None
                ),
            )
            yield self._with_what_else_is_known(verdict, part, row)

    def _hints(self, part: Part, row: int, counts: np.ndarray | None) -> ItemHints | None:
        """Return what the photo says of the record's items.

        Args:
            counts: how likely each count is, of a bin that is not ok.
        """
        if self.item_settings is None or part.item_answers is None:
            return None
        if part.expected[row] not in self.counts:  # of such the heads have seen none
            return None
        answers = part.item_answers[row]
        if np.isnan(answers).any():
            return None
        expected = int(part.expected[row])
        return item_hints(answers, expected, part.items[row], counts, self.item_settings)

    def _with_what_else_is_known(self, verdict: Verdict, part: Part, row: int) -> Verdict:
        """Return a verdict with what a person found, and with notes."""
        counted = self.by_hand.counts.get(part.first + row)
        if counted is not None:
            is_right = int(part.expected[row]) == counted
            verdict = replace(
                verdict,
                wrong_probability=0.0 if is_right else 1.0,
                decision=OK if is_right else WRONG,
                suggested=None if is_right else counted,
                saving=0.0 if is_right else (self.costs or ERROR_UNITS).missed_error,
                reason=f"{COUNTED}: {counted}",
            )
        if part.first + row in self.to_learn_from:
            reason = "its count tells most of what photos do not"
            verdict = replace(verdict, decision=CHECK, suggested=None, reason=reason)
        is_refuted = self.by_hand.refuted.get(part.first + row) == int(part.expected[row])
        if is_refuted and verdict.decision == OK:  # whatever a check costs: it is wrong
            verdict = replace(verdict, decision=CHECK, reason="")
        fault = self.visit_faults.get(part.first + row)
        hints = None if verdict.decision == OK or counted is not None else verdict.hints
        reasons = (
            verdict.reason,
            f"the photo {hints.words}" if hints and hints.words else None,
            "found wrong by hand, and not counted" if is_refuted else None,
            part.note[row],
            f"{fault}: judged without its other visits" if fault else None,
        )
        return replace(verdict, reason="; ".join(filter(None, reasons)))

    def _reason(self, part: Part, row: int, decision: str) -> str:
        if part.problem[row]:
            return part.problem[row]
        if part.expected[row] not in self.counts:
            return (
                f"expected quantity {part.expected[row]} is outside the model's counts "
                f"{self.counts[0]} to {self.counts[-1]}"
            )
        if decision == OK and self.visits and self.visits.neighbours[part.first + row] >= 0:
            return "the photos and records of its visits agree well enough"
        if decision == OK:
            return "photo and record agree well enough"
        if decision == WRONG:
            return "the bin holds another count"
        if self.review_budget is None:
            return "a check is expected to cost less than the errors it finds"
        return "among the bins whose check saves most"


def found_in(findings: Mapping[int, int], rows: np.ndarray) -> np.ndarray:
    """Return what was found in some rows, int (num_rows,); -1 where nothing was."""
    if not findings:
        return np.full(len(rows), -1)
    return np.array([findings.get(row, -1) for row in rows.tolist()], dtype=np.int64)


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
    decision: Sequence[str] | np.ndarray,
    saving: np.ndarray,
    suspicion: np.ndarray,
    counted: Collection[int] = (),
) -> np.ndarray:
    """Return the rows in the order in which a person looks at them.

    First where a decision saves most, then the checks of which nobody knows what they save, then
    the bins without a decision, then those that are well, the most suspicious first; last the rows
    that somebody has counted.
    """
    decision = np.asarray(decision)
    group = np.select(
        [np.nan_to_num(saving) > 0, decision == CHECK, decision == ""], [0, 1, 2], default=3
    )
    group[list(counted)] = 4
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
    return checking_order(decision, saving, suspicion, judge.by_hand.counts), {
        "bins": num_bins,
        "decisions": {name: decisions[name] for name in (OK, CHECK, WRONG)},
        "without_decision": decisions[""],
        "outside_the_models_counts": reasons["outside the counts"],
        "expected_wrong": float(np.nansum(suspicion)),
        "expected_saving": float(np.nansum(saving)),
        "named": named,
    }
