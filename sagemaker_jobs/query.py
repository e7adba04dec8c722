"""Count the items in photos through an endpoint.

    python sagemaker_jobs/query.py BIN.jpg --endpoint bins-vit                 # prints the answer
    python sagemaker_jobs/query.py PHOTOS --endpoint bins-vit --output counts.csv
    python sagemaker_jobs/query.py PHOTOS --local http://127.0.0.1:8080 --output counts.csv

PHOTOS is a photo, a folder, an S3 folder (s3://BUCKET/FOLDER), or a csv with a column `photo` (a
path from the csv's folder, or s3://) and, if known, `expected_quantity`. With `previous_photo` a
row brings the visit before of the same bin, with `previous_count` (known) or
`previous_expected_quantity` (a record), and perhaps `unchanged_rate`: its answer has the change.
With `items`, JSON as in the audit's csv, a row names what the record does, and `probability_wrong`
is of these, too.
--local asks the handler as scripts/inference.py serves it on this machine; it needs no account.

What has been answered is kept in OUTPUT.answered: killed at any moment, the same command goes on. A
photo that cannot be counted has its reason in the column `error`, and the exit code is then 1; the
same command asks for those again, and for photos that are new. A device or a pipe as OUTPUT keeps
nothing.
"""

import contextlib
import csv
import json
import os
import sys
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import boto3
from botocore.config import Config
from tqdm import tqdm

from aws.entry_parser import EntryParser, positive_integer
from aws.output_files import STANDARD_STREAMS, whole_file
from aws.settings import boto_session, find_region
from deployment.endpoint_client import (
    Answer,
    Endpoint,
    LocalEndpoint,
    NoAnswer,
    PhotoFault,
    SageMakerEndpoint,
    question,
    with_photo,
    with_retries,
)
from deployment.query_photos import (
    ITEMS,
    OF_PREVIOUS,
    PREVIOUS,
    UNCHANGED_RATE,
    Photo,
    find_photos,
    items_in,
    number_in,
    read_photos,
    share_in,
)

COLUMNS = ("photo", "expected_quantity", "count", "expected_count", "probability_wrong")
LAST_COLUMNS = ("model", "version", "runtime", "error")
TOLD_BY = "change_told_by"
JUDGED_BY = "judged_by"  # where items were named
OF_ITEMS = (
    *(JUDGED_BY, "expected_volume"),
    *("seen_volume", "seen_volume_low", "seen_volume_high"),
)
# Photos in a row that got no answer, each after all its attempts: then it is not the photos.
MAX_UNANSWERED = 3
NO_JOURNAL = Path(os.devnull)
MAX_WORKERS = 256  # threads, a connection each


def main(argv: list[str] | None = None) -> None:
    """Ask for the photos that the command line names.

    Raises: SystemExit: code 2 after one line that says what is wrong; 1 if a photo was not counted.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.workers > MAX_WORKERS:
        parser.error(f"--workers has to be 1 to {MAX_WORKERS}")
    with parser.errors_of_one_line():
        needs_region = arguments.endpoint or arguments.region
        session = boto_session(find_region(arguments.region)) if needs_region else boto3.Session()
        endpoint: Endpoint
        if arguments.local:
            endpoint = LocalEndpoint(arguments.local)
        else:
            endpoint = SageMakerEndpoint(session, arguments.endpoint, arguments.workers)
        photos = find_photos(arguments.photos, session)
        asker = Asker(endpoint, session, arguments.workers)
        if arguments.output is None:
            num_faults = print_answers(photos, asker)
        else:
            num_faults = write_answers(photos, asker, arguments.output)
    sys.exit(1 if num_faults else 0)


def make_parser() -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(__doc__)
    parser.add_argument("photos", metavar="PHOTOS", help="photo, folder, s3:// folder, or csv")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--endpoint", metavar="NAME", help="an endpoint on SageMaker")
    where.add_argument("--local", metavar="URL", help="where scripts/inference.py serves")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="csv, a row a photo in their order (default: JSON on standard output, a line a photo)",
    )
    parser.add_argument(
        "--workers",
        type=positive_integer,
        default=8,
        metavar="N",
        help="requests at once (default: %(default)s)",
    )
    parser.add_argument("--region", help="default: AWS_REGION, else your profile's")
    return parser


class Asker:
    """Asks one endpoint for many photos, several at once."""

    def __init__(self, endpoint: Endpoint, session: boto3.Session, workers: int) -> None:
        self.endpoint = endpoint
        self.workers = workers
        self._session = session
        self._s3: Any = None
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def s3(self) -> Any:
        """Return the client for photos in S3, which is made once it is needed."""
        with self._lock:
            if self._s3 is None:
                config = Config(
                    max_pool_connections=self.workers, retries={"total_max_attempts": 1}
                )
                self._s3 = self._session.client("s3", config=config)
        return self._s3

    def answer(self, photo: Photo) -> Answer:
        """Return the endpoint's answer to one photo, or {"error": reason}."""
        if photo.problem:
            return {"error": photo.problem}

        def ask() -> Answer:
            places = (photo.location, photo.previous_photo)
            s3 = self.s3() if any(place.startswith("s3://") for place in places) else None
            return self.endpoint.ask(*request_of(photo, *read_photos(photo, s3)))

        try:
            return with_retries(ask, self._is_over.wait)
        except PhotoFault as fault:
            return {"error": str(fault)}

    def answers(self, photos: Sequence[Photo]) -> Generator[tuple[Photo, Answer], None, None]:
        """Yield photos with their answers, in the order in which they come.

        Raises: ValueError: the endpoint answers no more. ClientError: AWS refuses the requests.
        """
        unanswered = 0
        left = iter(photos)
        pool = ThreadPoolExecutor(self.workers)
        running: dict[Future[Answer], Photo] = {}
        try:
            while True:
                # Few at a time: an endpoint that is gone is not asked for all the others too.
                for photo in left:
                    running[pool.submit(self.answer, photo)] = photo
                    if len(running) >= 2 * self.workers:
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    photo = running.pop(future)
                    try:
                        answer, unanswered = future.result(), 0
                    except NoAnswer as error:
                        answer, unanswered = {"error": f"No answer: {error}"}, unanswered + 1
                        if unanswered == MAX_UNANSWERED:
                            raise ValueError(
                                f"{self.endpoint.name} does not answer ({error}): what has been "
                                "answered is kept, the same command goes on."
                            ) from error
                    yield photo, answer
        finally:
            self._is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)


def request_of(photo: Photo, content: bytes, previous: bytes | None) -> tuple[bytes, str]:
    """Return the body and content type that ask about a photo.

    Args:
        content, previous: bytes of the photo, and of that of the visit before.
    """
    before = None
    if previous is not None:
        count, quantity = photo.previous_count, photo.previous_expected_quantity
        before = with_photo(previous, count=count, expected_quantity=quantity)
    return question(
        content,
        expected_quantity=photo.expected_quantity,
        expected_items=json.loads(photo.items) if photo.items else None,
        previous=before,
        unchanged_rate=photo.unchanged_rate,
    )


def print_answers(photos: Sequence[Photo], asker: Asker) -> int:
    """Print a line of JSON a photo; return how many were not counted."""
    num_faults = 0
    with contextlib.closing(asker.answers(photos)) as answers:
        for photo, answer in answers:
            before = {PREVIOUS: photo.previous_photo} if photo.previous_photo else {}
            print(json.dumps({"photo": photo.location, **before, **answer}), flush=True)
            num_faults += "error" in answer
    return num_faults


def write_answers(photos: Sequence[Photo], asker: Asker, output: Path) -> int:
    """Ask for what has no answer yet, write the csv, and return how many were not counted.

    Raises: ValueError: the endpoint answers no more, or is another one than before.
    """
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name a file.")
    journal = journal_of(output)
    found = read_answers(output) | read_journal(journal)
    known = {photo: answer for photo, answer in found.items() if "error" not in answer}
    asked = list(dict.fromkeys(photos))
    # Those that got no answer before come last: they may be what ended the query.
    left = sorted((photo for photo in asked if photo not in known), key=found.__contains__)
    if len(left) < len(asked):
        print(
            f"{len(asked) - len(left):,} of {len(asked):,} are answered already.", file=sys.stderr
        )
    started = time.monotonic()
    versions = {answer["version"] for answer in known.values()}
    faults: dict[Photo, Answer] = {}
    journal.parent.mkdir(parents=True, exist_ok=True)
    with (
        journal.open("a") as file,
        tqdm(total=len(left), unit="photo") as progress,
        contextlib.closing(asker.answers(left)) as answers,
    ):
        for photo, answer in answers:
            if "error" in answer:
                faults[photo] = answer
            else:
                versions.add(answer["version"])
                if len(versions) > 1:
                    raise ValueError(
                        f"{output} holds answers of another model than {asker.endpoint.name} "
                        "serves: choose another --output."
                    )
                known[photo] = answer
            append(file, photo, answer)
            progress.update()
    seconds = time.monotonic() - started
    # Answers of an earlier query that this one does not ask for stay.
    others = known.keys() - set(asked)
    write_csv([*photos, *(photo for photo in known if photo in others)], known | faults, output)
    if journal != NO_JOURNAL:
        journal.unlink()
    print(
        f"{len(left):,} photos in {seconds:.1f} s ({len(left) / seconds:.1f} a second)",
        file=sys.stderr,
    )
    if not is_device(output):
        print(f"Counts: {output}", flush=True)
    if faults:
        photo, answer = next(iter(faults.items()))
        print(
            f"{len(faults):,} were not counted, such as {photo.location}: {answer['error']}",
            file=sys.stderr,
        )
    return len(faults)


def is_device(output: Path) -> bool:
    """Return whether an output is written to, not made: nothing of it can be read again."""
    return output in STANDARD_STREAMS or (output.exists() and not output.is_file())


def journal_of(output: Path) -> Path:
    """Return where the answers are kept until the csv is there; beside the target of a link."""
    return NO_JOURNAL if is_device(output) else Path(f"{output.resolve()}.answered")


def append(journal: TextIO, photo: Photo, answer: Answer) -> None:
    """Write an answer, or why there is none, so that a kill afterwards does not lose it."""
    journal.write(json.dumps({"photo": asdict(photo), "answer": answer}) + "\n")
    journal.flush()


def read_journal(journal: Path) -> dict[Photo, Answer]:
    """Return the answers of a killed query, and cut off a line that it did not finish."""
    if not journal.is_file():
        return {}
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    answers = {}
    for line in whole.splitlines():
        # A power cut may leave anything: what cannot be read is asked again.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            content = json.loads(line)
            answers[Photo(**content["photo"])] = content["answer"]
    return answers


def read_answers(output: Path) -> dict[Photo, Answer]:
    """Return the answers of a finished query; without those of photos that were not counted.

    Raises: ValueError: the file is no csv of this entry.
    """
    if is_device(output) or not output.exists():
        return {}
    with output.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file, strict=True)
        if tuple(rows.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
            raise ValueError(f"{output} is there already, and no csv of query.py: choose another.")
        try:
            return {photo_of(row): answer_of_row(row) for row in rows if not row.get("error")}
        except (csv.Error, ValueError) as error:
            raise ValueError(
                f"{output} is there already, and damaged in line {rows.line_num} ({error}): remove "
                "it, or choose another."
            ) from error


def photo_of(row: dict[str, str]) -> Photo:
    """Return the photo of a row of this entry's csv. Raises: ValueError: it is no whole row."""
    if None in row or None in row.values():
        raise ValueError("a row has as many cells as the header")
    # Pandas writes numbers as 3.0.
    quantity, count, quantity_before = (
        number_in(row, name) for name in ("expected_quantity", *OF_PREVIOUS[1:3])
    )
    rate, items = share_in(row, UNCHANGED_RATE), items_in(row)
    previous = row.get(PREVIOUS, "")
    return Photo(row["photo"], quantity, "", previous, count, quantity_before, rate, items)


def answer_of_row(row: dict[str, str]) -> Answer:
    """Return an answer as the handler gave it, as far as the csv has it."""
    names = ("count", "expected_count", *LAST_COLUMNS[:3], "probability_wrong")
    answer: Answer = {name: row[name] for name in names}
    answer["probabilities"] = shares_of_row(row, "probability_", but="probability_wrong")
    if row.get(TOLD_BY):
        answer["change"] = shares_of_row(row, "change_", but=TOLD_BY)
        answer[TOLD_BY] = row[TOLD_BY]
    if row.get(JUDGED_BY):
        answer |= {name: row[name] for name in OF_ITEMS}
    return answer


def shares_of_row(row: dict[str, str], prefix: str, but: str) -> dict[str, str]:
    """Return the cells of the columns that begin so, by the rest of their names."""
    names = [name for name in row if name.startswith(prefix) and name != but]
    return {name.removeprefix(prefix): row[name] for name in names}


def write_csv(photos: Iterable[Photo], answers: dict[Photo, Answer], output: Path) -> None:
    """Write all answers in the photos' order; a kill leaves the old file or the new one."""
    photos = list(photos)
    counts: Answer = next((a["probabilities"] for a in answers.values() if "error" not in a), {})
    changes: Answer = next((a["change"] for a in answers.values() if "change" in a), {})
    names = [*COLUMNS, *(f"probability_{count}" for count in counts), *LAST_COLUMNS]
    if any(photo.previous_photo for photo in photos):
        # Behind all others, so that who reads those by their place still does.
        names += [*OF_PREVIOUS, *(f"change_{change}" for change in changes), TOLD_BY]
    if any(photo.items for photo in photos):
        names += [ITEMS, *OF_ITEMS]
    with (
        whole_file(output) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        # Where lines end with \n, Python's writer puts no quotes around a \r, at which it reads.
        is_odd = any("\r" in photo.location + photo.previous_photo for photo in answers)
        writer = csv.DictWriter(
            file,
            names,
            restval="",
            extrasaction="ignore",
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if is_odd else csv.QUOTE_MINIMAL,
        )
        writer.writeheader()
        for photo in photos:
            answer = answers[photo]
            shares = {
                f"{prefix}_{name}": share
                for prefix, kind in (("probability", "probabilities"), ("change", "change"))
                for name, share in answer.get(kind, {}).items()
            }
            asked = asdict(photo) | {"photo": photo.location}
            writer.writerow(answer | shares | asked)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        sys.stderr.flush()
        # Python itself would wait for requests that are under way: over a minute if nobody answers.
        os._exit(int(end.code or 0))
