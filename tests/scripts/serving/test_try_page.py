import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ElementHandle,
    Locator,
    Page,
    Route,
    expect,
)

from legible_pages import POOR_CONTRASTS, UNNAMED_CONTROLS
from serving.local_server import MAX_BODY, PAGE, make_page
from serving.served_code import write_served_code
from stand_ins.served_model import ServedModel, drawn_photo, encoded, serve_locally

MARKUP = "</script><img src=x onerror=\"document.title='taken'\">"
BEFORE, NOW = encoded(drawn_photo(seed=1)), encoded(drawn_photo(seed=2))
# Whatever a shell could take for its own.
AWKWARD = """it's a "bin" $(touch taken) !! 100%s\\.jpg"""


@pytest.fixture(scope="module")
def without_head(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """Return the finished run's model as one that learned nothing of changes, served."""
    folder = tmp_path_factory.mktemp("without_head") / "model"
    shutil.copytree(run_dir / "model", folder, ignore=shutil.ignore_patterns("change_head.*"))
    with serve_locally(folder) as server:
        yield server


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a server's page; errors on it, and of its policy, fail."""
    contexts, problems = [], []

    def show(server: ServedModel, width: int = 1280, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(f"http://127.0.0.1:{server.port}")
        return page

    yield show
    for context in contexts:
        context.close()
    # Chromium's own line of a request that failed, which the page has to say in its words.
    assert [text for text in problems if not text.startswith("Failed to load resource")] == []


def file_named(name: str, content: bytes, media_type: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": media_type, "buffer": content}


def photo_now(page: Page) -> Locator:
    return page.locator("#now input[type=file]")


def photo_before(page: Page) -> Locator:
    return page.locator("#before input[type=file]")


def count(page: Page) -> None:
    page.get_by_role("button", name="Count the items").click()


def problem(page: Page) -> Locator:
    return page.get_by_role("alert")


def requests_of(page: Page) -> list[str]:
    """Return a list that gets the address of each request from here on."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    return sent


def answer_on(page: Page) -> Any:
    """Return the answer that the page shows, from its JSON."""
    expect(page.locator("#answer")).to_be_visible()
    return json.loads(page.locator("#json").text_content() or "")


def flat(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer whose numbers pytest.approx can compare."""
    rows = {
        name: value if isinstance(value, dict) else {"": value} for name, value in answer.items()
    }
    return {f"{name} {of}": value for name, row in rows.items() for of, value in row.items()}


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def asked(server: ServedModel, question: dict[str, Any]) -> Any:
    """Return what the server answers to a question without the page."""
    reply = server.ask(json.dumps(question).encode(), "application/json")
    assert reply.status == 200, reply.body
    return reply.content


def percent(share: float) -> str:
    if 0.99 < share < 1:
        return f"{math.floor(1000 * share) / 10:.1f} %"
    return f"{100 * share:.{1 if 0.0005 <= share < 0.01 else 0}f} %"


def test_the_page_comes_with_a_policy_that_lets_nothing_else_in(served_run: ServedModel) -> None:
    reply = served_run.request("GET", "/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = reply.body.decode()
    policy = dict(
        part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("style", "script"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page
    # Another model may be served at this address tomorrow.
    assert reply.headers["cache-control"] == "no-store"


def test_a_models_name_cannot_end_the_element_that_it_stands_in() -> None:
    page = make_page(PAGE.read_text(), MARKUP, (1, 2), tells_changes=True).text
    assert page.count("</script>") == 2
    (facts,) = re.findall(r'id="model">(.*?)</script>', page)
    assert json.loads(facts)["name"] == MARKUP


def test_it_does_not_travel_into_model_folders_which_serve_without_it(
    run_dir: Path, tmp_path: Path
) -> None:
    write_served_code(tmp_path)
    assert (tmp_path / "code" / "serving" / "local_server.py").exists()
    assert not list(tmp_path.rglob("*.html"))
    with serve_locally(run_dir / "model", entry=tmp_path / "code" / "inference.py") as server:
        assert server.request("GET", "/").status == 404
        assert server.ask(NOW, "image/jpeg").status == 200


@pytest.mark.slow
def test_a_photo_is_counted_and_the_answer_read_aloud(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    expect(page.locator("#now .drop")).to_contain_text("bin.jpg, 3 KB, 60 × 40 pixels")
    count(page)
    expected = served_run.ask(NOW, "image/jpeg").content
    assert flat(answer_on(page)) == pytest.approx(flat(expected))
    likely = percent(expected["probabilities"][str(expected["count"])])
    noun = "item" if expected["count"] == 1 else "items"
    expect(page.locator("#says")).to_contain_text(f"{expected['count']} {noun}, {likely} likely")
    expect(page.get_by_role("status")).to_contain_text(f"{expected['count']} {noun}, {likely}")
    bars = page.get_by_role("list", name="How many items there are").get_by_role("listitem")
    expect(bars).to_have_text(
        [f"{number}{percent(share)}" for number, share in expected["probabilities"].items()]
    )
    widths = page.evaluate(
        "[...document.querySelectorAll('#counts .track')].map((track) =>"
        " track.firstChild.getBoundingClientRect().width / track.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx(list(expected["probabilities"].values()), abs=0.01)
    expect(page.locator("#change-part")).to_be_hidden()


@pytest.mark.slow
def test_of_a_record_it_says_how_likely_it_is_wrong(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    page.get_by_label("The record says").fill("2")
    count(page)
    expected = asked(served_run, {"image": as_base64(NOW), "expected_quantity": 2})
    assert flat(answer_on(page)) == pytest.approx(flat(expected))
    wrong = f"{percent(expected['probability_wrong'])} likely to be wrong"
    expect(page.locator("#of-record")).to_have_text(f"The record of 2 is {wrong}.")
    expect(page.locator("#counts .recorded")).to_have_text(
        f"2{percent(expected['probabilities']['2'])}record"
    )
    page.get_by_label("The record says").fill("9")
    expect(page.locator("#answer")).to_be_hidden()  # it was to another question
    count(page)
    expect(page.locator("#of-record")).to_have_text(
        "Of the record of 9 nothing can be said: the model counts 1 to 5 items only."
    )


@pytest.mark.slow
@pytest.mark.parametrize("known", ["count", "expected_quantity", ""])
def test_two_visits_show_what_changed(
    known: str, show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    photo_before(page).set_input_files([file_named("before.jpg", BEFORE)])
    photo_now(page).set_input_files([file_named("now.jpg", NOW)])
    question: dict[str, Any] = {"image": as_base64(NOW), "expected_quantity": 3}
    question["previous"] = {"image": as_base64(BEFORE)}
    page.get_by_label("The record says").fill("3")
    if known:
        page.get_by_label("Known of that visit").select_option(known)
        page.get_by_label("Items then").fill("4")
        question["previous"][known] = 4
    count(page)
    expected = asked(served_run, question)
    assert flat(answer_on(page)) == pytest.approx(flat(expected))
    bars = page.get_by_role("list", name="What changed since the visit before")
    names = ["−4", "−3", "−2", "−1", "0", "+1", "+2", "+3", "+4"]
    of_change = {int(name): share for name, share in expected["change"].items()}
    tags = ["record" if known and name == "−1" else "" for name in names]
    expect(bars.get_by_role("listitem")).to_have_text(
        [
            f"{name}{percent(of_change[number])}{tag}"
            for name, number, tag in zip(names, range(-4, 5), tags, strict=True)
        ]
    )
    page.get_by_role("button", name="Take the photo of the visit before away").click()
    count(page)
    alone = asked(served_run, {"image": as_base64(NOW), "expected_quantity": 3})
    assert flat(answer_on(page)) == pytest.approx(flat(alone))


@pytest.mark.slow
def test_who_knows_how_often_nothing_changes_can_say_so(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    photo_before(page).set_input_files([file_named("before.jpg", NOW)])
    photo_now(page).set_input_files([file_named("now.jpg", NOW)])
    shares = []
    for rate in ("1", "90"):
        page.get_by_label("Visits without a change").fill(rate)
        count(page)
        shares.append(answer_on(page)["change"]["+0"])
        expect(page.locator("#from")).to_contain_text(f"taking {rate} % of visits")
    assert shares[0] < shares[1]


@pytest.mark.slow
def test_without_a_change_head_there_is_no_second_photo(
    show: Callable[..., Page], without_head: ServedModel
) -> None:
    page = show(without_head)
    expect(page.locator("#before")).to_be_hidden()
    expect(page.locator("#summary")).not_to_contain_text("changed")
    expect(page.locator("input[type=file]:visible")).to_have_count(1)
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    count(page)
    assert flat(answer_on(page)) == pytest.approx(flat(without_head.ask(NOW, "image/jpeg").content))


def run_in_shell(shell: str, command: str, folder: Path) -> Any:
    """Return the answer to a command that is pasted into a shell."""
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    # A prompt, so that bash looks for ! as it does where somebody types.
    flags = ["--norc", "-i"] if shell == "bash" else ["-s"]
    done = subprocess.run(
        [shell, *flags],
        input=command + "\n",
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HISTFILE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize("visits", [1, 2])
def test_the_command_works_when_it_is_pasted(
    visits: int, shell: str, show: Callable[..., Page], served_run: ServedModel, tmp_path: Path
) -> None:
    page, command = show(served_run), page_command
    expect(page.locator("#command")).to_contain_text("@BIN.jpg")
    # Photos of more than an argument of a program may have, 128 KiB.
    now, before = (encoded(drawn_photo(500, 400, seed), quality=95) for seed in (3, 4))
    assert min(len(now), len(before)) > 150_000
    (tmp_path / AWKWARD).write_bytes(now)
    photo_now(page).set_input_files([file_named(AWKWARD, now)])
    if visits == 1:
        assert "base64" not in command(page)
        count(page)
        pasted = run_in_shell(shell, command(page), tmp_path)
        assert flat(pasted) == pytest.approx(flat(answer_on(page)))
    page.get_by_label("The record says").fill("3")
    if visits == 2:
        (tmp_path / "-before.jpg").write_bytes(before)
        photo_before(page).set_input_files([file_named("-before.jpg", before)])
        page.get_by_label("Known of that visit").select_option("count")
        page.get_by_label("Items then").fill("4")
    count(page)
    pasted = run_in_shell(shell, command(page), tmp_path)
    assert flat(pasted) == pytest.approx(flat(answer_on(page)))
    assert {path.name for path in tmp_path.iterdir()} <= {AWKWARD, "-before.jpg"}


def page_command(page: Page) -> str:
    return page.locator("#command").text_content() or ""


@pytest.mark.slow
def test_the_command_names_the_photos_and_tells_those_of_one_name_apart(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    photo_now(page).set_input_files([file_named("-", NOW, "image/png")])
    url = f"http://127.0.0.1:{served_run.port}/invocations"
    assert page_command(page) == f"curl -H 'Content-Type: image/png' --data-binary @./- {url}"
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    photo_before(page).set_input_files([file_named("bin.jpg", BEFORE)])
    assert "< now/bin.jpg" in page_command(page)
    assert "< before/bin.jpg" in page_command(page)
    expect(page.locator("#command-note")).to_contain_text("Both files have one name")


@pytest.mark.slow
def test_the_command_can_be_copied(show: Callable[..., Page], served_run: ServedModel) -> None:
    page = show(served_run)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_have_text("The command is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page_command(page)


@pytest.mark.slow
def test_what_the_server_refuses_is_shown_in_its_one_line(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    count(page)
    expect(problem(page)).to_have_text("Choose the photo of this visit first.")
    photo_now(page).set_input_files([file_named("bin.jpg", NOW[:700])])
    expect(problem(page)).to_have_text("")
    count(page)
    expect(problem(page)).to_have_text("The photo is damaged or truncated.")
    photo_before(page).set_input_files([file_named("before.jpg", b"no photo")])
    expect(page.locator("#before .drop")).to_contain_text("this browser cannot show it")
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    count(page)
    question = {"image": as_base64(NOW), "previous": {"image": as_base64(b"no photo")}}
    reply = served_run.ask(json.dumps(question).encode(), "application/json")
    expect(problem(page)).to_have_text(reply.content["error"])
    expect(page.locator("#answer")).to_be_hidden()


@pytest.mark.slow
def test_a_server_that_is_gone_and_a_photo_that_is_gone_are_told_apart(
    show: Callable[..., Page], run_dir: Path, tmp_path: Path
) -> None:
    with serve_locally(run_dir / "model") as server:
        page = show(server)
        (tmp_path / "bin.jpg").write_bytes(NOW)
        photo_now(page).set_input_files(tmp_path / "bin.jpg")
        (tmp_path / "bin.jpg").unlink()
        count(page)
        expect(problem(page)).to_have_text("A photo cannot be read any more: choose it again.")
        photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    count(page)
    expect(problem(page)).to_contain_text("The server does not answer")


@pytest.mark.slow
def test_an_answer_that_comes_late_is_not_shown_with_another_question(
    show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run)
    held: list[Route] = []
    page.route("**/invocations", lambda route: held.append(route))
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    page.get_by_label("The record says").fill("2")
    with page.expect_request("**/invocations"):
        count(page)
    page.get_by_label("The record says").fill("3")
    with page.expect_response("**/invocations") as response:
        held[0].continue_()
    assert response.value.json()["expected_quantity"] == 2
    page.wait_for_timeout(300)  # longer than the page needs to show an answer
    expect(page.locator("#answer")).to_be_hidden()
    page.unroute("**/invocations")
    count(page)
    assert answer_on(page)["expected_quantity"] == 3


@pytest.mark.slow
def test_what_is_too_large_is_told_before_anything_is_sent(
    show: Callable[..., Page], served_run: ServedModel, tmp_path: Path
) -> None:
    page = show(served_run)
    sent = requests_of(page)
    told = "The request would have 6.6 MB{}, and the server takes 6.5 MB: choose a smaller photo."
    for size, record, expected in (
        (MAX_BODY, "", told.format("")),
        # As base64 in its JSON: the largest that the server takes, and the next.
        (
            MAX_BODY // 4 * 3,
            "3",
            told.format(" (as base64, a third more than the files)"),
        ),
    ):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(bytes(size))
        photo_now(page).set_input_files(path)
        page.get_by_label("The record says").fill(record)
        expect(problem(page)).to_have_text(expected)
        count(page)
        expect(problem(page)).to_have_text(expected)
    assert not [url for url in sent if url.startswith("http")]
    # With a byte less the server reads it, and says what it is.
    for size, record in ((MAX_BODY - 1, ""), ((MAX_BODY - 40) // 4 * 3, "3")):
        path = tmp_path / f"{size}.jpg"
        path.write_bytes(bytes(size))
        photo_now(page).set_input_files(path)
        page.get_by_label("The record says").fill(record)
        expect(problem(page)).to_have_text("")
        count(page)
        expect(problem(page)).to_have_text("The photo is not a JPEG or PNG file.")


def dragged(page: Page, *contents: bytes) -> ElementHandle:
    """Return files as a browser hands them over when they are dropped."""
    return page.evaluate_handle(
        """(files) => {
          const data = new DataTransfer();
          for (const [index, text] of files.entries()) {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            data.items.add(new File([bytes], `dropped${index}.jpg`, { type: "image/jpeg" }));
          }
          return data;
        }""",
        [as_base64(content) for content in contents],
    )


@pytest.mark.slow
def test_photos_can_be_dropped(
    show: Callable[..., Page], served_run: ServedModel, without_head: ServedModel
) -> None:
    page = show(served_run)
    page.dispatch_event("#before .drop", "drop", {"dataTransfer": dragged(page, BEFORE)})
    page.dispatch_event("#now h2", "dragover", {"dataTransfer": dragged(page, NOW)})
    expect(page.locator("#now .drop")).to_have_class(re.compile("over"))
    page.dispatch_event("#now h2", "drop", {"dataTransfer": dragged(page, NOW)})
    expect(page.locator("#now .drop")).not_to_have_class(re.compile("over"))
    count(page)
    question = {"image": as_base64(NOW), "previous": {"image": as_base64(BEFORE)}}
    assert flat(answer_on(page)) == pytest.approx(flat(asked(served_run, question)))
    for selector, files, said in (
        ("h1", (NOW,), "Drop the photo on the visit that it shows."),
        ("#now", (NOW, BEFORE), "One photo a visit: drop one file."),
        ("#now", (), "That is no file: save the photo, and drop or choose it."),
    ):
        page.dispatch_event(selector, "drop", {"dataTransfer": dragged(page, *files)})
        expect(problem(page)).to_have_text(said)
    page = show(without_head)  # where there is one place, anywhere is there
    page.dispatch_event("h1", "drop", {"dataTransfer": dragged(page, NOW)})
    expect(page.locator("#now .drop")).to_contain_text("dropped0.jpg")


@pytest.mark.slow
def test_a_keyboard_is_enough(show: Callable[..., Page], served_run: ServedModel) -> None:
    page = show(served_run)
    # Chromium hands choosers over once it is told to, which under load is after a key that follows.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    expect(photo_before(page)).to_be_focused()
    page.keyboard.press("Tab")
    expect(photo_now(page)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.querySelector('#now .drop')).outlineWidth") == (
        "3px"
    )
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([file_named("bin.jpg", NOW)])
    page.keyboard.press("Tab")
    expect(page.get_by_label("The record says")).to_be_focused()
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    assert answer_on(page)["expected_quantity"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_is_legible_on_a_phone_and_in_the_dark(
    scheme: str, width: int, show: Callable[..., Page], served_run: ServedModel
) -> None:
    page = show(served_run, width, scheme)
    count(page)
    expect(problem(page)).not_to_have_text("")
    assert page.evaluate(POOR_CONTRASTS) == []
    photo_before(page).set_input_files([file_named("x" * 200, BEFORE)])
    photo_now(page).set_input_files([file_named("bin.jpg", NOW)])
    page.get_by_label("Known of that visit").select_option("count")
    page.get_by_label("Items then").fill("4")
    page.get_by_label("The record says").fill("3")
    count(page)
    expect(page.locator("#answer")).to_be_visible()
    page.get_by_text("The answer as JSON").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(POOR_CONTRASTS) == []
    assert page.evaluate(UNNAMED_CONTROLS) == 0
