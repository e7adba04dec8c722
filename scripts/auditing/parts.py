"""What a model makes of every bin, in files that are complete or not there.

A part holds PART_SIZE bins. A killed run goes on with the first part that is missing, memory stays
that of one part, and other costs or another budget need no photo to be looked at again.

A part also holds what the change head says of each of its bins and the visit before, which may lie
in any other part, since a dataset's rows are mixed. What the head needs of a photo is large (400 kB
of a ViT at 224 pixels), so it is kept for a moment only, and the photo of a visit that lies
elsewhere is read and looked at once more.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from auditing.record_lines import record_of, recorded_columns
from auditing.visits_of_bins import SeenItems, SeenVisits
from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS, ItemSettings
from output_files import whole_file
from serving.bin_counter import BinCounter, Preparation, sha256_of
from visits.chain import possible_changes
from visits.settings import HEAD_WEIGHTS

PART_SIZE = 500
BATCH_SIZE = 50
COMPARED_AT_ONCE = 10  # pairs of visits
AUDIT = "audit.json"
COMPARED, CHANGE = "compared_with", "change_"
VOLUME_CHANGE = (f"{CHANGE}of_volume", f"{CHANGE}of_volume_spread")  # logarithms, both
ITEM_ANSWERS, WITH_ITEMS = "item_answers", "with_items"


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


def items_identity(model_dir: Path, counter: BinCounter) -> str | None:
    """Return what the parts' answers of items depend on beside that, None where there are none."""
    if not counter.tells_items:
        return None
    content = b"".join((model_dir / name).read_bytes() for name in (HEADS_WEIGHTS, HEADS_SETTINGS))
    return hashlib.sha256(content).hexdigest()


def changes_identity(model_dir: Path, earlier: np.ndarray | None) -> str | None:
    """Return what the parts' changes depend on beside that, None where they hold none.

    Args:
        earlier: as in write_parts.
    """
    if earlier is None:
        return None
    digest = hashlib.sha256(sha256_of(model_dir / HEAD_WEIGHTS).encode())
    digest.update(earlier.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Part:
    """PART_SIZE bins and what the photos say; probabilities are NaN where there is a problem.

    Args:
        first: the row of the first bin in the source.
        recorded: the record as written; expected: as a number, -1 where it is none.
        problem, note: as in AuditBin, empty where there is none.
        items: with name, quantity, volume and weight.
        probabilities: float64 (num_bins, num_counts), by the photo.
        with_items: the same, by the photo and the items that the record names.
        item_answers: float64 (num_bins, num_answers), of items.answers, NaN where there is a
            problem; None where the model has no item heads.
        compared: int (num_bins,), the row of the visit before whose photo was compared; -1 none.
        changes: float64 (num_bins, num_change_answers), the change head's answers as they came
            (BinCounter.changes); NaN where nothing was compared.
    """

    first: int
    ids: list[str]
    recorded: list[str]
    expected: np.ndarray
    problem: list[str]
    note: list[str]
    items: list[list[dict[str, Any]]]
    probabilities: np.ndarray
    with_items: np.ndarray
    item_answers: np.ndarray | None
    compared: np.ndarray
    changes: np.ndarray


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


def write_parts(
    source: BinSource, counter: BinCounter, output_dir: Path, earlier: np.ndarray | None = None
) -> None:
    """Ask the model about every bin that no part holds yet.

    Args:
        earlier: int (num_bins,), the row of the visit to compare each with, -1 for none; None where
            nothing is to be compared at all.
    """
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
            # Of each part its own: what it holds must not depend on where a run was killed.
            comparer = None if earlier is None else Comparer(source, counter, pool, earlier)
            first = part * PART_SIZE
            while batch := list(islice(bins, BATCH_SIZE)):
                batches.append(_judge(batch, first, counter, pool, comparer))
                first += len(batch)
                progress.update(len(batch))
            with whole_file(_part_path(output_dir, part)) as temporary:
                # With a sum of each page: a part may be damaged and as long as before.
                pq.write_table(pa.concat_tables(batches), temporary, write_page_checksum=True)


class Comparer:
    """What the change head says of the bins of a part and the visits before them.

    Args:
        earlier: as in write_parts.
    """

    def __init__(
        self, source: BinSource, counter: BinCounter, pool: ThreadPoolExecutor, earlier: np.ndarray
    ) -> None:
        self.source, self.counter, self.pool, self.earlier = source, counter, pool, earlier
        self.kept: dict[int, np.ndarray] = {}  # of the batch before, by row

    def changes(self, rows: range, views: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the answers for a batch, as Part has them; NaN where there is none.

        Args:
            rows: of the batch.
            views: what `look` returned of those that have a photo, by row.
        """
        before = self.earlier[rows.start : rows.stop]
        pairs = [(row, int(a)) for row, a in zip(rows, before, strict=True) if a >= 0]
        there = {**self.kept, **views}
        there |= self._looked_at_again(
            sorted(a for row, a in pairs if row in views and a not in there and a not in rows)
        )
        pairs = [(row, a) for row, a in pairs if row in views and a in there]
        answers = np.full((len(rows), self.counter.num_change_answers), np.nan)
        for start in range(0, len(pairs), COMPARED_AT_ONCE):
            some = pairs[start : start + COMPARED_AT_ONCE]
            answers[[row - rows.start for row, _ in some]] = self.counter.changes(
                np.stack([there[a] for _, a in some]), np.stack([there[row] for row, _ in some])
            )
        following = self.earlier[rows.stop : rows.stop + BATCH_SIZE].tolist()
        # Copies: a piece of a batch's views would keep all of them.
        self.kept = {row: views[row].copy() for row in following if row in views}
        return answers

    def _looked_at_again(self, rows: list[int]) -> dict[int, np.ndarray]:
        """Return the views of the photos of rows elsewhere, of those that can be had."""
        preparation = self.counter.preparation

        def prepared(content: bytes | None) -> np.ndarray | None:
            try:
                if content is None:
                    return None
                return decode_photo(content, preparation.size, preparation.resample)
            except UnusablePhotoError:
                return None

        opened = self.pool.map(prepared, self.source.photos(rows))
        photos = {row: photo for row, photo in zip(rows, opened, strict=True) if photo is not None}
        if not photos:
            return {}
        _, views = self.counter.look_for_changes(list(photos.values()))
        return dict(zip(photos, views, strict=True))


def _judge(
    batch: Sequence[AuditBin],
    first: int,
    counter: BinCounter,
    pool: ThreadPoolExecutor,
    comparer: Comparer | None,
) -> pa.Table:
    def prepared(a_bin: AuditBin) -> np.ndarray | str:
        return _prepared(a_bin, counter.preparation)

    opened = list(pool.map(prepared, batch))
    photos = {first + k: photo for k, photo in enumerate(opened) if not isinstance(photo, str)}
    has_photo = np.array([not isinstance(photo, str) for photo in opened])
    probabilities = np.full((len(batch), len(counter.counts)), np.nan)
    rows = range(first, first + len(batch))
    views: Mapping[int, np.ndarray] = {}
    said = None
    if photos:
        if comparer is None:
            seen = counter.look(list(photos.values()))
        else:
            seen, viewed = counter.look_for_changes(list(photos.values()))
            views = dict(zip(photos, viewed, strict=True))
        probabilities[has_photo], said = seen.probabilities, seen.items
    of_items: dict[str, Any] = {}
    if counter.item_settings is not None:
        of_items = _columns_of_items(batch, has_photo, probabilities, said, counter.item_settings)
    compared: dict[str, Any] = {}
    if comparer is not None:
        compared = _columns_of_changes(comparer, rows, comparer.changes(rows, views))
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
            **of_items,
            **compared,
        }
    )


def _columns_of_items(
    batch: Sequence[AuditBin],
    has_photo: np.ndarray,
    probabilities: np.ndarray,
    said: np.ndarray | None,
    settings: ItemSettings,
) -> dict[str, Any]:
    """Return what the item heads say of each bin, and what counts are likely by that.

    Args:
        said: of items.answers, of the bins with a photo; None where none has one.
    """
    answers = np.full((len(batch), settings.num_answers), np.nan)
    with_items = probabilities.copy()
    if said is not None:
        answers[has_photo] = said
        records = [
            record_of(a_bin.expected_quantity, [asdict(item) for item in a_bin.items])
            for a_bin, is_there in zip(batch, has_photo, strict=True)
            if is_there
        ]
        given = settings.counts_given(probabilities[has_photo], said, records)
        with_items[has_photo] = given
    lists = pa.FixedSizeListArray.from_arrays(pa.array(answers.ravel()), settings.num_answers)
    counts = range(probabilities.shape[1])
    return {ITEM_ANSWERS: lists, **{f"{WITH_ITEMS}_{c}": with_items[:, c] for c in counts}}


def _columns_of_changes(
    comparer: Comparer, rows: range, changes: np.ndarray
) -> dict[str, np.ndarray]:
    is_there = ~np.isnan(changes).any(axis=1)
    return {
        COMPARED: np.where(is_there, comparer.earlier[rows.start : rows.stop], -1),
        **{
            name: changes[:, column]
            for column, name in enumerate(_names_of_changes(comparer.counter.counts, changes))
        },
    }


def _names_of_changes(counts: Sequence[int], answers: np.ndarray) -> list[str]:
    """Return the columns of answers, (num_bins, num_change_answers)."""
    names = [f"{CHANGE}{change}" for change in possible_changes(counts)]
    return [*names, *VOLUME_CHANGE][: answers.shape[1]]


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
        probabilities = _columns(table, (f"probability_{count}" for count in counts))
        yield Part(
            first=part * PART_SIZE,
            ids=table["id"].to_pylist(),
            recorded=table["recorded"].to_pylist(),
            expected=table["expected"].to_numpy(),
            problem=table["problem"].to_pylist(),
            note=table["note"].to_pylist(),
            items=[json.loads(items) for items in table["items"].to_pylist()],
            probabilities=probabilities,
            **_items_of(table, probabilities),
            **_changes_of(table, counts),
        )


def _items_of(table: pa.Table, probabilities: np.ndarray) -> dict[str, Any]:
    if ITEM_ANSWERS not in table.column_names:
        return {"with_items": probabilities, "item_answers": None}
    lists = table[ITEM_ANSWERS].combine_chunks()
    answers = lists.flatten().to_numpy().reshape(len(table), lists.type.list_size)
    names = (f"{WITH_ITEMS}_{column}" for column in range(probabilities.shape[1]))
    return {"with_items": _columns(table, names), "item_answers": answers}


def _columns(table: pa.Table, names: Iterable[str]) -> np.ndarray:
    return np.column_stack([table[name].to_numpy() for name in names])


def _changes_of(table: pa.Table, counts: Sequence[int]) -> dict[str, np.ndarray]:
    if COMPARED not in table.column_names:
        return {
            "compared": np.full(len(table), -1),
            "changes": np.full((len(table), len(possible_changes(counts))), np.nan),
        }
    names = [name for name in table.column_names if name.startswith(CHANGE)]
    return {"compared": table[COMPARED].to_numpy(), "changes": _columns(table, names)}


def seen_visits(output_dir: Path, num_bins: int, counts: Sequence[int]) -> SeenVisits:
    """Return of all parts what chains of visits need, some hundred bytes a bin."""
    probabilities = np.empty((num_bins, len(counts)))
    compared = np.empty(num_bins, dtype=np.int64)
    changes, items, ids, records = [], [], [], []
    for part in read_parts(output_dir, num_bins, counts):
        rows = slice(part.first, part.first + len(part.ids))
        probabilities[rows], compared[rows] = part.with_items, part.compared
        changes.append(part.changes.astype(np.float32))
        ids.append(pa.array(part.ids, pa.large_string()))
        if part.item_answers is not None:
            items.append(part.item_answers.astype(np.float32))
            records.append(recorded_columns(list(map(record_of, part.expected, part.items))))
    return SeenVisits(
        probabilities,
        compared,
        np.concatenate(changes) if changes else np.empty((0, len(possible_changes(counts)))),
        pa.chunked_array(ids, pa.large_string()).combine_chunks(),
        SeenItems(np.concatenate(items), pa.concat_tables(records)) if items else None,
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
