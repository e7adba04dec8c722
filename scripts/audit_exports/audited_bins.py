"""What an audit left of each bin, with its photo: what every export is made of."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from auditing.bin_table import whole_number
from auditing.bins import BinSource
from auditing.parts import AUDIT, read_parts
from auditing.verdicts import COUNTED, DECISIONS_CSV, harmless

# By how they begin: what bins are exported for shows no other photos.
SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png"}
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MAX_NAME = 80  # characters of an id


@dataclass(frozen=True)
class AuditedBin:
    """One bin.

    Args:
        row: of the bin in its source, from 0.
        recorded: what the inventory expects, as written.
        items: what should be in the bin: dictionaries with name and quantity.
        photo: a JPEG's or PNG's bytes; None where there is no such photo.
        probabilities: of each of the model's counts, by the photo; empty where it gave none.
        cells: the bin's line of decisions.csv, by its columns.
    """

    row: int
    id: str
    recorded: str
    items: list[dict[str, Any]]
    photo: bytes | None
    probabilities: tuple[float, ...]
    cells: Mapping[str, str]

    @property
    def expected(self) -> int | None:
        """What the inventory expects, items; None if the record says no such number."""
        return whole_number(self.recorded)

    @property
    def was_counted(self) -> bool:
        """Whether a person has counted it."""
        return self.cells["reason"].startswith(COUNTED)

    @property
    def suffix(self) -> str:
        """What the photo's file ends in."""
        assert self.photo is not None
        return SUFFIXES[_beginning(self.photo)]

    @property
    def photo_name(self) -> str:
        """The photo's file: its own whatever the id is, a stranger's text."""
        return f"{self.row:07d}_{UNSAFE.sub('_', self.id)[:MAX_NAME]}{self.suffix}"

    @property
    def item_lines(self) -> list[str]:
        """The items in words."""
        return [
            f"{'?' if item['quantity'] is None else item['quantity']} × {item['name']}"
            for item in self.items
        ]

    def number(self, column: str) -> float | None:
        """Return a number of decisions.csv, None where the cell is empty."""
        return float(self.cells[column]) if self.cells[column] else None


@dataclass(frozen=True)
class Audit:
    """An audit's folder and the bins that it is of.

    Args:
        counts: what the model knows, items, increasing.
        model: a name of the model that answered, which another one has not.
    """

    folder: Path
    source: BinSource
    counts: tuple[int, ...]
    model: str

    def bins(self, with_photos: bool = True) -> Iterator[AuditedBin]:
        """Yield all bins in the order of their source, holding a part of them.

        Raises: ValueError: decisions.csv is not of these bins.
        """
        photos = self.source.bins(photos_of=None if with_photos else ())
        num_rows = 0
        with (
            (self.folder / DECISIONS_CSV).open(encoding="utf-8", newline="") as file,
            tqdm(total=self.source.num_bins, unit="bins", desc="export") as progress,
        ):
            lines = csv.DictReader(file)
            for part in read_parts(self.folder, self.source.num_bins, self.counts):
                for place, bin_id in enumerate(part.ids):
                    cells, photo = next(lines, {}), next(photos).photo
                    if cells.get("id") != harmless(bin_id):
                        raise ValueError(
                            f"{self.folder / DECISIONS_CSV} is not what audit.py wrote (line of "
                            f"bin {bin_id[:80]!r}): run the audit's command again."
                        )
                    shares = part.probabilities[place]
                    yield AuditedBin(
                        row=part.first + place,
                        id=bin_id,
                        recorded=part.recorded[place],
                        items=part.items[place],
                        photo=photo if photo and _beginning(photo) else None,
                        probabilities=() if np.isnan(shares).any() else tuple(shares.tolist()),
                        cells=cells,
                    )
                    num_rows += 1
                    progress.update()
        assert num_rows == self.source.num_bins, "a row that goes in comes out"


def open_audit(folder: Path, source: BinSource) -> Audit:
    """Return an audit of these bins.

    Raises: ValueError: there is none, it is of others, or it was not finished.
    """
    try:
        identity = json.loads((folder / AUDIT).read_text())
        fingerprint, model = str(identity["bins"]), str(identity["model"])
        counts = tuple(int(count) for count in identity["counts"])
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no audit (no {AUDIT}): name the --output_dir of audit.py."
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / AUDIT} is damaged ({error}): run the audit again.") from error
    if fingerprint != source.fingerprint:
        raise ValueError(
            f"{folder} is an audit of other bins: give --bins, --split, --photos and --metadata as "
            "audit.py had them."
        )
    if not (folder / DECISIONS_CSV).is_file():
        raise ValueError(
            f"{folder} has no {DECISIONS_CSV} yet: run the audit's command again, it goes on."
        )
    return Audit(folder, source, counts, f"bin audit {model[:12]}")


def _beginning(photo: bytes) -> bytes:
    """Return the one of SUFFIXES that a photo begins with, else nothing."""
    return next((beginning for beginning in SUFFIXES if photo.startswith(beginning)), b"")
