"""Photos of 384 pixels all the way, from a checkpoint that was trained on 224."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

import audit
import build_dataset
import export_model
import push_to_hub
import train
from serving.bin_counter import BinCounter
from stand_ins.hub_server import HUB_TOKEN, HubServer
from stand_ins.served_model import drawn_photo, encoded, serve_locally
from tiny_model import TINY_VIT
from training.bin_dataset import load_bins, photo_size

PRETRAINED_ON, IMAGE_SIZE = 224, 384


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of 1,000 labels and its processor, as the Hub's ViTs are."""
    folder = tmp_path_factory.mktemp("pretrained")
    tiny = TINY_VIT | {"image_size": PRETRAINED_ON, "patch_size": 16}
    config = AutoConfig.for_model(**tiny, num_labels=1_000)
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def large_bins(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "bins"
    argv = ["--source", str(bucket), "--output_dir", str(folder), "--num_workers", "1"]
    build_dataset.main([*argv, "--image_size", str(IMAGE_SIZE), "--max_bins", "60"])
    return folder


@pytest.fixture(scope="module")
def large_run(large_bins: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "run"
    train.main(
        ["--dataset_dir", str(large_bins), "--model_name_or_path", str(checkpoint)]
        + ["--output_dir", str(folder), "--do_train", "--do_eval", "--do_predict"]
        + ["--num_train_epochs", "1", "--per_device_train_batch_size", "16"]
        + ["--dataloader_num_workers", "0", "--disable_tqdm", "true"]
    )
    return folder


@pytest.fixture
def checked_photo(large_run: Path) -> tuple[Image.Image, np.ndarray]:
    """Return the photo of check.json, and the probabilities that belong to it."""
    check = json.loads((large_run / "check.json").read_text())
    photo = Image.open(io.BytesIO(base64.b64decode(check["photo_png_base64"])))
    return photo, torch.tensor(check["logits"]).softmax(dim=0).numpy()


def test_the_dataset_keeps_photos_as_large(large_bins: Path) -> None:
    assert photo_size(load_bins(str(large_bins), ["train", "test"])) == IMAGE_SIZE


def test_the_model_folder_says_the_size(large_run: Path) -> None:
    config = json.loads((large_run / "model" / "config.json").read_text())
    assert config["image_size"] == IMAGE_SIZE
    processor = json.loads((large_run / "model" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def test_training_starts_from_what_the_checkpoint_knows(large_run: Path, checkpoint: Path) -> None:
    """One epoch at the lowest layers' rate leaves the patches' weights nearly as they were."""
    before, after = (
        AutoModelForImageClassification.from_pretrained(folder).state_dict()
        for folder in (checkpoint, large_run / "model")
    )
    name = "vit.embeddings.patch_embeddings.projection.weight"
    torch.testing.assert_close(after[name], before[name], atol=5e-3, rtol=0)
    positions = "vit.embeddings.position_embeddings"
    assert before[positions].shape[1] == 14**2 + 1
    assert after[positions].shape[1] == 24**2 + 1


def test_a_pipeline_gives_the_checks_answer(
    large_run: Path, checked_photo: tuple[Image.Image, np.ndarray]
) -> None:
    photo, expected = checked_photo
    assert photo.size == (IMAGE_SIZE, IMAGE_SIZE)
    answers = pipeline("image-classification", model=str(large_run / "model"))(photo, top_k=5)
    scores = {answer["label"]: answer["score"] for answer in answers}
    np.testing.assert_allclose([scores[str(c)] for c in range(1, 6)], expected, atol=1e-5)


def test_the_handler_gives_it_over_http(
    large_run: Path, checked_photo: tuple[Image.Image, np.ndarray]
) -> None:
    photo, expected = checked_photo
    with serve_locally(large_run / "model") as server:
        reply = server.ask(encoded(photo, "PNG"), "image/png")
        assert reply.status == 200
        probabilities = reply.content["probabilities"]
        np.testing.assert_allclose([*probabilities.values()], expected, atol=1e-4)
        assert server.ask(encoded(drawn_photo(500, 300)), "image/jpeg").status == 200


def test_the_exported_form_gives_nearly_it(
    large_run: Path, large_bins: Path, checked_photo: tuple[Image.Image, np.ndarray]
) -> None:
    model_dir = large_run / "model"
    flags = ["--model", str(model_dir), "--dataset_dir", str(large_bins), "--precision", "f32"]
    export_model.main(flags)
    counter = BinCounter(model_dir, num_threads=1)
    assert counter.runtime == "openvino f32"
    photo, expected = checked_photo
    [found] = counter.look([np.array(photo)]).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_audit_takes_the_larger_photos(
    large_run: Path, large_bins: Path, tmp_path: Path
) -> None:
    argv = ["--model", str(large_run / "model"), "--bins", str(large_bins), "--split", "train"]
    with pytest.raises(SystemExit) as exit_info:
        audit.main([*argv, "--output_dir", str(tmp_path / "audit")])
    assert exit_info.value.code == 0
    assert (tmp_path / "audit" / "decisions.csv").read_text().count("\n") > 10


@pytest.mark.slow
def test_a_push_checks_it_against_check_json(large_run: Path, hub: HubServer) -> None:
    pushed = hub.run(push_to_hub.__file__, str(large_run), "--repo_id", "ann/x", token=HUB_TOKEN)
    assert pushed.returncode == 0, pushed.stderr
    assert "The model answers as recorded" in pushed.stdout
    assert json.loads(hub.model("ann/x").files["config.json"])["image_size"] == IMAGE_SIZE
