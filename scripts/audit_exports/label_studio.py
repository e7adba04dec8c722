"""An audit as tasks for Label Studio, and what people answered there as marks.

A task holds its photo, as a data URI: it needs no server of files, no right to read one and no
setting of Label Studio's, and shows the same wherever the file of tasks is imported. The bins come
in the order of the review page, those first whose check saves most, since people are given tasks in
the order of their import. What the photo most likely shows travels along as a prediction.

The answers are the marks of the review page: a count, or that the record is right or wrong.
Sources: labelstud.io/guide/tasks (tasks, predictions), labelstud.io/guide/export (answers).
"""

import base64
import csv
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import quoteattr

import numpy as np

from audit_exports.audited_bins import MEDIA_TYPES, Audit, AuditedBin
from auditing.bin_table import whole_number
from auditing.checked_bins import RIGHT, WRONG
from auditing.verdicts import checking_order, harmless

CONFIG = "labeling_config.xml"
# Label Studio takes 250 MiB at once.
MOST_BYTES = 100_000_000  # of a file of tasks
MOST_BY_KEY = 9  # a choice has one key
CHOICES, PHOTO = "count", "photo"  # the control and the object of the labeling config
IS_RIGHT, IS_WRONG = "the record is right", "the record is wrong"
MARK_OF = {IS_RIGHT: RIGHT, IS_WRONG: WRONG}
MARK_COLUMNS = ("id", "expected_quantity", "mark", "counted", "checked_by", "checked_at")


def write_label_studio(audit: Audit, folder: Path) -> int:
    """Write the config and the tasks of the bins that have a photo; return how many."""
    (folder / CONFIG).write_text(labeling_config(audit.counts))
    places: list[tuple[int, int]] = []  # of a task among the lines: start and length
    decisions: list[str] = []
    saving: list[float] = []
    suspicion: list[float] = []
    counted: list[int] = []
    # In the order of the source, whose photos are read once; it has no name, and ends with us.
    with tempfile.TemporaryFile(dir=folder) as lines:
        for a_bin in audit.bins():
            if a_bin.photo is None:
                continue
            if a_bin.was_counted:
                counted.append(len(places))
            line = json.dumps(task_of(a_bin, audit)).encode()
            places.append((lines.tell(), len(line)))
            lines.write(line)
            decisions.append(a_bin.cells["decision"])
            saving.append(a_bin.number("expected_saving") or 0.0)
            suspicion.append(a_bin.number("probability_wrong") or 0.0)
        order = checking_order(decisions, np.array(saving), np.array(suspicion), counted)
        for number, some in enumerate(_files_of([places[place] for place in order]), start=1):
            with (folder / f"tasks_{number:03d}.json").open("wb") as file:
                for start, length in some:
                    file.write(b",\n" if file.tell() else b"[\n")
                    lines.seek(start)
                    file.write(lines.read(length))
                file.write(b"\n]\n")
    return len(places)


def _files_of(places: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield the tasks of each file, of MOST_BYTES at most; a longer one is alone."""
    some: list[tuple[int, int]] = []
    num_bytes = 0
    for place in places:
        if some and num_bytes + place[1] > MOST_BYTES:
            yield some
            some, num_bytes = [], 0
        some.append(place)
        num_bytes += place[1]
    if some:
        yield some


def labeling_config(counts: Sequence[int]) -> str:
    """Return what a project shows of a task and asks about it."""
    shown = range(max(MOST_BY_KEY, counts[-1]) + 1)
    keys = {str(count): str(count) for count in shown if count <= MOST_BY_KEY}
    keys |= {IS_RIGHT: "r", IS_WRONG: "w"}
    choices = "\n".join(
        f"    <Choice value={quoteattr(choice)}"
        + (f' hotkey="{keys[choice]}"/>' if choice in keys else "/>")
        for choice in (*map(str, shown), IS_RIGHT, IS_WRONG)
    )
    return f"""<View>
  <Header value="How many items are in the bin? The inventory says $expected_quantity"/>
  <Choices name="{CHOICES}" toName="{PHOTO}" choice="single" showInline="true" required="true">
{choices}
  </Choices>
  <Image name="{PHOTO}" value="$image" zoom="true" zoomControl="true"/>
  <Text name="items" value="$items"/>
  <Text name="reason" value="$reason"/>
</View>
"""


def task_of(a_bin: AuditedBin, audit: Audit) -> dict[str, Any]:
    """Return the task of a bin with a photo."""
    assert a_bin.photo is not None
    encoded = base64.b64encode(a_bin.photo).decode()
    data = {
        "image": f"data:{MEDIA_TYPES[a_bin.suffix]};base64,{encoded}",
        "bin_id": a_bin.id,
        "expected_quantity": a_bin.recorded,
        "items": "; ".join(a_bin.item_lines) or "The record names no items.",
        "reason": f"Bin {a_bin.id}: {a_bin.cells['reason']}.",
        "decision": a_bin.cells["decision"],
        "probability_wrong": a_bin.number("probability_wrong"),
    }
    if not a_bin.probabilities:
        return {"data": data}
    likeliest = int(np.argmax(a_bin.probabilities))
    said = {
        "from_name": CHOICES,
        "to_name": PHOTO,
        "type": "choices",
        "value": {"choices": [str(audit.counts[likeliest])]},
    }
    prediction = {
        "model_version": audit.model,
        "score": a_bin.probabilities[likeliest],
        "result": [said],
    }
    return {"data": data, "predictions": [prediction]}


def marks_of(path: Path) -> list[dict[str, str]]:
    """Return the marks that Label Studio's export in JSON holds, by MARK_COLUMNS.

    Several people's answers to a task are a mark each; what was skipped is none.

    Raises: ValueError: no such export, or not of these tasks.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        marks = [
            _mark(task["data"], annotation)
            for task in tasks
            for annotation in task["annotations"]
            if not annotation.get("was_cancelled")
        ]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no answers to these tasks ({type(error).__name__}: {error}): export "
            "them from Label Studio as JSON, not as JSON-MIN or CSV."
        ) from error
    if not marks:
        raise ValueError(f"{path} holds no answer yet: submit some, and export again.")
    return marks


def _mark(data: dict[str, Any], annotation: dict[str, Any]) -> dict[str, str]:
    """Return an answer. Raises: KeyError, ValueError, ...: it is none."""
    (said,) = (each for each in annotation["result"] if each["from_name"] == CHOICES)
    (choice,) = said["value"]["choices"]
    recorded, count = str(data["expected_quantity"]), whole_number(choice)
    of_count = RIGHT if whole_number(recorded) == count else WRONG
    by = annotation.get("completed_by")  # a user's number, and in some exports the user
    name = by["email"] if isinstance(by, dict) else f"Label Studio user {by}"
    return {
        "id": str(data["bin_id"]),
        "expected_quantity": recorded,
        "mark": MARK_OF[choice] if count is None else of_count,
        "counted": "" if count is None else str(count),
        "checked_by": "" if by is None else name,
        "checked_at": str(annotation.get("updated_at") or annotation.get("created_at") or ""),
    }


def write_marks(marks: Sequence[dict[str, str]], file: TextIO) -> None:
    """Write marks as audit.py --checked and build_dataset.py --marks read them."""
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(MARK_COLUMNS)
    for mark in marks:
        writer.writerow([harmless(mark[name]) for name in MARK_COLUMNS])
