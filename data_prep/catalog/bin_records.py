"""Read the metadata of one bin, whatever its file holds."""

import json
import re
from dataclasses import dataclass
from typing import Any

from catalog.item_sizes import item_size

LARGEST_QUANTITY = 2**31 - 1
# Real files have some KB; one of gigabytes must not fill the memory once more as parsed JSON.
LARGEST_METADATA = 2**20  # bytes
# An id becomes part of paths and file names: only what means nothing to any of them.
PLAIN_NAME = "[A-Za-z0-9_-]+"
# Where these stand twice with different values, no reader knows which one holds.
DECISIVE_KEYS = ("EXPECTED_QUANTITY", "BIN_FCSKU_DATA", "image_fname")


@dataclass(frozen=True)
class BinRecord:
    """What the metadata of one bin says; `count` is None where `set_aside` gives a reason.

    Args:
        volumes: cubic inches, and weights: pounds, of one piece of each item, in the order of
            `asins`; None where the record does not say.
        unknown_units: of sizes that are missing for it.
    """

    id: str
    count: int | None
    asins: tuple[str, ...] = ()
    quantities: tuple[int | None, ...] = ()
    set_aside: str | None = None
    volumes: tuple[float | None, ...] = ()
    weights: tuple[float | None, ...] = ()
    unknown_units: tuple[str, ...] = ()

    @property
    def quantities_match(self) -> bool:
        """Whether the items' quantities sum to the count (in 6 of 10,000 real files they don't)."""
        if self.count is None or None in self.quantities:
            return False
        return sum(quantity or 0 for quantity in self.quantities) == self.count


def parse_bin_record(bin_id: str, content: bytes) -> BinRecord:
    """Read one metadata file. Never raises: what cannot be used says why.

    The items of a record that is set aside are kept where they can be read: they still tell which
    photos show the same bin.
    """
    if not re.fullmatch(PLAIN_NAME, bin_id):
        return set_aside_record(bin_id, "the id is not made of letters, digits, _ and - alone")
    if len(content) > LARGEST_METADATA:
        return set_aside_record(bin_id, f"metadata is larger than {LARGEST_METADATA} bytes")
    ambiguous_keys: set[str] = set()

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            # By what is written: to Python 1, 1.0 and true are equal, and NaN never is.
            ambiguous_keys.update(k for k, value in pairs if repr(value) != repr(values[k]))
        return values

    try:
        metadata = json.loads(content, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        return set_aside_record(bin_id, "metadata is not a JSON object")
    items = metadata.get("BIN_FCSKU_DATA")
    if not isinstance(items, dict):
        items = {}
    count, reason = _parse_count(metadata)
    # Rare, and then the photo's own name: with another one the record is about another photo.
    if metadata.get("image_fname") not in (None, f"{bin_id}.jpg"):
        count, reason = None, "image_fname names another photo"
    for key in DECISIVE_KEYS:
        if key in ambiguous_keys:
            count, reason = None, f"ambiguous: {key} is there twice, with different values"
    sizes = [item_size(item) for item in items.values()]
    return BinRecord(
        id=bin_id,
        count=count,
        # A lone surrogate is legal in JSON and in no other place.
        asins=tuple(asin.encode("utf-8", "replace").decode() for asin in items),
        quantities=tuple(_parse_quantity(item) for item in items.values()),
        set_aside=reason,
        volumes=tuple(size.volume for size in sizes),
        weights=tuple(size.weight for size in sizes),
        unknown_units=tuple(sorted({unit for size in sizes for unit in size.unknown_units})),
    )


def set_aside_record(bin_id: str, reason: str) -> BinRecord:
    """Return the record of a bin of which nothing is known but why."""
    return BinRecord(bin_id, None, set_aside=reason)


def _parse_count(metadata: dict[str, Any]) -> tuple[int | None, str | None]:
    if metadata.get("EXPECTED_QUANTITY") is None:
        return None, "no EXPECTED_QUANTITY"
    quantity = metadata["EXPECTED_QUANTITY"]
    if not isinstance(quantity, int) or isinstance(quantity, bool):
        return None, "EXPECTED_QUANTITY is not an integer"
    if quantity < 0:
        return None, "EXPECTED_QUANTITY is negative"
    if quantity > LARGEST_QUANTITY:
        return None, f"EXPECTED_QUANTITY is larger than {LARGEST_QUANTITY}"
    return quantity, None


def _parse_quantity(item: object) -> int | None:
    quantity = item.get("quantity") if isinstance(item, dict) else None
    if isinstance(quantity, bool) or not isinstance(quantity, int):
        return None
    return quantity if abs(quantity) <= LARGEST_QUANTITY else None
