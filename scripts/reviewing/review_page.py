"""The page for the person who checks bins: one HTML file that holds all it shows.

Ids and item names come from strangers. They travel as JSON that cannot end its own element, the
page's script writes them as text only, and its policy lets no other script, style or address in.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from auditing.bins import BinSource, UnusablePhotoError, thumbnail
from auditing.decisions import CHECK, OK, WRONG
from auditing.parts import BATCH_SIZE, read_parts
from auditing.verdicts import Judge, Verdict
from output_files import whole_file
from reviewing.photo_maps import PhotoMaps

REVIEW_PAGE = "review.html"
TEMPLATE = Path(__file__).parent / "review_page.html"
THUMBNAIL_PIXELS = 224


def write_review_page(
    path: Path,
    audit: dict[str, Any],
    bins: Sequence[dict[str, Any]],
    photos: Iterable[bytes | None],
    heat_maps: Sequence[bytes | None] = (),
) -> None:
    """Write the page.

    Args:
        audit: summary (a sentence), counts (the model's), unit (of what is saved) and fingerprint,
            which tells the marks of one audit from those of another in the same browser.
        bins: of page_bin, in the order in which they are shown.
        photos: JPEGs in the same order, behind them those of other visits that have no place of
            their own; None where there is none.
        heat_maps: of what is counted, in the order of the photos; none where there are to be none.
    """
    head, middle, maps_place, photos_place, tail = split_template(
        TEMPLATE.read_text(encoding="utf-8")
    )
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(head + harmless_json(audit) + middle + harmless_json(bins) + maps_place)
        file.write(json.dumps([_encoded(one) for one in heat_maps]) + photos_place)
        # One at a time: five thousand photos are most of the page.
        separators = chain(["["], iter(lambda: ",", None))
        for separator, photo in zip(separators, photos, strict=False):
            file.write(separator + json.dumps(_encoded(photo)))
        file.write(("]" if bins else "[]") + tail)


def split_template(template: str) -> list[str]:
    """Return what stands between audit, bins, heat maps and photos, with the policy's hashes."""
    for kind, pattern in (("style", "<style>(.*?)</style>"), ("script", "<script>(.*?)</script>")):
        (text,) = re.findall(pattern, template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        template = template.replace(f"{{{{{kind}_hash}}}}", digest)
    pieces = re.split(r"{{(?:audit|bins|heat_maps|photos)}}", template)
    assert len(pieces) == 5
    return pieces


def page_bin(
    row: int,
    verdict: Verdict,
    neighbour: Verdict | None = None,
    photo: int | None = None,
    changed: bytes | None = None,
) -> dict[str, Any]:
    """Return what the page shows of a bin, ready for JSON.

    Args:
        row: of the bin in its source, by which the page remembers its mark.
        neighbour: the verdict about verdict.neighbour; photo: the place of its photo.
        changed: the heat map of the change between the two, from the earlier to the later one.
    """
    return {
        "row": row,
        "id": verdict.id,
        "recorded": verdict.recorded,
        "most_likely": verdict.most_likely,
        "low": verdict.low,
        "high": verdict.high,
        "probabilities": [round(share, 4) for share in verdict.probabilities],
        "wrong_probability": _number(verdict.wrong_probability),
        "decision": verdict.decision,
        "suggested": verdict.suggested,
        "saving": _number(verdict.saving),
        "reason": verdict.reason,
        "items": [page_item(verdict, place) for place in range(len(verdict.items))],
        "volume": page_volume(verdict),
        "neighbour": neighbour and page_neighbour(verdict, neighbour, photo, changed),
    }


def page_item(verdict: Verdict, place: int) -> dict[str, Any]:
    """Return what the page shows of an item of a record, with how likely it is missing."""
    item, hints = verdict.items[place], verdict.hints
    missing = None if hints is None else hints.missing[place]
    return {
        "name": item["name"],
        "quantity": item["quantity"],
        "missing": None if missing is None else round(missing, 4),
    }


def page_volume(verdict: Verdict) -> dict[str, Any] | None:
    """Return what the page shows of the volume of all items, cubic inches.

    None where the record does not tell, or the photo says nothing.
    """
    hints = verdict.hints
    if hints is None or np.isnan(hints.recorded_volume):
        return None
    volumes = {"recorded": hints.recorded_volume, "low": hints.low, "high": hints.high}
    return {name: float(f"{volume:.2g}") for name, volume in volumes.items()}


def page_neighbour(
    verdict: Verdict, neighbour: Verdict, photo: int | None, changed: bytes | None
) -> dict[str, Any]:
    """Return what the page shows of the visit beside a bin; changes are those of time.

    Args: as in page_bin.
    """
    near = verdict.neighbour
    assert near is not None
    states = (neighbour.items, verdict.items)
    # A record that a count by hand has made right names no items: which ones, nobody knows.
    is_known = all(items for items in states) or "0" in (verdict.recorded, neighbour.recorded)
    gone, new = (
        record_changes(*(states if near.is_before else reversed(states))) if is_known else ([], [])
    )
    change = near.change if near.change is None or near.is_before else -near.change
    return {
        "id": neighbour.id,
        "recorded": neighbour.recorded,
        "is_before": near.is_before,
        "photo": photo,
        "gone": gone,
        "new": new,
        "change": change,
        "probability": _number(near.probability),
        "changed": _encoded(changed),
    }


def record_changes(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the items that are gone from a record and those that are new, with how many.

    An item of which one record does not say how many is passed over where both name it.

    >>> record_changes([{"name": "Bolt", "quantity": 3}], [{"name": "Bolt", "quantity": 1}])
    ([{'name': 'Bolt', 'quantity': 2}], [])
    """
    there = [_quantities(items) for items in (before, after)]
    fewer, more = [], []
    for name in {**there[0], **there[1]}:
        old, now = (quantities.get(name, 0) for quantities in there)
        if old == now:
            continue
        if now == 0 or (old is not None and now is not None and old > now):
            fewer.append({"name": name, "quantity": old and old - (now or 0)})
        elif old == 0 or (old is not None and now is not None and now > old):
            more.append({"name": name, "quantity": now and now - (old or 0)})
    return fewer, more


def _quantities(items: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return how many of each item there should be, None where a record does not say."""
    found: dict[str, int | None] = {}
    for item in items:
        already, quantity = found.get(item["name"], 0), item["quantity"]
        found[item["name"]] = (
            None if already is None or quantity is None else already + int(quantity)
        )
    return found


def harmless_json(content: Any) -> str:
    """Return JSON that is safe between <script> tags, whatever strangers wrote."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def shown_rows(judge: Judge, rows: np.ndarray) -> list[int]:
    """Return the rows whose photos a page of some rows shows: these, then neighbours of theirs."""
    neighbours = [] if judge.visits is None else judge.visits.neighbours[rows].tolist()
    return list(dict.fromkeys([*rows.tolist(), *(row for row in neighbours if row >= 0)]))


def shown_changes(judge: Judge, rows: np.ndarray) -> dict[int, int]:
    """Return the steps that a page of some rows shows a change of: a row, the visit before it."""
    nearest = () if judge.visits is None else map(judge.visits.neighbour_of, rows.tolist())
    return dict(
        (row, near.row) if near.is_before else (near.row, row)
        for row, near in zip(rows.tolist(), nearest, strict=False)
        if near is not None and near.change is not None
    )


def write_page(
    judge: Judge,
    checked: np.ndarray | None,
    output_dir: Path,
    source: BinSource,
    rows: np.ndarray,
    summary: dict[str, Any],
    identity: dict[str, Any],
    maps: Mapping[int, PhotoMaps] | None = None,
) -> None:
    """Write the review page of some rows, in their order.

    Args:
        maps: heat maps of its photos, by row; None: the page shows none.
    """
    place_of = {row: place for place, row in enumerate(shown_rows(judge, rows))}
    wanted = set(place_of)
    verdicts = judge.verdicts(read_parts(output_dir, source.num_bins, judge.counts), checked)
    shown = {row: verdict for row, verdict in enumerate(verdicts) if row in wanted}
    photos: dict[int, bytes | None] = {}
    bins = enumerate(source.bins(photos_of=wanted))
    remaining = ((row, a_bin.photo) for row, a_bin in bins if row in wanted)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(wanted), unit="photos", desc="review page") as progress,
    ):
        while batch := list(islice(remaining, BATCH_SIZE)):
            photos |= pool.map(lambda row: (row[0], small_photo(row[1])), batch)
            progress.update(len(batch))
    content = {
        "summary": f"{page_summary(summary, len(rows))} Those whose check saves most come first.",
        "counts": judge.counts,
        "unit": "" if judge.costs else " errors",
        "fingerprint": f"{identity['bins']} {identity['model'][:16]}",
    }
    write_review_page(
        output_dir / REVIEW_PAGE,
        content,
        [_bin_beside_neighbour(row, shown, place_of, maps or {}) for row in rows.tolist()],
        (photos.get(row) for row in place_of),
        [maps[row].counted for row in place_of] if maps else (),
    )


def _bin_beside_neighbour(
    row: int,
    shown: Mapping[int, Verdict],
    place_of: Mapping[int, int],
    maps: Mapping[int, PhotoMaps],
) -> dict[str, Any]:
    near = shown[row].neighbour
    if near is None:
        return page_bin(row, shown[row])
    later = maps.get(row if near.is_before else near.row)
    changed = None if later is None else later.changed
    return page_bin(row, shown[row], shown[near.row], place_of[near.row], changed)


def small_photo(photo: bytes | None) -> bytes | None:
    """Return a photo for the page, None where there is none to show: the verdict says why."""
    try:
        return None if photo is None else thumbnail(photo, THUMBNAIL_PIXELS)
    except UnusablePhotoError:
        return None


def page_summary(summary: dict[str, Any], num_shown: int) -> str:
    """Return the page's first sentence."""
    decisions = summary["decisions"]
    text = (
        f"{summary['bins']:,} bins: {decisions[CHECK]:,} to check by hand, {decisions[WRONG]:,} "
        f"wrong, {decisions[OK]:,} ok"
    )
    if summary["without_decision"]:
        text += f", {summary['without_decision']:,} without a decision"
    if num_shown < summary["bins"]:
        text += f". The first {num_shown:,} are here"
    return f"{text}."
