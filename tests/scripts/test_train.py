import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from transformers import pipeline

import train
from held_run_folder import held_run_folder
from items.sizes import SIZES, item_targets
from paths import ROOT
from training.bin_dataset import ITEMS
from training.bin_trainer import BinTrainer
from training.checkpoints import COMPLETE, checkpoint_folders
from training.run_folder import CHANGES, PREDICTIONS, VALIDATION_PREDICTIONS, only_run_in

TRAIN = str(ROOT / "scripts" / "train.py")


def flags(dataset_dir: Path, config_dir: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir)] + [
        "--output_dir",
        str(output_dir),
        "--disable_tqdm",
        "true",
        *more,
    ]


def results(output_dir: Path) -> dict[str, float]:
    return json.loads((output_dir / "all_results.json").read_text())


def weights(output_dir: Path) -> bytes:
    return (output_dir / "model" / "model.safetensors").read_bytes()


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        train.main(argv)
    assert exit_info.value.code == 2
    (line,) = [li for li in capsys.readouterr().err.splitlines() if ": error: " in li]
    return line


def test_a_run_leaves_results_predictions_arguments_and_a_model(
    run_dir: Path, dataset_dir: Path
) -> None:
    figures = results(run_dir)
    for name in ("loss", "accuracy", "within_one_accuracy", "mae", "rmse", "accuracy_3", "rmse_3"):
        assert f"eval_{name}" in figures
        assert f"test_{name}" in figures
    arguments = json.loads((run_dir / "arguments.json").read_text())
    assert arguments["learning_rate"] == 1e-3
    assert len(arguments["dataset_fingerprint"]) == 16
    mask = os.umask(0)
    os.umask(mask)
    assert all(
        stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        for path in run_dir.rglob("*")
        if path.is_file()
    )
    assert sorted(path.name for path in (run_dir / "model").iterdir()) == [
        "change_head.json",
        "change_head.safetensors",
        "code",
        "config.json",
        "error_model.json",
        "item_heads.json",
        "item_heads.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    table = pq.read_table(run_dir / "predictions_test.parquet")
    of_items = ("items_", "record_")
    assert [name for name in table.column_names if not name.startswith(of_items)] == [
        *("id", "bin_group", "expected_quantity", "count"),
        *(f"{of}probability_{count}" for of in ("", "visits_") for count in range(1, 6)),
    ]
    test = load_dataset(str(dataset_dir), split="test")
    assert table["id"].to_pylist() == test["id"]
    assert table["expected_quantity"].to_pylist() == test["expected_quantity"]
    is_right = np.equal(table["count"].to_numpy(), table["expected_quantity"].to_numpy())
    assert is_right.mean() == pytest.approx(figures["test_accuracy"])


def test_each_two_visits_of_a_bin_have_a_row_of_changes(run_dir: Path, dataset_dir: Path) -> None:
    table = pq.read_table(run_dir / "changes_test.parquet")
    changes = range(-4, 5)
    assert table.column_names == [
        *("earlier_id", "later_id", "bin_group", "earlier_quantity", "later_quantity"),
        *(f"probability_{change:+d}" for change in changes),
        *(
            f"{name}{way}"
            for way in ("", "_by_single_counts", "_by_records")
            for name in ("direction", "count_accuracy", "count_squared_error", "count_loss")
        ),
        *("volume_change", "volume_change_spread"),
    ]
    test = load_dataset(str(dataset_dir), split="test")
    bins = {row["id"]: row for row in test.remove_columns("image")}
    assert table.num_rows > 10
    for row in table.to_pylist():
        earlier, later = bins[row["earlier_id"]], bins[row["later_id"]]
        assert int(row["earlier_id"]) < int(row["later_id"])
        assert earlier["bin_group"] == later["bin_group"] == row["bin_group"]
        assert row["earlier_quantity"] == earlier["expected_quantity"]
        assert row["later_quantity"] == later["expected_quantity"]
        total = sum(row[f"probability_{change:+d}"] for change in changes)
        assert total == pytest.approx(1)
    # What all photos of a bin say of one is there where there are others.
    in_steps = {*table["earlier_id"].to_pylist(), *table["later_id"].to_pylist()}
    for row in pq.read_table(run_dir / "predictions_test.parquet").to_pylist():
        together = [row[f"visits_probability_{count}"] for count in range(1, 6)]
        assert (row["id"] in in_steps) == (together != [None] * 5)
        assert row["id"] not in in_steps or sum(together) == pytest.approx(1)


def test_without_changes_or_visits_to_learn_them_from_there_is_no_head(
    dataset_dir: Path, config_dir: Path, run_dir: Path, tmp_path: Path
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--do_predict")
    argv += ["--num_train_epochs", "1", "--model_dir", str(tmp_path / "model")]
    shutil.copytree(run_dir / "model", tmp_path / "model")  # whose head would be another model's
    train.main([*argv, "--learn_changes", "false"])
    assert not list((tmp_path / "model").glob("change_head*"))
    assert not [name for name in results(tmp_path / "run") if "change" in name]
    argv[argv.index(str(tmp_path / "run"))] = str(tmp_path / "few")
    train.main([*argv, "--max_train_samples", "1"])
    assert not list((tmp_path / "model").glob("change_head*"))


def test_what_is_said_of_the_validation_split_is_kept_too(run_dir: Path, dataset_dir: Path) -> None:
    table = pq.read_table(run_dir / VALIDATION_PREDICTIONS)
    validation = load_dataset(str(dataset_dir), split="validation")
    for name in ("id", "bin_group", "expected_quantity"):
        assert table[name].to_pylist() == validation[name]
    probabilities = np.column_stack([table[f"probability_{n}"].to_numpy() for n in range(1, 6)])
    true = probabilities[np.arange(len(table)), table["expected_quantity"].to_numpy() - 1]
    assert -np.log(true).mean() == pytest.approx(results(run_dir)["eval_loss"])


def test_a_part_of_the_test_split_is_predicted_under_its_own_names(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    train.main(
        ["--dataset_dir", str(dataset_dir), "--model_name_or_path", str(run_dir / "model")]
        + ["--output_dir", str(tmp_path / "part"), "--do_predict", "--max_eval_samples", "30"]
        + ["--do_eval"]
    )
    whole = {row["id"]: row for row in pq.read_table(run_dir / PREDICTIONS).to_pylist()}
    part = pq.read_table(tmp_path / "part" / PREDICTIONS).to_pylist()
    validation = [
        pq.read_table(path / VALIDATION_PREDICTIONS) for path in (run_dir, tmp_path / "part")
    ]
    assert validation[0]["id"] == validation[1]["id"]  # which are fewer
    assert len(part) == 30
    assert [row["id"] for row in part] != [*whole][:30]  # whole bins
    for row in part:
        for name in ("expected_quantity", "bin_group", "record_quantities"):
            assert row[name] == whole[row["id"]][name]
        assert row["probability_1"] == pytest.approx(whole[row["id"]]["probability_1"], abs=1e-5)
    changes = pq.read_table(tmp_path / "part" / CHANGES).to_pylist()
    of_part = {row["id"]: row["expected_quantity"] for row in part}
    assert changes
    for pair in changes:
        assert of_part[pair["earlier_id"]] == pair["earlier_quantity"]
        assert of_part[pair["later_id"]] == pair["later_quantity"]


def test_items_are_learned_and_told_beside_the_counts(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    figures = results(run_dir)
    for name in ("volume", "largest", "smallest", "weight"):
        assert figures[f"test_items_{name}_r2"] <= 1
        assert 0 <= figures[f"test_items_{name}_covered"] <= 1
    table = pq.read_table(run_dir / "predictions_test.parquet")
    assert [name for name in table.column_names if name.startswith("items_")] == [
        *(f"items_{name}{what}" for name in SIZES for what in ("", "_spread", "_recorded")),
        "items_distinct_recorded",
        *(f"items_distinct_probability_{number}" for number in range(1, 6)),
    ]
    told = table.to_pylist()
    test = load_dataset(str(dataset_dir), split="test")
    volumes = [item_targets(*(row[name] for name in ITEMS))[0] for row in test]
    off = np.array(volumes) - [row["items_volume"] for row in told]
    is_known = ~np.isnan(off)
    assert is_known.any()
    covered = np.abs(off / [row["items_volume_spread"] for row in told])[is_known] < 1.6449
    assert covered.mean() == pytest.approx(figures["test_items_volume_covered"])
    distinct = [[row[f"items_distinct_probability_{n}"] for n in range(1, 6)] for row in told]
    assert np.sum(distinct, axis=1) == pytest.approx(1)
    # The model folder has the heads, calibrated as they are: the same figures again.
    model_dir = str(run_dir / "model")
    argv = ["--dataset_dir", str(dataset_dir), "--model_name_or_path", model_dir]
    train.main([*argv, "--output_dir", str(tmp_path), "--do_predict", "--disable_tqdm", "true"])
    again = {name: value for name, value in results(tmp_path).items() if "items" in name}
    assert again == pytest.approx({name: figures[name] for name in again}, abs=1e-5)
    assert len(again) == 9


def test_without_items_or_records_that_tell_them_there_are_no_heads_of_items(
    dataset_dir: Path, config_dir: Path, run_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")  # whose heads would be another model's
    old = tmp_path / "old"  # a dataset folder of before records were read so far
    shutil.copytree(dataset_dir, old)
    for path in (old / "data").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["volumes", "weights"]), path)
        (old / "statistics" / f"{path.stem}.json").unlink()
    model_files = []
    for name, folder, more in (
        ("off", dataset_dir, ["--learn_items", "false"]),
        ("old", old, []),
    ):
        argv = flags(folder, config_dir, tmp_path / name, "--do_train", "--do_predict", *more)
        train.main([*argv, "--num_train_epochs", "1", "--model_dir", str(tmp_path / "model")])
        assert not list((tmp_path / "model").glob("item_heads*"))
        assert not [figure for figure in results(tmp_path / name) if "items" in figure]
        model_files.append((tmp_path / "model" / "model.safetensors").read_bytes())
    assert model_files[0] == model_files[1]


def test_the_pipeline_gives_the_trainers_probabilities(run_dir: Path, dataset_dir: Path) -> None:
    classify = pipeline("image-classification", model=str(run_dir / "model"))
    table = pq.read_table(run_dir / "predictions_test.parquet")
    test = load_dataset(str(dataset_dir), split="test")
    for row, answers in zip(table.to_pylist(), classify(list(test["image"])), strict=True):
        assert {answer["label"] for answer in answers} == set("12345")
        for answer in answers:
            expected = row[f"probability_{answer['label']}"]
            assert answer["score"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("short", [("--num_train_epochs", "1"), ("--max_steps", "2")])
def test_a_finished_run_may_go_on_for_more_epochs(
    short: tuple[str, str], dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train")
    train.main([*argv, *short])
    first = weights(tmp_path / "run")
    train.main([*argv, *short])
    assert weights(tmp_path / "run") == first
    train.main([*argv, "--num_train_epochs", "2"])
    assert results(tmp_path / "run")["epoch"] == 2.0
    assert json.loads((tmp_path / "run" / "arguments.json").read_text())["num_train_epochs"] == 2.0


def test_more_epochs_go_on_at_the_rate_of_the_longer_schedule(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--logging_steps", "1")
    argv += ["--learning_rate", "1e-3", "--lr_scheduler_type", "linear", "--warmup_steps", "0"]
    argv.append("--num_train_epochs")
    train.main([*argv, "1"])
    num_steps = capsys.readouterr().out.count("metrics split=train") - 1
    train.main([*argv, "2"])
    printed = capsys.readouterr().out
    assert f"Going on from {tmp_path}/run/checkpoint-{num_steps}." in printed
    rates = [float(rate) for rate in re.findall(r"learning_rate=(\S+)", printed)]
    expected = [1e-3 * left / (2 * num_steps) for left in range(num_steps, 0, -1)]
    assert rates == pytest.approx(expected, rel=1e-4)
    # The loss of half a run is not that of the run.
    assert "train_loss" not in results(tmp_path / "run")


def test_the_model_is_that_of_the_best_epoch_by_validation_loss(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A rate that wrecks the model soon: the last epoch is not the best one.
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--do_eval")
    argv += ["--warmup_steps", "0", "--lr_scheduler_type", "linear", "--calibrate", "false"]
    argv += ["--augment_geometry", "false", "--mixup", "false", "--regularize", "false"]
    argv += ["--learn_changes", "false", "--learn_items", "false"]
    train.main([*argv, "--num_train_epochs", "4", "--learning_rate", "0.05"])
    printed = capsys.readouterr().out
    losses = [
        float(loss) for loss in re.findall(r"metrics split=validation \S+ \S+ loss=(\S+)", printed)
    ]
    assert len(losses) == 5
    assert min(losses[:4]) != losses[3]
    assert losses[4] == min(losses[:4])


def test_the_best_epoch_by_an_error_is_the_one_with_the_least(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--do_eval")
    argv += ["--calibrate", "false", "--num_train_epochs", "3", "--learning_rate", "0.01"]
    argv.append("--metric_for_best_model")
    train.main([*argv, "rmse"])
    printed = capsys.readouterr().out
    errors = [float(e) for e in re.findall(r"split=validation .* rmse=(\S+)", printed)]
    assert len(set(errors[:3])) == 3
    assert errors[3] == min(errors)


def test_a_moved_run_folder_keeps_its_best_epoch(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    # Trainer remembers where the best checkpoint was, and would keep the last one instead.
    more = ["--do_train", "--num_train_epochs", "3", "--learning_rate", "0.05"]
    train.main(flags(dataset_dir, config_dir, tmp_path / "run", *more))
    best = weights(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    train.main(flags(dataset_dir, config_dir, tmp_path / "moved", *more))
    assert weights(tmp_path / "moved") == best


def test_a_finished_model_is_calibrated_once_whoever_asks_for_it_again(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--num_train_epochs", "2")
    argv += ["--calibrate", "true"]
    train.main([*argv, "--do_predict"])
    first, figures = weights(tmp_path / "run"), results(tmp_path / "run")
    assert figures["calibration_eval_loss_after"] <= figures["calibration_eval_loss_before"]
    assert figures["calibration_test_loss_after"] == pytest.approx(figures["test_loss"], rel=1e-5)
    assert abs(figures["calibration_temperature"] - 1) > 0.01
    train.main([*argv, "--do_predict"])
    assert weights(tmp_path / "run") == first
    assert results(tmp_path / "run")["test_loss"] == figures["test_loss"]


def test_what_the_test_split_says_changes_nothing_about_the_model(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(dataset_dir, other)
    shutil.rmtree(other / "statistics")  # or the shards are refused as others than were built
    for shard in other.rglob("test-*.parquet"):
        table = pq.read_table(shard)
        for name in ("label", "expected_quantity"):
            values = table[name].to_pylist()
            index = table.column_names.index(name)
            field = table.schema.field(name)
            # The counts 1 to 5 the other way round.
            turned = pa.array([min(values) + max(values) - value for value in values])
            table = table.set_column(index, field, turned.cast(field.type))
        pq.write_table(table, shard)
    more = ["--do_train", "--do_eval", "--do_predict", "--num_train_epochs", "2"]
    more += ["--calibrate", "true"]
    for name, folder in (("run", dataset_dir), ("other_run", other)):
        train.main(flags(folder, config_dir, tmp_path / name, *more))
    figures, other_figures = results(tmp_path / "run"), results(tmp_path / "other_run")
    assert figures["test_loss"] != other_figures["test_loss"]
    assert figures["eval_loss"] == other_figures["eval_loss"]
    assert weights(tmp_path / "run") == weights(tmp_path / "other_run")


def test_figures_of_an_earlier_epoch_do_not_stay(
    dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--num_train_epochs")
    train.main([*argv, "1", "--do_predict"])
    assert "test_rmse" in results(tmp_path / "run")
    train.main([*argv, "2"])
    assert "test_rmse" not in results(tmp_path / "run")
    assert not (tmp_path / "run" / "predictions_test.parquet").exists()


def test_figures_of_an_earlier_epoch_do_not_stay_where_the_new_model_was_not_written_at_once(
    run_dir: Path,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    argv = flags(dataset_dir, config_dir, copy, "--do_train", "--learning_rate", "1e-3")
    argv += ["--num_train_epochs", "2", "--load_best_model_at_end", "false"]

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "write_model", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.main(argv)
    assert "test_rmse" in results(copy)  # of the model that is still there
    assert weights(copy) == weights(run_dir)
    train.main([*argv, "--do_eval"])
    assert weights(copy) != weights(run_dir)
    assert "test_rmse" not in results(copy)
    assert not (copy / "predictions_test.parquet").exists()


def test_every_bin_is_evaluated_also_where_training_drops_the_last_batch(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    train.main(
        ["--dataset_dir", str(dataset_dir), "--model_name_or_path", str(run_dir / "model")]
        + ["--output_dir", str(tmp_path / "again"), "--do_eval", "--do_predict"]
        + ["--dataloader_drop_last", "--per_device_eval_batch_size", "64"]
    )
    test = load_dataset(str(dataset_dir), split="test")
    assert pq.read_table(tmp_path / "again" / "predictions_test.parquet").num_rows == len(test)
    # With the head, and how its answers are to be taken, that lie beside the model.
    again, first = results(tmp_path / "again"), results(run_dir)
    for name in ("eval_rmse", "eval_change_loss", "test_change_count_loss", "test_visits_loss"):
        assert again[name] == pytest.approx(first[name], abs=1e-6)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_said_to_be_slow_where_the_device_emulates_it(
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    has_bf16: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "device_has_bf16", lambda on_cpu: has_bf16)
    short = ("--do_train", "--max_train_samples", "8", "--max_steps", "1")
    train.main(flags(dataset_dir, config_dir, tmp_path, *short, "--bf16"))
    assert ("--bf16 false is faster" in capsys.readouterr().err) == (not has_bf16)


def test_predicting_alone_saves_no_model_and_gives_the_runs_own_figures(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    train.main(
        ["--dataset_dir", str(dataset_dir), "--model_name_or_path", str(run_dir / "model")]
        + ["--output_dir", str(tmp_path / "again"), "--do_predict"]
    )
    assert not (tmp_path / "again" / "model").exists()
    recorded = json.loads((tmp_path / "again" / "arguments.json").read_text())
    assert recorded["model_name_or_path"] == str(run_dir / "model")
    again, first = results(tmp_path / "again"), results(run_dir)
    assert again["test_rmse"] == pytest.approx(first["test_rmse"], abs=1e-9)
    assert "eval_rmse" not in again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--dataset_dir": "nowhere"}, "No dataset folder"),
        (
            {"--config_name": "nowhere", "--output_dir": "new"},
            "--config_name nowhere: there is no such folder",
        ),
        ({"--resume_from_checkpoint": "nowhere"}, "nowhere is not a complete checkpoint"),
        ({"--learning_rate": "0.1"}, "holds another run (learning_rate 0.001, now 0.1)"),
        ({"--output_dir": __file__}, "test_train.py"),
        ({"--model_dir": "/proc"}, "--model_dir /proc cannot be written to"),
        ({"--model_dir": "mine"}, "mine/code holds files that are not this project's"),
        ({"--output_dir": "new", "--report_to": "wandb"}, "wandb"),
        (
            {"--config_name": str(ROOT / "scripts/model_configs/vit_demo"), "--output_dir": "new"},
            "photos of 64 pixels",
        ),
        ({"--max_train_samples": "9"}, "holds another run (max_train_samples None, now 9)"),
        (
            {"--output_dir": "new", "--max_train_samples": "1"}
            | {"--metric_for_best_model": "change_loss"},
            "--metric_for_best_model change_loss: no two training photos show one bin",
        ),
        (
            {"--output_dir": "new", "--max_eval_samples": "1"}
            | {"--metric_for_best_model": "change_loss"},
            "--metric_for_best_model change_loss: no two validation photos show a bin that has",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_lost(
    change: dict[str, str],
    message: str,
    run_dir: Path,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own_code = tmp_path / "mine" / "code" / "inference.py"
    own_code.parent.mkdir(parents=True)
    own_code.write_text("my own")
    before = weights(run_dir)
    argv = flags(dataset_dir, config_dir, run_dir, "--do_train", "--learning_rate", "1e-3")
    for name, value in change.items():
        argv += [name, value]
    assert message in fails(argv, capsys)
    assert weights(run_dir) == before
    assert own_code.read_text() == "my own"


def test_a_missing_test_split_is_named(
    bucket: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import build_dataset

    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(tmp_path / "bins"), "--image_size", "32"]
        + ["--test_fraction", "0", "--num_workers", "1"]
    )
    argv = flags(tmp_path / "bins", config_dir, tmp_path / "run", "--do_train", "--do_predict")
    assert "No 'test' split" in fails(argv, capsys)


def test_a_sagemaker_job_leaves_model_and_results_where_sagemaker_collects_them(
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SM_CHANNEL_DATASET", str(dataset_dir))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output" / "data"))
    train.main(
        ["--config_name", str(config_dir), "--do_train", "--do_predict", "--log_memory"]
        + ["--diagnostics", "--trace_steps", "1-1"]
        + ["--num_train_epochs", "1", "--model_revision", "", "--checkpoint_minutes", "0.000001"]
    )
    moments = re.findall(r"^memory at=(\w+)", capsys.readouterr().out, re.M)
    assert moments == ["start", "model_loaded", "end"]
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert {path.name for path in (tmp_path / "output" / "data").iterdir()} == {
        "arguments.json",
        "all_results.json",
        "predictions_test.parquet",
        "predictions_validation.parquet",
        "changes_test.parquet",
        "check.json",
        "diagnostics.html",
        "diagnostics.jsonl",
        "trace.json.gz",
    }
    assert not list((tmp_path / "model").glob("checkpoint-*"))


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    run_dir: Path,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    argv = flags(dataset_dir, config_dir, copy, "--do_train", "--learning_rate", "1e-3")
    argv += ["--num_train_epochs", "2"]
    no_checkpoints = ["--eval_strategy", "no", "--save_strategy", "no"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for more, cannot_be_written in ([], r"checkpoint-\d+ cannot"), (no_checkpoints, "model cannot"):
        # No file may become as long as the weights.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(weights(copy)) - 1, hard))
        try:
            with pytest.raises(SystemExit) as exit_info:
                train.main([*argv, *more])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert exit_info.value.code == 1
        printed = capsys.readouterr().err
        (line,) = [line for line in printed.splitlines() if "error: " in line]
        assert re.search(f"{copy}/{cannot_be_written} be written", line)
        assert line.endswith("The same command goes on from the last checkpoint.")
        after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        assert before.keys() == after.keys()
        changed = {path.name for path in after if after[path] != before[path]}
        assert changed <= {"arguments.json", "_running"}
    train.main(argv)
    assert results(copy)["epoch"] == 2.0


def test_checkpoints_that_fit_no_more_are_one_line_and_stay(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier version gave the optimizer other groups, and its complete.json no checksums."""
    argv = flags(dataset_dir, config_dir, tmp_path, "--do_train", "--num_train_epochs", "2")
    train.main(argv)
    checkpoints = checkpoint_folders(tmp_path)
    assert len(checkpoints) == 2
    optimizer = torch.load(checkpoints[1] / "optimizer.pt")
    optimizer["param_groups"][0]["params"].pop()
    torch.save(optimizer, checkpoints[1] / "optimizer.pt")
    (checkpoints[1] / COMPLETE).unlink()
    lengths = {path.name: path.stat().st_size for path in checkpoints[1].iterdir()}
    (checkpoints[1] / COMPLETE).write_text(json.dumps(lengths))
    before = {path: path.read_bytes() for path in tmp_path.rglob("checkpoint-*/*")}
    line = fails([*argv, "--resume_from_checkpoint", str(checkpoints[1])], capsys)
    assert f"{checkpoints[1] / 'optimizer.pt'} does not fit this training (" in line
    assert "parameter group" in line
    assert "name an older one with --resume_from_checkpoint" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("checkpoint-*/*")} == before


def test_a_best_checkpoint_that_goes_while_a_run_trains_is_one_line_without_contradiction(
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_best = BinTrainer._load_best_model

    def load_best_of_none(trainer: BinTrainer) -> None:
        shutil.rmtree(trainer._best_checkpoint())
        load_best(trainer)

    argv = flags(dataset_dir, config_dir, tmp_path, "--do_train", "--num_train_epochs", "1")
    with monkeypatch.context() as patched:
        patched.setattr(BinTrainer, "_load_best_model", load_best_of_none)
        with pytest.raises(SystemExit, match="1"):
            train.main(argv)
    line = capsys.readouterr().err.splitlines()[-1]
    assert "The best checkpoint is gone: " in line
    assert "new folder" not in line
    assert line.endswith(" The same command goes on from the last checkpoint.")
    train.main(argv)  # as it says
    assert weights(tmp_path)


def test_two_runs_are_not_in_one_folder(
    run_dir: Path, dataset_dir: Path, config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(dataset_dir, config_dir, run_dir, "--do_eval")
    with held_run_folder(run_dir) as other:
        said = f"Another run is writing in {run_dir} (process {other.pid} on"
        assert said in fails(argv, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_what_a_training_starts_ends_with_it(
    number: signal.Signals, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    argv = flags(dataset_dir, config_dir, tmp_path / "run", "--do_train", "--logging_steps", "1")
    argv += ["--dataloader_num_workers", "2", "--num_train_epochs", "1000"]
    log = tmp_path / "log"
    with log.open("w") as file:
        training = subprocess.Popen(
            [sys.executable, TRAIN, *argv],
            stdout=file,
            stderr=file,
            # A shell's background job is started without Ctrl-C, and so are its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    started: list[psutil.Process] = []
    # Each epoch starts its workers anew.
    while "metrics split=train step=1 " not in log.read_text() or len(started) < 2:
        assert training.poll() is None, log.read_text()
        time.sleep(0.05)
        started = psutil.Process(training.pid).children(recursive=True)
    training.send_signal(number)
    assert training.wait(60) == (130 if number == signal.SIGINT else -number)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    assert "Traceback" not in log.read_text()
    with only_run_in(tmp_path / "run"):  # which is free again
        pass


@pytest.mark.slow
def test_two_processes_evaluate_every_bin_once_with_the_same_figures(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    argv = ["--dataset_dir", str(dataset_dir), "--model_name_or_path", str(run_dir / "model")]
    # An odd batch size: the last batches of the two processes are uneven.
    argv += ["--do_eval", "--do_predict", "--per_device_eval_batch_size", "7"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
    tables, changes = [], []
    for num_processes in ("1", "2"):
        output = ["--output_dir", str(tmp_path / num_processes)]
        subprocess.run(
            [*torchrun, num_processes, TRAIN, *argv, *output],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
        )
        tables.append(pq.read_table(tmp_path / num_processes / "predictions_test.parquet"))
        changes.append(pq.read_table(tmp_path / num_processes / "changes_test.parquet"))
    assert changes[0]["later_id"] == changes[1]["later_id"]
    one, two = (table["probability_+1"].to_numpy() for table in changes)
    assert two == pytest.approx(one, abs=1e-6)
    assert tables[0]["id"] == tables[1]["id"]
    assert len(set(tables[1]["id"].to_pylist())) == tables[1].num_rows
    one, two = results(tmp_path / "1"), results(tmp_path / "2")
    compared = [name for name in one if not name.endswith(("per_second", "time"))]
    assert len(compared) > 30
    for name in compared:
        assert two[name] == pytest.approx(one[name], abs=1e-6)
