import json
import shutil
import tarfile
from pathlib import Path

import pytest

from deployment.served_archive import (
    EXPORT,
    NETWORK_EXPORT,
    add_handler,
    check_model,
    check_same_answer,
    copy_model,
    has_export,
    local_answer,
    pack,
    smoke_photo,
)
from serving.served_code import SERVED
from stand_ins.served_model import ServedModel

NEEDED = {"config.json", "model.safetensors", "preprocessor_config.json"}
HEADS = {
    f"{head}.{kind}" for head in ("change_head", "item_heads") for kind in ("json", "safetensors")
}


@pytest.fixture
def model_dir(run_dir: Path, tmp_path: Path) -> Path:
    """Return a model folder that a test may change."""
    return Path(shutil.copytree(run_dir / "model", tmp_path / "run" / "model"))


def packed(folder: Path, archive: Path, prefix: str = "") -> Path:
    """Return an archive as a stranger makes it."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, prefix or ".")
    return archive


def brought(source: str, tmp_path: Path) -> set[str]:
    """Return the names of the files that are taken from a source."""
    folder = tmp_path / "brought"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    copy_model(source, folder, scratch)
    check_model(folder, source)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix() for path in files}


def test_a_packed_model_answers_from_its_own_code(
    run_dir: Path, served_run: ServedModel, tmp_path: Path
) -> None:
    """The container unpacks the archive into /opt/ml/model, and runs code/inference.py there."""
    copy_model(str(run_dir), tmp_path / "model", tmp_path)
    add_handler(tmp_path / "model")
    pack(tmp_path / "model", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
        assert {member.uname for member in tar} == {""}
    code = tmp_path / "unpacked" / "code"
    files = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert files == {*SERVED, "requirements.txt", "written_files.json"}
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} >= {*NEEDED, "code"}
    photo = smoke_photo(tmp_path / "photo.png")
    answer = local_answer(tmp_path / "unpacked", photo)
    assert check_same_answer(answer, served_run.ask(photo, "image/png").content) < 1e-5


def test_one_model_is_one_archive(run_dir: Path, tmp_path: Path) -> None:
    archives = []
    for name in ("a", "b"):
        copy_model(str(run_dir), tmp_path / name, tmp_path)
        pack(tmp_path / name, tmp_path / f"{name}.tar.gz")
        archives.append((tmp_path / f"{name}.tar.gz").read_bytes())
    assert archives[0] == archives[1]


@pytest.mark.parametrize("kind", ["run", "model folder", "archive", "a level too deep"])
def test_the_model_is_found_in_what_it_comes_in(kind: str, model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "code" / "inference.py").write_text("exit(1)")
    (model_dir / "notes.txt").write_text("mine")
    source = {
        "run": lambda: model_dir.parent,
        "model folder": lambda: model_dir,
        "archive": lambda: packed(model_dir, tmp_path / "model.tar.gz"),
        "a level too deep": lambda: packed(model_dir, tmp_path / "m.tar.gz", "model"),
    }[kind]()
    names = brought(str(source), tmp_path)
    assert names >= NEEDED | HEADS
    assert all("/" not in name and name.endswith((".json", ".safetensors")) for name in names)


def test_an_exported_form_goes_along_with_the_package_that_it_needs(
    model_dir: Path, tmp_path: Path
) -> None:
    (model_dir / "openvino").mkdir()
    for name in EXPORT:
        (model_dir / name).write_text("{}")
    (model_dir / EXPORT[0]).write_text('{"openvino": "2026.4.1"}')
    archive = packed(model_dir, tmp_path / "model.tar.gz")
    assert brought(str(archive), tmp_path) >= set(EXPORT)
    add_handler(tmp_path / "brought")
    requirements = (tmp_path / "brought" / "code" / "requirements.txt").read_text()
    assert requirements.splitlines()[-1] == "openvino==2026.4.1"
    # pip would act on anything else that stood there.
    (tmp_path / "brought" / EXPORT[0]).write_text('{"openvino": "1\\nevil @ https://evil"}')
    with pytest.raises(ValueError, match="names no version of openvino"):
        add_handler(tmp_path / "brought")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "holds no model: name a run folder"),
        ("model.safetensors", None, "holds no model.safetensors beside config.json"),
        ("preprocessor_config.json", None, "holds no preprocessor_config.json"),
        ("config.json", b"{", "has no counts as labels"),
        ("config.json", b'{"id2label": {"0": "cat"}}', "has no counts as labels"),
        ("config.json", b'{"id2label": {}}', "names no label"),
        ("config.json", b'{"id2label": {"0": "1"}, "auto_map": {}}', "code of its own"),
        ("model.safetensors", b"short", "damaged or cut off"),
        ("change_head.safetensors", b"short", "change_head.safetensors is damaged or cut off"),
        ("change_head.safetensors", None, "holds change_head.json alone"),
        ("change_head.json", None, "holds change_head.safetensors alone"),
        ("item_heads.safetensors", b"short", "item_heads.safetensors is damaged or cut off"),
        ("item_heads.safetensors", None, "holds item_heads.json alone"),
    ],
)
def test_what_is_no_whole_model_is_refused(
    name: str, content: bytes | None, message: str, model_dir: Path, tmp_path: Path
) -> None:
    path = model_dir / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        brought(str(model_dir.parent), tmp_path)


def test_a_model_without_other_heads_is_whole(model_dir: Path, tmp_path: Path) -> None:
    for name in HEADS:
        (model_dir / name).unlink()
    assert not brought(str(model_dir.parent), tmp_path) & HEADS


def test_a_checkpoint_is_not_taken_for_the_model_of_an_unfinished_run(
    model_dir: Path, tmp_path: Path
) -> None:
    model_dir.rename(model_dir.parent / "checkpoint-3")
    (model_dir.parent / "arguments.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no model: name a run folder"):
        brought(str(model_dir.parent), tmp_path)


def test_weights_that_are_cut_off_are_refused(model_dir: Path, tmp_path: Path) -> None:
    weights = model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged or cut off"):
        brought(str(model_dir), tmp_path)


def test_an_archive_with_a_pickle_is_refused(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "pytorch_model.bin").write_bytes(b"")
    archive = packed(model_dir, tmp_path / "model.tar.gz")
    with pytest.raises(ValueError, match="may be a pickle"):
        brought(str(archive), tmp_path)


def test_a_model_that_cannot_be_served_says_why(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model_dir / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"do_center_crop": True}))
    add_handler(model_dir)
    with pytest.raises(ValueError, match=r"the model cannot be served: .*does not prepare photos"):
        local_answer(model_dir, smoke_photo(tmp_path / "photo.png"))


def test_other_answers_are_told_apart() -> None:
    expected = {"probabilities": {"1": 0.5, "2": 0.5}}
    assert check_same_answer({"probabilities": {"1": 0.52, "2": 0.48}}, expected) < 0.03
    for answer in ({"probabilities": {"1": 0.7, "2": 0.3}}, {"probabilities": {"1": 0.5}}, {}):
        with pytest.raises(ValueError, match=r"answers otherwise|is not the handler's"):
            check_same_answer(answer, expected)
    with pytest.raises(ValueError, match="answers otherwise"):
        check_same_answer({"probabilities": {"1": float("nan"), "2": 0.5}}, expected)
    # What is in int8 here may be answered in full on an instance whose CPU cannot use it.
    further = {"probabilities": {"1": 0.6, "2": 0.4}, "runtime": "torch f32"}
    assert check_same_answer(further, expected | {"runtime": "openvino int8"}) == pytest.approx(0.1)
    for runtime in ("torch f32", "openvino bf16"):
        with pytest.raises(ValueError, match="answers otherwise than the model does here"):
            check_same_answer(further, expected | {"runtime": runtime})


def test_an_export_is_whole_with_the_graph_of_each_part_that_the_model_has(tmp_path: Path) -> None:
    (tmp_path / "openvino").mkdir()
    for name in NETWORK_EXPORT:
        assert not has_export(tmp_path)
        (tmp_path / name).touch()
    assert has_export(tmp_path)
    for name in ("change_head.json", "change_head.safetensors"):  # an earlier export knew none
        (tmp_path / name).touch()
    assert not has_export(tmp_path)
    for name in EXPORT:
        (tmp_path / name).touch()
    assert has_export(tmp_path)
