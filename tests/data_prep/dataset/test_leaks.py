import numpy as np
import pyarrow as pa
import pytest

from dataset.equal_photos import HASH_BYTES
from dataset.leaks import near_copies, neighbours, shared_values

TRAIN, VALIDATION, TEST = 0, 1, 2


def rows(found: np.ndarray) -> list[int]:
    return np.flatnonzero(found).tolist()


def test_a_value_on_both_sides_is_a_leak_and_one_that_is_there_twice_on_one_side_is_not() -> None:
    splits = np.array([TRAIN, TRAIN, TRAIN, TEST, TEST])
    leak = shared_values("groups", splits, pa.array(["a", "a", "b", "b", "c"]))
    assert leak.is_leak
    assert rows(leak.rows) == [2, 3]
    assert leak.twins.tolist() == [-1, -1, 3, 2, -1]
    assert leak.num_checked == 5


def test_every_row_of_a_shared_value_has_a_twin_of_another_split() -> None:
    splits = np.array([TEST, TRAIN, VALIDATION, TRAIN, TEST])
    leak = shared_values("groups", splits, pa.array(["a"] * 5))
    assert rows(leak.rows) == [0, 1, 2, 3, 4]
    assert all(splits[twin] != split for split, twin in zip(splits, leak.twins, strict=True))


def test_what_is_not_known_is_like_nothing() -> None:
    splits = np.array([TRAIN, TEST, TRAIN, TEST])
    leak = shared_values("groups", splits, pa.array([None, None, 7, 7]))
    assert rows(leak.rows) == [2, 3]
    assert leak.num_checked == 2


@pytest.mark.parametrize("values", [pa.array([], pa.string()), pa.array([None, None], pa.string())])
def test_nothing_to_compare_is_no_leak(values: pa.Array) -> None:
    splits = np.arange(len(values))
    assert not shared_values("groups", splits, values).rows.any()
    assert not near_copies(splits, [b""] * len(values)).rows.any()
    assert not neighbours("ids", splits, values).rows.any()


def test_photos_that_look_alike_hang_together_across_splits() -> None:
    photo, other = bytes(HASH_BYTES), bytes([255] * HASH_BYTES)
    nearly = bytes([1, *photo[1:]])
    splits = np.array([TRAIN, TEST, TRAIN, TEST, TEST])
    leak = near_copies(splits, [photo, nearly, other, b"", b""])
    assert rows(leak.rows) == [0, 1]
    assert leak.num_checked == 3


def test_what_looks_like_a_photo_that_looks_like_another_need_not_look_like_that_one() -> None:
    def photo(number_of_bits: int) -> bytes:
        bits = np.zeros(HASH_BYTES * 8, dtype=np.uint8)
        bits[64 : 64 + number_of_bits] = 1
        return np.packbits(bits).tobytes()

    splits = np.array([TRAIN, TRAIN, TEST])
    # The first and the second are near, so are the second and the third, and the ends are not.
    leak = near_copies(splits, [photo(0), photo(15), photo(30)])
    assert rows(leak.rows) == [1, 2]
    assert leak.twins.tolist() == [-1, 2, 1]


def test_ids_that_begin_anew_in_each_split_have_no_neighbours() -> None:
    leak = neighbours("ids", np.array([TRAIN, TRAIN, TEST]), pa.array(["1", "2", "1"]))
    assert not leak.rows.any()
    assert leak.num_checked == 0


def test_the_id_before_or_after_in_another_split_is_told_and_is_no_leak() -> None:
    splits = np.array([TRAIN, TEST, TRAIN, TRAIN, TEST])
    leak = neighbours("ids", splits, pa.array(["00001", "00002", "00004", "00005", "photo"]))
    assert not leak.is_leak
    assert rows(leak.rows) == [0, 1]
    assert leak.num_checked == 4
