"""The endpoint's handler: photos in, counts with their probabilities out.

    python scripts/inference.py --model runs/vit_base/model --port 8080

serves on this machine what a SageMaker endpoint serves, /ping and /invocations, and at / a page to
try it. On an endpoint SageMaker's toolkit calls model_fn once, and input_fn, predict_fn and
output_fn for each request; this file and those that it needs lie in the model folder's code/.
"""

import hashlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from count_distribution import mean_count, mode_count
from one_line_parser import OneLineErrorsParser
from serving.bin_counter import BinCounter, Seen, available_cores
from serving.bin_requests import (
    JSON,
    Photo,
    PhotoSources,
    Question,
    named_in_refusals,
    photo_bytes,
    photos_of,
    read_request,
)
from serving.photo_checks import Budget, decode_photo, sees_damage
from serving.record_answers import DECIMALS, OF_ITEMS, judged_record
from serving.request_errors import RequestError
from serving.visit_answers import VisitAnswer, answers_with_visits, check_previous
from visits.chain import possible_changes

CSV = "text/csv"
MAX_DECODERS = 4  # photos at once
SERVER_FAULT = 500  # from this status on a fault is ours
MAX_PORT = 65535  # waitress would take the rest of a larger one
# SageMaker sets it to true in the containers of a batch transform, and its SDK's local mode to
# True. Source: "Use Your Own Inference Code with Batch Transform", AWS's developer guide.
BATCH_VARIABLE = "SAGEMAKER_BATCH"
logger = logging.getLogger(__name__)


class Context(Protocol):
    """What is used of the model server's request context."""

    def get_request_id(self, idx: int = 0) -> str:
        """Return the id that the caller finds in the response's headers, too."""

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Answer with another status than 200."""


@dataclass(frozen=True)
class Endpoint:
    """A loaded model, and where it may read photos from."""

    counter: BinCounter
    sources: PhotoSources
    num_threads: int = 1


@dataclass(frozen=True)
class Answers:
    """The answers to one request, in its order."""

    rows: list[dict[str, Any]]
    is_list: bool


def model_fn(model_dir: str, context: Context | None = None) -> Endpoint:
    """Load the model folder.

    Raises: ValueError: it holds no model, or the endpoint's environment is not clear.
    """
    num_threads = threads_of_a_worker(context is not None)
    counter = BinCounter(Path(model_dir), num_threads)
    if not sees_damage():
        logger.warning("simplejpeg is not installed: JPEGs that lost a part are counted.")
    return Endpoint(counter, PhotoSources.from_environment(), num_threads)


def threads_of_a_worker(is_served: bool) -> int:
    """Return how many threads this process may compute with, so that the workers fill the cores.

    Args:
        is_served: whether a model server runs this; it starts one worker a core, unless told
            otherwise. Source: multi-model-server, default_workers_per_model.
    """
    cores = available_cores()
    workers = int(os.environ.get("SAGEMAKER_MODEL_SERVER_WORKERS") or cores) if is_served else 1
    return max(1, cores // max(1, workers))


# The toolkit turns any exception into status 400 with the exception's text. A request that fails
# is handed on as a value instead, and output_fn gives it its own status.


def input_fn(
    body: Any, content_type: str | None, context: Context | None = None
) -> tuple[list[Question], bool] | RequestError:
    """Read the request; nothing is fetched or decoded yet."""
    try:
        return read_request(body, content_type)
    except Exception as error:
        return _as_request_error(error, context)


def predict_fn(
    request: tuple[list[Question], bool] | RequestError,
    endpoint: Endpoint,
    context: Context | None = None,
) -> Answers | RequestError:
    """Fetch, check and decode the photos, and count what they show."""
    if isinstance(request, RequestError):
        return request
    questions, is_list = request
    try:
        return Answers(answered(questions, endpoint), is_list)
    except Exception as error:
        return _as_request_error(error, context)


def answered(questions: Sequence[Question], endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return what is said of each question, all photos of which are counted in one batch."""
    counter = endpoint.counter
    check_previous(questions, counter)
    photos = photos_of(questions)
    contents = zip(photos, photo_bytes(photos, endpoint.sources), strict=True)
    num_threads = min(endpoint.num_threads, len(photos), MAX_DECODERS)
    if len(photos) == len(questions):
        seen = counter.look(decoded(contents, counter, num_threads))
        return answer_rows(counter, questions, seen, [None] * len(questions))
    rows: list[int] = []
    pixels = decoded(seen_once(contents, rows), counter, num_threads)
    return answer_rows(counter, questions, *answers_with_visits(counter, questions, pixels, rows))


def seen_once(
    contents: Iterable[tuple[Photo, bytes]], rows: list[int]
) -> Iterator[tuple[Photo, bytes]]:
    """Yield each photo that was not there before: in a chain of visits all but two come twice.

    Args:
        rows: gets, for each photo, which of those that were yielded it is.
    """
    first: dict[bytes, int] = {}
    for photo, content in contents:
        digest = hashlib.sha256(content).digest()
        is_new = digest not in first
        rows.append(first.setdefault(digest, len(first)))
        if is_new:
            yield photo, content


def decoded(
    contents: Iterable[tuple[Photo, bytes]], counter: BinCounter, num_threads: int
) -> list[np.ndarray]:
    """Return the photos as the model takes them, uint8 (height, width, 3) each, in order."""
    prepare = counter.preparation
    budget = Budget()

    def decode(given: tuple[Photo, bytes]) -> np.ndarray:
        photo, content = given
        with named_in_refusals(photo.is_previous):
            return decode_photo(content, prepare.size, prepare.resample, budget)

    if num_threads == 1:
        return [decode(given) for given in contents]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(decode, contents))


def answer_rows(
    counter: BinCounter,
    questions: Sequence[Question],
    seen: Seen,
    visit_answers: Sequence[VisitAnswer | None],
) -> list[dict[str, Any]]:
    """Return what is said of each photo.

    Args:
        seen: of all questions.
        visit_answers: of those with a previous visit, None for the others.
    """
    probabilities = np.array(
        [
            alone if of_visits is None else of_visits.counts
            for alone, of_visits in zip(seen.probabilities, visit_answers, strict=True)
        ]
    )
    modes = mode_count(probabilities, counter.counts)
    means = mean_count(probabilities, counter.counts)
    rows = []
    for place, (question, of_visits) in enumerate(zip(questions, visit_answers, strict=True)):
        of_count = dict(zip(counter.counts, probabilities[place], strict=True))
        answer = {
            "count": int(modes[place]),
            "probabilities": {str(n): round(float(p), DECIMALS) for n, p in of_count.items()},
            "expected_count": round(float(means[place]), DECIMALS),
        }
        if of_visits is not None:
            answer |= change_of(of_visits, counter.counts)
        if question.expected_quantity is not None:
            answer |= judged_record(
                counter,
                question.expected_quantity,
                question.expected_items,
                seen.probabilities[place],
                None if seen.items is None else seen.items[place],
                None if of_visits is None else of_visits.counts,
            )
        rows.append(
            answer | {"model": counter.name, "version": counter.version, "runtime": counter.runtime}
        )
    return rows


def change_of(of_visits: VisitAnswer, counts: tuple[int, ...]) -> dict[str, Any]:
    """Return how likely each change since the visit before is, and what that rests on."""
    of_change = zip(possible_changes(counts), of_visits.changes, strict=True)
    return {
        "change": {f"{change:+d}": round(float(p), DECIMALS) for change, p in of_change},
        "change_told_by": of_visits.told_by,
        "unchanged_rate": round(of_visits.unchanged_rate, DECIMALS),
    }


def output_fn(
    answers: Answers | RequestError, accept: str | None, context: Context | None = None
) -> str:
    """Write the answers as JSON or csv, or a failure with its status.

    In a batch transform what is wrong with a photo is its answer: of one object that is refused
    AWS fails the whole job, and leaves those that come after it unasked.

    Raises: RuntimeError: a failure, and no context to give it a status of its own.
    """
    if isinstance(answers, RequestError) and answers.status < SERVER_FAULT and is_batch():
        return json.dumps({"error": answers.reason, "request_id": _request_id(context)})
    if isinstance(answers, Answers):
        try:
            return _csv(answers) if _wanted_type(accept) == CSV else _json(answers)
        except Exception as error:
            answers = _as_request_error(error, context)
    request_id = _request_id(context)
    if context is None or not hasattr(context, "set_response_status"):
        raise RuntimeError(f"{answers.reason} (request {request_id})")
    context.set_response_status(
        answers.status, "Refused" if answers.status < SERVER_FAULT else "Failed"
    )
    return json.dumps({"error": answers.reason, "request_id": request_id})


def is_batch() -> bool:
    """Return whether this is the container of a batch transform."""
    return os.environ.get(BATCH_VARIABLE, "").lower() == "true"


def _wanted_type(accept: str | None) -> str:
    for entry in (accept or JSON).split(","):
        media_type = entry.partition(";")[0].strip().lower()
        if media_type in (JSON, "*/*", "application/*"):
            return JSON
        if media_type in (CSV, "text/*"):
            return CSV
    raise RequestError(406, f"The answer is {JSON} or {CSV}.")


def _json(answers: Answers) -> str:
    return json.dumps({"predictions": answers.rows} if answers.is_list else answers.rows[0])


def _csv(answers: Answers) -> str:
    """Return a line of names and a line a question; no cell holds a comma or a caller's text.

    Where a question has a previous visit, or expected items, the lines are longer: the columns
    before stay the same.
    """
    lines: list[str] = []
    changes: list[str] = next((list(row["change"]) for row in answers.rows if "change" in row), [])
    of_visits = ("change_told_by", "unchanged_rate") if changes else ()
    of_items = OF_ITEMS if any(OF_ITEMS[0] in row for row in answers.rows) else ()
    for row in answers.rows:
        cells = {
            "count": row["count"],
            **{f"probability_{count}": value for count, value in row["probabilities"].items()},
            "expected_count": row["expected_count"],
            "expected_quantity": row.get("expected_quantity"),
            "probability_wrong": row.get("probability_wrong"),
            **{name: row[name] for name in ("model", "version", "runtime")},
            **{f"change_{change}": row.get("change", {}).get(change) for change in changes},
            **{name: row.get(name) for name in (*of_visits, *of_items)},
        }
        if not lines:
            lines.append(",".join(cells))
        lines.append(",".join("" if cell is None else str(cell) for cell in cells.values()))
    return "\n".join(lines) + "\n"


def _as_request_error(error: Exception, context: Context | None) -> RequestError:
    """Return what the caller may know of an error; of ours the log gets the rest."""
    if isinstance(error, RequestError):
        logger.info("request %s: %s %s", _request_id(context), error.status, error.reason)
        # Not the error itself: what it came from holds the photo.
        return RequestError(error.status, error.reason)
    logger.error("request %s failed", _request_id(context), exc_info=error)
    return RequestError(500, "The endpoint failed to answer.")


def _request_id(context: Context | None) -> str:
    try:
        return str(context.get_request_id(0)) if context else uuid.uuid4().hex
    except (AttributeError, TypeError):  # a server whose context knows none
        return uuid.uuid4().hex


def main(argv: list[str] | None = None) -> None:
    """Serve a model folder on loopback."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("--model", required=True, metavar="FOLDER", help="model folder of a run")
    parser.add_argument(
        "--port", type=int, default=8080, help="on 127.0.0.1; 0 takes a free one (default: 8080)"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.port <= MAX_PORT:
        parser.error(f"--port has to be 0 to {MAX_PORT}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    from serving.local_server import serve  # on an endpoint nothing of it is needed

    try:
        serve(sys.modules[__name__], arguments.model, arguments.port)
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
