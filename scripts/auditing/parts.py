"""What a model makes of every bin, in files that are complete or not there.

A part holds PART_SIZE bins. A killed run goes on with the first part that is missing, memory stays
that of one part, and other costs or another budget need no photo to be looked at again.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from auditing.bins import AuditBin, BinSource, UnusablePhotoError, decode_photo
from output_files import whole_file
from serving.bin_counter import BinCounter, Preparation

PART_SIZE = 500
BATCH_SIZE = 50
AUDIT = "audit.json"


def model_identity(model_dir: Path, counter: BinCounter) -> dict[str, Any]:
    """Return what the answers depend on: weights, preparation, labels, and which form answers."""
    digest = hashlib.sha256(counter.version.encode())
    for name in ("config.json", "preprocessor_config.json"):
        digest.update((model_dir / name).read_bytes())
    return {
        "model": digest.hexdigest(),
        "counts": list(counter.counts),
        "runtime": counter.runtime,
    }


@dataclass(frozen=True)
class Part:
    """PART_SIZE bins and what the photos say; probabilities are NaN where there is a problem.

    Args:
        first: the row of the first bin in the source.
        recorded: the record as written; expected: as a number, -1 where it is none.
        problem, note: as in AuditBin, empty where there is none.
        probabilities: float64 (num_bins, num_counts).
    """

    first: int
    ids: list[str]
    recorded: list[str]
    expected: np.ndarray
    problem: list[str]
    note: list[str]
    items: list[list[dict[str, Any]]]
    probabilities: np.ndarray


def claim_output(output_dir: Path, identity: dict[str, Any]) -> None:
    """Make sure that the parts in a folder, now and later, are of one model and the same bins.

    Raises: ValueError: they are others'.
    """
    path = output_dir / AUDIT
    if path.exists():
        try:
            recorded = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): nobody knows whose parts are there, choose another "
                "--output_dir."
            ) from error
        differing = [name for name in identity if recorded.get(name) != identity[name]]
        if differing:
            raise ValueError(
                f"{output_dir} holds another audit (other {', '.join(differing)}): choose another "
                "--output_dir."
            )
        return
    own = {"parts", f"{AUDIT}.part"}  # of a run that was killed just here
    if output_dir.exists() and {entry.name for entry in output_dir.iterdir()} - own:
        raise ValueError(f"{output_dir} is not empty, and no audit: choose another --output_dir.")
    (output_dir / "parts").mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(identity, indent=2) + "\n")


def write_parts(source: BinSource, counter: BinCounter, output_dir: Path) -> None:
    """Ask the model about every bin that no part holds yet."""
    num_parts = -(-source.num_bins // PART_SIZE)
    missing = [
        part for part in range(num_parts) if not _is_whole(output_dir, part, source.num_bins)
    ]
    remaining: Iterator[AuditBin] = iter(())
    following = None
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=source.num_bins, unit="bins", desc="photos") as progress,
    ):
        progress.update(source.num_bins - sum(_num_rows(part, source.num_bins) for part in missing))
        for part in missing:
            if part != following:
                remaining = source.bins(first=part * PART_SIZE)
            following = part + 1
            batches = []
            bins = islice(remaining, PART_SIZE)
            while batch := list(islice(bins, BATCH_SIZE)):
                batches.append(_judge(batch, counter, pool))
                progress.update(len(batch))
            with whole_file(_part_path(output_dir, part)) as temporary:
                # With a sum of each page: a part may be damaged and as long as before.
                pq.write_table(pa.concat_tables(batches), temporary, write_page_checksum=True)


def _judge(batch: Sequence[AuditBin], counter: BinCounter, pool: ThreadPoolExecutor) -> pa.Table:
    def prepared(a_bin: AuditBin) -> np.ndarray | str:
        return _prepared(a_bin, counter.preparation)

    opened = list(pool.map(prepared, batch))
    photos = [photo for photo in opened if not isinstance(photo, str)]
    probabilities = np.full((len(batch), len(counter.counts)), np.nan)
    if photos:
        has_photo = [not isinstance(photo, str) for photo in opened]
        probabilities[has_photo] = counter.probabilities(photos)
    quantities = [a_bin.expected_quantity for a_bin in batch]
    return pa.table(
        {
            "id": [a_bin.id for a_bin in batch],
            "recorded": [a_bin.recorded for a_bin in batch],
            "expected": pa.array([-1 if q is None else q for q in quantities], pa.int64()),
            "problem": [photo if isinstance(photo, str) else "" for photo in opened],
            "note": [a_bin.note or "" for a_bin in batch],
            "items": [json.dumps([asdict(item) for item in a_bin.items]) for a_bin in batch],
            **{
                f"probability_{count}": probabilities[:, column]
                for column, count in enumerate(counter.counts)
            },
        }
    )


def _prepared(a_bin: AuditBin, preparation: Preparation) -> np.ndarray | str:
    """Return the photo as training saw it, or why the bin cannot be judged."""
    if a_bin.problem is not None:
        return a_bin.problem
    assert a_bin.photo is not None
    try:
        return decode_photo(a_bin.photo, preparation.size, preparation.resample)
    except UnusablePhotoError as error:
        return str(error)


def read_parts(output_dir: Path, num_bins: int, counts: Sequence[int]) -> Iterator[Part]:
    """Yield what write_parts wrote, in order."""
    for part in range(-(-num_bins // PART_SIZE)):
        table = _read(_part_path(output_dir, part))
        yield Part(
            first=part * PART_SIZE,
            ids=table["id"].to_pylist(),
            recorded=table["recorded"].to_pylist(),
            expected=table["expected"].to_numpy(),
            problem=table["problem"].to_pylist(),
            note=table["note"].to_pylist(),
            items=[json.loads(items) for items in table["items"].to_pylist()],
            probabilities=np.column_stack(
                [table[f"probability_{count}"].to_numpy() for count in counts]
            ),
        )


def _is_whole(output_dir: Path, part: int, num_bins: int) -> bool:
    """Say whether a part is there as it was written; name one that is damaged."""
    path = _part_path(output_dir, part)
    if not path.exists():
        return False
    try:
        if len(_read(path)) != _num_rows(part, num_bins):
            raise pa.ArrowInvalid("it holds other bins")
    except (pa.ArrowException, OSError) as error:  # pyarrow calls a wrong sum an OSError
        print(f"{path} is damaged ({error}) and made again.", file=sys.stderr)
        return False
    return True


def _read(path: Path) -> pa.Table:
    return pq.read_table(path, page_checksum_verification=True)


def _num_rows(part: int, num_bins: int) -> int:
    return min(PART_SIZE, num_bins - part * PART_SIZE)


def _part_path(output_dir: Path, part: int) -> Path:
    return output_dir / "parts" / f"{part:06d}.parquet"
