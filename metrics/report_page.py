"""The HTML of the evaluation report: one page that holds all it shows, on a desk and on a phone.

Ids and item names come from strangers: everything that is not ours is escaped.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_runs import model_name
from item_figures import ABOUT_ITEMS, OF_ITEMS, item_rows
from report_plots import PLOTS
from visit_figures import ABOUT_CHANGES, ABOUT_VISITS, OF_CHANGES, OF_VISITS, rows_by_way

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a202c; margin: 0 auto; max-width: 72rem;
  padding: 1rem; }
h1 { line-height: 1.2; margin-bottom: 0.2rem; overflow-wrap: anywhere; }
.plots, .photos { display: grid; gap: 1rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.photos { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: auto; display: block; }
.seen { position: relative; }
label + .photos { margin-top: 0.6rem; }
figure img.heat { position: absolute; inset: 0; height: 100%; }
#heat_maps:not(:checked) ~ .photos .heat { display: none; }
figcaption { font-size: 0.85rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: right; border-bottom: 1px solid #e2e8f0;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
@media (max-width: 40rem) { table { font-size: 0.85rem; } th, td { padding-right: 0.4rem; } }
.note { color: #4a5568; }
"""
NAMES = {
    "accuracy": ("accuracy", 100, "%"),
    "within_one_accuracy": ("at most one item off", 100, "%"),
    "mae": ("mean absolute error of the median", 1, "items"),
    "rmse": ("root mean squared error of the mean", 1, "items"),
    "negative_log_likelihood": ("negative log likelihood", 1, "nats"),
}
EXPLANATIONS = {
    "confusion_matrix": "Each row adds up to 100 %: where the photos of that count went.",
    "visits": "Numbers of pairs; shades are shares of a row. The most likely change is shown.",
    "by_count": "With 95 % intervals.",
    "reliability": "On the dashed line a probability is worth what it says.",
    "risk_coverage": "What is left wrong when a person looks at the rest.",
    "by_distinct_items": "Different items, whatever their number.",
    "audit": "A tenth of the records are made wrong. Bands: 95 % intervals; dotted: with visits, "
    "dashed: with items, both: with both.",
    "item_errors": "Records that name what the bin lacks. With 95 % intervals.",
}
# What scripts/audit_evaluation/cases.py makes wrong, and what is known there.
KINDS = {
    "real_pairs": "with the record of the bin's state before or after",
    "symmetric_errors": "one item off",
    "real_changes": "with another change since a visit, whose count is known, than there was",
    "real_pairs_with_visits": "as real pairs, with all photos of the bin, and none of its other "
    "records",
    "symmetric_errors_with_visits": "one item off, where the count of another visit is known",
    "real_pairs_with_items": "as real pairs, with the items that both records name",
    "real_pairs_with_visits_and_items": "as real pairs, with all photos of the bin, and the items "
    "that both records name",
    "real_changes_with_items": "as real changes, with the items that all records name",
}
BUDGET_OF_RIVALS = 0.2
# Style alone hides the maps: the page has no script.
HEAT_LEGEND = """<input type="checkbox" id="heat_maps" checked> <label for="heat_maps">Heat maps:
what is orange speaks for more items to the model, what is blue for fewer. Each photo has a scale of
its own.</label>
"""


@dataclass(frozen=True)
class GalleryPhoto:
    """A photo that was miscounted: what was expected, what was counted, how sure the model was.

    Args:
        heat: where the model saw what it counted, a PNG to lie over the photo; None where nobody
            knows.
    """

    bin_id: str
    expected: int
    counted: int
    confidence: float
    items: Sequence[str]
    jpeg: bytes
    heat: bytes | None = None


def report_page(
    run: str,
    arguments: Mapping[str, Any],
    figures: Mapping[str, Any],
    plots: Mapping[str, Path],
    gallery: Sequence[GalleryPhoto],
) -> str:
    """Return the page as HTML.

    Args:
        run: the run's name.
        arguments: the run's arguments.json.
        figures: what evaluation.figures returned.
        plots: PNGs by name.
        gallery: photos to show; empty where no dataset was at hand.
    """
    pictures = "\n".join(
        f'<figure><h2>{PLOTS[name][0]}</h2><img src="{_data_uri(path.read_bytes(), "png")}" '
        f'alt="{PLOTS[name][0]}"><figcaption>{EXPLANATIONS[name]}</figcaption></figure>'
        for name, path in plots.items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(run)}: evaluation</title>
<style>{STYLE}</style>
<h1>{html.escape(run)}</h1>
<p class="note">{html.escape(_model(arguments))}. {figures["num_bins"]:,} test photos in
{figures["num_groups"]:,} bin groups; 95 % intervals by bootstrap over the groups.
{html.escape(_seed(arguments))}</p>
{_table(("", "value", "95 % interval"), _overall_rows(figures))}
<p>Expected calibration error: {100 * figures["expected_calibration_error"]:.1f} %.
Area under risk against coverage: {100 * figures["risk_coverage"]["area"]:.1f} %.</p>
<div class="plots">
{pictures}
</div>
<h2>Each count</h2>
{_table(("items", "photos", "accuracy %", "RMSE"), _key_rows(figures["by_count"]))}
{_visits(figures["visits"])}
{_items(figures["items"])}
{_audit(figures["audit"])}
{_gallery(gallery)}
</html>
"""


def _model(arguments: Mapping[str, Any]) -> str:
    epochs = arguments.get("num_train_epochs")
    trained = f", {epochs:g} epochs" if arguments.get("do_train") and epochs else ""
    return f"{model_name(dict(arguments))}{trained}"


def _seed(arguments: Mapping[str, Any]) -> str:
    return f"Seed {arguments['seed']}." if arguments.get("do_train") else ""


def _overall_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, (title, factor, unit) in NAMES.items():
        value, low, high = (factor * figures["overall"][name][k] for k in ("value", "low", "high"))
        digits = 1 if factor == 100 else 3
        interval = f"{low:.{digits}f} to {high:.{digits}f}"
        rows.append((title, f"{value:.{digits}f} {unit}", interval))
    return rows


def _key_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            str(row["key"]),
            f"{row['num_bins']:,}",
            _with_interval(row["accuracy"], 100, 1),
            _with_interval(row["rmse"], 1, 3),
        )
        for row in rows
    ]


def _visits(visits: Mapping[str, Any] | None) -> str:
    if visits is None:
        return ""
    changes = rows_by_way(visits["changes"], OF_CHANGES)
    counts = rows_by_way(visits["visits"], OF_VISITS)
    return f"""<h2>Visits of one bin</h2>
<p class="note">{visits["num_pairs"]:,} pairs of visits that follow each other, in
{visits["num_groups"]:,} bin groups. {ABOUT_CHANGES}</p>
{_table(("told by", *OF_CHANGES.values()), changes)}
<p class="note">{ABOUT_VISITS}</p>
{_table(("counted from", *OF_VISITS.values()), counts)}"""


def _items(items: Mapping[str, Any] | None) -> str:
    if items is None:
        return ""
    return f"""<h2>Sizes of the items</h2>
<p class="note">{ABOUT_ITEMS}</p>
{_table(("told of a photo", *OF_ITEMS.values()), item_rows(items))}"""


def _audit(audit: Mapping[str, Any] | None) -> str:
    if audit is None:
        return ""
    rows = [
        (
            name.replace("_", " "),
            f"{row['budget']:.0%}",
            _with_interval(row["found"], 100, 1),
            _with_interval(row["precision"], 100, 1),
            _with_interval(row["times_random"], 1, 2),
            _with_interval(row["rule_times_random"], 1, 2),
        )
        for name, kind in audit["kinds"].items()
        for row in kind["budgets"]
    ]
    header = (
        *("wrong records", "checked", "found %", "of those checked, wrong %"),
        *("times random", "count differs: times random"),
    )
    areas = ", ".join(
        f"{_with_interval(kind['area_under_curve'], 1, 3)} ({name.replace('_', ' ')})"
        for name, kind in audit["kinds"].items()
    )
    errors = ", ".join(
        f"{kind['calibration']['expected_calibration_error']:.1%} ({name.replace('_', ' ')})"
        for name, kind in audit["kinds"].items()
    )
    made_wrong = "; ".join(
        f"{html.escape(KINDS.get(name, ''))} ({name.replace('_', ' ')})" for name in audit["kinds"]
    )
    return f"""<h2>Finding wrong records</h2>
<p class="note">{audit["wrong_share"]:.0%} of the records were made wrong, {audit["num_draws"]}
times: {made_wrong}. The bins that are most likely wrong are checked first. Area under the ROC
curve: {areas}. Calibration error of the probability to be wrong: {errors}.</p>
{_table(header, rows)}
{_rivals(audit)}
{_savings(audit)}
{_item_errors(audit.get("item_errors"))}"""


def _rivals(audit: Mapping[str, Any]) -> str:
    """Return what those find who judge the same records and know less; nothing before visits."""
    told = f"{audit['wrong_share']:g}"
    rows = []
    for name, kind in audit["kinds"].items():
        if not kind.get("rivals"):
            continue
        error = kind["calibration_error_if_told"][told]
        judges = {"audit": {**kind, "calibration_error_if_told": error}, **kind["rivals"]}
        for judge, figures in judges.items():
            (found,) = (row for row in figures["budgets"] if row["budget"] == BUDGET_OF_RIVALS)
            more = found.get("audit_times_random_more")
            rows.append(
                (
                    name.replace("_", " "),
                    judge,
                    _with_interval(found["times_random"], 1, 2),
                    "" if more is None else _with_interval(more, 1, 2),
                    _with_interval(figures["area_under_curve"], 1, 3),
                    f"{figures['calibration_error_if_told']:.1%}",
                )
            )
    if not rows:
        return ""
    header = (
        *("wrong records", "judged by", f"times random at {BUDGET_OF_RIVALS:.0%} of the checks"),
        *("the audit's more", "area", "calibration error"),
    )
    return f"""<p class="note">The same records judged by those who know less, all told that
{audit["wrong_share"]:.0%} are wrong. No record here equals that of a visit whose count is known: in
the bucket's photos counts change from each visit to the next, and knowing that is not seeing it. Of
real pairs every wrong record does equal one: there no other record is known, and that two visits
differ still helps. "By the error model" sees what the audit sees, and is not told how wrong records
come about.</p>
{_table(header, rows)}"""


def _item_errors(errors: Sequence[Mapping[str, Any]] | None) -> str:
    """Return how well each kind of error is found, by the size of the item."""
    if not errors:
        return ""
    rows = []
    for error in errors:
        whole = {"name": "all", "num_records": error["num_records"], "judges": error["judges"]}
        sizes = [
            {**size, "name": f"{size['low']:,.0f} to {size['high']:,.0f}"}
            for size in error["sizes"]
        ]
        rows += [
            (
                error["name"],
                each["name"],
                f"{each['num_records']:,}",
                *(_with_interval(of["found"], 100, 1) for of in each["judges"].values()),
            )
            for each in [*sizes, whole]
        ]
    header = ("item", "volume, cubic inches", "wrong records", *errors[0]["judges"])
    return f"""<h2>Which errors are found</h2>
<p class="note">Records that name what is missing from the bin, or too little (those of another
visit), or an item of another bin in the place of one that is there. Found at
{errors[0]["budget"]:.0%} of the checks, %, a tenth of the records being wrong.
{html.escape(_large_and_small(errors[0]))}</p>
{_table(header, rows)}"""


def _large_and_small(error: Mapping[str, Any]) -> str:
    """Return how often large items are found, and small ones, by who knows most."""
    if not error["sizes"]:
        return ""
    *_, judge = error["judges"]
    small, large = (error["sizes"][place]["judges"][judge]["found"]["value"] for place in (0, -1))
    found = f"{large:.0%} are found, of the smallest {small:.0%}"
    return f"Of the largest that are {error['name']} {found}."


def _savings(audit: Mapping[str, Any]) -> str:
    """Return what each way of deciding saves, and how many bins are checked for it."""
    prices = [
        f"{of['cost_missed_error']:g} to {of['cost_manual_check']:g}"
        for of in next(iter(audit["kinds"].values()))["savings"]
    ]
    rows = [
        (
            name.replace("_", " "),
            ways[0]["name"],
            *(
                f"{_with_interval(way['saved'], 1, 0)} ({way['checked']['value']:.0%})"
                for way in ways
            ),
        )
        for name, kind in audit["kinds"].items()
        for ways in zip(*(of["ways"] for of in kind["savings"]), strict=True)
    ]
    return f"""<p class="note">Saved per 1,000 bins, against leaving all records, where an error
costs that much and a check the other; in brackets the share of the bins that a person looks at. The
audit estimates itself how many records are wrong; "told" is one that takes a given share for
true.</p>
{_table(("wrong records", "decided by", *prices), rows)}"""


def _with_interval(figure: Mapping[str, float], factor: int, digits: int) -> str:
    value, low, high = (f"{factor * figure[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="table"><table><tr>{head}</tr>\n{body}</table></div>'


def _gallery(gallery: Sequence[GalleryPhoto]) -> str:
    if not gallery:
        return ""
    has_maps = any(photo.heat for photo in gallery)
    photos = "\n".join(
        f'<figure><div class="seen"><img src="{_data_uri(photo.jpeg, "jpeg")}" '
        f'alt="bin {html.escape(photo.bin_id)}">{_heat(photo)}</div>'
        f"<figcaption><b>{photo.counted} counted, {photo.expected} expected</b>, "
        f"{photo.confidence:.0%} sure<br>bin {html.escape(photo.bin_id)}<br>"
        f"{html.escape(', '.join(photo.items))}"
        f"{'<br>no heat map' if has_maps and not photo.heat else ''}</figcaption></figure>"
        for photo in gallery
    )
    return f"""<h2>Surest of a wrong count</h2>
<p class="note">Either the model or the inventory is wrong here.</p>
{HEAT_LEGEND if has_maps else ""}<div class="photos">
{photos}
</div>"""


def _heat(photo: GalleryPhoto) -> str:
    if photo.heat is None:
        return ""
    return f'<img class="heat" src="{_data_uri(photo.heat, "png")}" alt="">'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
