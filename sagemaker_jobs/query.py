"""Count the items in photos through an endpoint.

    python sagemaker_jobs/query.py BIN.jpg --endpoint bins-vit                 # prints the answer
    python sagemaker_jobs/query.py PHOTOS --endpoint bins-vit --output counts.csv
    python sagemaker_jobs/query.py PHOTOS --local http://127.0.0.1:8080 --output counts.csv

PHOTOS is a photo, a folder, an S3 folder (s3://BUCKET/FOLDER), or a csv with a column `photo` (a
path from the csv's folder, or s3://) and, if known, `expected_quantity`. --local asks the handler
as scripts/inference.py serves it on this machine; it needs no account.

What has been answered is kept in OUTPUT.part: killed at any moment, the same command goes on. A
photo that cannot be counted has its reason in the column `error`, and the exit code is then 1; the
same command asks for those again, and for photos that are new.
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
from aws.settings import boto_session, find_region
from deployment.endpoint_client import (
    Answer,
    Endpoint,
    LocalEndpoint,
    NoAnswer,
    PhotoFault,
    SageMakerEndpoint,
    question,
    with_retries,
)
from deployment.query_photos import Photo, find_photos, read_photo

COLUMNS = ("photo", "expected_quantity", "count", "expected_count", "probability_wrong")
LAST_COLUMNS = ("model", "version", "runtime", "error")
# Photos in a row that got no answer, each after all its attempts: then it is not the photos.
MAX_UNANSWERED = 3


def main(argv: list[str] | None = None) -> None:
    """Ask for the photos that the command line names.

    Raises: SystemExit: code 2 after one line that says what is wrong; 1 if a photo was not counted.
    """
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with parser.errors_of_one_line():
        needs_region = arguments.endpoint or arguments.region
        session = boto_session(find_region(arguments.region)) if needs_region else boto3.Session()
        endpoint: Endpoint
        if arguments.local:
            endpoint = LocalEndpoint(arguments.local)
        else:
            endpoint = SageMakerEndpoint(session, arguments.endpoint, arguments.workers)
        photos = find_photos(arguments.photos, session)
        if arguments.output is None:
            num_faults = print_answers(photos, Asker(endpoint, session, arguments.workers))
        else:
            num_faults = write_answers(
                photos, Asker(endpoint, session, arguments.workers), arguments.output
            )
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

        def ask() -> Answer:
            s3 = self.s3() if photo.location.startswith("s3://") else None
            return self.endpoint.ask(*question(read_photo(photo, s3), photo.expected_quantity))

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


def print_answers(photos: Sequence[Photo], asker: Asker) -> int:
    """Print a line of JSON a photo; return how many were not counted."""
    num_faults = 0
    with contextlib.closing(asker.answers(photos)) as answers:
        for photo, answer in answers:
            print(json.dumps({"photo": photo.location, **answer}), flush=True)
            num_faults += "error" in answer
    return num_faults


def write_answers(photos: Sequence[Photo], asker: Asker, output: Path) -> int:
    """Ask for what has no answer yet, write the csv, and return how many were not counted.

    Raises: ValueError: the endpoint answers no more, or is another one than before.
    """
    journal = Path(f"{output}.part")
    known = {**read_answers(output), **read_journal(journal)}
    asked = list(dict.fromkeys(photos))
    left = [photo for photo in asked if photo not in known]
    if len(left) < len(asked):
        print(
            f"{len(asked) - len(left):,} of {len(asked):,} are answered already.", file=sys.stderr
        )
    started = time.monotonic()
    versions = {answer["version"] for answer in known.values()}
    faults: dict[Photo, Answer] = {}
    output.parent.mkdir(parents=True, exist_ok=True)
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
    journal.unlink()
    print(
        f"{len(left):,} photos in {seconds:.1f} s ({len(left) / seconds:.1f} a second)",
        file=sys.stderr,
    )
    print(f"Counts: {output}")
    if faults:
        photo, answer = next(iter(faults.items()))
        print(
            f"{len(faults):,} were not counted, such as {photo.location}: {answer['error']}",
            file=sys.stderr,
        )
    return len(faults)


def append(journal: TextIO, photo: Photo, answer: Answer) -> None:
    """Write an answer so that a kill afterwards does not lose it."""
    journal.write(json.dumps({"photo": asdict(photo), "answer": answer}) + "\n")
    journal.flush()


def read_journal(journal: Path) -> dict[Photo, Answer]:
    """Return the answers of a killed query, and cut off a line that it did not finish."""
    if not journal.exists():
        return {}
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    lines = [json.loads(line) for line in whole.splitlines()]
    return {Photo(**line["photo"]): line["answer"] for line in lines}


def read_answers(output: Path) -> dict[Photo, Answer]:
    """Return the answers of a finished query; without those of photos that were not counted.

    Raises: ValueError: the file is no csv of this entry.
    """
    if not output.exists():
        return {}
    with output.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
            raise ValueError(f"{output} is there already, and no csv of query.py: choose another.")
        return {photo_of(row): answer_of_row(row) for row in rows if not row.get("error")}


def photo_of(row: dict[str, str]) -> Photo:
    quantity = row["expected_quantity"]
    return Photo(row["photo"], int(quantity) if quantity else None)


def answer_of_row(row: dict[str, str]) -> Answer:
    """Return an answer as the handler gave it, as far as the csv has it."""
    names = [
        name for name in row if name.startswith("probability_") and name != "probability_wrong"
    ]
    answer: Answer = {name: row[name] for name in ("count", "expected_count", *LAST_COLUMNS[:3])}
    answer["probabilities"] = {name.removeprefix("probability_"): row[name] for name in names}
    answer["probability_wrong"] = row["probability_wrong"]
    return answer


def write_csv(photos: Iterable[Photo], answers: dict[Photo, Answer], output: Path) -> None:
    """Write all answers in the photos' order; a kill leaves the old file or the new one."""
    counts: Answer = next((a["probabilities"] for a in answers.values() if "error" not in a), {})
    names = [*COLUMNS, *(f"probability_{count}" for count in counts), *LAST_COLUMNS]
    part = Path(f"{output}.new")
    with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, names, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for photo in photos:
            answer = answers[photo]
            shares = answer.get("probabilities", {}).items()
            of_count = {f"probability_{count}": share for count, share in shares}
            head = {"photo": photo.location, "expected_quantity": photo.expected_quantity}
            writer.writerow(answer | of_count | head)
    os.replace(part, output)


if __name__ == "__main__":
    main()
