"""The page for the person who checks bins: one HTML file that holds all it shows.

Ids and item names come from strangers. They travel as JSON that cannot end its own element, the
page's script writes them as text only, and its policy lets no other script, style or address in.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from audit_verdicts import Verdict

TEMPLATE = Path(__file__).parent / "review_page.html"


def write_review_page(
    path: Path,
    audit: dict[str, Any],
    bins: Sequence[dict[str, Any]],
    photos: Iterable[bytes | None],
) -> None:
    """Write the page.

    Args:
        audit: summary (a sentence), counts (the model's), unit (of what is saved) and fingerprint,
            which tells the marks of one audit from those of another in the same browser.
        bins: of page_bin, in the order in which they are shown.
        photos: JPEGs in the same order; None where there is none.
    """
    head, middle, photos_place, tail = split_template(TEMPLATE.read_text())
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("w") as file:
        file.write(head + harmless_json(audit) + middle + harmless_json(bins) + photos_place)
        # One at a time: five thousand photos are most of the page.
        separators = chain(["["], iter(lambda: ",", None))
        for separator, photo in zip(separators, photos, strict=False):
            encoded = None if photo is None else base64.b64encode(photo).decode()
            file.write(separator + json.dumps(encoded))
        file.write(("]" if bins else "[]") + tail)
    os.replace(temporary, path)


def split_template(template: str) -> list[str]:
    """Return the pieces between audit, bins and photos, with the policy's hashes in place."""
    for kind, pattern in (("style", "<style>(.*?)</style>"), ("script", "<script>(.*?)</script>")):
        (text,) = re.findall(pattern, template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        template = template.replace(f"{{{{{kind}_hash}}}}", digest)
    pieces = re.split(r"{{(?:audit|bins|photos)}}", template)
    assert len(pieces) == 4
    return pieces


def page_bin(row: int, verdict: Verdict) -> dict[str, Any]:
    """Return what the page shows of a bin, ready for JSON.

    Args:
        row: of the bin in its source, by which the page remembers its mark.
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
        "items": list(verdict.items),
    }


def harmless_json(content: Any) -> str:
    """Return JSON that is safe between <script> tags, whatever strangers wrote."""
    return json.dumps(content, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
