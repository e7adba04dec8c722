"""Queries against the handler served here: behind a proxy that fails, and as an endpoint on AWS."""

import base64
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import query
from deployment import endpoint_client
from deployment.query_photos import find_photos
from paths import ROOT
from stand_ins.aws_server import AwsServer
from stand_ins.flaky_server import serve_flakily
from stand_ins.served_model import ServedModel, drawn_photo, encoded

ENTRY = [sys.executable, str(ROOT / "sagemaker_jobs/query.py")]
NUM_PHOTOS = 24
NAME = "bins-tiny"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of drawn photos, some of them a folder deeper."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    for number in range(NUM_PHOTOS):
        kind = ("jpg", "JPEG", "png")[number % 3]
        path = folder / ("deeper" if number % 4 == 0 else "") / f"{number:02}.{kind}"
        path.write_bytes(encoded(drawn_photo(seed=number), "PNG" if kind == "png" else "JPEG"))
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once."""
    monkeypatch.setattr(endpoint_client, "FIRST_DELAY", 0)


def rows_of(output: Path) -> list[dict[str, str]]:
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def ask(*flags: str) -> int:
    """Run the entry and return its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        query.main([*flags])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def error_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert ask(*flags) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_photo_gets_its_own_answer_though_requests_fail(
    photos: Path, served_run: ServedModel, tmp_path: Path, quick: None
) -> None:
    output = tmp_path / "counts.csv"
    with serve_flakily(served_run, share_of_503=0.2, share_of_resets=0.1) as server:
        assert ask(str(photos), "--local", server.url, "--output", str(output)) == 0
        assert server.num_503 > 0
        assert len(server.bodies) > server.num_answers + server.num_503  # some were reset
    rows = rows_of(output)
    paths = sorted(path for path in photos.rglob("*.*") if path.suffix != ".txt")
    assert [row["photo"] for row in rows] == [str(path) for path in paths]
    for path, row in zip(paths, rows, strict=True):
        answer = served_run.ask(path.read_bytes(), "application/x-image").content
        assert int(row["count"]) == answer["count"]
        for count, share in answer["probabilities"].items():
            assert float(row[f"probability_{count}"]) == pytest.approx(share, abs=1e-5)
        assert row["version"] == answer["version"]
        assert row["error"] == row["expected_quantity"] == ""


def test_a_killed_query_goes_on_and_ends_in_the_same_csv(
    photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "a.csv", tmp_path / "b.csv"
    assert ask(str(photos), "--local", url_of(served_run), "--output", str(undisturbed)) == 0
    workers = 2
    with serve_flakily(served_run, pause_after=9) as server:
        command = [*ENTRY, str(photos), "--local", server.url, "--output", str(killed)]
        process = subprocess.Popen([*command, "--workers", str(workers)], stderr=subprocess.DEVNULL)
        try:
            assert server.is_paused.wait(timeout=240)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        server.may_go_on.set()
        assert not killed.exists()
        journal = Path(f"{killed}.answered")
        kept = len(journal.read_text().splitlines())
        # Those that were on their way when it was killed may be lost, or answered beyond the nine.
        assert 9 - 2 * workers <= kept < 9 + workers
        with journal.open("a") as file:
            file.write("\0\0\n")  # as a power cut may leave it
            file.write('{"photo": {"locat')  # as a kill may leave it
        asked_before = len(server.bodies)
        assert ask(str(photos), "--local", server.url, "--output", str(killed)) == 0
        assert len(server.bodies) - asked_before == NUM_PHOTOS - kept
    assert without_shares(killed) == without_shares(undisturbed)
    assert not journal.exists()


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_query_that_waits_ends_at_once_and_can_go_on(
    sent: signal.Signals, photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    output = tmp_path / "counts.csv"
    with serve_flakily(served_run, pause_after=3) as server:
        flags = [str(photos), "--local", server.url, "--output", str(output), "--workers", "4"]
        process = subprocess.Popen([*ENTRY, *flags], stderr=subprocess.PIPE, text=True)
        try:
            assert server.is_paused.wait(timeout=120)
            process.send_signal(sent)
            said = process.communicate(timeout=20)[1]  # a request may take 70 seconds
        finally:
            process.kill()
        assert process.returncode in (-sent, 128 + sent)
        assert "Traceback" not in said
        server.may_go_on.set()
        assert ask(*flags) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["counts.csv"]


def without_shares(output: Path) -> list[tuple[str, str, str]]:
    """Return what does not depend on how a processor adds up a batch."""
    return [(row["photo"], row["count"], row["version"]) for row in rows_of(output)]


def url_of(served: ServedModel) -> str:
    return f"http://{served.host}:{served.port}"


def test_a_finished_query_is_not_asked_again_but_what_failed_and_what_is_new(
    photos: Path,
    served_run: ServedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "counts.csv"
    folder.mkdir()
    content = (photos / "01.JPEG").read_bytes()
    (folder / "a.jpg").write_bytes(content)
    (folder / "b.jpg").write_bytes(content[:900])
    (folder / "c.jpg").write_bytes(b"no photo")
    with serve_flakily(served_run) as server:
        flags = [str(folder), "--local", server.url, "--output", str(output)]
        assert ask(*flags) == 1
        assert "2 were not counted, such as" in capsys.readouterr().err
        assert [row["error"] for row in rows_of(output)] == [
            "",
            "The photo is damaged or truncated.",
            "The photo is not a JPEG or PNG file.",
        ]
        first = rows_of(output)[0]
        (folder / "b.jpg").write_bytes(content)
        (folder / "c.jpg").unlink()
        (folder / "d.jpg").write_bytes(content)
        server.bodies.clear()
        assert ask(*flags) == 0
        assert len(server.bodies) == 2
        assert "1 of 3 are answered already" in capsys.readouterr().err
        rows = rows_of(output)
        assert rows[0] == first
        assert [row["count"] for row in rows] == [first["count"]] * 3
        # Another query into the same file loses nothing.
        assert ask(str(photos / "02.png"), *flags[1:]) == 0
        assert [row["photo"] for row in rows_of(output)] == [
            str(photos / "02.png"),
            *(row["photo"] for row in rows),
        ]


def test_answers_that_another_program_has_written_again_are_read_or_named(
    photos: Path,
    served_run: ServedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bins, output = photos / "bins.csv", tmp_path / "counts.csv"
    bins.write_text("photo,expected_quantity\n01.JPEG,3\n02.png,\n")
    flags = [str(bins), "--local", url_of(served_run), "--output", str(output)]
    assert ask(*flags) == 0
    written = output.read_text()
    output.write_text(written.replace("JPEG,3,", "JPEG,3.0,"))  # as pandas writes it
    assert ask(*flags) == 0
    assert "2 of 2 are answered already" in capsys.readouterr().err
    assert output.read_text() == written
    damaged = {
        "an open quote": written.replace(str(photos / "02.png"), f'"{photos / "02.png"}'),
        "half a row": written[: written.rindex(",")],
        "another quantity": written.replace("JPEG,3,", "JPEG,three,"),
    }
    for text in damaged.values():
        output.write_text(text)
        assert ask(*flags) == 2
        assert f"{output} is there already, and damaged in line" in capsys.readouterr().err
        assert output.read_text() == text
    bins.unlink()


def test_a_csv_brings_what_the_inventory_expects(
    photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    bins, output = photos / "bins.csv", tmp_path / "counts.csv"
    bins.write_text(
        "\ufeffbin, Photo,Expected_Quantity \nx,01.JPEG,3\ny,02.png,\nz,absent.jpg,1\n"
        "x,01.JPEG,3.0\n\nv,01.JPEG,9\nw,01.JPEG,two\nu,,1\n"
    )
    assert ask(str(bins), "--local", url_of(served_run), "--output", str(output)) == 1
    rows = rows_of(output)
    bins.unlink()
    assert [row["expected_quantity"] for row in rows] == ["3", "", "1", "3", "9", "", ""]
    assert rows[0] == rows[3]
    wrong = 1 - float(rows[0]["probability_3"])
    assert float(rows[0]["probability_wrong"]) == pytest.approx(wrong, abs=1e-5)
    assert rows[1]["probability_wrong"] == rows[4]["probability_wrong"] == ""
    assert [row["error"] for row in rows] == [
        *("", "", "The file cannot be read: No such file or directory.", "", ""),
        "expected_quantity 'two' is not a whole number from 0 on.",
        "The row names no photo.",
    ]


@pytest.fixture
def visits(photos: Path) -> Iterator[Path]:
    """Return a csv beside the photos: visits before, counted, recorded, neither, and faults."""
    path = photos / "visits.csv"
    path.write_text(
        "photo,expected_quantity,previous_photo,previous_count,"
        "Previous_Expected_Quantity,unchanged_rate\n"
        "01.JPEG,3,02.png,4.0,,\n"
        "01.JPEG,3,02.png,,4,0.25\n"
        "01.JPEG,3,02.png,,,\n"
        "01.JPEG,3,,,,\n"
        "01.JPEG,,absent.jpg,,,\n"
        "01.JPEG,,02.png,4,4,\n"
        "01.JPEG,,,4,,\n"
        "01.JPEG,,02.png,two,,\n"
        "01.JPEG,,02.png,,,2\n"
        "01.JPEG,,02.png,9,,\n"
        "01.JPEG,,notes.txt,,,\n"
    )
    yield path
    path.unlink()


def test_a_csv_may_bring_the_visit_before(
    visits: Path, photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    output = tmp_path / "counts.csv"
    with serve_flakily(served_run, share_of_503=0.2) as server:
        flags = [str(visits), "--local", server.url, "--output", str(output)]
        assert ask(*flags) == 1
        rows = rows_of(output)
        image, before = (
            base64.b64encode((photos / name).read_bytes()).decode()
            for name in ("01.JPEG", "02.png")
        )
        plain = {"image": image, "expected_quantity": 3}
        questions: list[dict[str, Any]] = [
            plain | {"previous": {"image": before, "count": 4}},
            plain | {"previous": {"image": before, "expected_quantity": 4}, "unchanged_rate": 0.25},
            plain | {"previous": {"image": before}},
            plain,
        ]
        for row, question in zip(rows, questions, strict=False):
            answer = served_run.ask(json.dumps(question).encode(), "application/json").content
            assert int(row["count"]) == answer["count"]
            assert float(row["probability_wrong"]) == pytest.approx(
                answer["probability_wrong"], abs=1e-5
            )
            changes = {
                name.removeprefix("change_"): float(share)
                for name, share in row.items()
                if name.startswith(("change_+", "change_-")) and share
            }
            assert changes == pytest.approx(answer.get("change", {}), abs=1e-5)
            assert row["change_told_by"] == answer.get("change_told_by", "")
        assert [row["previous_count"] for row in rows[:3]] == ["4", "", ""]
        assert [row["previous_expected_quantity"] for row in rows[:3]] == ["", "4", ""]
        assert [row["unchanged_rate"] for row in rows[:3]] == ["", "0.25", ""]
        assert [row["error"] for row in rows[4:]] == [
            "previous_photo: The file cannot be read: No such file or directory.",
            "Give previous_count or previous_expected_quantity, not both.",
            "The row has something of a visit before, and no previous_photo.",
            "previous_count 'two' is not a whole number from 0 on.",
            "unchanged_rate '2' is not a share from 0 to 1.",
            'In "previous": the model knows a "count" of 1 to 5 items only.',
            'In "previous": The photo is not a JPEG or PNG file.',
        ]
        # The same photo with another visit before is another question; answered ones stay.
        server.bodies.clear()
        written = output.read_bytes()
        assert ask(*flags) == 1
        asked = [body for body in server.bodies if before.encode() in body]
        assert asked
        assert all(b'"count": 9' in body for body in asked)
        assert output.read_bytes() == written


def test_a_csv_may_name_the_items_that_are_expected(
    photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    box = {"quantity": 2, "length": 9, "width": 6, "height": 4, "weight": 2}
    bins = photos / "items.csv"
    with bins.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "expected_quantity", "items"])
        writer.writerows(
            [
                ["01.JPEG", "2", json.dumps([box])],
                ["01.JPEG", "", json.dumps([box])],
                ["01.JPEG", "2", ""],
                ["01.JPEG", "3", json.dumps([box])],
                ["01.JPEG", "2", "two boxes"],
                ["01.JPEG", "2", "[NaN]"],
            ]
        )
    output = tmp_path / "counts.csv"
    with serve_flakily(served_run, share_of_503=0) as server:
        flags = [str(bins), "--local", server.url, "--output", str(output)]
        assert ask(*flags) == 1
        rows = rows_of(output)
        assert [row["judged_by"] for row in rows] == ["count and items"] * 2 + [""] * 4
        assert [row["expected_volume"] for row in rows[:3]] == ["432.0", "432.0", ""]
        assert [row["expected_quantity"] for row in rows[:3]] == ["2", "", "2"]
        assert rows[0]["probability_wrong"] == rows[1]["probability_wrong"]
        assert json.loads(rows[0]["items"]) == [box]
        assert [row["error"] for row in rows[3:]] == [
            '"expected_items" come to 2, and "expected_quantity" is 3.',
            """items 'two boxes' is not JSON such as [{"quantity": 2}].""",
            """items '[NaN]' is not JSON such as [{"quantity": 2}].""",
        ]
        written = output.read_bytes()
        assert ask(*flags) == 1
        assert output.read_bytes() == written
    bins.unlink()


def test_photos_without_visits_have_no_columns_of_changes(
    photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    output = tmp_path / "counts.csv"
    assert ask(str(photos / "02.png"), "--local", url_of(served_run), "--output", str(output)) == 0
    assert list(rows_of(output)[0]) == [
        *("photo", "expected_quantity", "count", "expected_count", "probability_wrong"),
        *(f"probability_{count}" for count in range(1, 6)),
        *("model", "version", "runtime", "error"),
    ]


def test_two_photos_that_no_request_can_hold_together_are_a_row_of_their_own(
    served_run: ServedModel, tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(encoded(drawn_photo()) + bytes(2_300_000))
    visits, output = tmp_path / "visits.csv", tmp_path / "counts.csv"
    visits.write_text("photo,previous_photo\na.jpg,b.jpg\na.jpg,\n")
    assert ask(str(visits), "--local", url_of(served_run), "--output", str(output)) == 1
    assert [row["error"] for row in rows_of(output)] == [
        "The two photos have more than 4.5 MB together.",
        "",
    ]


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("photo,previous_photo", ""),
        ("photo,quantity", "has no column `expected_quantity`, only 'photo, quantity'"),
        ("photo", ""),
    ],
)
def test_a_csv_without_quantities_says_so_if_it_has_other_columns(
    header: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bins = tmp_path / "bins.csv"
    bins.write_text(f"{header}\n{','.join('1' for _ in header.split(','))}\n")
    assert len(find_photos(str(bins), boto3.Session())) == 1
    said = capsys.readouterr().err
    assert line in said
    assert bool(said) == bool(line)


def test_what_a_folder_holds_besides_photos_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jfif", "b.JPE", "c.jpg", "d.webp", "e.HEIC", "f.heic", "README", "[1]*.jpg"):
        (tmp_path / name).touch()
    found = find_photos(str(tmp_path), boto3.Session())
    names = ["[1]*.jpg", "a.jfif", "b.JPE", "c.jpg"]
    assert [photo.location for photo in found] == [str(tmp_path / name) for name in names]
    assert (
        "4 files are no JPEG or PNG by their names and are passed over (.heic: 2, no suffix: 1, "
        f".webp: 1), such as {str(tmp_path / 'README')!r}."
    ) in capsys.readouterr().err


def test_an_output_that_is_no_plain_file_is_written_to(
    photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    flags = [str(photos / "02.png"), "--local", url_of(served_run), "--output"]
    target, link, pipe = (tmp_path / name for name in ("counts.csv", "link.csv", "pipe"))
    link.symlink_to(target)
    assert ask(*flags, str(link)) == 0
    assert link.is_symlink()
    assert [path.name for path in tmp_path.iterdir() if path != link] == ["counts.csv"]
    command = [*ENTRY, *flags, "/dev/stdout"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == target.read_text()
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    assert ask(*flags, str(pipe)) == 0
    assert reader.communicate(timeout=60)[0] == target.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"counts.csv", "link.csv", "pipe"}


def test_any_name_of_a_photo_comes_back(served_run: ServedModel, tmp_path: Path) -> None:
    folder, output = tmp_path / "bins[1]?*", tmp_path / "counts.csv"
    folder.mkdir()
    names = ["a\rb.jpg", 'c\n"d", e.jpg', "é %41#.jpg", os.fsdecode(b"\xff.jpg"), " .jpg"]
    for name in names:
        (folder / name).write_bytes(encoded(drawn_photo()))
    flags = [str(folder), "--local", url_of(served_run), "--output", str(output)]
    assert ask(*flags) == 0
    with output.open(newline="", errors="surrogateescape") as file:
        found = [row["photo"] for row in csv.DictReader(file)]
    assert found == sorted(str(folder / name) for name in names)
    rows = output.read_bytes()
    with serve_flakily(served_run) as server:
        assert ask(str(folder), "--local", server.url, "--output", str(output)) == 0
        assert not server.bodies  # all are known
    assert output.read_bytes() == rows


def test_a_reader_that_has_seen_enough_is_no_traceback(
    photos: Path, served_run: ServedModel
) -> None:
    command = [*ENTRY, str(photos), "--local", url_of(served_run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.communicate(timeout=60)[1].count("\n") == 1  # the note that is passed over
    assert process.returncode == 0


def test_without_an_output_a_photos_answer_is_printed(
    photos: Path, served_run: ServedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photos / "01.JPEG"
    assert ask(str(photo), "--local", url_of(served_run)) == 0
    answer = served_run.ask(photo.read_bytes(), "image/jpeg").content
    assert json.loads(capsys.readouterr().out) == {"photo": str(photo), **answer}


@pytest.fixture
def account(aws: AwsServer, served_run: ServedModel, photos: Path, quick: None) -> AwsServer:
    """Return an account with photos in S3 and an endpoint."""
    bucket = aws.bucket("photos")
    for path in photos.glob("0*.*"):
        bucket.put_object(Key=f"bin-images/{path.name}", Body=path.read_bytes())
    bucket.put_object(Key="bin-images/readme.txt", Body=b"")
    bucket.put_object(Key="bin-images_2/1.jpg", Body=b"")
    aws.containers[NAME] = served_run.as_container
    aws.received.clear()
    return aws


def test_photos_in_s3_are_asked_of_an_endpoint_that_throttles(
    account: AwsServer, photos: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    account.invoke_errors += [
        *((400, "ThrottlingException"), (503, "ServiceUnavailable"), (500, "InternalFailure")),
        *((429, "ModelNotReadyException"), (530, "InternalDependencyException")),
    ]
    output = tmp_path / "counts.csv"
    assert ask("s3://photos/bin-images", "--endpoint", NAME, "--output", str(output)) == 0
    names = sorted(path.name for path in photos.glob("0*.*"))
    rows = rows_of(output)
    assert [row["photo"] for row in rows] == [f"s3://photos/bin-images/{name}" for name in names]
    answer = served_run.ask((photos / names[0]).read_bytes(), "application/x-image").content
    assert int(rows[0]["count"]) == answer["count"]
    asked = [r for r in account.received if r.path.endswith("/invocations")]
    assert len(asked) == len(names) + 5


def test_a_photo_in_s3_that_is_not_there_is_a_row_of_its_own(
    account: AwsServer, tmp_path: Path
) -> None:
    bins, output = tmp_path / "bins.csv", tmp_path / "counts.csv"
    there, absent = (f"s3://photos/bin-images/{name}" for name in ("01.JPEG", "absent.jpg"))
    bins.write_text(
        f"photo,previous_photo\n{there},\n{absent},\n{there},{there}\n{there},{absent}\n"
    )
    assert ask(str(bins), "--endpoint", NAME, "--output", str(output)) == 1
    reason = "There is no such object, or you may not read it (NoSuchKey)."
    errors = [row["error"] for row in rows_of(output)]
    assert errors == ["", reason, "", f"previous_photo: {reason}"]


def test_a_fault_of_the_photo_is_told_from_one_of_the_endpoint(
    account: AwsServer, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "1.jpg"
    photo.write_bytes(b"no photo")
    assert ask(str(photo), "--endpoint", NAME) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "The photo is not a JPEG or PNG file."
    asked = [r for r in account.received if r.path.endswith("/invocations")]
    assert len(asked) == 1  # no use in asking again
    line = error_of(capsys, str(photos), "--endpoint", "bins-absent")
    assert "AWS refused InvokeEndpoint: ValidationError of bins-absent" in line


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ((400, "ValidationError"), f"AWS refused the photo: ValidationError of {NAME}"),
        ((413, "RequestEntityTooLarge"), "AWS refused the photo: it is too large."),
    ],
)
def test_a_photo_that_aws_refuses_ends_no_query(
    refusal: tuple[int, str], reason: str, account: AwsServer, tmp_path: Path
) -> None:
    account.invoke_errors += [refusal]
    output = tmp_path / "counts.csv"
    flags = ["s3://photos/bin-images", "--endpoint", NAME, "--output", str(output)]
    assert ask(*flags, "--workers", "1") == 1
    errors = [row["error"] for row in rows_of(output)]
    assert errors[0] == reason
    assert set(errors[1:]) == {""}
    assert ask(*flags) == 0


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (413, '{"error": "The photo has more than 25 megapixels."}', "more than 25 megapixels"),
        (413, '{"code": 413, "message": "Request too large"}', "Request too large"),
        (400, "<html>", "status 400, without a reason"),
    ],
)
def test_a_container_that_refuses_a_photo_ends_no_query(
    status: int,
    body: str,
    reason: str,
    account: AwsServer,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account.containers[NAME] = lambda *_: (status, "application/json", body.encode())
    assert ask(str(photos / "02.png"), "--endpoint", NAME) == 1
    assert reason in json.loads(capsys.readouterr().out)["error"]


def test_what_concerns_all_photos_ends_the_query(
    account: AwsServer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account.invoke_errors += [(403, "AccessDeniedException")] * NUM_PHOTOS
    line = error_of(capsys, str(photos), "--endpoint", NAME)
    assert "AWS refused InvokeEndpoint: AccessDeniedException" in line


def test_an_endpoint_that_is_gone_ends_the_query_and_keeps_what_was_answered(
    photos: Path,
    served_run: ServedModel,
    tmp_path: Path,
    quick: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "counts.csv"
    flags = [str(photos), "--output", str(output), "--workers", "1"]
    with serve_flakily(served_run, ends_after=5) as server:
        line = error_of(capsys, *flags, "--local", server.url)
    assert "does not answer (status 503: busy): what has been answered is kept" in line
    kept = [json.loads(line) for line in Path(f"{output}.answered").read_text().splitlines()]
    assert ["error" in line["answer"] for line in kept] == [False] * 5 + [True] * 2
    with serve_flakily(served_run) as server:
        assert ask(*flags, "--local", server.url) == 0
    assert len(rows_of(output)) == NUM_PHOTOS
    # Those that may have ended it come last: the same command always gets further.
    unanswered = [Path(line["photo"]["location"]).read_bytes() for line in kept[5:]]
    assert server.bodies[-2:] == unanswered


def test_answers_of_two_models_are_not_mixed(
    photos: Path, served_run: ServedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "counts.csv"
    flags = ["--local", url_of(served_run), "--output", str(output)]
    assert ask(str(photos / "01.JPEG"), *flags) == 0
    rows = output.read_text()
    version = rows_of(output)[0]["version"]
    output.write_text(rows.replace(version, "0" * len(version)))
    line = error_of(capsys, str(photos), *flags)
    assert f"{output} holds answers of another model" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.jpg", "--local", "http://127.0.0.1:1"], "there is no nowhere.jpg"),
        (["EMPTY", "--local", "http://127.0.0.1:1"], "holds no photo"),
        (["EMPTY", "--local", "ftp://x"], "--local ftp://x: write http://"),
        (["EMPTY", "--local", "http://x:8o80"], "--local http://x:8o80: write http://"),
        (["EMPTY"], "one of the arguments --endpoint --local is required"),
        (["EMPTY", "--endpoint", "a", "--local", "b"], "not allowed with"),
        (["EMPTY", "--endpoint", "a"], "no AWS region: give --region"),
        (["NOPHOTO.csv", "--local", "http://127.0.0.1:1"], "has to name the column `photo`"),
        (["CELLS.csv", "--local", "http://127.0.0.1:1"], "CELLS.csv: line 3 has 3 cells"),
        (["UTF16.csv", "--local", "http://127.0.0.1:1"], "in UTF-8"),
        (["PHOTO.jpg", "--local", "http://127.0.0.1:1", "--output", "EMPTY"], "EMPTY is a folder"),
        (["PHOTO.jpg", "--local", "http://127.0.0.1:1", "--workers", "257"], "has to be 1 to 256"),
        (["PHOTO.jpg", "--local", "http://127.0.0.1:1", "--workers", "0"], "above 0"),
        (["PHOTO.jpg", "--local", "http://127.0.0.1:1", "--output", "OTHER.csv"], "no csv of"),
        (["PHOTO.jpg", "--local", "SERVED/elsewhere"], "answers 404: no handler is there"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str],
    message: str,
    served_run: ServedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.chdir(tmp_path)
    Path("EMPTY").mkdir()
    Path("NOPHOTO.csv").write_text("id\n1\n")
    Path("CELLS.csv").write_text("photo,expected_quantity\na.jpg,1\nb.jpg,2,3\n")
    Path("UTF16.csv").write_text("photo,expected_quantity\na.jpg,1\n", encoding="utf-16")
    Path("OTHER.csv").write_text("mine\n")
    Path("PHOTO.jpg").write_bytes(encoded(drawn_photo()))
    arguments = [flag.replace("SERVED", url_of(served_run)) for flag in flags]
    assert message in error_of(capsys, *arguments)
    assert Path("OTHER.csv").read_text() == "mine\n"


def test_delays_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []

    def fail() -> None:
        raise endpoint_client.NoAnswer("busy")

    monkeypatch.setattr(endpoint_client.random, "uniform", lambda low, high: high)
    with pytest.raises(endpoint_client.NoAnswer, match="busy"):
        endpoint_client.with_retries(fail, delays.append)
    assert delays == [0.25, 0.5, 1, 2, 4, 8, 10]
    with pytest.raises(endpoint_client.NoAnswer):
        endpoint_client.with_retries(fail, lambda delay: True)  # told to give up: no second delay


def test_help_needs_nothing() -> None:
    result = subprocess.run(
        [*ENTRY, "--help"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "--local" in result.stdout
