import base64
import io
import json
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    AutoConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import train
from items.evidence import Evidence, item_evidence
from model_families import IMAGE_SIZE, TINY_CONFIGS
from training import results
from training.bin_dataset import load_bins, recorded_items_of
from training.evaluation import softmax
from training.results import check_photo, write_model


def test_the_photo_is_the_same_every_time() -> None:
    photo = check_photo(32)
    assert photo.shape == (32, 32, 3)
    assert photo.tobytes() == check_photo(32).tobytes()
    assert photo.std() > 20


def test_a_run_keeps_what_its_model_answers_to_a_drawn_photo(run_dir: Path) -> None:
    check = json.loads((run_dir / "check.json").read_text())
    photo = Image.open(io.BytesIO(base64.b64decode(check["photo_png_base64"])))
    assert photo.size == (32, 32)
    probabilities = softmax(np.array([check["logits"]]))[0]
    answers = pipeline("image-classification", model=str(run_dir / "model"))(photo)
    for answer in answers:
        assert answer["score"] == pytest.approx(probabilities[int(answer["label"]) - 1], abs=1e-5)


def test_a_disk_needs_room_for_one_more_copy_of_the_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.for_model("vit", **TINY_CONFIGS["vit"], num_labels=5)
    model = ViTForImageClassification(config)
    saved: dict[str, int] = {}
    save = model.save_pretrained

    def save_and_look(folder: Path, **keywords: Any) -> None:
        save(folder, **keywords)
        saved.update({path.name: path.stat().st_ino for path in folder.iterdir()})

    monkeypatch.setattr(model, "save_pretrained", save_and_look)
    trainer: Any = SimpleNamespace(
        model=model,
        image_processor=ViTImageProcessor(size=IMAGE_SIZE),
        state=SimpleNamespace(global_step=1),
        first_step=0,
        args=SimpleNamespace(output_dir=tmp_path),
        visit_model=SimpleNamespace(settings=None),
        item_settings=None,
    )
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    (model_dir / "model.safetensors").write_bytes(b"an earlier one")
    (tmp_path / "all_results.json").write_text("{}")
    old = os.umask(0o027)
    try:
        write_model(trainer, model_dir)
    finally:
        os.umask(old)
    assert not (tmp_path / "all_results.json").exists()
    assert saved.keys() >= {"config.json", "model.safetensors"}
    for name, number in saved.items():
        assert (model_dir / name).stat().st_ino == number  # the same file, moved
    written = {path.name: stat.S_IMODE(path.stat().st_mode) for path in model_dir.iterdir()}
    assert written == dict.fromkeys([*saved, "preprocessor_config.json"], 0o640)


def test_records_are_judged_by_bins_that_the_counter_did_not_train_on(
    run_dir: Path,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    judged: list[Any] = []

    def noted(answers: np.ndarray, records: Any, usual: Any) -> Evidence:
        judged.extend(records)
        return item_evidence(answers, records, usual)

    monkeypatch.setattr(results, "item_evidence", noted)
    argv = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    argv += ["--do_predict", "--learn_items", "true", "--num_train_epochs", "1"]
    argv += ["--learning_rate", "1e-3", "--disable_tqdm", "true"]
    train.main([*argv, "--output_dir", str(tmp_path / "run")])  # it goes on from its last step
    splits = load_bins(str(dataset_dir), ["train", "validation", "test"])
    validation = recorded_items_of(splits["validation"])
    assert judged
    assert {record.volumes for record in judged} <= {record.volumes for record in validation}
    groups = [{*splits[name]["bin_group"]} - {None} for name in ("train", "validation", "test")]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert not groups[0] & groups[2]
