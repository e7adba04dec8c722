"""What a person found: the marks that the review page exports, by the rows of an audit.

A bin that somebody counted is known from there on, whatever its photo shows.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from auditing.bin_table import BadTableError, read_table, whole_number

COLUMNS = ("id", "expected_quantity", "mark", "counted")
RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class Finding:
    """Of one bin: how many items it holds; or, where nobody counted, how many it does not hold.

    Args:
        recorded: what the inventory expected then; None where that was no number.
    """

    count: int | None
    refuted: int | None = None
    recorded: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Marks:
    """A file of marks.

    Args:
        findings: id as the page exports it -> what was found.
        faults: what is wrong with other marks, a line each.
    """

    findings: Mapping[str, Finding]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class CheckedBins:
    """What was found in the rows of an audit.

    Args:
        counts: row -> items that somebody counted.
        refuted: row -> a count that the bin does not hold.
        recorded: row -> what the inventory expected when somebody looked; None: no number.
        faults: what is wrong with marks, a line each.
    """

    counts: Mapping[int, int] = field(default_factory=dict)
    refuted: Mapping[int, int] = field(default_factory=dict)
    recorded: Mapping[int, int | None] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def read_marks(path: Path, flag: str = "--checked") -> Marks:
    """Return the marks of a csv that the review page exported, and that a flag names.

    Raises: ValueError: no such file, or not one of marks.
    """
    findings: dict[str, Finding] = {}
    faults: list[str] = []
    contradicted: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            names, rows = read_table(file)
            if missing := [name for name in COLUMNS if name not in names]:
                raise BadTableError(
                    f"no column {', '.join(missing)}: give a file that the review page exported."
                )
            for row in rows:
                name = row["id"][:80]
                finding = _finding(row)
                if isinstance(finding, str):
                    faults.append(f"{name}: {finding}")
                elif findings.setdefault(row["id"], finding) != finding:
                    contradicted.add(row["id"])
    except BadTableError as error:
        raise ValueError(f"{flag} {path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{flag} {path} cannot be read: {error.strerror}.") from error
    for bin_id in sorted(contradicted):
        del findings[bin_id]
        faults.append(f"{bin_id[:80]}: marked more than once, and not alike: no mark is used")
    return Marks(findings, tuple(faults))


def _finding(row: Mapping[str, str]) -> Finding | str:
    """Return what a line says, or what is wrong with it."""
    mark, counted, recorded = row["mark"].strip(), row["counted"], row["expected_quantity"]
    expected = whole_number(recorded)
    if counted.strip():
        count = whole_number(counted)
        if count is None:
            return f"counted {counted[:40]!r} is not a whole number from 0 on: the mark is not used"
        return Finding(count, recorded=expected)
    if mark not in (RIGHT, WRONG):
        return f"mark {mark[:40]!r} is neither {RIGHT} nor {WRONG}: it is not used"
    if mark == WRONG:
        return Finding(None, expected, expected)
    if expected is None:
        return f"marked {RIGHT}, but its record {recorded[:40]!r} is no number: it is not used"
    return Finding(expected, recorded=expected)


def checked_bins(marks: Marks, ids: Iterable[str]) -> CheckedBins:
    """Return what was found, by the rows of an audit.

    Args:
        ids: (num_rows,), of its bins, as the page exports them.
    """
    rows: dict[str, int] = {}
    times: Counter[str] = Counter()
    for row, bin_id in enumerate(ids):
        if bin_id in marks.findings:
            times[bin_id] += 1
            rows[bin_id] = row
    faults = list(marks.faults)
    counts: dict[int, int] = {}
    refuted: dict[int, int] = {}
    recorded: dict[int, int | None] = {}
    for bin_id, finding in marks.findings.items():
        if times[bin_id] != 1:
            number = f"{times[bin_id]} bins are" if times[bin_id] else "no bin is"
            faults.append(f"{bin_id[:80]}: marked, but {number} called so: the mark is not used")
        elif finding.count is not None:
            counts[rows[bin_id]] = finding.count
            recorded[rows[bin_id]] = finding.recorded
        elif finding.refuted is not None:
            refuted[rows[bin_id]] = finding.refuted
            recorded[rows[bin_id]] = finding.recorded
    return CheckedBins(counts, refuted, recorded, tuple(faults))
