"""Find the photos that show one bin before and after a pick, from ids and items alone.

The robots photograph a bin, an item is picked or stowed, and the next photo often shows the same
bin: of 9,994 consecutive pairs in the first 10,000 records 3,928 share an ASIN, and in every one of
them the count differs. Such near-copies with different labels must not be split between training
and test, so runs of consecutive ids that share an ASIN form one group.

Everything here works on whole columns: the bucket has 535,234 bins.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LONGEST_NUMBER = 18  # digits; what has more is no number of a bucket, and would not fit an integer


def next_ids(ids: pa.Array) -> pa.Array:
    """Return the ids that follow in the bucket: `00001` -> `00002`, `99999` -> `100000`.

    Ids are strings: `1` and `00001` are different bins of two numberings, and each goes on in its
    own width. Null for an id that is no number.
    """
    return _format(pc.add(_numbers(ids), 1), pc.binary_length(ids))


def neighbouring_ids(ids: pa.Array) -> pa.Array:
    """Return the ids that follow one of `ids` or that one of them follows, each once.

    Two ids have the same follower where the width changes: `9999` and `09999` -> `10000`.
    """
    before = pc.subtract(_numbers(ids), 1)
    before = pc.if_else(pc.greater_equal(before, 0), before, None)
    widths = pc.binary_length(ids)
    found = [next_ids(ids)]
    for width in (widths, pc.subtract(widths, 1)):
        candidates = _format(before, width)
        found.append(pc.if_else(pc.equal(next_ids(candidates), ids), candidates, None))
    return pc.drop_null(pc.unique(pa.concat_arrays(found)))


def group_bins(ids: pa.Array, asins: pa.ListArray) -> pa.Array:
    """Return the group of each bin: the smallest id of its run.

    Args:
        ids: string (num_bins,), each once. The neighbours of a bin must be here even where they
            are not wanted in a dataset, or a run falls apart.
        asins: list of string (num_bins,): the items in that bin.

    Returns: string (num_bins,).
    """
    followers = pc.fill_null(pc.index_in(next_ids(ids), value_set=ids), -1)
    followers = followers.to_numpy().astype(np.int64)  # times the number of names, below
    # Each bin points at its follower where they share an item, and so on to the end of its run.
    run_ends = np.where(_share_an_asin(asins, followers), followers, np.arange(len(ids)))
    while not np.array_equal(further := run_ends[run_ends], run_ends):
        run_ends = further
    order = order_of_ids(ids)
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    smallest = np.full(len(ids), len(ids))
    np.minimum.at(smallest, run_ends, ranks)
    return ids.take(pa.array(order[smallest[run_ends]]))


def order_of_ids(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the rows in the order of their ids' numbers, int (num_bins,).

    `09999` comes before `9999`; ids that are no numbers come last.
    """
    return pc.sort_indices(
        pa.table({"number": _numbers(ids), "id": ids}),
        [("number", "ascending"), ("id", "ascending")],
    ).to_numpy()


def _share_an_asin(asins: pa.ListArray, followers: np.ndarray) -> np.ndarray:
    """Say of each bin whether it and its follower (-1: none) hold an item of the same ASIN."""
    bins = pc.list_parent_indices(asins).to_numpy().astype(np.int64)
    names = pc.dictionary_encode(pc.list_flatten(asins))
    codes, num_names = names.indices.to_numpy(), len(names.dictionary)
    is_shared = np.isin(followers[bins] * num_names + codes, bins * num_names + codes)
    sharing = np.zeros(len(asins), dtype=bool)
    sharing[bins[is_shared & (followers[bins] >= 0)]] = True
    return sharing


def _numbers(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    is_number = pc.match_substring_regex(ids, f"^[0-9]{{1,{LONGEST_NUMBER}}}$")
    return pc.cast(pc.if_else(is_number, ids, None), pa.int64())


def _format(numbers: pa.Array, widths: pa.Array) -> pa.Array:
    """Return the numbers as text, each with zeros before it up to its width."""
    texts = pc.cast(numbers, pa.string())
    for width in range(2, LONGEST_NUMBER + 1):
        padded = pc.utf8_lpad(texts, width, "0")
        texts = pc.if_else(pc.equal(widths, width), padded, texts)
    return texts
