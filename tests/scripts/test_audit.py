import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import audit
from auditing import parts as audit_parts
from auditing.verdicts import FORMULA, harmless
from paths import ROOT
from reviewing.photo_maps import HEAT_MAPS, STRONGEST, Mapper
from serving.bin_counter import BinCounter
from visits.error_model import ErrorModel, write_error_model

MARKUP = '<script>alert("x")</script>'


def decisions(output_dir: Path) -> list[dict[str, str]]:
    with (output_dir / "decisions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def exit_code(*flags: object) -> int:
    with pytest.raises(SystemExit) as exit_info:
        audit.main([str(flag) for flag in flags])
    return int(exit_info.value.code or 0)


@pytest.fixture
def model_dir(run_dir: Path) -> Path:
    return run_dir / "model"


@pytest.fixture
def photos(bucket: Path) -> Path:
    return bucket / "bin-images"


def test_every_bin_of_a_dataset_gets_a_decision(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--split", "test"]
    assert exit_code(*flags, "--output_dir", tmp_path / "out", "--review_budget", "0.2") == 0
    ids = pq.read_table(next(dataset_dir.glob("data/test-*.parquet")))["id"].to_pylist()
    rows = decisions(tmp_path / "out")
    assert [row["id"] for row in rows] == ids
    by_hand = [row for row in rows if row["decision"] == "check by hand"]
    assert len(by_hand) == int(0.2 * len(rows))
    assert {row["decision"] for row in rows} <= {"ok", "check by hand", "wrong"}
    assert all(0 <= float(row["probability_wrong"]) <= 1 for row in rows)
    assert all(
        int(row["count_low"]) <= int(row["most_likely_count"]) <= int(row["count_high"])
        for row in rows
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["decisions"]["check by hand"] == len(by_hand)
    assert summary["bins"] == len(rows)
    assert summary["expected_wrong"] == pytest.approx(
        sum(float(row["probability_wrong"]) for row in rows), abs=1e-3
    )
    printed = capsys.readouterr().out
    assert f"{len(rows):,} bins: {len(by_hand)} to check by hand" in printed
    assert "Next: open" in printed


def test_the_wrong_rate_is_estimated_unless_it_is_given(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--split", "test"]
    flags += ["--output_dir", tmp_path / "out"]
    assert exit_code(*flags) == 0
    rate = json.loads((tmp_path / "out" / "summary.json").read_text())["wrong_rate"]
    assert 0 < rate["low"] < rate["high"] < 0.5
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "before a photo" in line]
    assert f"{rate['value']:.1%} " in line
    assert f"({rate['low']:.1%} to {rate['high']:.1%})" in line
    assert ("say little" in line) == (not rate["is_learned"])
    assert exit_code(*flags, "--wrong_rate", "0.3") == 0
    rate = json.loads((tmp_path / "out" / "summary.json").read_text())["wrong_rate"]
    assert (rate["value"], rate["low"], rate["high"]) == (0.3, None, None)
    assert "before a photo is seen: 30.0%, as given." in capsys.readouterr().out
    # Whatever rate and budget: only a certain count is suggested.
    for row in decisions(tmp_path / "out"):
        if row["decision"] == "wrong":
            share = re.search(r"with a probability of ([\d.]+)%", row["reason"])
            assert share is not None
            assert float(share[1]) >= 95


def test_a_quote_left_open_loses_no_bins(
    model_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in photos.iterdir())[:5]
    rows = [
        f"{name},1,{what}"
        for name, what in zip(names, ("oil", "3 in", '"3 in', "a", "b"), strict=True)
    ]
    (tmp_path / "bins.csv").write_text("\n".join(["photo,expected_quantity,name", *rows]))
    flags = ["--model", model_dir, "--bins", tmp_path / "bins.csv", "--photos", photos]
    assert exit_code(*flags, "--output_dir", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bins.csv: line 4: a quote opens here and does not close in this line." in line
    assert not (tmp_path / "out").exists()


def test_probabilities_are_those_that_the_run_recorded(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    flags = ["--model", run_dir / "model", "--bins", dataset_dir, "--split", "test"]
    exit_code(*flags, "--output_dir", tmp_path / "out")
    counts = (1, 2, 3, 4, 5)
    (part,) = audit_parts.read_parts(tmp_path / "out", len(decisions(tmp_path / "out")), counts)
    table = pq.read_table(run_dir / "predictions_test.parquet")
    recorded = np.column_stack([table[f"probability_{count}"].to_numpy() for count in counts])
    assert part.ids == table["id"].to_pylist()
    assert part.probabilities == pytest.approx(recorded, abs=1e-3)


def test_what_is_wrong_with_a_bin_is_named_and_no_bin_is_lost(
    model_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *_ = sorted(photos.iterdir())
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:500])
    evil = json.dumps([{"name": MARKUP, "quantity": 1}])
    rows = [
        (good, "1", "good", ""),
        ("nowhere.jpg", "1", "missing", ""),
        (good, "-1", "negative", ""),
        (good, "2.5", "half", ""),
        (good, "two", "word", ""),
        (good, "7", "many", ""),
        ("cut.jpg", "2", "cut", ""),
        (good, "3", MARKUP, evil),
        (good, "3", '=HYPERLINK("x")', "no json"),
    ]
    with (tmp_path / "bins.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "expected_quantity", "id", "items"), *rows])
    flags = ["--model", model_dir, "--bins", tmp_path / "bins.csv"]
    assert exit_code(*flags, "--output_dir", tmp_path / "out") == 1
    found = decisions(tmp_path / "out")
    assert [row["decision"] != "" for row in found] == [True, *[False] * 4, True, False, True, True]
    reasons = {row["id"]: row["reason"] for row in found}
    assert reasons["missing"] == "no photo nowhere.jpg"
    for name, value in (("negative", "-1"), ("half", "2.5"), ("word", "two")):
        assert reasons[name] == f"expected quantity '{value}' is not a whole number from 0 on"
    assert reasons["many"] == "expected quantity 7 is outside the model's counts 1 to 5"
    assert found[5]["decision"] == "check by hand"
    assert found[5]["probability_wrong"] == ""
    assert reasons["cut"] == "The photo is damaged or truncated."
    assert "items is not JSON" in reasons['\'=HYPERLINK("x")']
    errors = capsys.readouterr().err
    for name in ("missing", "negative", "half", "word", "many", "cut"):
        assert f"{name}: {reasons[name]}" in errors
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["without_decision"], summary["outside_the_models_counts"]) == (5, 1)
    # Nothing that a spreadsheet runs, nothing that a browser does.
    with (tmp_path / "out" / "decisions.csv").open(newline="") as file:
        assert not [cell for row in csv.reader(file) for cell in row if FORMULA.match(cell)]
    assert MARKUP not in (tmp_path / "out" / "review.html").read_text()


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\r", "\n=1", "＝1", "\u3000=1"]
    + ["\ufeff=1", "\u200b+1", "\0=1"],
)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "00123", "a=b", "B-1", "<b>"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_another_price_needs_no_photo(
    model_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in photos.iterdir())[:12]
    text = "photo,expected_quantity\n" + "".join(
        f"{name},{k % 5 + 1}\n" for k, name in enumerate(names)
    )
    (tmp_path / "bins.csv").write_text(text)
    flags = ["--model", model_dir, "--bins", tmp_path / "bins.csv", "--photos", photos]
    flags += ["--output_dir", tmp_path / "out"]
    costs = ["--cost_missed_error", 20, "--cost_manual_check", 1]
    assert exit_code(*flags, *costs) == 0
    first = decisions(tmp_path / "out")
    monkeypatch.setattr(BinCounter, "look", None)  # whoever calls it, fails
    assert exit_code(*flags, "--cost_missed_error", 20, "--cost_manual_check", 0) == 0
    assert {row["decision"] for row in decisions(tmp_path / "out")} == {"check by hand"}
    assert exit_code(*flags, "--cost_missed_error", 1, "--cost_manual_check", 9) == 0
    assert "check by hand" not in {row["decision"] for row in decisions(tmp_path / "out")}
    assert exit_code(*flags, *costs) == 0
    assert decisions(tmp_path / "out") == first


def of_bins_with_visits(
    photos: Path, folder: Path, records: list[str], visits: list[str]
) -> list[object]:
    """Return flags for a csv of one bin, A, seen so many times, and of a bin seen once."""
    names = sorted(path.name for path in photos.iterdir())
    rows = [
        f"{names[row]},v{row},{record},A,{visit}"
        for row, (record, visit) in enumerate(zip(records, visits, strict=True))
    ]
    rows.append(f"{names[-1]},alone,3,B,1")
    (folder / "bins.csv").write_text(
        "photo,id,expected_quantity,bin,visit\n" + "\n".join(rows) + "\n"
    )
    return ["--bins", folder / "bins.csv", "--photos", photos, "--wrong_rate", "0.1"]


def test_bins_with_visits_are_judged_together_and_without_them_as_ever(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--split", "test", "--wrong_rate", "0.1"]
    assert exit_code(*flags, "--output_dir", tmp_path / "with") == 0
    assert "Bins with more than one visit: " in capsys.readouterr().out
    assert exit_code(*flags, "--output_dir", tmp_path / "without", "--no_visits") == 0
    assert "more than one visit" not in capsys.readouterr().out
    together, alone = (decisions(tmp_path / name) for name in ("with", "without"))
    ids = {row["id"] for row in together}
    near = [row for row in together if row["neighbour_id"]]
    assert 0 < len(near) < len(together)
    assert {row["neighbour_id"] for row in near} <= ids
    assert {row["probability_wrong"] for row in near} != {
        row["probability_wrong"] for row in alone if row["id"] in {row["id"] for row in near}
    }
    for row, same in zip(together, alone, strict=True):
        if row["neighbour_id"]:
            assert -4 <= int(row["more_than_neighbour"]) <= 4
            assert 0 < float(row["probability_more_than_neighbour"]) <= 1
        else:
            assert row["probability_wrong"] == same["probability_wrong"]
    summary = json.loads((tmp_path / "with" / "summary.json").read_text())
    assert summary["visits"]["steps_compared_by_photos"] == summary["visits"]["steps"] > 0
    assert json.loads((tmp_path / "without" / "summary.json").read_text())["visits"] is None


def page_part(output_dir: Path, name: str) -> list[Any]:
    """Return the JSON of one element of a review page."""
    page = (output_dir / "review.html").read_text()
    (text,) = re.findall(rf'id="{name}">(.*?)</script>', page)
    return list(json.loads(text))


def test_heat_maps_are_in_the_page_where_they_are_asked_for_and_made_once(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--split", "test", "--wrong_rate", "0.1"]
    flags += ["--output_dir", tmp_path]
    assert exit_code(*flags) == 0
    assert page_part(tmp_path, "heat_maps") == []
    assert not (tmp_path / HEAT_MAPS).exists()
    assert exit_code(*flags, "--heat_maps") == 0
    maps = page_part(tmp_path, "heat_maps")
    bins = page_part(tmp_path, "bins")
    assert len(maps) == len(page_part(tmp_path, "photos"))
    assert len(set(maps)) == len(maps)  # each of its own photo
    strengths = np.frombuffer(base64.b64decode(maps[0]), np.int8)
    assert strengths.shape == (14 * 14,)
    assert np.abs(strengths).max() == STRONGEST
    pairs = [a_bin["neighbour"]["changed"] for a_bin in bins if a_bin["neighbour"]]
    assert pairs
    assert all(pairs)
    in_file = {line["id"]: line for line in pq.read_table(tmp_path / HEAT_MAPS).to_pylist()}
    assert [base64.b64encode(in_file[a_bin["id"]]["counted"]).decode() for a_bin in bins] == maps
    for name in ("counted", "changed"):  # whoever makes one anew, fails
        monkeypatch.setattr(Mapper, name, None)
    assert exit_code(*flags, "--heat_maps", "--review_budget", "0.5") == 0
    assert sorted(page_part(tmp_path, "heat_maps")) == sorted(maps)


def test_another_unchanged_rate_and_marks_need_no_photo(
    model_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = of_bins_with_visits(photos, tmp_path, ["3", "3", "4"], ["1", "2", "3"])
    flags += ["--model", model_dir, "--output_dir", tmp_path / "out"]
    assert exit_code(*flags) == 0
    first = decisions(tmp_path / "out")
    for name in ("look", "look_for_changes", "changes"):
        monkeypatch.setattr(BinCounter, name, None)  # whoever calls it, fails
    assert exit_code(*flags, "--unchanged_rate", "0.9") == 0
    often = decisions(tmp_path / "out")
    assert float(often[0]["probability_wrong"]) < float(first[0]["probability_wrong"])
    assert float(often[2]["probability_wrong"]) > float(first[2]["probability_wrong"])
    assert often[3] == first[3]
    (tmp_path / "marks.csv").write_text(
        "id,expected_quantity,decision,probability_wrong,mark,counted\n"
        "v0,3,ok,0.1,wrong,5\nalone,3,ok,0.1,right,\n"
    )
    assert exit_code(*flags, "--checked", tmp_path / "marks.csv") == 0
    checked = decisions(tmp_path / "out")
    assert (checked[0]["decision"], checked[0]["suggested_count"]) == ("wrong", "5")
    assert checked[0]["reason"] == "counted by hand: 5"
    assert (checked[3]["decision"], checked[3]["probability_wrong"]) == ("ok", "0.000000")
    assert checked[1]["probability_wrong"] != first[1]["probability_wrong"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["counted_by_hand"] == 2


def test_what_cannot_be_used_of_visits_and_marks_is_a_line_each_and_no_bin_is_lost(
    model_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = of_bins_with_visits(photos, tmp_path, ["3"] * 5, ["1", "2", "two", "3", "3"])
    flags += ["--model", model_dir, "--output_dir", tmp_path / "out"]
    (tmp_path / "marks.csv").write_text(
        "id,expected_quantity,decision,probability_wrong,mark,counted\n"
        "ghost,3,,,right,\nv0,3,,,wrong,4\nv0,3,,,wrong,5\n"
    )
    assert exit_code(*flags, "--checked", tmp_path / "marks.csv") == 1
    errors = capsys.readouterr().err
    for line in (
        "ghost: marked, but no bin is called so: the mark is not used",
        "v0: marked more than once, and not alike: no mark is used",
        "v2: visit 'two' is not a whole number from 0 on: judged without its other visits",
        "v3: the bin 'A' has more than one visit 3: judged without its other visits",
        "v4: the bin 'A' has more than one visit 3: judged without its other visits",
    ):
        assert line in errors.splitlines()
    rows = decisions(tmp_path / "out")
    assert len(rows) == 6
    assert all(row["decision"] for row in rows)
    assert [row["neighbour_id"] for row in rows] == ["v1", "v0", "", "", "", ""]
    assert all(row["reason"].endswith("judged without its other visits") for row in rows[2:5])
    assert exit_code(*flags, "--checked", tmp_path / "bins.csv") == 2
    assert "no column mark, counted" in capsys.readouterr().err.splitlines()[-1]


def test_the_items_of_a_record_are_held_against_its_photo(
    run_dir: Path,
    dataset_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--model", run_dir / "model", "--bins", dataset_dir, "--split", "test"]
    flags += ["--wrong_rate", "0.1"]
    assert exit_code(*flags, "--output_dir", tmp_path / "items") == 0
    rows = decisions(tmp_path / "items")
    assert all(float(row["seen_volume"]) > 0 for row in rows)
    assert any(float(row["recorded_volume"] or 0) > 0 for row in rows)
    named = [row for row in rows if row["likeliest_missing_item"]]
    assert named
    for row in named:
        assert row["decision"] != "ok"
        assert 0 < float(row["probability_missing"]) <= float(row["probability_wrong"]) + 1e-6
    # By the count alone others are suspicious.
    counter = BinCounter(run_dir / "model", 1)
    assert counter.item_settings is not None
    parts = list(audit_parts.read_parts(tmp_path / "items", len(rows), counter.counts))
    assert not np.allclose(parts[0].with_items, parts[0].probabilities, atol=0.01)
    assert parts[0].item_answers is not None
    assert parts[0].item_answers.shape == (len(parts[0].ids), counter.item_settings.num_answers)
    # Other settings of the heads are another audit.
    copy = tmp_path / "model"
    shutil.copytree(run_dir / "model", copy)
    settings = json.loads((copy / "item_heads.json").read_text())
    settings["powers"]["volume"] += 0.5
    (copy / "item_heads.json").write_text(json.dumps(settings))
    assert exit_code("--model", copy, *flags[2:], "--output_dir", tmp_path / "items") == 2


def test_a_csv_may_name_items_with_their_sizes_and_bad_ones_lose_no_bin(
    run_dir: Path, photos: Path, tmp_path: Path
) -> None:
    box = {"length": 9.0, "width": 6.0, "height": 4.0, "weight": 2.0}
    records = [
        [{"name": MARKUP, "quantity": 2, **box}],
        [{"name": "=HYPERLINK(1)", "quantity": 2, **box, "length": {"unit": "IN", "value": 30}}],
        [{"name": "a", "quantity": 2, **box, "width": {"unit": "furlong", "value": 1}}],
        [{"name": "a", "quantity": 2, "length": 0, "width": None, "height": 1e9, "weight": "x"}],
        [{"name": "a", "quantity": 2}],
        [],
        [{"name": "a", "quantity": 1} for _ in range(200)],
        None,
    ]
    names = [path.name for path in sorted(photos.iterdir())[: len(records)]]
    with (tmp_path / "bins.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "expected_quantity", "items"])
        for name, record in zip(names, records, strict=True):
            writer.writerow([name, 2, "" if record is None else json.dumps(record)])
    flags = ["--model", run_dir / "model", "--bins", tmp_path / "bins.csv"]
    flags += ["--photos", photos, "--output_dir", tmp_path / "out", "--review_budget", "1"]
    assert exit_code(*flags) == 0
    rows = decisions(tmp_path / "out")
    assert [row["recorded_volume"] for row in rows] == ["432.0", "1440.0", *[""] * 6]
    # Also of an item without a size: it counts as one of so many that are distinct.
    assert [bool(row["seen_volume"]) for row in rows] == [True] * 5 + [False] * 3
    assert rows[1]["likeliest_missing_item"] in ("", "'=HYPERLINK(1)")
    assert "of the items' sizes unit 'furlong' of width is not known" in rows[2]["reason"]
    assert "of the items' sizes weight 'x' is not a number" in rows[3]["reason"]
    page = (tmp_path / "out" / "review.html").read_text()
    assert MARKUP not in page
    assert json.dumps(MARKUP).replace("<", "\\u003c")[1:-1] in page


def test_an_audit_from_before_there_were_changes_is_not_gone_on_with(
    model_dir: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = of_bins_with_visits(photos, tmp_path, ["3", "3"], ["1", "2"])
    flags += ["--model", model_dir, "--output_dir", tmp_path / "out"]
    assert exit_code(*flags, "--no_visits") == 0
    path = tmp_path / "out" / "audit.json"
    identity = json.loads(path.read_text())
    assert identity.pop("compared_visits") is None
    path.write_text(json.dumps(identity))  # as earlier versions wrote it
    assert exit_code(*flags) == 2
    assert "holds another audit (other compared_visits)" in capsys.readouterr().err
    assert exit_code(*flags, "--no_visits") == 0


def test_the_error_model_of_the_model_folder_is_used(
    model_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for path in model_dir.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "error_model.json").unlink(missing_ok=True)
    flags = ["--model", copy, "--bins", dataset_dir, "--split", "test"]
    flags += ["--output_dir", tmp_path / "out"]
    exit_code(*flags)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["error_model"] == "the default: the model folder has no error_model.json"
    before = decisions(tmp_path / "out")
    write_error_model(copy, ErrorModel({(1, 5): 5000, (2, 4): 5000}))
    exit_code(*flags)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["error_model"] == "error_model.json, 10,000 pairs"
    assert [row["probability_wrong"] for row in decisions(tmp_path / "out")] != [
        row["probability_wrong"] for row in before
    ]
    (copy / "error_model.json").write_text("{")
    assert exit_code(*flags) == 2


def test_bad_flags_and_folders_are_refused_in_one_line(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_labels = tmp_path / "animals"
    other_labels.mkdir()
    for path in model_dir.iterdir():
        if path.is_file():
            (other_labels / path.name).write_bytes(path.read_bytes())
    config = json.loads((model_dir / "config.json").read_text())
    names = ["cat", "dog", "cow", "hen", "pig"]
    config["id2label"] = {str(label): name for label, name in enumerate(names)}
    config["label2id"] = {name: label for label, name in enumerate(names)}
    (other_labels / "config.json").write_text(json.dumps(config))
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.doc").write_text("")
    whole = {"--model": model_dir, "--bins": dataset_dir, "--output_dir": tmp_path / "out"}
    for change, reason in (
        ({"--model": other_labels}, "are not counts in increasing order"),
        ({"--model": tmp_path}, "name the model folder of a run"),
        ({"--bins": tmp_path / "nowhere"}, "no such file or folder"),
        ({"--output_dir": full}, "is not empty, and no audit"),
        ({"--wrong_rate": 0}, "give a share between 0 and 1"),
        ({"--wrong_rate": "nan"}, "give a share between 0 and 1"),
        ({"--review_budget": 1.5}, "give a share from 0 to 1"),
        ({"--cost_missed_error": 3}, "Give both"),
        ({"--wrong_rate": "inf"}, "give a share between 0 and 1"),
        ({"--review_budget": "nan"}, "give a share from 0 to 1"),
        ({"--review_budget": -0.1}, "give a share from 0 to 1"),
        ({"--cost_missed_error": -3, "--cost_manual_check": 1}, "numbers from 0 to 1e+12"),
        ({"--cost_missed_error": "nan", "--cost_manual_check": 1}, "numbers from 0 to 1e+12"),
        ({"--cost_missed_error": 3, "--cost_manual_check": "inf"}, "numbers from 0 to 1e+12"),
        (
            {"--cost_missed_error": 3, "--cost_manual_check": 1, "--review_budget": 0.1},
            "not both",
        ),
        ({"--unchanged_rate": 1}, "give a share from 0 to below 1"),
        ({"--unchanged_rate": "nan"}, "give a share from 0 to below 1"),
        ({"--unchanged_rate": 0.1, "--no_visits": ""}, "not both"),
        ({"--checked": tmp_path / "nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"--photos": tmp_path}, "--photos belongs to a csv"),
        ({"--evaluate": tmp_path}, "stands alone"),
        ({"--label_errors": "", "--split": "test"}, "--label_errors takes --model"),
    ):
        flags = {**whole, **change}.items()
        assert exit_code(*(word for flag in flags for word in flag if word != "")) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert reason in line
    assert not (tmp_path / "out").exists()
    assert exit_code("--bins", dataset_dir) == 2
    assert "--model, --output_dir missing" in capsys.readouterr().err
    assert exit_code("--evaluate", tmp_path) == 2
    assert "run scripts/train.py with --do_predict" in capsys.readouterr().err


def test_a_folder_of_another_audit_is_refused(
    model_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--output_dir", tmp_path / "out"]
    assert exit_code(*flags, "--split", "test") == 0
    assert exit_code(*flags, "--split", "validation") == 2
    assert "holds another audit (other bins" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])  # the pipe breaks at the end, or at a print
def test_a_reader_that_leaves_early_ends_it_quietly(
    unbuffered: str, dataset_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, str(ROOT / "scripts" / "audit.py"), "--model", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [*command, "--fit_error_model", str(dataset_dir)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert ended.stderr == ""
    assert (tmp_path / "error_model.json").exists()


@pytest.mark.slow
def test_a_killed_audit_goes_on_to_the_same_bytes(
    model_dir: Path, photos: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in photos.iterdir())
    # Two visits of each bin, which lie in two parts.
    lines = [f"{names[row % len(names)]},{row % 5 + 1},{row % 550},{row}\n" for row in range(1100)]
    (tmp_path / "bins.csv").write_text("photo,expected_quantity,bin,visit\n" + "".join(lines))
    flags = ["--model", str(model_dir), "--bins", str(tmp_path / "bins.csv")]
    flags += ["--photos", str(photos), "--review_budget", "0.1"]
    command = [sys.executable, str(ROOT / "scripts" / "audit.py"), *flags]
    command += ["--output_dir", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    first_part = tmp_path / "killed" / "parts" / "000000.parquet"
    while not first_part.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = first_part.stat().st_mtime_ns
    assert not (tmp_path / "killed" / "decisions.csv").exists()
    assert exit_code(*flags, "--output_dir", tmp_path / "killed") == 0
    assert first_part.stat().st_mtime_ns == written
    assert exit_code(*flags, "--output_dir", tmp_path / "whole") == 0
    for name in ("decisions.csv", "summary.json", "review.html"):
        killed, whole = (tmp_path / folder / name for folder in ("killed", "whole"))
        assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_an_evaluation_is_kept_with_the_run(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    predictions = run_dir / "predictions_test.parquet"
    content = predictions.read_bytes()
    for damaged in (content[: len(content) // 2] + bytes(len(content) // 2), content[:1000]):
        (run / predictions.name).write_bytes(damaged)
        assert exit_code("--evaluate", run) == 2
        assert f"{predictions.name} is damaged" in capsys.readouterr().err
    (run / predictions.name).write_bytes(content)
    audit.main(["--evaluate", str(run), "--cost_missed_error", "20", "--cost_manual_check", "1"])
    figures = json.loads((run / "audit_evaluation.json").read_text())
    assert {"real_pairs", "symmetric_errors", "real_changes"} < set(figures["kinds"])
    for kind in figures["kinds"].values():
        assert [of["cost_missed_error"] for of in kind["savings"]] == [20]
        found = [row["found"]["value"] for row in kind["budgets"]]
        assert found == sorted(found)
        assert "two single counts" not in kind["rivals"]
    printed = capsys.readouterr().out
    assert re.search(r"\| 20% \| [\d.]+ \[[\d.]+, [\d.]+\]", printed)
    assert "The default error model" in printed
    assert f"how counts usually change: {run} has no changes_test.parquet." in printed


@pytest.mark.slow
def test_an_evaluation_asks_the_change_head_where_the_run_did(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    changes = run / "changes_test.parquet"
    content = changes.read_bytes()
    changes.write_bytes(content[: len(content) // 2])
    assert exit_code("--evaluate", run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "changes_test.parquet is damaged, run scripts/train.py with --do_predict" in line
    assert not (run / "audit_evaluation.json").exists()
    changes.write_bytes(content)
    audit.main(["--evaluate", str(run), "--cost_missed_error", "20", "--cost_manual_check", "1"])
    printed = capsys.readouterr().out
    assert "has no changes_test.parquet" not in printed
    _, of_changes = printed.split("\nReal changes: ")
    for name in ("audit", "two single counts", "photo alone", "records alone"):
        assert re.search(rf"\n\| {name} \| [\d.]+ \[[\d.]+, [\d.]+\] \|", of_changes), name
    figures = json.loads((run / "audit_evaluation.json").read_text())
    assert figures["asks_change_head"] is True
    kind = figures["kinds"]["real_changes"]
    assert kind["num_cases"] == 2 * len(pq.read_table(changes).to_pylist())


def page_marks(rows: list[dict[str, str]], held: dict[str, int], path: Path) -> Path:
    """Write what a person finds in bins that an audit named, as the review page exports it."""
    lines = ["id,expected_quantity,mark,counted"]
    for row in rows:
        count = held[row["id"]]
        mark = "right" if str(count) == row["expected_quantity"] else "wrong"
        lines.append(f"{row['id']},{row['expected_quantity']},{mark},{count}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_people_found_makes_later_audits_more_honest(
    run_dir: Path,
    dataset_dir: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model_dir = tmp_path / "model"
    shutil.copytree(run_dir / "model", model_dir)
    table = pq.read_table(
        sorted(dataset_dir.glob("data/*.parquet")), columns=["id", "expected_quantity"]
    )
    held = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    # Three records of ten are wrong, by one item.
    records = {
        bin_id: count % 5 + 1 if row % 10 < 3 else count
        for row, (bin_id, count) in enumerate(held.items())
    }
    rows = [f"{bin_id},{recorded}" for bin_id, recorded in records.items()]
    (tmp_path / "bins.csv").write_text("id,expected_quantity\n" + "\n".join(rows) + "\n")
    flags = ["--model", model_dir, "--bins", tmp_path / "bins.csv", "--photos", photos]
    flags += ["--output_dir", tmp_path / "out"]
    assert exit_code(*flags, "--review_budget", "0.3") == 0
    found = [row for row in decisions(tmp_path / "out") if row["decision"] == "check by hand"]
    marks = page_marks(found, held, tmp_path / "marks.csv")
    capsys.readouterr()
    assert exit_code(*flags, "--recalibrate", marks) == 0
    printed = capsys.readouterr().out
    num_wrong = sum(records[row["id"]] != held[row["id"]] for row in found)
    assert f"{len(found)} marks, {num_wrong} of wrong records." in printed
    assert "Next: the same audit without --recalibrate" in printed
    written = json.loads((model_dir / "recalibration.json").read_text())
    # Three of ten are; a tenth before anybody looked would have been much.
    assert 0.1 < written["wrong_rate"]["value"] < 0.5

    assert exit_code(*flags, "--review_budget", "0.3") == 0
    assert "by what people found: recalibration.json" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["wrong_rate"] == written["wrong_rate"]
    assert summary["recalibration"]["num_marks"] == len(found)
    assert exit_code(*flags, "--recalibrate", marks) == 0
    assert "takes the place of the recalibration.json that was there" in capsys.readouterr().out
    # A rate that somebody gives goes before what marks say.
    assert exit_code(*flags, "--review_budget", "0.3", "--wrong_rate", "0.01") == 0
    assert "1.0%, as given" in capsys.readouterr().out

    # Records that were corrected since are none that were found wrong.
    corrected = [f"{bin_id},{count}" for bin_id, count in held.items()]
    (tmp_path / "bins.csv").write_text("id,expected_quantity\n" + "\n".join(corrected) + "\n")
    again = [*flags[:-1], tmp_path / "corrected"]
    assert exit_code(*again, "--recalibrate", marks) == 0
    said = capsys.readouterr()
    assert f"{num_wrong} marks are of bins without a photo, or of another record" in said.err
    assert f"{len(found) - num_wrong} marks, 0 of wrong records." in said.out
    # Another model's weights are not what the marks were made for.
    (model_dir / "recalibration.json").write_text(json.dumps(written | {"model": "another"}))
    assert exit_code(*again) == 2
    assert "is of another model than lies beside it" in capsys.readouterr().err


def test_marks_that_say_nothing_of_these_bins_are_refused(
    run_dir: Path,
    dataset_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    marks = tmp_path / "marks.csv"
    marks.write_text("id,expected_quantity,mark,counted\nnobody,3,right,3\n")
    flags = ["--model", run_dir / "model", "--bins", dataset_dir, "--split", "test"]
    flags += ["--output_dir", tmp_path / "out"]
    assert exit_code(*flags, "--recalibrate", marks) == 2
    assert "no mark is of a bin that is here" in capsys.readouterr().err
    assert not (run_dir / "model" / "recalibration.json").exists()
    assert exit_code(*flags, "--recalibrate", marks, "--wrong_rate", "0.1") == 2
    assert "--recalibrate decides nothing: leave out --wrong_rate." in capsys.readouterr().err


def test_bins_to_learn_from_are_checked_beside_those_whose_check_saves_most(
    model_dir: Path,
    dataset_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", model_dir, "--bins", dataset_dir, "--split", "test"]
    flags += ["--output_dir", tmp_path / "out"]

    def checked(*more: object) -> dict[str, str]:
        assert exit_code(*flags, *more) == 0
        rows = decisions(tmp_path / "out")
        return {row["id"]: row["reason"] for row in rows if row["decision"] == "check by hand"}

    saving = checked("--review_budget", "0.1")
    monkeypatch.setattr(BinCounter, "look", None)  # whoever calls it, fails
    both = checked("--review_budget", "0.1", "--next", "5")
    assert "Checked beside that, to learn from: 5." in capsys.readouterr().out
    assert saving.items() <= both.items()
    more = both.keys() - saving.keys()
    assert len(more) == 5
    assert {both[bin_id] for bin_id in more} == {"its count tells most of what photos do not"}
    groups = pq.read_table(
        next(dataset_dir.glob("data/test-*.parquet")), columns=["id", "bin_group"]
    )
    group = dict(zip(*(column.to_pylist() for column in groups.columns), strict=True))
    chosen = [group[bin_id] for bin_id in more]
    assert len({*chosen}) == 5
    assert not {*chosen} & {group[bin_id] for bin_id in saving}
    assert exit_code(*flags, "--next", "0") == 2
    assert "--next 0: give a whole number from 1 on." in capsys.readouterr().err


def test_a_page_that_is_full_shows_the_bins_to_learn_from_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "MAX_PAGE_BINS", 4)
    order = np.array([5, 3, 8, 1, 9, 2])
    assert audit.shown_on_page(order, set()).tolist() == [5, 3, 8, 1]
    assert audit.shown_on_page(order, {9, 3}).tolist() == [5, 3, 8, 9]
    assert audit.shown_on_page(order, {2, 9, 1, 8, 3}).tolist() == [3, 8, 1, 9]
