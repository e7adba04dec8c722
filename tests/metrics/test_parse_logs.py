import csv
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import parse_logs
import train
from paths import real_path

TRAIN = "metrics split=train step=10 epoch=0.5 loss=1.60912 learning_rate=1e-05\n"
TRAIN_AGAIN = "{'loss': '1.609', 'learning_rate': '1e-05', 'epoch': '0.5'}\n"


def parsed(tmp_path: Path, *arguments: str) -> list[dict[str, str]]:
    output = tmp_path / "metrics.csv"
    parse_logs.main([*arguments, "--output", str(output)])
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


def parsed_text(tmp_path: Path, text: str, *arguments: str) -> list[dict[str, str]]:
    log = tmp_path / "vit.log"
    log.write_text(text)
    return parsed(tmp_path, str(log), *arguments)


def test_the_same_figures_from_train_and_from_trainer_count_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = parsed_text(tmp_path, TRAIN + TRAIN_AGAIN)
    where = {
        **{"job": "vit", "host": "", "timestamp": ""},
        **{"step": "10", "epoch": "0.5", "split": "train"},
    }
    assert rows == [
        {**where, "name": "loss", "value": "1.60912"},
        {**where, "name": "learning_rate", "value": "1e-05"},
    ]
    assert "2 figures; 1 lines printed the same ones again" in capsys.readouterr().out


def test_nan_printed_twice_counts_once(tmp_path: Path) -> None:
    twice = "metrics split=train step=1 epoch=1 loss=nan\n{'loss': 'nan', 'epoch': '1'}\n"
    assert len(parsed_text(tmp_path, twice)) == 1


@pytest.mark.parametrize(
    "other",
    [
        "{'loss': '1.62', 'learning_rate': '1e-05', 'epoch': '0.5'}\n",
        "{'loss': '1.609', 'learning_rate': '1e-05', 'epoch': '0.6'}\n",
        "{'loss': '1.609', 'grad_norm': '2', 'epoch': '0.5'}\n",
        "{'eval_loss': '1.609', 'epoch': '0.5'}\n",
        TRAIN,
    ],
)
def test_other_figures_all_count(tmp_path: Path, other: str) -> None:
    assert len(parsed_text(tmp_path, TRAIN + other)) > 2


def test_hosts_times_and_trials_in_front_of_a_line_become_columns(tmp_path: Path) -> None:
    lines = [
        f"2026-11-21T10:00:00.123Z algo-1 | {TRAIN}",
        # The first process of each other host prints Trainer's dictionary, too.
        f"2026-11-21T10:00:00.125Z algo-2 | {TRAIN_AGAIN}",
        f"bins-search-007-0a1b | {TRAIN}",
        f"bins-search-008-0a1b/algo-2 | {TRAIN}",
        f"2026-11-21T11:00:00+01:00 bins-vit/algo-1-1763719200 {TRAIN}",  # aws logs tail
        f"abc-algo-1-xyz  | {TRAIN}",  # docker compose
        f" 50%|█████     | 33/66 [00:10<00:10]{TRAIN}",
        f"2026-11-21 10:00:00,123 INFO trainer: {TRAIN}",
    ]
    rows = parsed_text(tmp_path, "".join(lines), "--job", "vit-5")
    assert [(row["job"], row["host"], row["timestamp"]) for row in rows[::2]] == [
        ("vit-5", "algo-1", "2026-11-21T10:00:00.123Z"),
        ("bins-search-007-0a1b", "", ""),
        ("bins-search-008-0a1b", "algo-2", ""),
        ("bins-vit", "algo-1", "2026-11-21T10:00:00.000Z"),
        ("vit-5", "algo-1", ""),
        ("vit-5", "", ""),
        ("vit-5", "", "2026-11-21T10:00:00.123Z"),
    ]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("timestamp,message", "1795255200123,"),
        ("@timestamp,@message", "2026-11-21 10:00:00.123,"),
        ('"timestamp","message"', '"1795255200123",'),
    ],
)
def test_csv_exports_of_cloudwatch_are_read(tmp_path: Path, header: str, cells: str) -> None:
    text = f"\ufeff{header}\n{cells}\"{{'loss': 1.5, 'epoch': 0.5}}\nTest set: Accuracy: 45%\n\"\n"
    rows = parsed_text(tmp_path, text)
    assert [(row["name"], row["value"]) for row in rows] == [("loss", "1.5"), ("accuracy", "0.45")]
    assert {row["timestamp"] for row in rows} == {"2026-11-21T10:00:00.123Z"}


def test_a_csv_that_names_the_log_streams_gives_job_and_host(tmp_path: Path) -> None:
    text = f"@timestamp,@logStream,@message\n,bins-vit/algo-2-1763719200,{TRAIN}"
    (row, _) = parsed_text(tmp_path, text)
    assert (row["job"], row["host"]) == ("bins-vit", "algo-2")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("message\nfine\n\"{'loss': 1.5}\nnot closed\n", 3, "unexpected end of data"),
        ('message\n"a" b\n', 2, "expected after"),
        ("timestamp,message\n1,first\n2,{'loss': 1.5, 'epoch': 0.5}\n", 3, "3 cells"),
        ("timestamp,message\n1\n", 2, "1 cells"),
        ('message\n"' + 2**21 * "x" + '"', 2, "field larger than field limit"),
    ],
)
def test_a_csv_whose_rows_are_not_whole_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, told: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed_text(tmp_path, text)
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'vit.log'}:{line}: " in error
    assert told in error


EVALUATED = "{'eval_loss': 1.31, 'eval_rmse': 1.02, 'epoch': 0.5}"
EVENTS = [
    {"logStreamName": "bins-vit/algo-2-17", "timestamp": 1795255200123, "message": TRAIN},
    {"timestamp": 1795255200124, "message": EVALUATED, "ingestionTime": 1795255200999},
    {"message": "step", "loss": 1.2, "epoch": 1},
]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"events": EVENTS}),
        json.dumps({"events": EVENTS}, indent=4),
        json.dumps(EVENTS, indent=2, sort_keys=True),
        "".join(f"{json.dumps(event)}\n" for event in EVENTS),
    ],
)
def test_json_of_the_aws_cli_is_read_event_by_event(tmp_path: Path, text: str) -> None:
    rows = parsed_text(tmp_path, text)
    assert [(row["job"], row["host"], row["name"], row["value"]) for row in rows] == [
        ("bins-vit", "algo-2", "loss", "1.60912"),
        ("bins-vit", "algo-2", "learning_rate", "1e-05"),
        *(("vit", "", "loss", "1.31"), ("vit", "", "rmse", "1.02")),
        ("vit", "", "loss", "1.2"),
    ]
    times = ["2026-11-21T10:00:00.123Z", "2026-11-21T10:00:00.124Z"]
    assert [row["timestamp"] for row in rows] == [times[0]] * 2 + [times[1]] * 2 + [""]


def test_json_at_the_start_of_a_log_hides_none_of_its_lines(tmp_path: Path) -> None:
    front = '{\n    "hosts": ["algo-1"],\n    "message": "Training Env"\n}\n'
    assert len(parsed_text(tmp_path, front + TRAIN)) == 2
    assert len(parsed_text(tmp_path, '{"message": "Training Env", \n' + TRAIN)) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_encodings_and_compressions_are_read_alike(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    bar = " 50%|█████     | 33/66\r"
    text = f"2026-11-21T10:00:00.123Z algo-1 | {TRAIN}" + bar + TRAIN_AGAIN
    (tmp_path / "vit.log").write_bytes(pack(text.replace("\n", "\r\n").encode(encoding)))
    rows = parsed(tmp_path, str(tmp_path / "vit.log"))
    assert [(row["job"], row["host"], row["value"]) for row in rows] == [
        *(("vit", "algo-1", "1.60912"), ("vit", "algo-1", "1e-05")),
    ]


def test_the_name_of_a_compressed_log_is_its_jobs(tmp_path: Path) -> None:
    (tmp_path / "vit.log.gz").write_bytes(gzip.compress(TRAIN.encode()))
    assert {row["job"] for row in parsed(tmp_path, str(tmp_path / "vit.log.gz"))} == {"vit"}


def test_what_powershell_appends_in_another_encoding_is_read(tmp_path: Path) -> None:
    lines = TRAIN.encode() * 9 + f"{EVALUATED}\r\n".encode("utf-16-le")
    (tmp_path / "vit.log").write_bytes(lines)
    rows = parsed(tmp_path, str(tmp_path / "vit.log"))
    assert [row["value"] for row in rows[-2:]] == ["1.31", "1.02"]


def test_a_compressed_log_that_is_cut_off_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "vit.log.gz"
    whole = gzip.compress((TRAIN * 1000).encode())
    for damaged in (whole[:-20], whole[:20] + b"\0\0" + whole[22:]):
        log.write_bytes(damaged)
        with pytest.raises(SystemExit, match="2"):
            parsed(tmp_path, str(log))
        (error,) = capsys.readouterr().err.splitlines()
        assert f"{log} cannot be unpacked to its end" in error


def test_a_log_without_figures_among_others_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = tmp_path / "good.log", tmp_path / "other.log.zst"
    good.write_text(TRAIN)
    other.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(range(256)))
    assert len(parsed(tmp_path, str(good), str(other))) == 2
    assert capsys.readouterr().err == f"{other}: no line with metrics in it\n"


def test_states_of_a_progress_bar_end_a_line(tmp_path: Path) -> None:
    bar = "\r  0%|  | 0/9 [00:00<?, ?it/s]\r" + 30 * " " + "\r"
    assert len(parsed_text(tmp_path, bar + TRAIN + bar + TRAIN_AGAIN + bar)) == 2


def test_unreadable_metrics_are_counted_and_the_first_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off = [f"{{'loss': 1.{number}, 'epo" for number in range(1200)]
    rows = parsed_text(tmp_path, TRAIN + "\n".join(cut_off))
    assert len(rows) == 2
    first, *shown = capsys.readouterr().err.splitlines()
    assert first == "1,200 lines look like metrics and cannot be read; the first:"
    assert len(shown) == 5
    assert shown[0] == (
        f"  {tmp_path / 'vit.log'}:2: the dictionary is cut off: {{'loss': 1.0, 'epo"
    )


def test_bytes_that_are_no_text_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"\xff\xfe\x00\n" + TRAIN.encode())
    assert len(parsed(tmp_path, str(tmp_path / "a.log"))) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no line with metrics"),
        ("hello\n", "no line with metrics"),
        ("{'loss': 1.5, 'epo", "the dictionary is cut off"),
        (None, "No such file"),
    ],
)
def test_what_holds_no_metrics_is_one_line_and_leaves_an_earlier_csv_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    log, output = tmp_path / "a.log", tmp_path / "metrics.csv"
    if text is not None:
        log.write_text(text)
    output.write_text("earlier")
    with pytest.raises(SystemExit) as exit_info:
        parse_logs.main([str(log), "--output", str(output)])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert output.read_text() == "earlier"
    assert not list(tmp_path.glob("*.part"))


def test_a_log_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    log.write_text(TRAIN)
    with pytest.raises(SystemExit):
        parse_logs.main([str(log), "--output", str(log)])
    assert "is one of the logs" in capsys.readouterr().err
    assert log.read_text() == TRAIN


@pytest.mark.parametrize(
    ("name", "figures_a_row", "num_rows"),
    [
        ("vit/vit_loss.csv", ["loss", "learning_rate"], 30),
        (
            "vit/vit_accuracy.csv",
            ["loss", "accuracy", "runtime", "samples_per_second", "steps_per_second"],
            5,
        ),
        ("resnet/resnet_loss.csv", ["loss", "accuracy"], 170),
        ("resnet/resnet_accuracy.csv", ["accuracy"], 10),
    ],
)
def test_every_row_of_the_published_curves_is_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    figures_a_row: list[str],
    num_rows: int,
) -> None:
    path = real_path("seed_metrics") / name
    with path.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == num_rows
    rows = parsed(tmp_path, str(path))
    assert [row["name"] for row in rows] == figures_a_row * num_rows
    assert capsys.readouterr().err == ""
    shares = [float(row["value"]) for row in rows if row["name"] == "accuracy"]
    assert all(0 < share < 1 for share in shares)
    rates = [float(row["value"]) for row in rows if row["name"] == "learning_rate"]
    assert all(rate <= 2e-5 for rate in rates)


def test_what_train_really_prints_is_read_once_and_in_full(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(
        ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
        + ["--do_eval", "--do_predict", "--num_train_epochs", "1", "--learning_rate", "1e-5"]
        + ["--output_dir", str(tmp_path / "run"), "--logging_steps", "1", "--disable_tqdm", "true"]
    )
    log = capsys.readouterr().out
    rows = parsed_text(tmp_path, log)
    own = [line for line in log.splitlines() if line.startswith("metrics split=")]
    # Of each of our lines: metrics, split, step and epoch are no figures.
    assert len(rows) == sum(len(line.split()) - 4 for line in own)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(row["step"] and row["epoch"] for row in rows)
    assert all(math.isfinite(float(row["value"])) for row in rows)
    assert f"{log.count('{')} lines printed the same ones again" in capsys.readouterr().out
