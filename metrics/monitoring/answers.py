"""What an endpoint answered about a photo, from either source."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One photo, and what was said of it.

    Args:
        count: the most likely one, items.
        probabilities: by count, items.
        version: of the model.
        is_alone: whether it rests on this photo alone, and not on that of a visit before, too.
        photo: the file's bytes; None where they are not at hand.
        name: by which a photo that is not at hand is known again; empty: it has none.
    """

    count: int
    probabilities: dict[int, float]
    version: str
    is_alone: bool
    photo: bytes | None
    name: str = ""


def answer_in(content: Mapping[str, Any], photo: bytes | None, name: str = "") -> Answer:
    """Return an answer that the handler gave as JSON. Raises: KeyError, ValueError: it is none."""
    return Answer(
        count=int(content["count"]),
        probabilities={int(count): float(p) for count, p in content["probabilities"].items()},
        version=str(content["version"]),
        is_alone="change" not in content,
        photo=photo,
        name=name,
    )


def answer_in_row(row: Mapping[str, Any], photo: bytes | None, name: str = "") -> Answer:
    """Return an answer of a csv's row, of the handler or of query.py. Raises: as answer_in."""
    columns = [name for name in row if name and name.removeprefix("probability_").isdecimal()]
    content = {
        "count": float(row["count"]),  # pandas writes 3.0
        "probabilities": {name.removeprefix("probability_"): row[name] for name in columns},
        "version": row["version"],
        **({"change": ""} if row.get("change_told_by") else {}),
    }
    return answer_in(content, photo, name)


def query_answers(path: Path) -> Iterator[Answer | None]:
    """Yield what the csv of sagemaker_jobs/query.py holds, None for a photo that was not counted.

    Photos are read where they still lie on this machine.

    Raises: ValueError: the file is no such csv.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            if not {"photo", "count", "version", "error"} <= set(rows.fieldnames or ()):
                raise ValueError("it is no csv that sagemaker_jobs/query.py --output wrote")
            for row in rows:
                photo = Path(row["photo"])
                content = photo.read_bytes() if photo.is_file() else None
                yield None if row["error"] else answer_in_row(row, content, row["photo"])
        except (csv.Error, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error
