"""Find the photos that show one bin before and after a pick, from ids and items alone.

The robots photograph a bin, an item is picked or stowed, and the next photo often shows the same
bin: of 9,994 consecutive pairs in the first 10,000 records 3,928 share an ASIN, and in every one of
them the count differs. Such near-copies with different labels must not be split between training
and test, so runs of consecutive ids that share an ASIN form one group.
"""

from collections.abc import Collection, Iterable, Mapping


def next_id(bin_id: str) -> str | None:
    """Return the id that follows in the bucket, `00001` -> `00002`, `99999` -> `100000`.

    Ids are strings: `1` and `00001` are different bins of two numberings, and each goes on in its
    own width. Returns None for an id that is no number.
    """
    if not (bin_id.isascii() and bin_id.isdecimal()):
        return None
    return f"{int(bin_id) + 1:0{len(bin_id)}d}"


def previous_ids(bin_id: str) -> list[str]:
    """Return the ids that `bin_id` follows: none, one, or two (`9999` and `09999` -> `10000`)."""
    if not (bin_id.isascii() and bin_id.isdecimal()) or int(bin_id) == 0:
        return []
    number = int(bin_id) - 1
    candidates = {f"{number:0{width}d}" for width in (len(bin_id), len(bin_id) - 1) if width > 0}
    return sorted(candidate for candidate in candidates if next_id(candidate) == bin_id)


def group_bins(asins_by_id: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return the group of each bin: the smallest id of its run.

    Args:
        asins_by_id: id -> the ASINs of the items in that bin. The neighbours of a bin must be here
            even where they are not wanted in a dataset, or a run falls apart.

    Returns: id -> name of its group, for every id given.
    """
    parent = {bin_id: bin_id for bin_id in asins_by_id}

    def root(bin_id: str) -> str:
        while parent[bin_id] != bin_id:
            parent[bin_id] = parent[parent[bin_id]]
            bin_id = parent[bin_id]
        return bin_id

    for bin_id, asins in asins_by_id.items():
        follower = next_id(bin_id)
        if follower is None or follower not in asins_by_id:
            continue
        if share_an_asin(asins, asins_by_id[follower]):
            first, second = sorted((root(bin_id), root(follower)), key=_bucket_order)
            parent[second] = first
    return {bin_id: root(bin_id) for bin_id in asins_by_id}


def share_an_asin(asins: Iterable[str], other_asins: Iterable[str]) -> bool:
    """Say whether two bins hold an item of the same ASIN; two empty bins do not."""
    return not set(asins).isdisjoint(other_asins)


def _bucket_order(bin_id: str) -> tuple[int, str]:
    return int(bin_id), bin_id
