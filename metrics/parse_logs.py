"""Turn training logs into one tidy csv: a row a figure.

    python metrics/parse_logs.py vit.log --output metrics.csv --job vit
    python metrics/parse_logs.py ../shared/seed_metrics/vit/*.csv --output seed_vit.csv

Reads logs of scripts/train.py and of any Trainer (transformers 4 and 5), as they were printed or as
fetch_logs.py, the AWS CLI (`aws logs tail`, or JSON) or CloudWatch's exports (a csv with a column
`message`, or .gz) give them, in UTF-8 or UTF-16. The columns are job, host, timestamp (UTC), step,
epoch, split, name, value; an accuracy is a share from 0 to 1. Figures that train.py and Trainer
both print count once. Lines that look like metrics and cannot be read are counted and shown on
standard error, and so are logs that hold none. plot_metrics.py draws the csv.
"""

import csv
import math
import re
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from log_files import LogLine, read_lines
from log_lines import Figures, read_figures
from strict_parser import StrictParser
from whole_outputs import whole_file

COLUMNS = ("job", "host", "timestamp", "step", "epoch", "split", "name", "value")
Row = tuple[str, str, str, str, str, str, str, str]

NUM_SHOWN = 5  # unreadable lines
# train.py's line comes just before Trainer's; other hosts print theirs a little later.
NUM_REMEMBERED = 8
# Trainer prints four significant digits.
PRINTED_TOLERANCE = 1e-3

# What stands before a line: a time; JOB/algo-1-1763719200, algo-1 | or TRIAL/algo-1 |.
PREFIX = re.compile(
    r"(?:(?P<timestamp>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)\s+)?"
    r"(?:(?P<source>[\w.-]+/[\w.-]+|[\w./-]+(?=\s+\| ))\s)?"
)
HOST = re.compile(r"algo-\d+")


@dataclass
class Summary:
    """What became of the lines that were no rows."""

    num_rows: int = 0
    num_repeated: int = 0  # lines whose figures stood in the line before, too
    num_unreadable: int = 0
    shown: list[str] = field(default_factory=list)  # the first of the unreadable ones
    without_figures: list[Path] = field(default_factory=list)

    def add_unreadable(self, path: Path, line: LogLine, reason: str) -> None:
        """Count a line, and keep the first few."""
        self.num_unreadable += 1
        if len(self.shown) < NUM_SHOWN:
            self.shown.append(f"  {path}:{line.number}: {reason}: {line.text.strip()[:200]}")


def rows_of(path: Path, job: str, summary: Summary) -> Iterator[Row]:
    """Yield the rows of one file, as it is read.

    Args:
        job: the name for lines that do not carry one.
        summary: gets what was left out.
    """
    printed: defaultdict[str, deque[Figures]] = defaultdict(lambda: deque(maxlen=NUM_REMEMBERED))
    for line in read_lines(path):
        sets, problem = read_figures(line.text)
        if problem:
            summary.add_unreadable(path, line, problem)
        for figures in sets:
            timestamp, source = line.timestamp, line.source
            if figures.start and (prefix := PREFIX.match(line.text, 0, figures.start)):
                timestamp, source = prefix["timestamp"] or timestamp, prefix["source"] or source
            named_job, host = job_and_host(source)
            of_job = named_job or job
            if figures.is_own:
                printed[of_job].append(figures)
            elif any(is_repetition(figures, own) for own in reversed(printed[of_job])):
                summary.num_repeated += 1
                continue
            where = (of_job, host, utc(timestamp), figures.step, figures.epoch, figures.split)
            summary.num_rows += len(figures.values)
            for name, value in figures.values.items():
                yield *where, name, value


@lru_cache
def job_and_host(source: str) -> tuple[str, str]:
    """Split JOB/algo-1-1763719200, JOB, algo-1 or what Docker makes of it; either may be empty."""
    job, _, stream = source.rpartition("/")
    host = HOST.search(stream)
    return (job, host[0]) if host else (source, "")


def is_repetition(figures: Figures, own: Figures) -> bool:
    """Say whether Trainer's dictionary holds nothing but what train.py's own line said."""
    if figures.split != own.split:
        return False
    if figures.epoch and not _prints_alike(figures.epoch, own.epoch):
        return False
    for name, value in figures.values.items():
        if name not in own.values or not _prints_alike(value, own.values[name]):
            return False
    return True


def _prints_alike(first: str, second: str) -> bool:
    if first == second:
        return True
    numbers = float(first), float(second or "nan")
    return math.isclose(*numbers, rel_tol=PRINTED_TOLERANCE) or all(map(math.isnan, numbers))


def utc(timestamp: str) -> str:
    """Return 2026-11-21T10:00:00.123Z for ISO 8601 or milliseconds; any other text as it is.

    A time without a zone is taken for UTC, which CloudWatch exports.
    """
    if not timestamp:
        return ""
    try:
        time = (
            datetime.fromtimestamp(int(timestamp) / 1000, UTC)
            if timestamp.isdecimal()
            else datetime.fromisoformat(timestamp)
        )
    except (ValueError, OverflowError, OSError):
        return timestamp
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def name_of(path: Path) -> str:
    """Return the name of a log without .log and .gz: that of its job where lines carry none."""
    return Path(path.name.removesuffix(".gz")).stem


def parse(paths: Sequence[Path], job: str | None, output: Path) -> Summary:
    """Write the rows of all files into one csv, which is there when it is whole.

    Raises: ValueError: no line holds a figure, or a file is damaged. OSError: it cannot be read.
    """
    summary = Summary()
    with whole_file(output) as temporary:
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for path in paths:
                num_before = summary.num_rows
                writer.writerows(rows_of(path, job or name_of(path), summary))
                if summary.num_rows == num_before:
                    summary.without_figures.append(path)
        if summary.num_rows == 0:
            raise ValueError(
                f"no line with metrics in {', '.join(map(str, paths))}: give the log of a training."
                + (f" First unreadable line:{summary.shown[0]}" if summary.shown else "")
            )
    return summary


def main(argv: list[str] | None = None) -> None:
    """Write the csv and say what was left out."""
    parser = StrictParser(__doc__)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG_OR_CSV")
    parser.add_argument("--output", required=True, type=Path, metavar="CSV")
    parser.add_argument(
        "--job",
        metavar="NAME",
        help="name for the lines that do not carry their job's; default: the file's, without .log",
    )
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        if arguments.output.resolve() in [path.resolve() for path in arguments.logs]:
            parser.error(f"--output {arguments.output} is one of the logs: choose another name.")
        report(parse(arguments.logs, arguments.job, arguments.output), arguments.output)


def report(summary: Summary, output: Path) -> None:
    """Say what was written, and on standard error what was left out."""
    if summary.num_unreadable:
        print(
            f"{summary.num_unreadable:,} lines look like metrics and cannot be read; the first:",
            *summary.shown,
            sep="\n",
            file=sys.stderr,
        )
    for path in summary.without_figures:
        print(f"{path}: no line with metrics in it", file=sys.stderr)
    print(
        f"{output}: {summary.num_rows:,} figures; "
        f"{summary.num_repeated:,} lines printed the same ones again.\n"
        f"Next: python metrics/plot_metrics.py {output} --output_dir plots"
    )


if __name__ == "__main__":
    main()
