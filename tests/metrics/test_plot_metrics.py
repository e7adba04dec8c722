import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import parse_logs
import plot_metrics
from metric_series import Series, read_series
from paths import real_path
from plot_metrics import PICTURES, best_jobs, best_value, legend_label, published_lines, spread

LOSS, ACCURACY, RMSE, *_ = PICTURES
LOG = """
{'loss': 1.6, 'learning_rate': 2e-05, 'epoch': 0.5}
metrics split=train step=10 epoch=1 loss=1.4 learning_rate=1e-05
metrics split=validation step=10 epoch=1 loss=1.5 accuracy=0.3 rmse=1.1 samples_per_second=90
metrics split=validation step=10 epoch=1 change_loss=0.8
metrics split=train step=20 epoch=2 loss=nan learning_rate=0
metrics split=validation step=20 epoch=2 loss=1.6 accuracy=0.4 rmse=1.0 samples_per_second=80
metrics split=train step=20 epoch=2 runtime=60 samples_per_second=30 loss=1.5
metrics split=validation step=20 epoch=2 loss=1.5 accuracy=0.3 rmse=1.1 samples_per_second=90
metrics split=test step=20 epoch=2 loss=1.5 accuracy=0.35 rmse=1.05 samples_per_second=90
metrics split=test step=20 epoch=2 change_loss=0.7 change_direction=0.92
"""
UNPLACED = "Loss 0.012, Accuracy 30%\nLoss 0.011, Accuracy 35%\nTest set: Accuracy: 45%\n"


def parsed(folder: Path, job: str, *logs: str | Path) -> Path:
    """Return the csv of some logs, given as paths or as what stands in them."""
    paths = []
    for log in logs:
        paths.append(folder / f"{job}.log" if isinstance(log, str) else log)
        if isinstance(log, str):
            paths[-1].write_text(log)
    parse_logs.main([*map(str, paths), "--job", job, "--output", str(folder / f"{job}.csv")])
    return folder / f"{job}.csv"


def series_of(value: list[float], split: str = "test", step: float = math.nan) -> Series:
    places = np.full(len(value), step)
    return Series("vit", split, "accuracy", places, places, np.array(value))


def test_all_that_two_logs_hold_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csvs = [parsed(tmp_path, "vit", LOG), parsed(tmp_path, "resnet34", UNPLACED)]
    capsys.readouterr()
    plot_metrics.main([*map(str, csvs), "--output_dir", str(tmp_path / "plots")])
    names = ("loss", "accuracy", "rmse", "change_loss", "learning_rate", "photos_a_second")
    expected = [f"{name}_by_{axis}.png" for name in names for axis in ("epoch", "step")]
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == expected
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(expected)
    for name in expected:
        with Image.open(tmp_path / "plots" / name) as picture:
            assert picture.width == 1296
            assert len(picture.convert("RGB").getcolors(2**20) or []) > 100


def test_a_log_without_places_alone_is_drawn_once_by_the_share_of_the_run(tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    plot_metrics.main([str(parsed(tmp_path, "resnet34", UNPLACED)), "--output_dir", str(plots)])
    assert sorted(path.name for path in plots.iterdir()) == [
        "accuracy_by_epoch.png",
        "loss_by_epoch.png",
    ]
    loss, *_ = read_series([tmp_path / "resnet34.csv"], {"loss"})
    assert [array.tolist() for array in loss.curve("share")] == [[0.5, 1.0], [0.012, 0.011]]


def test_the_evaluation_of_the_best_checkpoint_at_the_end_is_no_point_of_the_curve(
    tmp_path: Path,
) -> None:
    csv = parsed(tmp_path, "vit", LOG)
    curves = {series.split: series.curve("step") for series in read_series([csv], {"accuracy"})}
    assert [array.tolist() for array in curves["validation"]] == [[10, 20], [0.3, 0.4]]
    assert [array.tolist() for array in curves["test"]] == [[20], [0.35]]


def test_points_that_tell_no_step_are_in_the_curve_by_epoch_alone(tmp_path: Path) -> None:
    (loss,) = (
        series
        for series in read_series([parsed(tmp_path, "vit", LOG)], {"loss"})
        if series.split == "train"
    )
    assert loss.curve("step")[0].tolist() == [10, 20]
    assert loss.curve("epoch")[0].tolist() == [0.5, 1, 2]
    assert loss.curve("epoch")[1].tolist()[:2] == [1.6, 1.4]


def test_the_legend_tells_the_best_of_an_evaluation() -> None:
    assert legend_label(ACCURACY, series_of([0.5, 0.5252727, 0.52])) == "vit, test: best 52.53 %"
    assert legend_label(RMSE, series_of([1.2, math.nan, 1.05])) == "vit, test: best 1.050"
    assert legend_label(ACCURACY, series_of([0.5])) == "vit, test: 50.00 %"
    assert legend_label(ACCURACY, series_of([0.5], split="train")) == "vit, train"
    assert legend_label(LOSS, series_of([math.nan, math.inf])) == "vit, test"


def test_labels_move_no_further_than_they_must() -> None:
    assert spread([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spread([1.0, 1.0, 1.0, 9.0], 1.0) == [0.0, 1.0, 2.0, 9.0]
    moved = spread([0.31, 0.525, 0.53, 0.557, 0.562, 0.563], 0.05)
    assert min(np.diff(moved)) == pytest.approx(0.05)


def test_published_results_come_with_their_split_in_accuracy_and_rmse() -> None:
    assert len(published_lines(ACCURACY)) == 6
    assert [line[:2] for line in published_lines(RMSE)] == [
        (0.930, 0.930),
        (0.90, 0.90),
        (0.861, 0.861),
    ]
    labels = [label for *_, label in published_lines(ACCURACY) + published_lines(RMSE)]
    assert all("ungrouped" in label for label in labels)
    assert "52.53 % AWS Warehouse Classifier, ViT-B/16\n1-5 items, 220k photos, ungrouped" in labels
    assert published_lines(LOSS) == []


def test_the_trials_of_a_search_fit_into_one_picture(tmp_path: Path) -> None:
    lines = [
        f"bins-search-{trial:03}-0a1b2c3d | metrics split=validation step={step} epoch={step / 10} "
        f"accuracy={0.3 + step / 1000 + trial / 500}\n"
        for step in (10, 20)
        for trial in range(60)
    ]
    csv = parsed(tmp_path, "search", "".join(lines))
    plot_metrics.main([str(csv), "--output_dir", str(tmp_path / "plots")])
    assert len(list((tmp_path / "plots").iterdir())) == 2
    best = [f"bins-search-{trial:03}-0a1b2c3d" for trial in range(59, 49, -1)]
    assert best_jobs(ACCURACY, read_series([csv], {"accuracy"})) == best


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "does not exist|No such file|Failed to open"),
        ("loss,epoch\n1,2\n", "run it on the log first"),
        ("", "run it on the log first"),
        (f"{','.join(parse_logs.COLUMNS)}\na,,,1,1,train,loss,many\n", "run it on the log first"),
        (f"{','.join(parse_logs.COLUMNS)}\na,,,1,1,train,runtime,2\n", "no curve in"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    csv = tmp_path / "metrics.csv"
    if text is not None:
        csv.write_text(text)
    with pytest.raises(SystemExit) as exit_info:
        plot_metrics.main([str(csv), "--output_dir", str(tmp_path / "plots")])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert any(part in line for part in told.split("|"))
    assert not (tmp_path / "plots").exists()


def test_the_published_curves_have_the_published_maxima(tmp_path: Path) -> None:
    folder = real_path("seed_metrics")
    csvs = [
        parsed(tmp_path, job, *sorted((folder / name).glob("*.csv")))
        for job, name in (("vit", "vit"), ("resnet34", "resnet"))
    ]
    csvs.append(parsed(tmp_path, "ours", LOG))
    labels = {legend_label(ACCURACY, series) for series in read_series(csvs, {"accuracy"})}
    assert {"vit, validation: best 52.53 %", "resnet34, test: best 53.00 %"} <= labels
    (vit, *_) = read_series(csvs[:1], {"accuracy"})
    assert best_value(ACCURACY, vit) == pytest.approx(0.52527, abs=1e-5)
    plot_metrics.main([*map(str, csvs), "--output_dir", str(tmp_path / "plots")])
    assert (tmp_path / "plots/accuracy_by_epoch.png").exists()


def test_two_runs_of_one_name_are_not_drawn_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = parsed(tmp_path, "vit", LOG)
    (tmp_path / "other").mkdir()
    second = parsed(tmp_path / "other", "vit", LOG)
    with pytest.raises(SystemExit) as exit_info:
        plot_metrics.main([str(first), str(second), "--output_dir", str(tmp_path / "plots")])
    assert exit_info.value.code == 2
    assert "both hold a job vit: give one of them another name" in capsys.readouterr().err
    assert not (tmp_path / "plots").exists()


HEADER = "job,host,timestamp,step,epoch,split,name,value\n"
ROW = "vit,,,1,0.5,train,loss,1.5\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER + ROW + "vit,,,2,1,train,loss,\n", "row 2 has no value"),
        (HEADER + ROW + "vit,,,2,1,train,loss,n/a\n", "invalid value 'n/a'"),
        (HEADER + ROW + "vit,,,2\n", "got 4"),
        (HEADER + ROW + '"vit,,,2,1,train,loss,1.4\n', "got 1"),
        (HEADER + '"vit,,,2,1,train,loss,1.4\nvit",,,3,1,train,loss,1.3\n', "an open quote"),
        (HEADER.replace("host", "step") + ROW, "column step is not there once"),
        (HEADER.replace("step", "steps") + ROW, "column step is not there once"),
    ],
)
def test_a_csv_that_would_be_drawn_in_part_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    path = tmp_path / "vit.csv"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        plot_metrics.main([str(path), "--output_dir", str(tmp_path / "plots")])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} is no csv of metrics/parse_logs.py" in line
    assert told in line
    assert not (tmp_path / "plots").exists()
