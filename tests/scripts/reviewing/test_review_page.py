import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Dialog, Page, expect

from auditing.verdicts import Verdict
from auditing.visits_of_bins import Neighbour
from legible_pages import POOR_CONTRASTS, UNNAMED_CONTROLS
from reviewing.review_page import harmless_json, page_bin, record_changes, write_review_page

MARKUP = "</script><img src=x onerror=\"document.title='taken'\">"
COUNTS = (1, 2, 3, 4, 5)


def verdict(number: int, **changes: Any) -> Verdict:
    recorded = number % 5 + 1
    values: dict[str, Any] = {
        "id": f"{number:05d}",
        "recorded": str(recorded),
        "probabilities": (0.1, 0.1, 0.5, 0.2, 0.1),
        "most_likely": 3,
        "low": 1,
        "high": 5,
        "wrong_probability": 0.9 / (number + 1),
        "decision": "check by hand" if number < 20 else "ok",
        "suggested": None,
        "saving": 0.5 if number < 20 else 0.0,
        "reason": "because",
        "items": [{"name": f"Item {number}", "quantity": recorded}],
    }
    return Verdict(**(values | changes))


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (shade % 256, 90, 120)).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_page(path: Path, verdicts: list[Verdict], photos: list[bytes | None]) -> Path:
    audit = {"summary": "So many bins.", "counts": COUNTS, "unit": "", "fingerprint": path.name}
    bins = [page_bin(row, one) for row, one in enumerate(verdicts)]
    write_review_page(path, audit, bins, photos)
    return path


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page in a browser without a past; errors on it fail."""
    contexts, problems = [], []

    def show(path: Path, width: int = 1200, scheme: str = "light", script: str = "") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script(script)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(path.as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert problems == []


def exported(page: Page) -> list[dict[str, str]]:
    """Return the rows of the csv that the page's button gives."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Export marks").click()
    return list(csv.DictReader(io.StringIO(download.value.path().read_text())))


@pytest.fixture
def page_path(tmp_path: Path) -> Path:
    return write_page(
        tmp_path / "review.html", [verdict(n) for n in range(120)], [jpeg(n) for n in range(120)]
    )


def test_json_cannot_end_its_element() -> None:
    text = harmless_json({"name": MARKUP, "quote": '"\u2028'})
    assert "<" not in text
    assert json.loads(text) == {"name": MARKUP, "quote": '"\u2028'}


def test_the_page_asks_for_nothing_from_elsewhere(page_path: Path) -> None:
    page = page_path.read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_photos_are_in_the_order_of_the_bins_and_may_be_missing(tmp_path: Path) -> None:
    photos = [jpeg(1), None, jpeg(3)]
    page = write_page(tmp_path / "page.html", [verdict(n) for n in range(3)], photos).read_text()
    (text,) = re.findall(r'id="photos">(.*?)</script>', page)
    decoded = [None if one is None else base64.b64decode(one) for one in json.loads(text)]
    assert decoded == photos
    empty = write_page(tmp_path / "empty.html", [], []).read_text()
    assert 'id="photos">[]</script>' in empty


def test_what_nobody_knows_is_null(tmp_path: Path) -> None:
    unknown = verdict(0, wrong_probability=np.nan, saving=np.nan, most_likely=None)
    shown = page_bin(0, unknown)
    assert (shown["wrong_probability"], shown["saving"], shown["most_likely"]) == (None,) * 3
    json.loads(harmless_json(shown))


def test_a_record_says_what_is_gone_and_what_is_new() -> None:
    def items(**quantities: int | None) -> list[dict[str, Any]]:
        return [{"name": name, "quantity": quantity} for name, quantity in quantities.items()]

    before = [*items(bolt=2, oil=1, cup=3, pen=None, map=None, ink=2), *items(bolt=1)]
    after = items(bolt=1, cup=3, pen=2, ink=4, hat=1, bag=None)
    assert record_changes(before, after) == (
        items(bolt=2, oil=1, map=None),
        items(ink=2, hat=1, bag=None),
    )
    assert record_changes(after, after) == ([], [])


def beside(
    number: int, other: int, is_before: bool, change: int | None, **changes: Any
) -> dict[str, Any]:
    """Return a bin of the page, at its number's place, with the visit at another place."""
    near = Neighbour(other, f"{other:05d}", is_before, change, np.nan if change is None else 0.87)
    return page_bin(number, verdict(number, neighbour=near), verdict(other, **changes), other)


def test_changes_are_those_of_time_whichever_visit_stands_beside() -> None:
    for is_before, change in ((True, -2), (False, 2)):
        shown = beside(1, 2, is_before, change)["neighbour"]
        assert shown["change"] == -2
        items = ("Item 2", "Item 1") if is_before else ("Item 1", "Item 2")
        assert [item["name"] for item in (*shown["gone"], *shown["new"])] == list(items)


@pytest.mark.parametrize(("recorded", "num_changes"), [("4", 0), ("0", 1)])
def test_a_record_of_unknown_items_has_lost_none(recorded: str, num_changes: int) -> None:
    """So it is with a bin that somebody has counted anew; an empty one has none, and is known."""
    shown = beside(1, 2, True, 1, items=[], recorded=recorded)["neighbour"]
    assert len([*shown["gone"], *shown["new"]]) == num_changes


@pytest.mark.slow
def test_the_visit_before_stands_beside_the_photo_with_what_changed(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    bins = [
        beside(0, 3, True, -1),
        beside(1, 4, False, 2, items=[{"name": MARKUP, "quantity": None}]),
        beside(2, 5, True, None, items=verdict(2).items),
    ]
    audit = {"summary": "So many bins.", "counts": COUNTS, "unit": "", "fingerprint": "pairs"}
    path = tmp_path / "pairs.html"
    write_review_page(path, audit, bins, [*map(jpeg, range(5)), None])
    page = show(path)
    articles = page.locator("article")
    expect(articles).to_have_count(3)
    captions = articles.locator("figcaption")
    expect(captions).to_have_text(
        ["Visit before: bin 00003, inventory 4", "This visit: inventory 1"]
        + ["This visit: inventory 2", "Visit after: bin 00004, inventory 5"]
        + ["Visit before: bin 00005, inventory 1", "This visit: inventory 3"]
    )
    between = articles.locator(".between")
    expect(between.nth(0)).to_have_text(
        "By the record, since the visit before:gone4 ×Item 3new1 ×Item 0"
        "By the photos: 1 fewer, 87 % likely"
    )
    expect(between.nth(1)).to_contain_text("until the visit after:gone2 ×Item 1new?")
    expect(between.nth(1)).to_contain_text(MARKUP)
    expect(between.nth(1)).to_contain_text("By the photos: 2 fewer")
    expect(between.nth(2)).to_have_text(
        "By the record, since the visit before:no item gone, none new"
    )
    sources = [
        base64.b64decode(source.split(",")[1])
        for source in articles.locator("img").evaluate_all("all => all.map((one) => one.src)")
    ]
    # The earlier visit first; of row 5 there is no photo.
    assert sources == [jpeg(place) for place in (3, 0, 1, 4, 2)]
    expect(articles.nth(2).locator("figure").first).to_contain_text("No photo")
    page.get_by_role("button", name="Enlarge the photo of bin 00003").click()
    expect(page.get_by_role("dialog").locator("img")).to_have_attribute("alt", "Photo of bin 00003")


def heat_map(strengths: dict[int, int]) -> bytes:
    """Return a map of 2 x 2 places, all 0 but these."""
    return bytes(strengths.get(place, 0) % 256 for place in range(4))


# Of each canvas on the page, which of its four places are drawn, and whether they are orange.
DRAWN = """all => all.map((one) => {
  const pixels = one.getContext("2d").getImageData(0, 0, 2, 2).data;
  return [0, 1, 2, 3].map((place) => pixels[4 * place + 3] < 5 ? " "
    : pixels[4 * place] > pixels[4 * place + 2] ? "+" : "-").join("");
})"""


@pytest.mark.slow
def test_heat_maps_lie_on_the_photos_that_they_are_of(
    show: Callable[..., Page], page_path: Path, tmp_path: Path
) -> None:
    near = Neighbour(1, "00001", True, -1, 0.87)
    changed = heat_map({0: 127, 3: -127})
    bins = [
        page_bin(0, verdict(0, neighbour=near), verdict(1), 1, changed),
        page_bin(1, verdict(1)),
        page_bin(2, verdict(2)),
    ]
    audit = {"summary": "So many bins.", "counts": COUNTS, "unit": "", "fingerprint": "maps"}
    path = tmp_path / "maps.html"
    maps = [heat_map({0: 127}), heat_map({1: -127, 2: 100}), None]
    write_review_page(path, audit, bins, [jpeg(0), jpeg(1), None], maps)
    page = show(path)
    heat, canvases = page.get_by_label("Heat map"), page.locator("article canvas")
    expect(canvases).to_have_count(0)
    page.keyboard.press("h")
    expect(heat).to_have_value("counted")
    # The visit before stands first; the last bin has neither photo nor map.
    assert canvases.evaluate_all(DRAWN) == [" -+ ", "+   ", " -+ "]
    over, photo = canvases.first.bounding_box(), page.locator("article img").first.bounding_box()
    assert over == photo
    page.get_by_role("button", name="Enlarge the photo of bin 00000").click()
    expect(page.get_by_role("dialog").locator("canvas")).to_have_count(1)
    page.keyboard.press("Escape")
    heat.select_option("the change")
    assert canvases.evaluate_all(DRAWN) == ["   -", "+   "]
    heat.blur()
    page.keyboard.press("h")
    expect(canvases).to_have_count(0)
    page.goto(page_path.as_uri())  # of an audit without maps
    expect(heat).to_be_hidden()
    page.keyboard.press("h")
    expect(page.locator("canvas")).to_have_count(0)


@pytest.mark.slow
def test_bins_are_shown_filtered_and_searched(show: Callable[..., Page], page_path: Path) -> None:
    page = show(page_path)
    position, articles = page.locator("#position"), page.locator("article")
    expect(position).to_have_text("Bins 1 to 50 of 120")
    expect(articles).to_have_count(50)
    expect(articles.first).to_contain_text("Bin 00000")
    expect(articles.first).to_contain_text("Item 0")
    page.get_by_role("button", name="Next").first.click()
    expect(position).to_have_text("Bins 51 to 100 of 120")
    page.get_by_label("Decision").select_option("check by hand")
    expect(position).to_have_text("Bins 1 to 20 of 20")
    page.get_by_label("Inventory says").select_option("2")
    expect(position).to_have_text("Bins 1 to 4 of 4")
    page.get_by_label("Probability wrong").select_option("0.1")
    expect(position).to_have_text("Bins 1 to 2 of 2")
    page.locator("#counted").select_option("3")
    expect(articles).to_have_count(2)
    for name in ("decision", "expected", "counted"):
        page.locator(f"#{name}").select_option("")
    page.locator("#suspicion").select_option("0")
    page.get_by_label("Bin or item").fill("item 77")
    expect(articles).to_have_count(1)
    expect(articles.first).to_contain_text("Bin 00077")
    page.get_by_label("Bin or item").fill("nothing of the kind")
    expect(page.locator("#list")).to_contain_text("No bin fits these filters.")


@pytest.mark.slow
def test_marks_made_with_keys_are_kept_and_exported(
    show: Callable[..., Page], page_path: Path, tmp_path: Path
) -> None:
    page = show(page_path)
    progress = page.locator("#progress")
    for key in "jrw4":  # to the first bin; right, wrong, and four counted where three are expected
        page.keyboard.press(key)
    expect(progress).to_have_text("3 of 120 marked, 2 of them wrong")
    expect(page.locator("article").nth(3)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("u")
    expect(progress).to_have_text("2 of 120 marked, 1 of them wrong")
    expect(page.get_by_role("status")).to_have_text("Bin 00001: mark taken back.")
    page.reload()
    expect(progress).to_have_text("2 of 120 marked, 1 of them wrong")
    expect(page.get_by_role("button", name="Record is right").first).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("Marks").select_option("wrong")
    expect(page.locator("article")).to_have_count(1)
    rows = exported(page)
    assert [(row["id"], row["expected_quantity"], row["mark"], row["counted"]) for row in rows] == [
        ("00000", "1", "right", ""),
        ("00002", "3", "wrong", "4"),
    ]
    times = [datetime.fromisoformat(row["checked_at"]) for row in rows]
    assert times[0] <= times[1] <= datetime.now(tz=UTC)
    other = write_page(tmp_path / "other.html", [verdict(0)], [None])
    page.goto(other.as_uri())  # the same browser, another audit
    expect(page.locator("#progress")).to_have_text("0 of 1 marked, 0 of them wrong")
    # The same audit again, whose page shows other bins now.
    page_path.write_text(page_path.read_text().replace('"row": 2,', '"row": 500,'))
    page.goto(page_path.as_uri())
    expect(progress).to_have_text("1 of 120 marked, 0 of them wrong")
    assert [row["id"] for row in exported(page)] == ["00000", "00002"]


@pytest.mark.slow
def test_two_windows_keep_each_others_marks(show: Callable[..., Page], page_path: Path) -> None:
    one = show(page_path)
    other = one.context.new_page()
    other.goto(page_path.as_uri())
    for page, key in ((one, "r"), (other, "w")):
        page.keyboard.press("j")
        if page is other:
            page.keyboard.press("j")
        page.keyboard.press(key)
        expect(page.locator("#progress")).to_contain_text("1 of 120 marked")
        expect(page.locator("#progress")).not_to_contain_text("not kept")
    one.reload()
    expect(one.locator("#progress")).to_have_text("2 of 120 marked, 1 of them wrong")


@pytest.mark.slow
def test_a_browser_that_keeps_nothing_is_told_of_and_loses_no_mark_before(
    show: Callable[..., Page], page_path: Path
) -> None:
    page = show(page_path, script="IDBFactory.prototype.open = () => { throw new Error('no'); }")
    expect(page.locator("#unsaved")).to_be_visible()
    for key in "jrw":
        page.keyboard.press(key)
    expect(page.locator("#progress")).to_have_text(
        "2 of 120 marked, 1 of them wrong; 2 not kept yet"
    )
    assert [row["mark"] for row in exported(page)] == ["right", "wrong"]
    asked: list[str] = []

    def accept(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", accept)
    with page.expect_event("close"):
        page.close(run_before_unload=True)
    assert asked == ["beforeunload"]


@pytest.mark.slow
def test_marks_are_made_with_the_mouse_too(show: Callable[..., Page], page_path: Path) -> None:
    page = show(page_path)
    second = page.locator("article").nth(1)
    wrong = second.get_by_role("button", name="Record is wrong")
    wrong.click()
    expect(wrong).to_have_attribute("aria-pressed", "true")
    wrong.click()
    expect(wrong).to_have_attribute("aria-pressed", "false")
    second.get_by_label("You count").fill("2")
    second.get_by_label("You count").press("Enter")
    expect(second.get_by_role("button", name="Record is right")).to_have_attribute(
        "aria-pressed", "true"
    )
    second.get_by_role("button", name="Enlarge the photo of bin 00001").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.slow
def test_keys_can_be_turned_off_and_do_not_disturb_typing(
    show: Callable[..., Page], page_path: Path
) -> None:
    page = show(page_path)
    page.get_by_label("Bin or item").press_sequentially("w3")
    expect(page.locator("#progress")).to_have_text("0 of 120 marked, 0 of them wrong")
    page.get_by_label("Bin or item").fill("")
    page.get_by_label("Keys", exact=True).uncheck()
    page.keyboard.press("j")
    page.keyboard.press("w")
    expect(page.locator("article.current")).to_have_count(0)
    expect(page.locator("#progress")).to_have_text("0 of 120 marked, 0 of them wrong")


@pytest.mark.slow
def test_keys_lead_from_page_to_page_and_stop_at_the_end(
    show: Callable[..., Page], page_path: Path
) -> None:
    page = show(page_path)
    for _ in range(51):
        page.keyboard.press("j")
    expect(page.locator("#position")).to_have_text("Bins 51 to 100 of 120")
    expect(page.locator("article").first).to_be_focused()
    page.keyboard.press("k")
    expect(page.locator("#position")).to_have_text("Bins 1 to 50 of 120")
    page.get_by_label("Bin or item").fill("item 119")
    page.locator("article").first.click()
    page.keyboard.press("j")
    expect(page.get_by_role("status")).to_have_text("This was the last bin.")


@pytest.mark.slow
def test_what_strangers_wrote_is_text_and_no_formula(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    evil = verdict(
        0,
        id="=HYPERLINK(1)",
        recorded=MARKUP,
        reason=MARKUP,
        items=[{"name": MARKUP, "quantity": None}],
    )
    page = show(write_page(tmp_path / "evil.html", [evil], [None]))
    article = page.locator("article")
    expect(article).to_contain_text(MARKUP)
    expect(article.locator("img")).to_have_count(0)
    expect(page).to_have_title("Bins to check")
    article.get_by_role("button", name="Record is wrong").click()
    (row,) = exported(page)
    assert row["id"] == "'=HYPERLINK(1)"
    assert row["expected_quantity"] == MARKUP


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_legible_on_a_phone_and_in_the_dark(
    scheme: str, width: int, show: Callable[..., Page], tmp_path: Path
) -> None:
    verdicts = [
        verdict(0, items=[{"name": "x" * 300, "quantity": 1}]),
        verdict(1, decision="wrong", suggested=4),
        verdict(2, decision="", reason="no photo", probabilities=(), most_likely=None),
        verdict(30),
    ]
    audit = {"summary": "So many bins.", "counts": COUNTS, "unit": "", "fingerprint": "legible"}
    bins = [page_bin(row, one) for row, one in enumerate(verdicts)]
    bins.append(beside(4, 0, True, -1, id="y" * 80, items=[{"name": "x" * 300, "quantity": 1}]))
    maps = [heat_map({0: 127, 3: -127})] * 5
    write_review_page(tmp_path / "page.html", audit, bins, [jpeg(0)] * 5, maps)
    page = show(tmp_path / "page.html", width, scheme)
    page.get_by_label("Heat map").select_option("the count")
    page.locator("article").nth(1).get_by_role("button", name="Record is wrong").click()
    page.locator("article").nth(3).get_by_role("button", name="Record is right").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(POOR_CONTRASTS) == []
    assert page.evaluate(UNNAMED_CONTROLS) == 0


@pytest.mark.slow
def test_five_thousand_bins_do_not_freeze_the_page(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    noise = io.BytesIO()
    pixels = generator.integers(0, 256, size=(96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(noise, format="JPEG", quality=90)
    photo = noise.getvalue()
    assert len(photo) > 8000
    path = write_page(
        tmp_path / "large.html", [verdict(n) for n in range(5000)], [photo for _ in range(5000)]
    )
    page = show(path)
    expect(page.locator("#position")).to_have_text("Bins 1 to 50 of 5,000")
    # However many bins: what is drawn is one page of them.
    assert page.locator("article").count() == 50
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    page.get_by_label("Bin or item").fill("item 4999")
    expect(page.locator("article")).to_have_count(1)
    page.locator("article").click()
    page.keyboard.press("r")
    expect(page.locator("#progress")).to_have_text("1 of 5,000 marked, 0 of them wrong")
