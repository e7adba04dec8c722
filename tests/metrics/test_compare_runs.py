import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save_file

import compare_runs
import group_bootstrap
from compare_runs import majority_predictions, read_predictions
from finished_models.size_and_speed import Speed, size_of, speed_of
from group_bootstrap import bootstrap_means
from serving.bin_counter import EXPORT_FOLDER, EXPORT_RECORD, WEIGHTS, sha256_of


def table(expected: list[int], predicted: list[int], groups: list[str]) -> pa.Table:
    return pa.table(
        {
            "id": [str(number) for number in range(len(expected))],
            "bin_group": groups,
            "expected_quantity": expected,
            "count": predicted,
            **{
                f"probability_{count}": [float(p == count) for p in predicted]
                for count in range(1, 6)
            },
        }
    )


TRAINED = {"do_train": True, "num_train_epochs": 3.0, "seed": 42}


PAIR = {
    **{"earlier_id": ["1"], "later_id": ["2"], "bin_group": ["1"], "earlier_quantity": [1]},
    **{"later_quantity": [2], "probability_-1": [0.0], "probability_+0": [0.0]},
    "probability_+1": [1.0],
}


def write_run(folder: Path, predictions: pa.Table, **arguments: object) -> Path:
    folder.mkdir()
    (folder / "arguments.json").write_text(json.dumps(arguments))
    pq.write_table(predictions, folder / "predictions_test.parquet")
    return folder


def test_the_table_shows_each_run_and_the_majority_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, groups = [3, 3, 3, 1, 5, 2, 4, 3] * 20, [f"g{number}" for number in range(160)]
    right = table(expected, expected, groups)
    good = write_run(
        tmp_path / "good", right, model_name_or_path="a/vit-x", **{**TRAINED, "seed": 7}
    )
    bad = write_run(
        tmp_path / "bad", table(expected, [1] * 160, groups), config_name="c/resnet34", **TRAINED
    )
    compare_runs.main([str(good), str(bad)])
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert rows[2][:5] == ["good", "vit-x", "160", "3", "7"]
    assert rows[2][5] == "100.0 [100.0, 100.0]"
    assert rows[2][6].startswith("+50.0 [")
    assert rows[3][1] == "resnet34, from scratch"
    assert rows[3][5].startswith("12.5 [")
    assert rows[4][0] == "always 3 (majority class)"
    assert rows[4][5].startswith("50.0 [")
    assert len(rows) == 5


def test_runs_that_tell_changes_are_shown_beside_what_tells_them_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = table([1, 2], [1, 2], ["x", "y"])
    older = write_run(tmp_path / "older", predictions, **TRAINED)
    (older / "all_results.json").write_text(json.dumps({"test_accuracy": 1.0}))
    compare_runs.main([str(older)])
    assert "visits" not in capsys.readouterr().out
    names = ("direction", "count_accuracy", "count_rmse", "count_loss", "calibration_error")
    results = {f"test_change_{name}": 0.25 + index / 10 for index, name in enumerate(names)}
    results |= {f"{name}_by_records": value / 2 for name, value in results.items()}
    results |= {"test_visits_accuracy": 0.5, "test_visits_single_accuracy": 0.375}
    for name in ("a", "b"):
        run = write_run(tmp_path / name, predictions, **TRAINED)
        (run / "all_results.json").write_text(json.dumps(results))
        pq.write_table(pa.table(PAIR), run / "changes_test.parquet")
    compare_runs.main([str(tmp_path / name) for name in ("a", "older", "b")])
    tables = capsys.readouterr().out.split("\n\n")
    changes, visits = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
        for text in (tables[2], tables[4])
    )
    assert changes == [
        [name, *row]
        for name in ("a", "b")
        for row in (
            ["both photos compared", "25.0", "35.0", "0.450", "0.550", "65.0"],
            ["records alone", "12.5", "17.5", "0.225", "0.275", "32.5"],
        )
    ]
    assert visits == [
        [name, *row]
        for name in ("a", "b")
        for row in (["all photos of its bin", "50.0", "", ""], ["its own photo", "37.5", "", ""])
    ]


def test_runs_on_different_test_splits_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", table([1, 2], [1, 2], ["x", "y"]), **TRAINED)
    second = write_run(tmp_path / "b", table([1, 2, 2], [1, 2, 2], ["x", "y", "z"]), **TRAINED)
    compare_runs.main([str(first), str(second)])
    printed = capsys.readouterr().out
    assert "(majority class for a)" in printed
    assert "cannot be compared" in printed


def markdown_row(run: Path) -> str:
    return compare_runs.comparison_table(compare_runs.compare([run]), None).splitlines()[2]


def test_an_evaluation_shows_whose_model_it_is_and_no_epochs(tmp_path: Path) -> None:
    arguments = {"model_name_or_path": "runs/vit/model", "num_train_epochs": 5.0, "seed": 42}
    run = write_run(tmp_path / "a", table([1, 2], [1, 2], ["x", "y"]), **arguments)
    row = [cell.strip() for cell in markdown_row(run).split("|")]
    assert row[1:6] == ["a", "vit/model", "2", "", ""]


def last_cells(run: Path, price: float | None) -> list[str]:
    table = compare_runs.comparison_table(compare_runs.compare([run]), price)
    header, _, row, *_ = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    )
    return row[header.index("split") :]


def test_the_table_tells_split_size_time_and_cost(tmp_path: Path) -> None:
    dataset = tmp_path / "bins"
    dataset.mkdir()
    (dataset / "settings.json").write_text('{"split_by": "bin_group"}')
    predictions = table([1, 2], [1, 2], ["x", "y"])
    run = write_run(tmp_path / "a", predictions, dataset_dir=str(dataset), **TRAINED)
    assert last_cells(run, None) == ["by bin group", "", ""]
    results: dict[str, float] = {"train_runtime": 5400, "train_samples": 3815}
    (run / "all_results.json").write_text(json.dumps(results))
    # The time of a run that went on is that of its last part.
    assert last_cells(run, 1.2) == ["by bin group", "3,815", "", ""]
    results["train_samples_per_second"] = 3.5
    (run / "all_results.json").write_text(json.dumps(results))
    assert last_cells(run, 1.2) == ["by bin group", "3,815", "1 h 30 min", "1.80"]


def test_a_finished_run_knows_its_size_and_time(run_dir: Path) -> None:
    split, num_photos, time, cost = last_cells(run_dir, 3600)
    assert split == "by bin group"
    assert int(num_photos) > 100
    assert time.endswith(" min")
    assert float(cost) > 0


def test_runs_are_drawn_beside_what_others_published(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "b", table([1, 2, 2], [1, 2, 3], ["x", "y", "z"]), **TRAINED)
    path = tmp_path / "plots/runs.png"
    compare_runs.main([str(run_dir), str(other), "--output", str(path), "--price_per_hour", "1"])
    assert f"Picture: {path}" in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.width == 1440
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 100
    assert [path.name for path in path.parent.iterdir()] == ["runs.png"]


def test_figures_are_those_of_the_runs_own_metric(run_dir: Path) -> None:
    figures = json.loads((run_dir / "all_results.json").read_text())
    run = read_predictions(pq.read_table(run_dir / "predictions_test.parquet"))
    assert (run.count == run.expected).mean() == pytest.approx(figures["test_accuracy"])
    assert run.absolute_error.mean() == pytest.approx(figures["test_mae"])
    assert run.squared_error.mean() ** 0.5 == pytest.approx(figures["test_rmse"])


def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_bootstrap, "NUM_RESAMPLES", 500)
    generator = np.random.default_rng(0)
    num_covered = 0
    for _ in range(40):
        # Groups of ten photos that share most of their luck: photos alone would cover far less.
        luck = generator.normal(size=60)
        values = luck[:, None] + 0.1 * generator.normal(size=(60, 10))
        group = np.repeat([f"g{number}" for number in range(60)], 10)
        _, drawn = bootstrap_means(group, values.reshape(-1, 1))
        low, high = np.percentile(drawn, [2.5, 97.5])
        num_covered += low <= 0 <= high
    assert num_covered >= 34


def test_the_majority_answer_is_the_most_frequent_count() -> None:
    run = read_predictions(table([2, 2, 5], [1, 1, 1], ["a", "b", "c"]))
    majority = majority_predictions(run)
    assert majority.count.tolist() == [2, 2, 2]
    assert majority.squared_error.tolist() == [0, 0, 9]


def test_a_run_without_predictions_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        compare_runs.main([str(tmp_path / "nowhere")])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "run scripts/train.py with --do_predict first" in line


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("arguments.json", lambda path: path.write_text('{"seed": '), "Expecting value"),
        ("arguments.json", lambda path: path.write_bytes(b"\xff"), "invalid start byte"),
        ("all_results.json", lambda path: path.write_text("[]"), "no JSON object"),
        ("predictions_test.parquet", lambda path: path.write_bytes(b"PAR1"), "Parquet"),
        (
            "predictions_test.parquet",
            lambda path: pq.write_table(pq.read_table(path).drop_columns(["bin_group"]), path),
            "no column bin_group",
        ),
        (
            "predictions_test.parquet",
            lambda path: pq.write_table(
                pq.read_table(path, columns=["id", "bin_group", "expected_quantity", "count"]), path
            ),
            "no column probability_*",
        ),
        (
            "predictions_test.parquet",
            lambda path: pq.write_table(pq.read_table(path).slice(0, 0), path),
            "holds no predictions",
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_the_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    told: str,
) -> None:
    run = write_run(tmp_path / "a", table([1, 2, 2], [1, 2, 3], ["x", "y", "z"]), **TRAINED)
    damage(run / name)
    with pytest.raises(SystemExit, match="2"):
        compare_runs.main([str(run)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(run / name) in line
    assert told in line


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "two"])
def test_a_price_that_is_none_is_refused(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare_runs.main(["run", "--price_per_hour", price])
    assert "price of 0 or more" in capsys.readouterr().err


def write_model(
    folder: Path, machine: str = "a CPU, 2 threads", kept: str = "int8", **tried: float
) -> Path:
    """Write a model of 14 numbers, and how many milliseconds each form of it takes."""
    folder.mkdir(parents=True)
    classifier = {"weight": np.zeros((2, 5), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(classifier, folder / WEIGHTS)
    save_file({"weight": np.zeros((2, 1), np.float32)}, folder / "change_head.safetensors")
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 112, "width": 112}}')
    if tried:
        (folder / EXPORT_FOLDER).mkdir()
        record = {
            "version": sha256_of(folder / WEIGHTS)[:12],
            "precision": kept,
            "tried": {form: {"milliseconds": value} for form, value in tried.items()},
            "tried_on": machine,
        }
        (folder / EXPORT_FOLDER / EXPORT_RECORD).write_text(json.dumps(record))
    return folder


def models_of(capsys: pytest.CaptureFixture[str], *runs: Path) -> tuple[list[list[str]], str]:
    """Return the rows of the table of models, and what stands below it."""
    compare_runs.main([*map(str, runs), "--markdown"])
    printed, _, below = capsys.readouterr().out.partition("\n\n")
    rows = printed.splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows], below


def test_a_model_is_chosen_by_size_speed_accuracy_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, groups = [3, 1, 2, 4] * 20, [f"g{number}" for number in range(80)]
    command = "python scripts/train.py --recipe vit --run_name 'a|b'"
    right = table(expected, expected, groups)
    run = write_run(tmp_path / "a", right, model_name_or_path="x/vit", command=command, **TRAINED)
    (run / "all_results.json").write_text(json.dumps({"train_samples": 3815}))
    write_model(run / "model", safetensors=27.03, int8=11.28, bf16=12.0)
    older = write_run(tmp_path / "b", table(expected, [1] * 80, groups), config_name="r", **TRAINED)
    rows, below = models_of(capsys, run, older)
    assert rows[0] == [
        *("vit", "0.00", "0.0", "112", "safetensors 27.0, int8 11.3", "100.0 [100.0, 100.0]"),
        *("0.000 [0.000, 0.000]", "3,815", "80", "42"),
        "`python scripts/train.py --recipe vit --run_name 'a\\|b'`",
    ]
    assert rows[1][:5] == ["r, from scratch", "", "", "", ""]
    assert rows[1][7:] == ["", "80", "42", ""]
    assert len(rows) == 2
    assert "Measured on a CPU, 2 threads." in below
    assert f"No milliseconds yet for {older}: python scripts/export_model.py" in below
    assert "cannot be compared" not in below
    other = write_run(tmp_path / "c", table([1], [1], ["g"]), config_name="r", **TRAINED)
    assert "cannot be compared" in models_of(capsys, run, other)[1]


def test_speeds_of_different_machines_are_not_compared_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []  # of one name
    for name, machine in (("a", "a CPU, 2 threads"), ("b", "another, 8 threads"), ("c", "")):
        (tmp_path / name).mkdir()
        run = write_run(tmp_path / name / "vit", table([1], [1], ["g"]), config_name="r", **TRAINED)
        write_model(run / "model", machine, safetensors=27.0, int8=11.0)
        runs.append(run)
    _, below = models_of(capsys, *runs)
    assert "different machines" in below
    assert f"{runs[0]} on a CPU, 2 threads; {runs[1]} on another, 8 threads." in below
    assert f"On which machine {runs[2]} was measured is not recorded" in below
    _, below = models_of(capsys, runs[2])
    assert "Measured on" not in below


def test_a_real_run_has_its_model_and_its_command(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((model, parameters, megabytes, edge, milliseconds, *_, command),), _ = models_of(
        capsys, run_dir
    )
    assert model.endswith("from scratch")
    weights = [*(run_dir / "model").glob("*.safetensors")]
    assert megabytes == f"{sum(path.stat().st_size for path in weights) / 1e6:.1f}"
    assert 0 < float(parameters) * 4 <= float(megabytes) + 0.05  # float32
    assert (edge, milliseconds) == ("32", "")
    assert command.startswith("`python scripts/train.py --dataset_dir ")
    assert command.endswith("--num_train_epochs 1 --learning_rate 1e-3 --disable_tqdm true`")


def test_the_size_is_that_of_all_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    size = size_of(model)
    assert size is not None
    assert size.num_parameters == 14
    assert size.num_bytes == sum(path.stat().st_size for path in model.glob("*.safetensors"))
    assert size.photo_edge == 112
    assert size_of(tmp_path) is None


@pytest.mark.parametrize("said", ['{"size": 224}', '{"size": {"shortest_edge": 224}}', "{}"])
def test_a_model_of_others_may_not_say_how_large_its_photos_are(said: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "preprocessor_config.json").write_text(said)
    size = size_of(model)
    assert size is not None
    assert size.photo_edge is None


def test_the_speed_is_that_of_the_weights_that_are_there(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", safetensors=27.0, int8=11.0)
    assert speed_of(model) == Speed({"safetensors": 27.0, "int8": 11.0}, "a CPU, 2 threads")
    save_file({"bias": np.ones(2, np.float32)}, model / WEIGHTS)
    assert speed_of(model) is None
    # What was tried as bf16 is f32 on a CPU without it, and called so.
    model = write_model(tmp_path / "f32", kept="f32", safetensors=27.0, int8=11.0, bf16=9.0)
    assert speed_of(model) == Speed({"safetensors": 27.0, "f32": 9.0}, "a CPU, 2 threads")
    assert speed_of(tmp_path) is None


@pytest.mark.parametrize(
    "name", [WEIGHTS, f"{EXPORT_FOLDER}/{EXPORT_RECORD}", "preprocessor_config.json"]
)
def test_a_damaged_model_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a", table([1, 2], [1, 2], ["x", "y"]), config_name="r", **TRAINED)
    write_model(run / "model", safetensors=27.0, int8=11.0)
    (run / "model" / name).write_text('{"tried"')
    with pytest.raises(SystemExit):
        compare_runs.main([str(run), "--markdown"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is damaged" in line


def test_an_evaluation_shows_the_model_that_it_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "vit/model", safetensors=27.0, int8=11.0)
    predictions = table([1, 2], [1, 2], ["x", "y"])
    run = write_run(tmp_path / "a", predictions, model_name_or_path=str(model))
    ((name, _, _, _, milliseconds, *_),), _ = models_of(capsys, run)
    assert (name, milliseconds) == ("vit/model", "safetensors 27.0, int8 11.0")
