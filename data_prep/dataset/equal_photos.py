"""Find photos that show the same under several ids, and the bins that must go for it.

A perceptual hash sees what a copy's bytes hide: another size, another JPEG quality, more light.
Each bit says whether a picture gets brighter from one of its 16x17 cells to the next (dHash; Neal
Krawetz, hackerfactor.com/blog, "Kind of Like That"). Of 407 public photos and the same ones at 224
pixels 406 differ in at most MOST_DIFFERENT_BITS, and of the 27 million pairs of different photos
none: the closest of other bins are 36 apart, the closest of one bin before and after a pick 23.
A mirrored, turned or cropped copy is another photo. A flat one, such as a black frame, has nothing
that its bits could tell: it is equal to none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

HASH_EDGE = 16  # 16 x 16 bits
HASH_BYTES = HASH_EDGE**2 // 8
MOST_DIFFERENT_BITS = 20
# Of 255, between the 5th and the 95th percentile of the cells' brightness: noise or a time stamp
# does not reach it, and the flattest of 7,359 public photos has 20.
MIN_SPREAD = 8
# Of two splits the later one keeps its photos: what a model is judged by stays as it was planned.
KEEPING = ("test", "validation", "train")
BITS_SET = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class EqualPhotos:
    """Photos that are there under several ids."""

    num_photos: int
    # Bin -> the bin of a better kept split that has its photo, or that of another one of its unit.
    in_other_split: Mapping[str, str]


def photo_hash(pixels: Image.Image) -> bytes:
    """Return HASH_BYTES bytes that are nearly the same for photos that look the same.

    No bytes for a flat photo.
    """
    cells = pixels.convert("L").resize((HASH_EDGE + 1, HASH_EDGE), Image.Resampling.BILINEAR)
    brightness = np.asarray(cells)
    if np.ptp(np.percentile(brightness, (5, 95))) < MIN_SPREAD:
        return b""
    return np.packbits(brightness[:, 1:] > brightness[:, :-1]).tobytes()


def find_equal_photos(bins: pa.Table, hashes: Mapping[str, bytes]) -> EqualPhotos:
    """Find equal photos, and the bins that must go so that no two splits share one.

    Units that share a photo show one bin, so all of them belong on one side: that of the first of
    KEEPING that has any of them. A pure function: whoever made the shards, the answer is the same.

    Args:
        bins: columns id, unit (what is in one split as a whole) and split.
        hashes: of photo_hash, for each bin whose photo could be used.
    """
    bins = bins.select(["id", "unit", "split"]).filter(
        pc.is_in(bins["id"], value_set=pa.array(list(hashes), pa.string()))
    )
    ids = bins["id"].to_pylist()
    content = b"".join(hashes[bin_id] for bin_id in ids)
    with_hash = np.flatnonzero([hashes[bin_id] != b"" for bin_id in ids])
    pairs = equal_pairs(np.frombuffer(content, dtype=np.uint8).reshape(-1, HASH_BYTES))
    equal = with_hash[pairs]
    units = bins["unit"].combine_chunks().dictionary_encode()
    sides = _connected(units.indices.to_numpy(), equal)
    ranks = np.array([KEEPING.index(split) for split in bins["split"].to_pylist()], dtype=np.int64)
    best = np.full(len(ids), len(KEEPING))
    np.minimum.at(best, sides, ranks)
    twins = {}
    for row in sorted(np.unique(equal).tolist(), key=lambda row: ids[row], reverse=True):
        if ranks[row] == best[sides[row]]:
            twins[sides[row]] = ids[row]  # in the end the smallest id
    others = np.flatnonzero(ranks > best[sides]).tolist()
    return EqualPhotos(len(np.unique(equal)), {ids[row]: twins[sides[row]] for row in others})


def equal_pairs(hashes: np.ndarray) -> np.ndarray:
    """Return pairs of photos that are equal, int (num_pairs, 2): enough to connect all that are.

    Two hashes that differ in few bits have some of their 16 rows in common: only such pairs are
    compared. All that differ in at most 15 bits are found, and nearly all in 20, which rarely reach
    every row. 60,000 photos take a second.

    Args:
        hashes: uint8 (num_photos, HASH_BYTES).
    """
    different, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    copies = np.stack([first[which.ravel()], np.arange(len(hashes))], axis=1)
    found = [copies[copies[:, 0] != copies[:, 1]]]
    for row in np.ascontiguousarray(different).view(np.uint16).T:
        order = np.argsort(row, kind="stable")
        in_order, at = row[order], np.arange(len(order))
        for step in range(1, len(order)):
            at = at[at + step < len(order)]
            at = at[in_order[at] == in_order[at + step]]
            if len(at) == 0:
                break
            one, other = order[at], order[at + step]
            num_bits = BITS_SET[different[one] ^ different[other]].sum(axis=1)
            is_equal = num_bits <= MOST_DIFFERENT_BITS
            found.append(np.stack([first[one[is_equal]], first[other[is_equal]]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _connected(units: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return for each row the smallest unit that it hangs together with, int (num_rows,)."""
    smallest = np.arange(units.max(initial=-1) + 1)
    one, other = units[pairs[:, 0]], units[pairs[:, 1]]
    while not np.array_equal(smallest[one], smallest[other]):
        least = np.minimum(smallest[one], smallest[other])
        np.minimum.at(smallest, one, least)
        np.minimum.at(smallest, other, least)
        smallest = smallest[smallest]
    return smallest[units]
