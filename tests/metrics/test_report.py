import base64
import copy
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import audit
import report
from finished_audits.heat_map_overlays import read_overlays
from report_page import GalleryPhoto, report_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MARKUP = "<script>alert(1)</script>"


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def run_copy(run_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_dir, tmp_path / "tiny", ignore=shutil.ignore_patterns("checkpoint-*"))
    return tmp_path / "tiny"


def test_a_report_is_one_page_with_its_pngs_and_json(run_copy: Path, dataset_dir: Path) -> None:
    report.main([str(run_copy), "--dataset", str(dataset_dir)])
    folder = run_copy / "report"
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "report.json", "confusion_matrix.png", "by_count.png"),
        *("reliability.png", "risk_coverage.png", "by_distinct_items.png"),
        "visits.png",
    }
    figures = json.loads((folder / "report.json").read_text())
    results = json.loads((run_copy / "all_results.json").read_text())
    for name in ("accuracy", "within_one_accuracy", "mae", "rmse"):
        assert figures["overall"][name]["value"] == pytest.approx(results[f"test_{name}"])
    nll = figures["overall"]["negative_log_likelihood"]["value"]
    assert nll == pytest.approx(results["test_loss"], rel=1e-4)
    for row in figures["by_count"]:
        assert row["accuracy"]["value"] == pytest.approx(results[f"test_accuracy_{row['key']}"])
    changes = figures["visits"]["changes"]
    direction = results["test_change_direction_by_single_counts"]
    assert changes["each photo counted alone"]["direction"]["value"] == direction
    page = (folder / "index.html").read_text()
    for way, name in (
        ("both photos compared", "test_change_direction"),
        ("its own photo", "test_visits_single_accuracy"),
    ):
        assert f"<td>{way}</td><td>{100 * results[name]:.1f} [" in page
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    num_wrong = round((1 - results["test_accuracy"]) * figures["num_bins"])
    assert len(images) == 6 + min(num_wrong, report.GALLERY_SIZE)
    # Nothing comes from elsewhere.
    assert all(str(attributes["src"]).startswith("data:image/") for attributes in images)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_without_the_dataset_there_is_no_gallery(run_copy: Path, tmp_path: Path) -> None:
    report.main([str(run_copy), "--output_dir", str(tmp_path / "elsewhere")])
    assert not (tmp_path / "elsewhere" / "by_distinct_items.png").exists()
    assert "Surest of a wrong count" not in (tmp_path / "elsewhere" / "index.html").read_text()


def test_how_well_sizes_of_items_are_told_has_a_table(
    run_dir: Path, run_copy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    report.main([str(run_dir), "--output_dir", str(folder)])
    results = json.loads((run_dir / "all_results.json").read_text())
    items = json.loads((folder / "report.json").read_text())["items"]
    for name in ("volume", "largest", "smallest", "weight"):
        for figure in ("r2", "covered"):
            told = items["sizes"][name][figure]
            assert told["value"] == pytest.approx(results[f"test_items_{name}_{figure}"], abs=1e-5)
            assert told["low"] <= told["value"] <= told["high"]
    assert items["distinct_accuracy"]["value"] == results["test_items_distinct_accuracy"]
    volume = 100 * results["test_items_volume_r2"]
    page = (folder / "index.html").read_text()
    assert f"<td>volume of all items</td><td>{volume:.1f} [" in page
    path = run_copy / "predictions_test.parquet"  # as of a run that learned nothing of them
    table = pq.read_table(path)
    names = [name for name in table.column_names if name.startswith(("items_", "record_"))]
    pq.write_table(table.drop_columns(names), path)
    report.main([str(run_copy)])
    assert json.loads((run_copy / "report" / "report.json").read_text())["items"] is None
    assert "Sizes of the items" not in (run_copy / "report" / "index.html").read_text()


def test_a_run_that_tells_no_changes_has_the_report_that_it_had(run_copy: Path) -> None:
    (run_copy / "changes_test.parquet").unlink()
    report.main([str(run_copy)])
    folder = run_copy / "report"
    assert not (folder / "visits.png").exists()
    assert json.loads((folder / "report.json").read_text())["visits"] is None
    assert "Visits of one bin" not in (folder / "index.html").read_text()


def test_what_strangers_wrote_is_escaped(run_copy: Path, tmp_path: Path) -> None:
    report.main([str(run_copy)])
    figures = json.loads((run_copy / "report" / "report.json").read_text())
    photo = GalleryPhoto(f'"{MARKUP}', 1, 2, 0.9, (MARKUP, "plain"), b"jpeg")
    arguments = {"config_name": MARKUP, "do_train": False}
    page = report_page(MARKUP, arguments, figures, {}, [photo])
    assert MARKUP not in page
    assert "&lt;script&gt;" in page
    assert not [tag for tag, _ in Tags(page).found if tag == "script"]


def test_another_dataset_is_refused(
    run_copy: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset_dir, other)
    (shard,) = other.glob("data/test-*.parquet")
    pq.write_table(pq.read_table(shard).slice(1), shard)
    for dataset, message in (
        (other, "lacks 1 of the predicted bins"),
        (tmp_path / "nowhere", "has no test split"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            report.main([str(run_copy), "--dataset", str(dataset)])
        assert exit_info.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (run_copy / "report").exists()


def test_a_folder_that_is_no_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        report.main([str(tmp_path)])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "predictions_test.parquet is missing: run scripts/train.py with --do_predict" in line


@pytest.mark.slow
def test_what_an_audit_finds_is_in_the_report(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_copy = tmp_path / "run"
    shutil.copytree(run_dir, run_copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    costs = ["--cost_missed_error", "20", "--cost_manual_check", "1"]
    audit.main(["--evaluate", str(run_copy), *costs])
    report.main([str(run_copy)])
    folder = run_copy / "report"
    measured = json.loads((run_copy / "audit_evaluation.json").read_text())
    assert json.loads((folder / "report.json").read_text())["audit"] == measured
    assert (folder / "audit.png").exists()
    kind = measured["kinds"]["real_pairs"]
    page = (folder / "index.html").read_text()
    for figure, factor, digits in (
        (kind["budgets"][0]["times_random"], 1, 2),
        (kind["budgets"][0]["precision"], 100, 1),
        (kind["savings"][0]["ways"][0]["saved"], 1, 0),
    ):
        value, low, high = (f"{factor * figure[k]:.{digits}f}" for k in ("value", "low", "high"))
        assert f"{value} [{low}, {high}]" in page
    error = kind["calibration"]["expected_calibration_error"]
    assert f"{error:.1%} (real pairs)" in page
    # Those who know less of visits stand beside the audit.
    photo = measured["kinds"]["real_changes"]["rivals"]["photo alone"]
    (at_20_percent,) = (row for row in photo["budgets"] if row["budget"] == 0.2)
    value, low, high = (f"{at_20_percent['times_random'][k]:.2f}" for k in ("value", "low", "high"))
    assert "<td>photo alone</td><td>" in page
    assert "with the items that both records name (real pairs with items)" in page
    assert f"<td>{value} [{low}, {high}]</td>" in page
    # What was measured before visits were is read as it was.
    older = copy.deepcopy(measured)
    for name in [name for name, kind in older["kinds"].items() if kind.pop("rivals")]:
        del older["kinds"][name]
    (run_copy / "audit_evaluation.json").write_text(json.dumps(older))
    report.main([str(run_copy)])
    assert json.loads((folder / "report.json").read_text())["audit"] == older
    page = (folder / "index.html").read_text()
    assert "Finding wrong records" in page
    assert "<td>photo alone</td>" not in page
    # Of predictions that were made since, it says nothing.
    predictions = run_copy / "predictions_test.parquet"
    pq.write_table(pq.read_table(predictions).slice(1), predictions)
    report.main([str(run_copy)])
    assert json.loads((folder / "report.json").read_text())["audit"] is None
    assert "is of other predictions" in capsys.readouterr().err
    # Nor of what an older audit measured otherwise.
    del measured["kinds"]["real_pairs"]["estimated_rate"]
    (run_copy / "audit_evaluation.json").write_text(json.dumps(measured))
    report.main([str(run_copy)])
    assert "is of an older audit" in capsys.readouterr().err
    (run_copy / "audit_evaluation.json").write_text("{")
    with pytest.raises(SystemExit):
        report.main([str(run_copy)])
    assert "audit_evaluation.json is damaged" in capsys.readouterr().err


def audited(model: Path, dataset_dir: Path, folder: Path, *more: str, split: str = "test") -> Path:
    bins = ["--bins", str(dataset_dir), "--split", split]
    with pytest.raises(SystemExit) as ended:
        audit.main(["--model", str(model), *bins, "--output_dir", str(folder), *more])
    assert ended.value.code == 0
    return folder


def test_heat_maps_of_an_audit_lie_over_the_photos(
    run_copy: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = audited(run_copy / "model", dataset_dir, tmp_path / "audit", "--heat_maps")
    argv = [str(run_copy), "--dataset", str(dataset_dir), "--heat_maps", str(folder)]
    report.main(argv)
    page = (run_copy / "report" / "index.html").read_text()
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    shown = [image for image in images if str(image["alt"]).startswith("bin ")]
    drawn = [image for image in images if image.get("class") == "heat"]
    assert len(shown) == len(drawn) > 1
    table = pq.read_table(folder / "heat_maps.parquet")
    maps = dict(zip(table["id"].to_pylist(), table["counted"].to_pylist(), strict=True))
    for photo, map_shown in zip(shown, drawn, strict=True):
        png = base64.b64decode(str(map_shown["src"]).removeprefix("data:image/png;base64,"))
        pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
        strengths = np.frombuffer(maps[str(photo["alt"]).removeprefix("bin ")], np.int8)
        strengths = strengths.reshape(14, 14).astype(int)
        assert pixels.shape == (14, 14, 4)
        assert ((pixels[..., 0] > pixels[..., 2]) == (strengths > 0)).all()
        order = np.argsort(np.abs(strengths), axis=None)
        assert (np.diff(pixels[..., 3].ravel()[order]) >= 0).all()
        assert pixels[..., 3].max() == 200  # the strongest place of each photo
    assert "Heat maps:" in page
    assert capsys.readouterr().err.count("no heat map") == 0
    # Of those that the audit's page does not show there is none.
    without = str(shown[0]["alt"]).removeprefix("bin ")
    is_other = [bin_id != without for bin_id in table["id"].to_pylist()]
    pq.write_table(table.filter(is_other), folder / "heat_maps.parquet")
    report.main(argv)
    assert f"such as bin {without}, have no heat map in" in capsys.readouterr().err
    page = (run_copy / "report" / "index.html").read_text()
    assert page.count('class="heat"') == len(shown) - 1
    assert page.count("no heat map") == 1
    # A run without errors shows no photo, and so needs no map.
    assert read_overlays(folder, run_copy / "model", []) == {}


def test_heat_maps_that_are_not_of_these_photos_are_refused(
    run_copy: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = audited(run_copy / "model", dataset_dir, tmp_path / "audit")
    dataset = ["--dataset", str(dataset_dir)]

    def refused(*argv: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            report.main([str(run_copy), *argv])
        assert stopped.value.code == 2
        assert not (run_copy / "report").exists()
        return capsys.readouterr().err

    assert "give their --dataset" in refused("--heat_maps", str(folder))
    maps = [*dataset, "--heat_maps", str(folder)]
    assert "audit holds no heat_maps.parquet" in refused(*maps)
    audited(run_copy / "model", dataset_dir, folder, "--heat_maps")
    config = run_copy / "model" / "config.json"
    known = config.read_text()
    config.write_text(known + " ")
    assert "is of another model than" in refused(*maps)
    config.unlink()
    assert "wants the model folder of the run" in refused(*maps)
    config.write_text(known)
    (folder / "heat_maps.parquet").write_bytes(b"PAR1")
    assert "audit is damaged (" in refused(*maps)
    of_validation = tmp_path / "of_validation"
    audited(run_copy / "model", dataset_dir, of_validation, "--heat_maps", split="validation")
    assert "is of other bins" in refused(*dataset, "--heat_maps", str(of_validation))


@pytest.mark.slow
def test_heat_maps_can_be_taken_off(
    run_copy: Path, dataset_dir: Path, tmp_path: Path, browser: "Browser"
) -> None:
    folder = audited(run_copy / "model", dataset_dir, tmp_path / "audit", "--heat_maps")
    report.main([str(run_copy), "--dataset", str(dataset_dir), "--heat_maps", str(folder)])
    page = browser.new_page()
    page.goto((run_copy / "report" / "index.html").as_uri())
    heat, photo = page.locator(".heat").first, page.locator(".seen img").first
    assert heat.bounding_box() == photo.bounding_box() is not None
    page.get_by_label("Heat maps").uncheck()
    assert page.locator(".heat:visible").count() == 0
    assert photo.is_visible()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_window(
    width: int, run_copy: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    report.main([str(run_copy), "--dataset", str(dataset_dir)])
    # In a frame: Chromium's own window is never narrower than 500 pixels.
    page = html.escape((run_copy / "report" / "index.html").read_text())
    framed = tmp_path / "framed.html"
    framed.write_text(
        f'<title>none</title><iframe width="{width}" height="900" style="border: 0" '
        f'srcdoc="{page}"></iframe>'
        "<script>onload = () => { const page = frames[0].document;"
        "const loaded = [...page.images].every(i => i.naturalWidth > 0);"
        "document.title = `${page.documentElement.scrollWidth} ${loaded}`; }</script>"
    )
    shown = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
        + [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
        + ["--hide-scrollbars", "--dump-dom", framed.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    match = re.search(r"<title>(.*?)</title>", shown)
    assert match is not None
    assert match[1] == f"{width} true"
