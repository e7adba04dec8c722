"""What SageMaker's data capture keeps of an endpoint's requests and answers: JSON lines.

Source: "Capture data from real-time endpoint", AWS's developer guide. A line is
{"captureData": {"endpointInput": CAPTURED, "endpointOutput": CAPTURED}, ...}, with CAPTURED
{"observedContentType": ..., "encoding": "JSON", "CSV" or "BASE64", "data": TEXT}.
"""

import base64
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.answers import Answer, answer_in, answer_in_row


def captured_answers(path: Path) -> Iterator[Answer | None]:
    """Yield what was captured, None for a question without an answer.

    Args:
        path: a file, or the folder that all of an endpoint's lie below.

    Raises: ValueError: there is no such file, or a line is damaged, named by its number.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no *.jsonl: copy what was captured here, with aws s3 sync.")
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    captured = json.loads(line)["captureData"]
                    answers = list(_answers(captured))
                # AttributeError: a list or a string where an object should be.
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"{file}, line {number} is not what SageMaker captures ({error!r}): copy "
                        "the file anew, or leave it out."
                    ) from error
                yield from answers


def _answers(captured: dict[str, Any]) -> Iterator[Answer | None]:
    """Yield the answer to each question of one request."""
    photos = _photos(captured["endpointInput"])
    output = captured.get("endpointOutput")
    if output is None:  # the model failed
        yield from (None for _ in photos)
        return
    content = _content(output)
    if _type(output) == "text/csv":
        rows = csv.DictReader(content.decode().splitlines())
        for photo, row in zip(photos, rows, strict=True):
            yield answer_in_row(row, photo)
        return
    answered = json.loads(content)
    if "error" in answered:
        yield from (None for _ in photos)
        return
    for photo, answer in zip(photos, answered.get("predictions", [answered]), strict=True):
        yield answer_in(answer, photo)


def _photos(question: dict[str, Any]) -> list[bytes | None]:
    """Return the photos that a request asks about; None for one that lies elsewhere."""
    content = _content(question)
    if _type(question) != "application/json":
        return [content]
    asked = json.loads(content)
    return [_image(one.get("image")) for one in asked.get("instances", [asked])]


def _image(text: str | None) -> bytes | None:
    """Return the photo of a question: base64, with line ends or as a data: URI, too."""
    # All that is no base64 is passed over: the endpoint has checked it, and has answered.
    return None if text is None else base64.b64decode(text.rpartition(",")[2])


def _content(captured: dict[str, Any]) -> bytes:
    data = captured["data"]
    return base64.b64decode(data) if captured["encoding"] == "BASE64" else data.encode()


def _type(captured: dict[str, Any]) -> str:
    media_type: str = captured["observedContentType"]
    return media_type.partition(";")[0].strip().lower()
