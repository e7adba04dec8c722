"""Photos that show the same under several ids are found, and no two splits share one."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset.equal_photos import (
    BITS_SET,
    MOST_DIFFERENT_BITS,
    equal_pairs,
    find_equal_photos,
    photo_hash,
)
from paths import real_path


def num_different_bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def squeezed(photo: Image.Image) -> Image.Image:
    return photo.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)


def stored(photo: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=quality)
    return Image.open(content)


def test_a_copy_looks_the_same_and_the_next_photo_of_a_bin_does_not() -> None:
    folder = real_path("abid_originals") / "bin-images"
    photos = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())[:40]]
    hashes = [photo_hash(squeezed(photo)) for photo in photos]
    found = [
        num_different_bits(photo_hash(squeezed(copy)), expected) <= MOST_DIFFERENT_BITS
        for photo, expected in zip(photos, hashes, strict=True)
        for copy in (
            stored(photo, 75),
            stored(photo.resize((photo.width * 2 // 3, photo.height * 2 // 3)), 90),
            stored(photo.point(lambda value: min(255, int(1.1 * value))), 90),
        )
    ]
    assert sum(found) >= 0.95 * len(found)
    pairs = equal_pairs(np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 32))
    assert len(pairs) == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.sets(st.integers(0, 255), max_size=8))))
def test_all_pairs_are_found_that_differ_in_few_bits(changed: list[tuple[int, set[int]]]) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (7, 256), dtype=np.uint8)
    photos = [np.packbits(bits[which] ^ np.isin(np.arange(256), [*at])) for which, at in changed]
    hashes = np.array(photos, dtype=np.uint8).reshape(-1, 32)
    pairs = equal_pairs(hashes)
    assert all(changed[one][0] == changed[other][0] for one, other in pairs)
    groups = {frozenset({row}) for row in range(len(changed))}
    for pair in pairs.tolist():
        joined = frozenset().union(*(group for group in groups if group & {*pair}))
        groups = {group for group in groups if not group & joined} | {joined}
    # At most 16 bits between two of one kind, of which those in 20 or fewer are equal.
    distances = BITS_SET[hashes[:, None] ^ hashes[None]].sum(axis=2)
    for one, other in np.argwhere(distances <= 15).tolist():
        assert any({one, other} <= group for group in groups)


def hashes_of(**pictures: int) -> dict[str, bytes]:
    """Return a hash for each bin, the same for bins of one picture."""
    random = np.random.default_rng(1).integers(0, 256, (10, 32), dtype=np.uint8)
    return {name: random[picture].tobytes() for name, picture in pictures.items()}


def bins_of(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table(dict(zip(("id", "unit", "split"), zip(*rows, strict=True), strict=True)))


def test_a_photo_stays_in_the_later_split_and_takes_the_rest_of_its_group_out_of_the_other() -> (
    None
):
    bins = bins_of(
        ("a", "a", "train"), ("b", "a", "train"), ("c", "c", "train"),
        ("d", "d", "validation"), ("e", "e", "test"), ("f", "e", "test"), ("g", "g", "train"),
    )  # fmt: skip
    equal = find_equal_photos(bins, hashes_of(a=0, b=1, c=2, d=3, e=0, f=4, g=5))
    assert equal.num_photos == 2
    assert equal.in_other_split == {"a": "e", "b": "e"}


def test_groups_that_hang_together_through_others_are_on_one_side() -> None:
    bins = bins_of(
        ("a", "a", "train"), ("b", "b", "validation"), ("c", "b", "validation"),
        ("d", "d", "train"), ("e", "d", "train"), ("f", "f", "test"),
    )  # fmt: skip
    equal = find_equal_photos(bins, hashes_of(a=0, b=0, c=1, d=1, e=2, f=2))
    assert equal.num_photos == 6
    assert equal.in_other_split == dict.fromkeys("abcde", "f")


def test_equal_photos_of_one_split_stay_and_are_counted() -> None:
    bins = bins_of(("a", "a", "train"), ("b", "b", "train"), ("c", "c", "test"))
    equal = find_equal_photos(bins, hashes_of(a=0, b=0, c=1))
    assert (equal.num_photos, equal.in_other_split) == (2, {})


def test_a_bin_without_a_usable_photo_is_equal_to_nothing() -> None:
    bins = bins_of(("a", "a", "train"), ("b", "a", "train"), ("c", "c", "test"))
    equal = find_equal_photos(bins, hashes_of(a=0, c=0))
    assert equal.in_other_split == {"a": "c"}
    assert find_equal_photos(bins, {}).num_photos == 0


@pytest.mark.parametrize("level", [0, 2, 127, 128, 131, 255])
def test_a_flat_photo_is_equal_to_none_whatever_its_noise(level: int) -> None:
    flat = Image.new("RGB", (224, 224), (level,) * 3)
    noise = np.random.default_rng(level).normal(level, 12, (224, 224, 3))
    noisy = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    stamped = flat.copy()
    stamped.paste((255, 120, 0), (150, 208, 220, 220))  # the time, in a corner
    for photo in (flat, noisy, stamped):
        for quality in (95, 30):
            assert photo_hash(stored(photo, quality)) == b""


def test_flat_photos_go_only_with_their_group() -> None:
    bins = bins_of(
        ("a", "a", "train"), ("b", "b", "validation"), ("c", "c", "test"),
        ("d", "d", "train"), ("e", "d", "train"), ("f", "f", "test"),
    )  # fmt: skip
    hashes = {**dict.fromkeys("abce", b""), **hashes_of(d=0, f=0)}
    equal = find_equal_photos(bins, hashes)
    assert equal.num_photos == 2
    assert equal.in_other_split == {"d": "f", "e": "f"}
    assert find_equal_photos(bins, dict.fromkeys("abcdef", b"")).num_photos == 0


@pytest.mark.slow
def test_of_the_real_photos_and_their_small_copies_the_pairs_alone_are_equal() -> None:
    paths = [
        path
        for folder in ("abid", "abid_originals")
        for path in sorted((real_path(folder) / "bin-images").iterdir())
    ]
    hashes = b"".join(photo_hash(squeezed(Image.open(path))) for path in paths)
    assert len(hashes) == 32 * len(paths)  # none counts as flat
    pairs = equal_pairs(np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32))
    assert all(paths[one].name == paths[other].name for one, other in pairs)
    num_copies = len({path.name for path in paths[:5598]} & {path.name for path in paths[5598:]})
    assert 0.99 * num_copies <= len(pairs) <= num_copies
