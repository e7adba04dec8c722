"""Drift of what a served model answers, from query.py's csv and from captured requests."""

import base64
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import drift
import query
from dataset_builds import rows
from drift import Reference, compared
from stand_ins.served_model import ServedModel

COUNTS = range(1, 6)
Ask = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def ask(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return what runs the entry: exit code, what it printed, and its figures."""

    def run(answers: Path, *flags: str) -> tuple[int, str, dict[str, Any]]:
        argv = [str(answers), "--run", str(run_dir), "--output_dir", str(tmp_path / "drift")]
        with pytest.raises(SystemExit) as exit_info:
            drift.main([*argv, *flags])
        figures = json.loads((tmp_path / "drift" / "drift.json").read_text())
        assert isinstance(exit_info.value.code, int)
        return exit_info.value.code, capsys.readouterr().out, figures

    return run


@pytest.fixture(scope="session")
def photos(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photos of the training split, which are many."""
    folder = tmp_path_factory.mktemp("drift_photos")
    for row in rows(dataset_dir, "train"):
        (folder / f"{row['id']}.jpg").write_bytes(row["image"]["bytes"])
    return folder


@pytest.fixture(scope="session")
def counts_csv(
    photos: Path, served_run: ServedModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return what query.py wrote of these photos."""
    output = tmp_path_factory.mktemp("drift_counts") / "counts.csv"
    url = f"http://{served_run.host}:{served_run.port}"
    with pytest.raises(SystemExit, match="0"):
        query.main([str(photos), "--local", url, "--output", str(output)])
    return output


def captured(question: bytes, question_type: str, answer: bytes, answer_type: str) -> str:
    """Return a line as SageMaker writes it where JSON alone is captured as text."""

    def part(content: bytes, media_type: str, mode: str) -> dict[str, str]:
        is_text = media_type == "application/json"
        return {
            "observedContentType": media_type,
            "mode": mode,
            "data": content.decode() if is_text else base64.b64encode(content).decode(),
            "encoding": "JSON" if is_text else "BASE64",
        }

    return json.dumps(
        {
            "captureData": {
                "endpointInput": part(question, question_type, "INPUT"),
                "endpointOutput": part(answer, answer_type, "OUTPUT"),
            },
            "eventMetadata": {"eventId": "1", "inferenceTime": "2026-11-30T12:00:00Z"},
            "eventVersion": "0",
        }
    )


def statistics(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in figures["statistics"]}


def test_photos_of_the_same_bins_have_not_drifted(
    ask: Ask, counts_csv: Path, photos: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    code, printed, figures = ask(counts_csv, "--dataset", str(dataset_dir))
    assert code == 0
    assert "Nothing has drifted." in printed
    assert printed.splitlines()[-1] == f"Next: open {tmp_path / 'drift' / 'drift.png'}"
    found = statistics(figures)
    names = ["count", "confidence", "brightness", "contrast", "sharpness", "warmth"]
    assert list(found) == names
    assert {row["num_observed"] for row in found.values()} == {len(list(photos.iterdir()))}
    with Image.open(tmp_path / "drift" / "drift.png") as picture:
        assert picture.size == (1440, 864)


def test_darker_photos_are_found_though_the_model_is_asked_in_another_way(
    ask: Ask, served_run: ServedModel, photos: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    """By its bytes, as JSON, several at once, with a csv as answer, and each twice."""
    folder = tmp_path / "captured" / "AllTraffic" / "2026" / "11" / "30" / "12"
    folder.mkdir(parents=True)
    paths = sorted(photos.iterdir())[:60]
    contents = []
    for path in paths:
        dark = tmp_path / path.name
        Image.open(path).point(lambda value: int(0.5 * value)).save(dark, quality=95)
        contents.append(dark.read_bytes())
    texts = [base64.b64encode(content).decode() for content in contents]
    requests: list[tuple[bytes, str, str | None]] = [
        (content, "image/jpeg", "application/json") for content in contents[:20]
    ]
    requests += [(content, "image/jpeg", "text/csv") for content in contents[20:30]]
    requests += [
        (json.dumps({"image": f"data:image/jpeg;base64,{text}"}).encode(), "application/json", None)
        for text in texts[30:40]
    ]
    instances = json.dumps({"instances": [{"image": text} for text in texts[40:]]}).encode()
    requests += [(instances, "application/json", "application/json")]
    lines = []
    for question, media_type, accept in requests:
        reply = served_run.ask(question, media_type, accept)
        answer_type = "text/csv" if accept == "text/csv" else "application/json"
        lines.append(captured(question, media_type, reply.body, answer_type))
    (folder / "00.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "01.jsonl").write_text(lines[0] + "\n")
    code, printed, figures = ask(tmp_path / "captured", "--dataset", str(dataset_dir))
    assert code == 1
    found = statistics(figures)
    assert found["brightness"]["verdict"] == "drifted"
    assert found["brightness"]["mean"] < 0.6 * found["brightness"]["validation_mean"]
    assert {row["num_observed"] for row in found.values()} == {60}
    assert "1 asked about before." in printed
    sentence = r"^A brightness of at most 0\.\d+: \d+% of the validation photos, \d+% now\.$"
    assert re.search(sentence, printed, re.M)


def answers_in_s3(path: Path, header_of: Path, rows: list[dict[str, Any]]) -> Path:
    """Write answers, in the form of another csv, to photos that are not at hand."""
    with header_of.open(newline="") as file:
        reader = csv.DictReader(file)
        names, like = list(reader.fieldnames or ()), next(reader)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, "change_told_by"])
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow(like | {"photo": f"s3://photos/{number}.jpg"} | row)
    return path


def sure_of(count: int) -> dict[str, Any]:
    return {"count": count, **{f"probability_{n}": 0.96 if n == count else 0.01 for n in COUNTS}}


def test_other_counts_and_surer_answers_are_found_without_photos(
    ask: Ask, counts_csv: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    fives = answers_in_s3(tmp_path / "fives.csv", counts_csv, [sure_of(5)] * 60)
    code, printed, figures = ask(fives, "--dataset", str(dataset_dir))
    assert code == 1
    assert {name: row["verdict"] for name, row in statistics(figures).items()} == {
        "count": "drifted",
        "confidence": "drifted",
    }
    assert figures["left_out"] == {"not at hand: only the answer is compared": 60}
    missing = "Not compared, of fewer than 20 photos: brightness (0), contrast (0), sharpness (0)"
    assert missing in printed
    _, printed, _ = ask(fives)
    assert "Photos are not compared: --dataset names those of the validation split." in printed


def test_a_difference_that_is_too_small_to_matter_is_told_and_is_no_alarm() -> None:
    generator = np.random.default_rng(2)
    reference = Reference(
        (1, 2), np.arange(4000), {"brightness": generator.normal(size=4000)}, image_size=32
    )
    now = {"brightness": generator.normal(0.15, size=4000)}
    (row,) = compared(reference, now, alpha=0.01, smallest=0.1)
    assert row["seen_from"] < row["distance"] < 0.1
    assert row["verdict"] == "differs, but little"
    (row,) = compared(reference, now, alpha=0.01, smallest=0.02)
    assert row["verdict"] == "drifted"


def test_an_answer_that_rests_on_a_visit_before_is_left_out(
    ask: Ask, counts_csv: Path, tmp_path: Path
) -> None:
    with counts_csv.open(newline="") as file:
        alone = [
            {name: value for name, value in row.items() if name != "photo"}
            for row in csv.DictReader(file)
        ]
    with_visits = [sure_of(5) | {"change_told_by": "change head"}] * 200
    path = answers_in_s3(tmp_path / "visits.csv", counts_csv, [*alone, *with_visits])
    code, printed, figures = ask(path)
    assert code == 0
    assert statistics(figures)["count"]["num_observed"] == len(alone)
    assert "200 counted with a visit before" in printed


def edited(path: Path, change: Callable[[str], str], target: Path) -> Path:
    target.write_text(change(path.read_text()))
    return target


@pytest.mark.parametrize(
    ("make", "flags", "reason"),
    [
        (lambda path, _: path / "absent.csv", [], "there is no .*absent.csv"),
        (lambda path, _: path, [], r"holds no \*.jsonl: copy what was captured"),
        (
            lambda path, csv: edited(
                csv, lambda text: text.replace("photo,", "x,"), path / "a.csv"
            ),
            [],
            "it is no csv that sagemaker_jobs/query.py --output wrote",
        ),
        (
            lambda path, csv: edited(
                csv, lambda text: text[: text.index("\n", 200)], path / "a.csv"
            ),
            [],
            "fewer than 20 photos: wait for more",
        ),
        (
            lambda path, csv: edited(csv, lambda _: '{"captureData": {}}\n', path / "a.jsonl"),
            [],
            r"a.jsonl, line 1 is not what SageMaker captures \(KeyError",
        ),
        (
            lambda path, csv: edited(
                csv, lambda text: re.sub(r",[0-9a-f]{12},", ",000000000000,", text), path / "a.csv"
            ),
            [],
            "000000000000 has answered, and the model of .* is [0-9a-f]{12}: give the run",
        ),
        (
            lambda path, csv: edited(
                csv,
                lambda text: re.sub(r",[0-9a-f]{12},", ",000000000000,", text, count=1),
                path / "a.csv",
            ),
            [],
            "2 models have answered",
        ),
        (lambda _, csv: csv, ["--alpha", "0.0001"], "--alpha has to be 0.001 or more"),
        (lambda _, csv: csv, ["--dataset", "absent"], "has no validation split"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    make: Callable[[Path, Path], Path],
    flags: list[str],
    reason: str,
    counts_csv: Path,
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = make(tmp_path, counts_csv)
    with pytest.raises(SystemExit, match="2"):
        drift.main(
            [str(answers), "--run", str(run_dir), "--output_dir", str(tmp_path / "drift"), *flags]
        )
    assert re.search(reason, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "drift").exists()


def test_a_run_of_before_there_were_validation_predictions_is_told_what_to_do(
    counts_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        drift.main([str(counts_csv), "--run", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "predictions_validation.parquet is missing: run scripts/train.py with --do_eval" in line
