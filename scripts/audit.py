"""Find the bins that do not hold what the inventory says, and the ones worth a person's look.

    python scripts/audit.py --model runs/vit_tiny/model --bins data/bins --split test \\
        --output_dir audits/test --review_budget 0.05

--bins is a dataset folder, or a csv with expected_quantity and photo (a path) or id. OUTPUT_DIR
gets decisions.csv (ok, check by hand or wrong for each bin, with the reason), summary.json, and
review.html for the person who checks. A killed audit goes on with the same command; with other
costs, another budget or another --wrong_rate it does not look at the photos again. The exit code is
1 if a bin got no decision, or if something that was given could not be used.

Visits of one bin are judged together: its photos in a dataset folder, in a csv the rows with the
same `bin`, in the order of `visit`. What was counted by hand is told with --checked, from the file
that review.html exports:

    python scripts/audit.py --model runs/vit_tiny/model --bins data/bins --split test \\
        --output_dir audits/test --checked marks.csv

--next 50 names fifty more bins, of which the next model learns most. What was found makes the
audits to come more honest, without training, and the labels of the next dataset (docs/loop.md):

    python scripts/audit.py --model runs/vit_tiny/model --bins data/bins --split test \\
        --output_dir audits/test --recalibrate marks.csv

    python scripts/audit.py --evaluate runs/vit_tiny          # how many wrong bins does it find?
    python scripts/audit.py --label_errors --model runs/vit_tiny/model --bins data/bins \\
        --output_dir audits/labels                            # training labels that look wrong
    python scripts/audit.py --fit_error_model data/bins --model runs/vit_tiny/model
                       # how far off wrong records are, for a model folder that does not say
"""

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from audit_evaluation.evaluation import NUM_DRAWS, evaluate_audit
from audit_evaluation.figures import COSTS
from audit_evaluation.item_errors import item_errors
from audit_evaluation.kinds import cases_of
from audit_evaluation.run import CHANGES, PREDICTIONS, judged_bins
from audit_evaluation.tables import evaluation_text
from auditing.bins import BinSource, open_bins
from auditing.checked_bins import Marks, checked_bins, read_marks
from auditing.decisions import CERTAINTY, Costs
from auditing.marked_bins import marked_bins, recalibrated
from auditing.parts import (
    changes_identity,
    claim_output,
    items_identity,
    model_identity,
    read_parts,
    seen_visits,
    write_parts,
)
from auditing.recalibration import (
    RECALIBRATION,
    Recalibration,
    judging_model,
    read_recalibration,
    write_recalibration,
)
from auditing.verdicts import DECISIONS_CSV, NUM_NAMED, Judge, decide_all, harmless
from auditing.visits_of_bins import earlier_visits, visit_summary, visits_text
from auditing.wrong_rate import DEFAULT_WRONG_RATE, WrongRate
from one_line_parser import OneLineErrorsParser
from output_files import whole_file
from reviewing.photo_maps import HEAT_MAPS, Mapper, map_photos
from reviewing.review_page import REVIEW_PAGE, page_summary, shown_changes, shown_rows, write_page
from serving.bin_counter import BinCounter, available_cores
from visits.error_model import (
    ERROR_MODEL,
    read_error_model,
    write_error_model,
)
from visits.settings import read_visit_model
from visits.training_records import training_error_model

SUMMARY = "summary.json"
AUDIT_EVALUATION = "audit_evaluation.json"
DEFAULT_BUDGET = 0.05
MAX_PAGE_BINS = 5000
MAX_COST = 1e12  # what a million bins cost is still a number


def main(argv: list[str] | None = None) -> None:
    """Audit, evaluate the audit, rank labels or fit an error model, as the flags ask."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        check_flags(arguments)
        if arguments.evaluate:
            evaluate(arguments.evaluate, costs_of(arguments))
        elif arguments.fit_error_model:
            add_error_model(arguments.fit_error_model, arguments.model)
        elif arguments.label_errors:
            # Here: an audit itself needs neither cleanlab nor scikit-learn, which it imports.
            from label_checks.label_errors import rank_label_errors

            budget = DEFAULT_BUDGET if arguments.review_budget is None else arguments.review_budget
            rank_label_errors(arguments.model, arguments.bins, arguments.output_dir, budget)
        elif arguments.recalibrate:
            sys.exit(recalibrate(arguments))
        else:
            sys.exit(audit(arguments))
    except BrokenPipeError:
        raise  # nobody reads any more: the parser's hook ends quietly
    except ImportError as error:
        parser.error(f"{error}: python -m pip install -r requirements.txt")
    except (OSError, ValueError, ArithmeticError, pa.ArrowException) as error:
        parser.error(str(error))


def make_parser() -> OneLineErrorsParser:
    """Return the parser of this entry's flags."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder: RUN/model")
    parser.add_argument(
        "--bins", type=Path, metavar="PATH", help="a dataset folder, or a csv (docs/audit.md)"
    )
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--split", action="append", metavar="NAME", help="of a dataset folder; default: all splits"
    )
    parser.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="of a csv; default: where the csv lies"
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="FOLDER",
        help="the bucket's <id>.json, for the items' names in a dataset folder",
    )
    parser.add_argument(
        "--wrong_rate",
        type=float,
        metavar="SHARE",
        help="share of the records that are wrong, if you know it (default: estimated from the "
        f"records and photos, and about {DEFAULT_WRONG_RATE} where they say little)",
    )
    parser.add_argument(
        "--cost_missed_error", type=float, metavar="MONEY", help="of an error that is not found"
    )
    parser.add_argument(
        "--cost_manual_check", type=float, metavar="MONEY", help="of a person's look at one bin"
    )
    parser.add_argument(
        "--review_budget",
        type=float,
        metavar="SHARE",
        help="instead of costs: the share of the bins, or with --label_errors of the labels, that "
        f"can be checked (default: {DEFAULT_BUDGET})",
    )
    parser.add_argument(
        "--checked",
        type=Path,
        metavar="CSV",
        help="marks that the review page exported: what was counted by hand is known",
    )
    parser.add_argument(
        "--next",
        type=int,
        metavar="NUMBER",
        help="check so many bins more, those that the next model learns most from; one visit a bin",
    )
    parser.add_argument(
        "--recalibrate",
        type=Path,
        metavar="CSV",
        help=f"write {RECALIBRATION} into the folder of --model: what these marks say of how sure "
        "its audits may be, and of how many records are wrong",
    )
    parser.add_argument(
        "--no_visits",
        action="store_true",
        help="judge each photo alone, also where a bin was photographed more than once",
    )
    parser.add_argument(
        "--unchanged_rate",
        type=float,
        metavar="SHARE",
        help="share of the visits that find nothing changed since the visit before, if you know it "
        "(default: that of the model's training records)",
    )
    parser.add_argument(
        "--heat_maps",
        action="store_true",
        help="show in the review page where the model sees what it counts, and what has changed: "
        "each photo of the page costs about ten times as much as to count it",
    )
    parser.add_argument(
        "--evaluate",
        type=Path,
        metavar="RUN",
        help="measure on RUN's test predictions how many wrong bins an audit finds",
    )
    parser.add_argument(
        "--label_errors", action="store_true", help="rank the training labels that look wrong"
    )
    parser.add_argument(
        "--fit_error_model",
        type=Path,
        metavar="DATASET",
        help=f"write {ERROR_MODEL} of this dataset into the folder of --model, as train.py does",
    )
    return parser


def check_flags(arguments: argparse.Namespace) -> None:
    """Check what the flags say together.

    Raises: ValueError: they contradict one another, or a value is out of range.
    """
    named = ("model", "bins", "output_dir")
    parser = make_parser()
    given = {n for n, value in vars(arguments).items() if value != parser.get_default(n)}
    if arguments.evaluate and given - {"evaluate", "cost_missed_error", "cost_manual_check"}:
        raise ValueError("--evaluate RUN stands alone, or with the two costs.")
    if arguments.label_errors and given - {"label_errors", "review_budget", *named}:
        raise ValueError(
            "--label_errors takes --model, --bins, --output_dir and --review_budget alone."
        )
    if arguments.fit_error_model:
        if given != {"fit_error_model", "model"}:
            raise ValueError("--fit_error_model DATASET takes --model FOLDER, and nothing else.")
        return
    if arguments.recalibrate:
        deciding = {"checked", "next", "wrong_rate", "review_budget", "heat_maps"}
        deciding |= {"cost_missed_error", "cost_manual_check"}
        if given & deciding:
            raise ValueError(
                "--recalibrate decides nothing: leave out "
                + ", ".join(f"--{name}" for name in sorted(given & deciding))
                + "."
            )
    if arguments.next is not None and arguments.next < 1:
        raise ValueError(f"--next {arguments.next}: give a whole number from 1 on.")
    missing = [f"--{name}" for name in named if vars(arguments)[name] is None]
    if missing and not arguments.evaluate:
        raise ValueError(f"{', '.join(missing)} missing (or --evaluate RUN).")
    rate = arguments.wrong_rate
    if rate is not None and not 0 < rate < 1:
        raise ValueError(f"--wrong_rate {rate}: give a share between 0 and 1.")
    unchanged = arguments.unchanged_rate
    if unchanged is not None and not 0 <= unchanged < 1:
        raise ValueError(f"--unchanged_rate {unchanged}: give a share from 0 to below 1.")
    if unchanged is not None and arguments.no_visits:
        raise ValueError("Give --unchanged_rate or --no_visits, not both.")
    budget = arguments.review_budget
    if budget is not None and not 0 <= budget <= 1:
        raise ValueError(f"--review_budget {budget}: give a share from 0 to 1.")
    costs = (arguments.cost_missed_error, arguments.cost_manual_check)
    if (costs[0] is None) != (costs[1] is None):
        raise ValueError("Give both --cost_missed_error and --cost_manual_check, or neither.")
    if costs[0] is not None:
        if budget is not None:
            raise ValueError("Give the two costs or --review_budget, not both.")
        if not all(0 <= cost <= MAX_COST for cost in costs):  # NaN is none of them
            raise ValueError(
                f"--cost_missed_error and --cost_manual_check are numbers from 0 to {MAX_COST:g}."
            )


def costs_of(arguments: argparse.Namespace) -> Costs | None:
    """Return the costs that were given, None for a budget."""
    if arguments.cost_missed_error is None:
        return None
    return Costs(arguments.cost_missed_error, arguments.cost_manual_check)


def look_at_bins(
    arguments: argparse.Namespace,
) -> tuple[BinSource, BinCounter, dict[str, Any], Recalibration | None]:
    """Have the model look at every bin that no part holds yet.

    Returns: the bins, the model, what the parts in the output folder depend on, and what marks have
        said of the model; None where that is not there, or is about to be replaced.
    """
    source = open_bins(
        arguments.bins,
        arguments.split,
        arguments.photos,
        arguments.metadata,
        with_visits=not arguments.no_visits,
    )
    counter = BinCounter(arguments.model, available_cores())
    earlier = compared_visits(source, counter)
    identity = {
        "bins": source.fingerprint,
        **model_identity(arguments.model, counter),
        "items": items_identity(arguments.model, counter),
        "compared_visits": changes_identity(arguments.model, earlier),
    }
    claim_output(arguments.output_dir, identity)
    recalibration = None
    if not arguments.recalibrate:
        model = judging_model(arguments.model, identity)
        recalibration = read_recalibration(arguments.model, model)
    write_parts(source, counter, arguments.output_dir, earlier)
    return source, counter, identity, recalibration


def audit(arguments: argparse.Namespace) -> int:
    """Decide about every bin, and return the exit code: 1 if there is something to be mended."""
    output_dir: Path = arguments.output_dir
    marks = read_marks(arguments.checked) if arguments.checked else None
    error_model = read_error_model(arguments.model)
    source, counter, identity, recalibration = look_at_bins(arguments)
    mapper = Mapper(counter) if arguments.heat_maps else None

    judge = experienced_judge(arguments, source, counter, marks, recalibration)
    checked = judge.spend(read_parts(output_dir, source.num_bins, counter.counts))
    if arguments.next is not None:
        parts = read_parts(output_dir, source.num_bins, counter.counts)
        bins = source.visits.bin_of_rows(source.num_bins)
        judge = judge.choosing_to_learn(parts, checked, bins, arguments.next)
    order, summary = decide_all(judge, checked, output_dir, source.num_bins)
    summary |= {
        "wrong_rate": asdict(judge.wrong_rate),
        "certainty_of_suggested_counts": CERTAINTY,
        "review_budget": judge.review_budget,
        "cost_missed_error": judge.costs and judge.costs.missed_error,
        "cost_manual_check": judge.costs and judge.costs.manual_check,
        "error_model": f"{ERROR_MODEL}, {error_model.num_pairs:,} pairs"
        if error_model
        else f"the default: the model folder has no {ERROR_MODEL}",
        "count_weights": dict(zip(map(str, judge.counts), judge.count_weights or (), strict=True)),
        "visits": judge.visits
        and visit_summary(judge.visits, counter.visit_model, arguments.unchanged_rate),
        "counted_by_hand": len(judge.by_hand.counts),
        "recalibration": recalibration and asdict(recalibration),
        "checked_to_learn_from": len(judge.to_learn_from),
        "unusable": [*judge.by_hand.faults, *visit_faults(source)],
    }
    with whole_file(output_dir / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    rows = shown_on_page(order, judge.to_learn_from)
    maps = None
    if mapper is not None:
        path = output_dir / HEAT_MAPS
        maps = map_photos(path, source, mapper, shown_rows(judge, rows), shown_changes(judge, rows))
    write_page(judge, checked, output_dir, source, rows, summary, identity, maps)
    report(summary, output_dir)
    return 1 if summary["without_decision"] or summary["unusable"] else 0


def shown_on_page(order: np.ndarray, to_learn_from: Collection[int]) -> np.ndarray:
    """Return the rows that the page shows, in checking order, those to learn from among them."""
    is_next = np.isin(order, list(to_learn_from))
    places = MAX_PAGE_BINS - min(int(is_next.sum()), MAX_PAGE_BINS)
    is_first = np.cumsum(~is_next) <= places
    return order[is_first | is_next][:MAX_PAGE_BINS]


def experienced_judge(
    arguments: argparse.Namespace,
    source: BinSource,
    counter: BinCounter,
    marks: Marks | None,
    recalibration: Recalibration | None,
) -> Judge:
    """Return a judge who has learned from all records, and knows visits and what a person found."""
    told = recalibration.wrong_rate if recalibration else None
    if arguments.wrong_rate is not None:
        told = WrongRate(arguments.wrong_rate)
    costs = costs_of(arguments)
    budget = arguments.review_budget
    judge = Judge(
        counts=counter.counts,
        error_model=counter.visit_model.error_model,
        wrong_rate=told or WrongRate(DEFAULT_WRONG_RATE),
        costs=costs,
        review_budget=DEFAULT_BUDGET if costs is None and budget is None else budget,
        visit_faults=source.visit_faults,
        item_settings=counter.item_settings,
        recalibration=recalibration or Recalibration(),
    )
    judge = judge.learning_from_records(
        read_parts(arguments.output_dir, source.num_bins, counter.counts),
        source.num_bins,
        is_rate_given=told is not None,
    )
    if marks is None and len(source.visits.rows) == 0:
        return judge
    seen = seen_visits(arguments.output_dir, source.num_bins, counter.counts)
    if marks is not None:
        ids = (harmless(bin_id.as_py()) for bin_id in seen.ids)
        judge = replace(judge, by_hand=checked_bins(marks, ids))
    return judge.knowing_visits(
        seen, source.expected, source.visits, counter.visit_model, arguments.unchanged_rate
    )


def recalibrate(arguments: argparse.Namespace) -> int:
    """Write what marks say into the model folder, and return the exit code: 1 if some say nothing.

    Raises: ValueError: none of the marks says anything of these bins.
    """
    marks = read_marks(arguments.recalibrate, "--recalibrate")
    source, counter, identity, _ = look_at_bins(arguments)
    parts = partial(read_parts, arguments.output_dir, source.num_bins, counter.counts)
    seen = seen_visits(arguments.output_dir, source.num_bins, counter.counts)
    found = checked_bins(marks, (harmless(bin_id.as_py()) for bin_id in seen.ids))
    try:
        marked = marked_bins(found, source.expected, seen, counter.counts)
    except ValueError as error:
        raise ValueError(f"--recalibrate {arguments.recalibrate}: {error}") from error
    fitted = recalibrated(marked, source, seen, parts, counter, arguments.unchanged_rate)
    is_replaced = (arguments.model / RECALIBRATION).exists()
    write_recalibration(arguments.model, fitted, judging_model(arguments.model, identity))
    for line in found.faults:
        print(line, file=sys.stderr)
    if marked.num_unused:
        print(
            f"{marked.num_unused:,} marks are of bins without a photo, or of another record than "
            "they have now: not used.",
            file=sys.stderr,
        )
    print(fitted.words)
    if is_replaced:
        print(f"It takes the place of the {RECALIBRATION} that was there.")
    print(f"Next: the same audit without --recalibrate; it reads {arguments.model / RECALIBRATION}")
    return 1 if found.faults else 0


def compared_visits(source: BinSource, counter: BinCounter) -> np.ndarray | None:
    """Return the visit that each bin's photo is compared with, as write_parts takes it.

    Visits whose record the model does not count to are passed over.
    """
    if not counter.tells_changes:
        return None
    steps = source.visits.steps(np.isin(source.expected, counter.counts))
    return earlier_visits(steps, source.num_bins) if len(steps) else None


def visit_faults(source: BinSource) -> Iterator[str]:
    """Yield a line for each row that could not be put among the visits of its bin."""
    bins = source.bins(photos_of=()) if source.visit_faults else iter(())
    for row, a_bin in enumerate(bins):
        if row in source.visit_faults:
            yield f"{a_bin.id}: {source.visit_faults[row]}: judged without its other visits"


def report(summary: dict[str, Any], output_dir: Path) -> None:
    """Print what was decided, and name what could not be."""
    for line in summary["named"]:
        print(line, file=sys.stderr)
    unnamed = (
        summary["without_decision"] + summary["outside_the_models_counts"] - len(summary["named"])
    )
    if unnamed > 0:
        print(f"... and {unnamed:,} more, in {DECISIONS_CSV}", file=sys.stderr)
    for line in summary["unusable"][:NUM_NAMED]:
        print(line, file=sys.stderr)
    if (more := len(summary["unusable"]) - NUM_NAMED) > 0:
        print(f"... and {more:,} more, in {SUMMARY}", file=sys.stderr)
    print(f"\n{page_summary(summary, summary['bins'])}")
    if summary["visits"]:
        print(visits_text(summary["visits"]))
    print(f"Error model: {summary['error_model']}.")
    rate = wrong_rate_text(summary["wrong_rate"], summary["recalibration"] is not None)
    print(f"Wrong records before a photo is seen: {rate}.")
    print(f"Records that are probably wrong: {summary['expected_wrong']:.1f}.")
    unit = "" if summary["cost_missed_error"] is not None else " errors"
    print(f"Expected to be saved by these decisions: {summary['expected_saving']:.1f}{unit}.")
    if summary["checked_to_learn_from"]:
        print(f"Checked beside that, to learn from: {summary['checked_to_learn_from']:,}.")
    print(f"Decisions: {output_dir / DECISIONS_CSV}")
    print(f"Next: open {shlex.quote(str(output_dir / REVIEW_PAGE))} in a browser.")


def wrong_rate_text(rate: Mapping[str, Any], is_told: bool) -> str:
    """Return how many records are taken for wrong, and on whose word.

    Args:
        is_told: whether marks have said it, where no flag does.
    """
    if rate["low"] is None:
        return f"{rate['value']:.1%}, as given"
    interval = f"{rate['low']:.1%} to {rate['high']:.1%}"
    if is_told:
        return f"{rate['value']:.1%} ({interval}), by what people found: {RECALIBRATION}"
    if rate["is_learned"]:
        return f"{rate['value']:.1%} ({interval}), estimated from the records"
    return (
        f"{rate['value']:.1%} is taken, and these records say little ({interval}): give "
        "--wrong_rate if you know it"
    )


def add_error_model(dataset_dir: Path, model_dir: Path) -> None:
    """Write the error model of a dataset's training split into a model folder.

    Raises: ValueError: there is no training split, or no model.
    """
    if not (model_dir / "config.json").is_file():
        raise ValueError(f"{model_dir} holds no model (no config.json).")
    error_model = training_error_model(dataset_dir)
    write_error_model(model_dir, error_model)
    print(f"{model_dir / ERROR_MODEL}: {error_model.num_pairs:,} pairs")


def evaluate(run_dir: Path, costs: Costs | None) -> None:
    """Measure on a run's test predictions what an audit with its model finds.

    Raises: ValueError: no predictions, or damaged ones, or too few of them.
    """
    model = read_visit_model(run_dir / "model")
    bins = judged_bins(run_dir, model)
    kinds = cases_of(bins, model)
    with tqdm(total=len(kinds) * NUM_DRAWS, unit="draws") as progress:
        figures = evaluate_audit(bins, kinds, [costs] if costs else COSTS, progress.update)
    if bins.items is not None:
        figures["item_errors"] = item_errors(bins, bins.items, model)
    figures |= {
        "num_pairs_of_error_model": model.error_model.num_pairs,
        "asks_change_head": bins.changes is not None,
        # For the report: predictions made later belong to another evaluation.
        "predictions_sha256": hashlib.sha256((run_dir / PREDICTIONS).read_bytes()).hexdigest(),
    }
    with whole_file(run_dir / AUDIT_EVALUATION) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n")
    print(evaluation_text(figures))
    if read_error_model(run_dir / "model") is None:
        print(f"The default error model: {run_dir / 'model'} has no {ERROR_MODEL}.")
    if bins.changes is None:
        print(
            f"Visits are judged by single counts, and by how counts usually change: {run_dir} has "
            f"no {CHANGES}."
        )
    print(f"Figures: {run_dir / AUDIT_EVALUATION}")
    print(f"Next: python metrics/report.py {shlex.quote(str(run_dir))}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
