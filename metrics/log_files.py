"""Read the lines of a log file, however it is encoded, compressed or wrapped; no figures.

UTF-8 and UTF-16 (which PowerShell writes), plain or gzip; lines as they were printed, a csv with a
column `message` (CloudWatch's exports), or JSON whose objects have a `message` (the AWS CLI's
answers), on one line, on many, or one object a line.
"""

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

LONGEST_MESSAGE = 2**20  # characters; CloudWatch's own limit for an event is 1 MB
LONGEST_HEADER = 2**10
GZIP = b"\x1f\x8b"
# Of a log's characters this many are ASCII at least, bars and names in other scripts beside them.
LEAST_ASCII = 0.25


class LogLine(NamedTuple):
    """One line, and what a csv or JSON says of it elsewhere; empty strings where nothing does."""

    number: int  # in its file, from 1
    text: str
    timestamp: str = ""
    source: str = ""  # a log stream's name


def read_lines(path: Path) -> Iterator[LogLine]:
    """Yield the lines of a log, or of the messages in a csv or in JSON.

    JSON that is broken into many lines is read as a whole; all else in the memory of a line.

    Raises: OSError: it cannot be read. ValueError: it is cut off or damaged, with path and line.
    """
    with opened_log(path) as file:
        first = next(file, "")
        cells = next(csv.reader([first[:LONGEST_HEADER]]), [])
        header = [name.strip().lstrip("@").lower() for name in cells]
        if "message" in header:
            yield from _read_csv(path, file, header)
        elif first.strip() in ("{", "["):
            yield from _read_document(first + file.read())
        else:
            yield from _read_text(itertools.chain([first], file))


@contextlib.contextmanager
def opened_log(path: Path) -> Iterator[TextIO]:
    r"""Open a log as text, whose lines end with \n or with \r, as states of a progress bar do.

    Raises: OSError: it cannot be read. ValueError: what is compressed is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(len(GZIP)).startswith(GZIP)
            plain = gzip.GzipFile(fileobj=file) if is_gzip else file
            encoding = encoding_of(plain.peek(io.DEFAULT_BUFFER_SIZE))
            with io.TextIOWrapper(plain, encoding, errors="replace", newline="") as text:
                yield text
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be unpacked to its end ({error}): fetch it again."
        ) from error


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first bytes of a log tell, with or without a byte order mark."""
    least = LEAST_ASCII * len(head) / 2
    for zeros, mark, encoding in (
        (head[1::2], codecs.BOM_UTF16_LE, "utf-16-le"),
        (head[::2], codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if zeros.count(0) > least:
            return "utf-16" if head.startswith(mark) else encoding  # the first takes the mark away
    return "utf-8-sig"  # so does this


def _read_text(lines: Iterable[str]) -> Iterator[LogLine]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:  # PowerShell's >> appends UTF-16 to a file of any encoding
            line = line.replace("\0", "")
        if '"message"' in line and line.startswith(("{", "[")):
            with contextlib.suppress(ValueError):
                yield from _events(number, json.loads(line))
                continue
        yield LogLine(number, line)


def _read_document(text: str) -> Iterator[LogLine]:
    if '"message"' in text:
        with contextlib.suppress(ValueError):
            yield from _events(1, json.loads(text))
            return
    # A job prints its environment as JSON, and a log may begin there.
    yield from _read_text(io.StringIO(text, newline=""))


def _events(number: int, found: Any) -> Iterator[LogLine]:
    """Yield the messages in JSON, at any depth, and what else their objects hold as lines."""
    if isinstance(found, list):
        for item in found:
            yield from _events(number, item)
    elif isinstance(found, dict) and isinstance(found.get("message"), str):
        rest = dict(found)
        message, timestamp = rest.pop("message"), str(rest.pop("timestamp", ""))
        source = str(rest.pop("logStreamName", ""))
        for text in [*message.splitlines(), json.dumps(rest)]:
            yield LogLine(number, text, timestamp, source)
    elif isinstance(found, dict):
        yield from _events(number, list(found.values()))


def _read_csv(path: Path, file: Iterable[str], header: Sequence[str]) -> Iterator[LogLine]:
    csv.field_size_limit(LONGEST_MESSAGE)
    reader = csv.reader(file, strict=True)
    first_line = 2  # of the row
    try:
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{path}:{first_line}: {len(cells)} cells under a header of {len(header)}: an "
                    "unquoted comma or an open quote; export it again."
                )
            row = dict(zip(header, cells, strict=False))  # an empty line has none
            source = row.get("logstreamname") or row.get("logstream") or ""
            for text in row.get("message", "").splitlines():
                yield LogLine(first_line, text, row.get("timestamp", ""), source)
            first_line = reader.line_num + 2
    except csv.Error as error:
        raise ValueError(f"{path}:{first_line}: {error}: export it again.") from error
