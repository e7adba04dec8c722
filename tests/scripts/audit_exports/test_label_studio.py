import base64
import csv
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import requests

import audit
import build_dataset
import export_audit
import import_marks
from audit_exports import label_studio
from exported_audits import MARKUP, Audited, program

USER, PASSWORD = "ann@example.org", "bins and items"
# Without its predictions a task, which version 2.1.2 forgets to hand on to its own check of them.
CHECKED = """
import json, pathlib, sys
from label_studio_sdk.label_interface import LabelInterface
folder = pathlib.Path(sys.argv[1])
interface = LabelInterface((folder / "labeling_config.xml").read_text())
interface.validate()
tasks = json.loads((folder / "tasks_001.json").read_text())
print(json.dumps([
    [bool(interface.validate_task({"data": task["data"]})) for task in tasks],
    [all(map(interface.validate_prediction, task.get("predictions", []))) for task in tasks],
]))
"""


@pytest.fixture(scope="module")
def folder(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited.export("label_studio", tmp_path_factory.mktemp("exports") / "tasks")


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("tasks_*.json")
    return list(json.loads(path.read_text()))


def answered(task: dict[str, Any], choice: str, **others: Any) -> dict[str, Any]:
    """Return a task as Label Studio 1.23 exports it, with an answer."""
    said = {"from_name": "count", "to_name": "photo", "type": "choices"}
    annotation = {
        "id": 1,
        "completed_by": 1,
        "result": [said | {"value": {"choices": [choice]}}],
        "was_cancelled": False,
        "created_at": "2026-11-30T21:22:28.108095Z",
        "updated_at": "2026-11-30T21:22:29.108095Z",
    }
    return {"id": 7, "data": task["data"], "annotations": [annotation | others]}


def test_a_task_holds_its_photo_and_what_the_photo_says(
    tasks: list[dict[str, Any]], folder: Path, audited: Audited
) -> None:
    with audited.bins.open(newline="") as file:
        photos = {row["id"]: audited.photos / row["photo"] for row in csv.DictReader(file)}
    assert len(tasks) == 10  # one bin has no photo
    choices = {
        choice.attrib["value"]
        for choice in ElementTree.parse(folder / "labeling_config.xml").iter("Choice")
    }
    assert choices == {*map(str, range(10)), "the record is right", "the record is wrong"}
    for task in tasks:
        data = task["data"]
        kind = "png" if data["bin_id"] == "png" else "jpeg"
        prefix, _, encoded = data["image"].partition(",")
        assert prefix == f"data:image/{kind};base64"
        if data["bin_id"] != "same":
            assert base64.b64decode(encoded) == photos[data["bin_id"]].read_bytes()
        for prediction in task.get("predictions", ()):
            (said,) = prediction["result"]
            assert set(said["value"]["choices"]) <= choices
            assert 0.2 <= prediction["score"] <= 1
    by_id = {task["data"]["bin_id"]: task for task in tasks}
    assert "predictions" not in by_id["cut"]
    assert by_id["=1+1"]["data"]["items"] == f"2 × {MARKUP}; 1 × =1+1"


def test_tasks_come_in_the_order_of_the_review_page(
    tasks: list[dict[str, Any]], audited: Audited
) -> None:
    page = (audited.folder / "review.html").read_text()
    start = page.index('<script type="application/json" id="bins">') + 42
    shown = [bin_["id"] for bin_ in json.loads(page[start : page.index("</script>", start)])]
    shown.remove("no photo")
    assert [task["data"]["bin_id"] for task in tasks] == shown


def test_more_than_label_studio_takes_at_once_is_in_several_files(
    tasks: list[dict[str, Any]], audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_studio, "MOST_BYTES", 150_000)
    folder = audited.export("label_studio", tmp_path / "out")
    paths = sorted(folder.glob("tasks_*.json"))
    assert len(paths) > 1
    assert all(path.stat().st_size < 160_000 for path in paths)
    assert [task for path in paths for task in json.loads(path.read_text())] == tasks


def test_answers_become_marks_that_the_audit_and_the_next_dataset_read(
    run_dir: Path, dataset_dir: Path, bucket: Path, tmp_path: Path
) -> None:
    of_bins = ["--bins", dataset_dir, "--split", "test"]
    flags = ["--model", run_dir / "model", *of_bins, "--output_dir", tmp_path / "audit"]
    with pytest.raises(SystemExit):
        audit.main([str(flag) for flag in flags])
    exporting = ["--audit", tmp_path / "audit", *of_bins, "--to", "label_studio"]
    export_audit.main([str(flag) for flag in [*exporting, "--output_dir", tmp_path / "tasks"]])
    tasks = json.loads((tmp_path / "tasks" / "tasks_001.json").read_text())
    recorded = int(tasks[0]["data"]["expected_quantity"])
    other = recorded % 5 + 1
    answers = [
        answered(tasks[0], str(other)),
        answered(tasks[1], "the record is right", completed_by={"id": 2, "email": USER}),
        answered(tasks[2], "the record is wrong"),
        answered(tasks[3], "1", was_cancelled=True),
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    marks = tmp_path / "marks.csv"
    import_marks.main([str(tmp_path / "answers.json"), "--output", str(marks)])
    with marks.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mark"], row["counted"]) for row in rows] == [
        ("wrong", str(other)),
        ("right", ""),
        ("wrong", ""),
    ]
    assert [row["checked_by"] for row in rows] == ["Label Studio user 1", USER] + [
        "Label Studio user 1"
    ]
    with pytest.raises(SystemExit) as exit_info:
        audit.main([str(flag) for flag in [*flags, "--checked", marks]])
    assert exit_info.value.code == 0
    with (tmp_path / "audit" / "decisions.csv").open(newline="") as file:
        decided = {row["id"]: row for row in csv.DictReader(file)}
    first, second, third = (decided[task["data"]["bin_id"]] for task in tasks[:3])
    assert (first["decision"], first["suggested_count"]) == ("wrong", str(other))
    assert (second["decision"], second["probability_wrong"]) == ("ok", "0.000000")
    assert third["reason"].endswith("found wrong by hand, and not counted")
    # Exported again, what was counted comes last.
    export_audit.main([str(flag) for flag in [*exporting, "--output_dir", tmp_path / "again"]])
    again = json.loads((tmp_path / "again" / "tasks_001.json").read_text())
    assert {task["data"]["bin_id"] for task in again[-2:]} == {
        task["data"]["bin_id"] for task in tasks[:2]
    }
    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(tmp_path / "bins"), "--image_size", "32"]
        + ["--test_fraction", "0.2", "--num_workers", "1", "--marks", str(marks)]
    )
    table = pq.read_table(next((tmp_path / "bins" / "data").glob("test-*.parquet")))
    row = table["id"].to_pylist().index(tasks[0]["data"]["bin_id"])
    assert table["expected_quantity"][row].as_py() == other
    assert table["checked_at"][row].as_py().startswith("2026-11-30T21:22:29")


def test_a_strangers_id_stays_harmless_in_the_marks(
    tasks: list[dict[str, Any]], tmp_path: Path
) -> None:
    (task,) = (task for task in tasks if task["data"]["bin_id"] == "=1+1")
    (tmp_path / "answers.json").write_text(json.dumps([answered(task, "3")]))
    import_marks.main([str(tmp_path / "answers.json"), "--output", str(tmp_path / "marks.csv")])
    with (tmp_path / "marks.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["mark"], row["counted"]) == ("'=1+1", "right", "3")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds no answer yet"),
        ("{", "holds no answers to these tasks"),
        ('[{"id": 1, "count": "3"}]', "as JSON, not as JSON-MIN or CSV"),
        ('[{"data": {}, "annotations": [{"result": []}]}]', "holds no answers to these tasks"),
        (None, "cannot be read"),
    ],
)
def test_what_holds_no_answers_is_refused_in_one_line(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "answers.json").write_text(content)
    with pytest.raises(SystemExit) as exit_info:
        import_marks.main([str(tmp_path / "answers.json"), "--output", str(tmp_path / "marks.csv")])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "marks.csv").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Label Studio with one user, as `label-studio start` runs it."""
    start = program("label-studio")
    folder = tmp_path_factory.mktemp("label_studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(start), "start", "--no-browser"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--internal-host", "127.0.0.1", "--port", str(port)],
            env={
                **os.environ,
                "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
                "LABEL_STUDIO_USERNAME": USER,
                "LABEL_STUDIO_PASSWORD": PASSWORD,
                "COLLECT_ANALYTICS": "false",
                "FRONTEND_SENTRY_DSN": "",
                "SENTRY_DSN": "",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(500):
            assert process.poll() is None, (folder / "log").read_text()
            with suppress(requests.ConnectionError):
                if requests.get(f"{url}/health", timeout=10).ok:
                    break
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # it makes its database first
def test_label_studio_takes_the_tasks_and_gives_answers_that_become_marks(
    server: str, folder: Path, tasks: list[dict[str, Any]], tmp_path: Path
) -> None:
    person = requests.Session()
    person.get(f"{server}/user/login")
    login = {"email": USER, "password": PASSWORD}
    login["csrfmiddlewaretoken"] = str(person.cookies["csrftoken"])
    person.post(f"{server}/user/login", data=login, headers={"Referer": server})
    headers = {"Referer": server, "X-CSRFToken": str(person.cookies["csrftoken"])}

    def sent(path: str, **content: Any) -> dict[str, Any]:
        answer = person.post(f"{server}/api/{path}", headers=headers, **content)
        assert answer.ok, answer.text
        return dict(answer.json())

    config = (folder / "labeling_config.xml").read_text()
    project = sent("projects", json={"title": "audit", "label_config": config})["id"]
    with (folder / "tasks_001.json").open("rb") as uploaded:
        imported = sent(f"projects/{project}/import", files={"tasks_001.json": uploaded})
    assert imported["task_count"] == len(tasks)
    assert imported["prediction_count"] == sum("predictions" in task for task in tasks)
    query = {"project": project, "page_size": 100, "fields": "all"}
    there = person.get(f"{server}/api/tasks", params=query).json()["tasks"]
    assert [task["data"] for task in there] == [task["data"] for task in tasks]
    choices = ["4", "the record is wrong"]
    for task, choice in zip(there, choices, strict=False):
        said = answered(task, choice)["annotations"][0]["result"]
        sent(f"tasks/{task['id']}/annotations", json={"result": said})
    exported = person.get(f"{server}/api/projects/{project}/export?exportType=JSON")
    (tmp_path / "answers.json").write_bytes(exported.content)
    import_marks.main([str(tmp_path / "answers.json"), "--output", str(tmp_path / "marks.csv")])
    with (tmp_path / "marks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["counted"] for row in rows] == ["4", ""]
    assert [row["id"].removeprefix("'") for row in rows] == [
        task["data"]["bin_id"] for task in tasks[:2]
    ]


def test_label_studios_own_rules_find_no_fault_in_config_and_tasks(
    folder: Path, tasks: list[dict[str, Any]]
) -> None:
    checked = subprocess.run(
        [program("python"), "-c", CHECKED, folder], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout.splitlines()[-1]) == [[True] * len(tasks)] * 2
