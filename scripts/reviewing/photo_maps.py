"""Heat maps of the bins that a review page shows, in a file: where the model sees what it counts.

A map is EDGE x EDGE bytes, row by row, signed, -127 to 127: the strongest place of a photo has one
of these, so that how hot a place is says nothing beyond its own photo. They come of the
safetensors, whatever form of the model answered. The maps in an audit's folder are all of one model
and the same bins (parts.claim_output): those of an earlier page are not made again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from auditing.bins import BinSource, UnusablePhotoError, decode_photo
from output_files import whole_file
from serving.bin_counter import BinCounter, photos_to_probabilities
from visits.chain import possible_changes

if TYPE_CHECKING:
    import torch

HEAT_MAPS = "heat_maps.parquet"
PHOTOS_AT_ONCE, PAIRS_AT_ONCE = 20, 10
STRONGEST = 127
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("counted", pa.binary()),
        ("earlier", pa.int64()),
        ("changed", pa.binary()),
    ]
)


@dataclass(frozen=True)
class PhotoMaps:
    """The maps of a photo, in the file's words; None where there is none.

    Args:
        row, id: of the bin in its source.
        counted: what speaks for more items at each place, and what for fewer.
        earlier: the row of the visit before; -1 where none was compared.
        changed: what speaks for more items than at that visit, and what for fewer.
    """

    row: int
    id: str
    counted: bytes | None
    earlier: int = -1
    changed: bytes | None = None


class Mapper:
    """A model that maps photos. Raises: ValueError: as photos_to_probabilities."""

    def __init__(self, counter: BinCounter) -> None:
        import torch  # here: an audit without maps may need none of it

        self.preparation, self.counts = counter.preparation, counter.counts
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        module = photos_to_probabilities(counter.model_dir, self.preparation)
        self.module = module.requires_grad_(False).to(self.device)

    def counted(self, photos: Sequence[np.ndarray]) -> list[bytes]:
        """Return a map a photo, uint8 (height, width, 3) each."""
        from reviewing.heat_maps import heat_maps

        return _as_bytes(heat_maps(self.module.model, self._pixel_values(photos), self.counts))

    def changed(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> list[bytes]:
        """Return a map a pair of photos. Only where there is a change head."""
        import torch

        with torch.no_grad():
            head, views = self.module.model.change_head, []
            for photos in (before, after):
                self.module.model(pixel_values=self._pixel_values(photos))
                views.append(head.projected())
        return _as_bytes(head.heat_maps(*views, possible_changes(self.counts)))

    def _pixel_values(self, photos: Sequence[np.ndarray]) -> "torch.Tensor":
        import torch

        pixel_values: torch.Tensor = self.module.pixel_values(
            torch.from_numpy(np.stack(photos)).to(self.device)
        )
        return pixel_values

    def prepared(self, content: bytes | None) -> np.ndarray | None:
        """Return a photo as the model takes it, None where there is none to be had."""
        try:
            if content is None:
                return None
            return decode_photo(content, self.preparation.size, self.preparation.resample)
        except UnusablePhotoError:
            return None


def _as_bytes(maps: "torch.Tensor") -> list[bytes]:
    """Return maps, (num_photos, ...) each, as the file has them."""
    places = maps.flatten(1)
    strongest = places.abs().amax(dim=1, keepdim=True)
    scaled = (places * (STRONGEST / strongest.clamp(min=1e-12))).nan_to_num()
    return [one.tobytes() for one in scaled.round().cpu().numpy().astype(np.int8)]


def map_photos(
    path: Path, source: BinSource, mapper: Mapper, rows: Iterable[int], earlier: Mapping[int, int]
) -> dict[int, PhotoMaps]:
    """Return the maps of some photos, and write those that the file does not hold yet into it.

    Args:
        path: of the file, HEAT_MAPS in an audit's folder.
        rows: of the photos.
        earlier: the row of the visit before, of those of them that are compared with it.
    """
    wanted = set(rows)
    known = {
        maps.row: maps
        for maps in (read_photo_maps(path) if path.exists() else ())
        if maps.row not in wanted or maps.earlier == earlier.get(maps.row, -1)
    }
    missing = sorted(wanted - known.keys())
    steps = [(earlier[row], row) for row in missing if row in earlier]
    if missing:
        with (
            ThreadPoolExecutor() as pool,
            tqdm(total=len(missing) + len(steps), unit="maps", desc="heat maps") as progress,
        ):
            for maps in _counted(source, mapper, missing, pool):
                known[maps.row] = replace(maps, earlier=earlier.get(maps.row, -1))
                progress.update()
            for row, changed in _changed(source, mapper, steps, pool):
                known[row] = replace(known[row], changed=changed)
                progress.update()
        with whole_file(path) as temporary:
            _write(temporary, [known[row] for row in sorted(known)])
    return {row: known[row] for row in wanted}


def _counted(
    source: BinSource, mapper: Mapper, rows: Sequence[int], pool: ThreadPoolExecutor
) -> Iterator[PhotoMaps]:
    """Yield the maps of single photos, those without one too."""
    some = set(rows)
    bins = ((row, a_bin) for row, a_bin in enumerate(source.bins(photos_of=some)) if row in some)
    while batch := list(islice(bins, PHOTOS_AT_ONCE)):
        photos = list(pool.map(mapper.prepared, [a_bin.photo for _, a_bin in batch]))
        there = [photo for photo in photos if photo is not None]
        maps = iter(mapper.counted(there) if there else ())
        for (row, a_bin), photo in zip(batch, photos, strict=True):
            yield PhotoMaps(row, a_bin.id, None if photo is None else next(maps))


def _changed(
    source: BinSource, mapper: Mapper, steps: Sequence[tuple[int, int]], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the map of each two photos, by the row of the later one; None where one is missing."""
    for start in range(0, len(steps), PAIRS_AT_ONCE):
        some = steps[start : start + PAIRS_AT_ONCE]
        rows = sorted({row for step in some for row in step})
        photos = dict(zip(rows, pool.map(mapper.prepared, source.photos(rows)), strict=True))
        pairs = [(photos[before], photos[after]) for before, after in some]
        there = [
            (before, after) for before, after in pairs if before is not None and after is not None
        ]
        maps = iter(mapper.changed(*zip(*there, strict=True)) if there else ())
        for (_, after), pair in zip(some, pairs, strict=True):
            yield after, None if any(photo is None for photo in pair) else next(maps)


def read_photo_maps(path: Path) -> Iterator[PhotoMaps]:
    """Yield what map_photos wrote."""
    for line in pq.read_table(path).to_pylist():
        yield PhotoMaps(**line)


def _write(path: Path, maps: Sequence[PhotoMaps]) -> None:
    columns = {name: [getattr(one, name) for one in maps] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, schema=SCHEMA), path)
