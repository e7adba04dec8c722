"""Every family of image classifiers from training to audit: it works, or one line says why not."""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

import audit
import build_dataset
import export_model
import train
from model_families import IMAGE_SIZE, TINY_CONFIGS
from serving.bin_counter import BinCounter
from training.arguments import ModelArguments
from training.models import load_model

# What cannot be trained here, and what the line says of it.
REFUSED = {
    "dinat": "natten",
    "imagegpt": "cannot count photos",
    "pvt": "forgets its labels",
    "shieldgemma2": "cannot",
    "siglip2": "cannot",
    "timm_wrapper": "timm and torchvision",
}
# What answers as it is, and cannot be exported.
NOT_EXPORTED = {"efficientnet": "the safetensors serve as they are"}
# What learns of places in another way than by positions on a grid.
OF_ONE_SIZE = {"levit"}
# Whose last layer does not say what it sees where: they count, and compare no visits.
WITHOUT_CHANGES = {"clip", "hgnet_v2", "metaclip_2", "siglip"}


@pytest.fixture(scope="module")
def small_dataset(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "bins"
    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(folder), "--num_workers", "1"]
        + ["--image_size", str(IMAGE_SIZE), "--test_fraction", "0.1"]
    )
    return folder


def test_every_family_is_walked() -> None:
    assert set(TINY_CONFIGS) == set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def one_line(
    main: Callable[[list[str]], None], argv: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """Return the line that an entry refuses a model with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS.keys() - REFUSED.keys()))
def test_a_pretrained_model_of_a_family_takes_larger_photos_or_names_its_size(
    family: str, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(family, **copy.deepcopy(TINY_CONFIGS[family]), num_labels=5)
    config.architectures = []  # None stops some families
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    arguments = ModelArguments(model_name_or_path=str(tmp_path))
    labels = ["1", "2", "3", "4", "5"]
    if family in OF_ONE_SIZE:
        with pytest.raises(ValueError, match="the dataset's have 96"):
            load_model(arguments, labels, 96, train=True)
        return
    config = load_model(arguments, labels, 96, train=True).config
    said = getattr(getattr(config, "vision_config", config), "image_size", None)
    assert said in (None, 96, [96, 96])


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY_CONFIGS)
def test_a_family_is_trained_exported_served_and_audited_or_refused_in_one_line(
    family: str, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": family, **TINY_CONFIGS[family]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = tmp_path / "run"
    argv = ["--dataset_dir", str(small_dataset), "--config_name", str(tmp_path)]
    argv += ["--output_dir", str(run), "--max_steps", "2", "--per_device_train_batch_size", "8"]
    argv += ["--max_train_samples", "64", "--max_eval_samples", "8", "--do_train", "--do_predict"]
    # Audits have set the number of threads meanwhile: oneDNN's convolutions in bf16 fall over that.
    argv += ["--bf16", "false"]
    argv += ["--diagnostics", "--dataloader_num_workers", "0", "--eval_strategy", "steps"]
    argv += ["--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    if family in REFUSED:
        assert REFUSED[family] in one_line(train.main, argv, capsys)
        assert [path.name for path in run.rglob("*") if path.is_file()] == ["_running"]
        return
    train.main(argv)
    model_dir = run / "model"
    check = json.loads((run / "check.json").read_text())
    assert np.isfinite(check["logits"]).all()
    flags = ["--model", str(model_dir), "--dataset_dir", str(small_dataset), "--precision", "f32"]
    if family in NOT_EXPORTED:
        assert NOT_EXPORTED[family] in one_line(export_model.main, flags, capsys)
    else:
        export_model.main(flags)
    counter = BinCounter(model_dir, num_threads=1)
    photo = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    assert counter.runtime == ("torch f32" if family in NOT_EXPORTED else "openvino f32")
    assert counter.look([photo]).probabilities.shape == (1, 5)
    assert counter.tells_changes == (family not in WITHOUT_CHANGES)
    if counter.tells_changes:
        _, views = counter.look_for_changes([photo, photo[::-1]])
        assert counter.changes(views[:1], views[1:]).shape == (1, counter.num_change_answers)
    with contextlib.suppress(SystemExit):
        audit.main(
            ["--model", str(model_dir), "--bins", str(small_dataset), "--split", "test"]
            + ["--output_dir", str(tmp_path / "audit")]
        )
    assert (tmp_path / "audit" / "decisions.csv").is_file()
