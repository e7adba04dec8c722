"""Requests good, damaged and senseless, for the tests that send the handler traffic."""

import base64
import json

from hypothesis import strategies as st

from stand_ins.served_model import drawn_photo, encoded

JPEG, JSON = "image/jpeg", "application/json"
PHOTO = encoded(drawn_photo())
BEFORE = encoded(drawn_photo(seed=1))  # of the same bin, as if a robot had been there before


def in_base64(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


DAMAGED_PHOTOS = st.integers(0, len(PHOTO)).map(lambda end: PHOTO[:end]) | st.lists(
    st.tuples(st.integers(0, len(PHOTO) - 1), st.integers(0, 7)), max_size=9
).map(lambda flips: flipped(PHOTO, flips))
SENSELESS = st.integers() | st.floats() | st.booleans() | st.text(max_size=3)
WHERE = {
    "image": DAMAGED_PHOTOS.map(in_base64) | st.text(max_size=20),
    "url": st.text(max_size=20) | st.just("https://127.0.0.1/"),
    "s3_key": st.text(max_size=20),
}
PREVIOUS = st.fixed_dictionaries(
    {}, optional={**WHERE, "count": SENSELESS, "expected_quantity": SENSELESS}
)
# Many of these can be answered, or the fuzz would hardly get to two photos.
PAIRS = st.fixed_dictionaries(
    {
        "image": st.just(in_base64(PHOTO)),
        "previous": st.fixed_dictionaries(
            {"image": st.sampled_from([PHOTO, BEFORE]).map(in_base64)},
            optional={"count": st.integers(0, 6), "expected_quantity": st.integers(0, 6)},
        )
        | PREVIOUS,
    },
    optional={"expected_quantity": st.integers(0, 9), "unchanged_rate": st.floats(0, 1)},
)
INSTANCES = st.fixed_dictionaries(
    {},
    optional={
        **WHERE,
        "expected_quantity": SENSELESS,
        "previous": PREVIOUS | SENSELESS,
        "unchanged_rate": SENSELESS,
    },
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "url", "instances", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
JSON_BODIES = st.one_of(
    INSTANCES,
    st.lists(INSTANCES | PAIRS, max_size=3).map(lambda rows: {"instances": rows}),
    ANY_JSON,
).map(lambda content: json.dumps(content).encode())
PHOTO_TYPES = st.sampled_from([JPEG, "image/png", "application/x-image"])
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
# Body and content type: half of them belong together, so that the fuzz gets past the first check.
REQUESTS = st.one_of(
    st.tuples(DAMAGED_PHOTOS, PHOTO_TYPES),
    st.tuples(JSON_BODIES, st.just(JSON)),
    st.tuples(PAIRS.map(lambda content: json.dumps(content).encode()), st.just(JSON)),
    st.tuples(
        st.binary(max_size=300) | DAMAGED_PHOTOS | JSON_BODIES,
        HEADER_TEXT | PHOTO_TYPES | st.sampled_from([JSON, f"{JSON}; charset=utf-16", ""]),
    ),
)


def flipped(content: bytes, flips: list[tuple[int, int]]) -> bytes:
    """Return a copy with some bits turned over."""
    damaged = bytearray(content)
    for position, bit in flips:
        damaged[position] ^= 1 << bit
    return bytes(damaged)
