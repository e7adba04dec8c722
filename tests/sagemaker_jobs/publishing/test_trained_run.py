import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from publishing.trained_run import check_answers, find_run


@pytest.fixture
def run_copy(run_dir: Path, tmp_path: Path) -> Path:
    """Return a run that a test may change."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    return copy


def test_a_run_that_is_whole_answers_as_recorded(
    run_copy: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    run = find_run(str(run_copy), tmp_path)
    assert run.label_names == ["1", "2", "3", "4", "5"]
    assert [path.name for path in run.model_files()] == [
        "change_head.json",
        "change_head.safetensors",
        "config.json",
        "error_model.json",
        "item_heads.json",
        "item_heads.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert "check.json (logits differ by" in check_answers(run, None)
    assert "the change between two drawn photos (by " in check_answers(run, None)
    assert "8 test photos" in check_answers(run, dataset_dir)


def test_a_debug_runs_folder_is_a_run(run_copy: Path, tmp_path: Path) -> None:
    base_dir = tmp_path / "debug"
    (base_dir / "output").mkdir(parents=True)
    (run_copy / "model").rename(base_dir / "model")
    run_copy.rename(base_dir / "output" / "data")
    assert "check.json" in check_answers(find_run(str(base_dir), tmp_path), None)


def test_a_run_without_check_photo_needs_its_dataset(
    run_copy: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    (run_copy / "check.json").unlink()
    run = find_run(str(run_copy), tmp_path)
    with pytest.raises(ValueError, match=r"no check.json .*: give --dataset"):
        check_answers(run, None)
    assert check_answers(run, dataset_dir).startswith("8 test photos")
    with pytest.raises(ValueError, match="has no test bin"):
        check_answers(run, tmp_path)


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("arguments.json", "is no run of scripts/train.py"),
        ("predictions_test.parquet", "not finished .*--do_predict"),
        ("model/config.json", "holds no model"),
        ("model/model.safetensors", "holds no model"),
    ],
)
def test_what_is_missing_is_named(
    missing: str, complaint: str, run_copy: Path, tmp_path: Path
) -> None:
    (run_copy / missing).unlink()
    with pytest.raises(ValueError, match=complaint):
        find_run(str(run_copy), tmp_path)


def test_other_weights_are_refused(run_copy: Path, dataset_dir: Path, tmp_path: Path) -> None:
    weights = run_copy / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.bias"] = tensors["classifier.bias"] + [1, 0, 0, 0, 0]
    save_file({n: t.astype("float32") for n, t in tensors.items()}, weights, {"format": "pt"})
    run = find_run(str(run_copy), tmp_path)
    with pytest.raises(ValueError, match=r"photo in check\.json is off by 1"):
        check_answers(run, None)
    (run_copy / "check.json").unlink()
    with pytest.raises(ValueError, match=r"a probability in predictions_test.parquet is off"):
        check_answers(run, dataset_dir)


def test_weights_that_are_missing_or_damaged_are_refused(run_copy: Path, tmp_path: Path) -> None:
    weights = run_copy / "model" / "model.safetensors"
    tensors = load_file(weights)
    save_file({n: t for n, t in tensors.items() if n != "classifier.bias"}, weights)
    run = find_run(str(run_copy), tmp_path)
    with pytest.raises(ValueError, match=r"weights are missing, such as classifier\.bias"):
        check_answers(run, None)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="the model cannot be loaded"):
        check_answers(run, None)


def test_another_change_head_is_refused(run_copy: Path, tmp_path: Path) -> None:
    weights, settings = (
        run_copy / "model" / f"change_head.{suffix}" for suffix in ("safetensors", "json")
    )
    run, tensors = find_run(str(run_copy), tmp_path), load_file(weights)
    tensors["classifier.bias"][0] += 1
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"change between two drawn photos .* is off"):
        check_answers(run, None)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cannot be asked: .*change_head.safetensors cannot be"):
        check_answers(run, None)
    settings.unlink()
    with pytest.raises(ValueError, match=r"cannot be asked: .* has no change head"):
        check_answers(run, None)


def test_other_item_heads_are_refused(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    weights = tmp_path / "run" / "model" / "item_heads.safetensors"
    run, tensors = find_run(str(tmp_path / "run"), tmp_path), load_file(weights)
    compared = check_answers(run, None)
    assert "the change of volume between them (by" in compared
    assert "the sizes of items in one (by" in compared
    tensors["center"][0] += 1
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"the sizes of items in one .* is off by 1;"):
        check_answers(run, None)
    weights.unlink()
    with pytest.raises(ValueError, match=r"cannot be asked: .*item_heads.safetensors cannot be"):
        check_answers(run, None)


def test_a_run_that_tells_no_change_is_checked_as_before(run_copy: Path, tmp_path: Path) -> None:
    for name in ("change_head.json", "change_head.safetensors"):
        (run_copy / "model" / name).unlink()
    check = json.loads((run_copy / "check.json").read_text())
    of_photo = {name: check[name] for name in ("photo_png_base64", "logits")}
    (run_copy / "check.json").write_text(json.dumps(of_photo))
    assert "change" not in check_answers(find_run(str(run_copy), tmp_path), None)


def test_code_and_other_labels_are_refused(run_copy: Path, tmp_path: Path) -> None:
    config = run_copy / "model" / "config.json"
    own = config.read_text()
    config.write_text(json.dumps(json.loads(own) | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ValueError, match="code of its own"):
        find_run(str(run_copy), tmp_path)
    table = pq.read_table(run_copy / "predictions_test.parquet")
    pq.write_table(table.drop_columns(["probability_5"]), run_copy / "predictions_test.parquet")
    config.write_text(own)
    with pytest.raises(ValueError, match="belong to different runs"):
        find_run(str(run_copy), tmp_path)


@pytest.mark.parametrize("file", ["arguments.json", "model/config.json", "check.json"])
def test_a_damaged_file_is_one_line(file: str, run_copy: Path, tmp_path: Path) -> None:
    (run_copy / file).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        check_answers(find_run(str(run_copy), tmp_path), None)
