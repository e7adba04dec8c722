"""The model on its way to the Hub and back, over HTTP; the Hub is the local one."""

import base64
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

import push_to_hub
from paths import ROOT
from publishing.trained_run import find_run
from push_to_hub import write_repository
from stand_ins.aws_server import AwsServer
from stand_ins.hub_server import HUB_TOKEN, HubServer

PUSH = str(ROOT / "sagemaker_jobs" / "push_to_hub.py")
PULL_AND_ASK = """
import json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import pipeline

print(snapshot_download("ann/bins"))
answers = pipeline("image-classification", model="ann/bins")(Image.open(sys.argv[1]))
print(json.dumps({answer["label"]: answer["score"] for answer in answers}))
"""


@pytest.fixture
def run_copy(run_dir: Path, tmp_path: Path) -> Path:
    """Return a run that a test may change."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    return copy


def pack_job(run: Path, folder: Path) -> Path:
    """Lay out what a finished job leaves in S3, and return its model.tar.gz."""
    folder.mkdir()
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        tar.add(run / "model", ".")
    with tarfile.open(folder / "output.tar.gz", "w:gz") as tar:
        for name in ("arguments.json", "all_results.json", "predictions_test.parquet"):
            tar.add(run / name, name)
        for name in ("changes_test.parquet", "check.json"):
            tar.add(run / name, name)
    return folder / "model.tar.gz"


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a command failed with."""
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "push_to_hub.py: error: " in line]
    assert "Traceback" not in result.stderr
    return line


def assert_token_stayed_in_its_header(
    hub: HubServer, *results: subprocess.CompletedProcess[str]
) -> None:
    assert any(HUB_TOKEN in r.headers.get("authorization", "") for r in hub.received)
    assert not hub.requests_with(HUB_TOKEN)
    assert not any(HUB_TOKEN in result.stdout + result.stderr for result in results)


def test_help_needs_nothing() -> None:
    result = subprocess.run(
        [sys.executable, PUSH, "--help"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "--dry_run" in result.stdout


def test_a_dry_run_shows_files_and_card_and_sends_nothing(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_to_hub.main(
        [str(run_dir), "--repo_id", "ann/bins", "--dry_run"]
    )  # this process is offline
    shown = capsys.readouterr().out
    size = (run_dir / "model" / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in shown
    assert "plots/confusion_matrix.png" in shown
    assert "license: cc-by-nc-sa-3.0" in shown
    assert "Nothing was sent" in shown
    assert not (run_dir / "report").exists()
    assert not (run_dir / "README.md").exists()


def test_what_a_job_says_of_changes_is_in_its_card(run_copy: Path, tmp_path: Path) -> None:
    model = pack_job(run_copy, tmp_path / "output")
    write_repository(find_run(str(model), tmp_path), "ann/bins", tmp_path / "repository")
    assert {"change_head.json", "change_head.safetensors"} <= {
        path.name for path in (tmp_path / "repository").iterdir()
    }
    results = json.loads((run_copy / "all_results.json").read_text())
    card = (tmp_path / "repository" / "README.md").read_text()
    for way, name in (
        ("both photos compared", "test_change_direction"),
        ("records alone", "test_change_direction_by_records"),
        ("its own photo", "test_visits_single_accuracy"),
    ):
        assert f"| {way} | {results[name]:.1%} [" in card


@pytest.mark.parametrize(
    ("member", "complaint"),
    [("pytorch_model.bin", "may be a pickle"), ("../arguments.json", "leads out of the folder")],
)
def test_an_archive_of_strangers_is_refused(
    member: str, complaint: str, run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pack_job(run_copy, tmp_path / "output")
    with tarfile.open(model, "w:gz") as tar:
        tar.add(run_copy / "model" / "config.json", member)
    with pytest.raises(SystemExit) as exit_info:
        push_to_hub.main([str(model), "--repo_id", "ann/bins", "--dry_run"])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.mark.parametrize(
    ("run", "repo_id", "complaint"),
    [
        ("nowhere", "ann/bins", "name a run folder, or a finished job's model.tar.gz"),
        ("nowhere/model.tar.gz", "ann/bins", "there is no nowhere/model.tar.gz"),
        (".", "ann/bins", "is no run of scripts/train.py"),
        (".", "bins", "write USER/NAME"),
        (".", "ann/../bins", "Repo id must"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: str,
    repo_id: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        push_to_hub.main([run, "--repo_id", repo_id, "--dry_run"])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.mark.slow
def test_a_model_is_pushed_and_pulled_back_byte_for_byte(
    hub: HubServer, run_copy: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    pushed = hub.run(PUSH, str(run_copy), "--repo_id", "ann/bins", token=HUB_TOKEN)
    assert pushed.returncode == 0, pushed.stderr
    assert f"Pushed: {hub.url}/ann/bins" in pushed.stdout
    assert hub.model("ann/bins").is_private
    assert sorted(hub.model("ann/bins").files) == [
        *(".gitattributes", "README.md", "change_head.json", "change_head.safetensors"),
        *("config.json", "error_model.json", "item_heads.json", "item_heads.safetensors"),
        "model.safetensors",
        *("plots/by_count.png", "plots/confusion_matrix.png", "plots/reliability.png"),
        "preprocessor_config.json",
    ]

    photo = tmp_path / "photo.png"
    check = json.loads((run_copy / "check.json").read_text())
    photo.write_bytes(base64.b64decode(check["photo_png_base64"]))
    pulled = hub.run("-c", PULL_AND_ASK, str(photo), token=HUB_TOKEN)
    assert pulled.returncode == 0, pulled.stderr
    folder, answers = pulled.stdout.splitlines()
    for path in (path for path in (run_copy / "model").iterdir() if path.is_file()):
        assert (Path(folder) / path.name).read_bytes() == path.read_bytes()
    logits = {str(count + 1): value for count, value in enumerate(check["logits"])}
    scores = json.loads(answers)
    assert max(scores, key=lambda name: scores[name]) == max(logits, key=lambda name: logits[name])
    header = metadata_load(Path(folder) / "README.md")
    assert header is not None
    (result,) = header["model-index"][0]["results"]
    figures = json.loads((run_copy / "all_results.json").read_text())
    assert result["metrics"][0]["type"] == "accuracy"
    assert result["metrics"][0]["value"] == pytest.approx(figures["test_accuracy"], abs=1e-4)
    assert_token_stayed_in_its_header(hub, pushed, pulled)

    # A newer version is one commit more, and what it lacks goes.
    before = len(hub.model("ann/bins").commits)
    hub.model("ann/bins").add(hub.model("ann/bins").files | {"left.json": b"{}"}, "by hand")
    again = hub.run(PUSH, str(run_copy), "--repo_id", "ann/bins", token=HUB_TOKEN)
    assert again.returncode == 0, again.stderr
    assert len(hub.model("ann/bins").commits) == before + 2
    assert "left.json" not in hub.model("ann/bins").files


@pytest.mark.slow
def test_a_push_that_was_cut_off_goes_on_with_the_same_command(
    hub: HubServer, run_copy: Path, tmp_path: Path
) -> None:
    model = pack_job(run_copy, tmp_path / "output")
    command = [PUSH, str(model), "--repo_id", "ann/bins", "--public"]
    hub.break_uploads_after(20_000)
    cut = hub.run(*command, token=HUB_TOKEN)
    assert hub.is_broken.is_set()
    assert "the connection to the Hub broke" in error_of(cut)
    assert "the same command goes on" in error_of(cut)
    assert "model.safetensors" not in hub.model("ann/bins").files  # a commit is whole or not there
    hub.mend()
    whole = hub.run(*command, token=HUB_TOKEN)
    assert whole.returncode == 0, whole.stderr
    assert not hub.model("ann/bins").is_private
    weights = (run_copy / "model" / "model.safetensors").read_bytes()
    assert hub.model("ann/bins").files["model.safetensors"] == weights
    assert_token_stayed_in_its_header(hub, cut, whole)


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(hub: HubServer, run_copy: Path) -> None:
    def push(repo_id: str, *flags: str, token: str | None = HUB_TOKEN) -> str:
        return error_of(hub.run(PUSH, str(run_copy), "--repo_id", repo_id, *flags, token=token))

    assert "no token for the Hub: run `hf auth login`" in push("ann/bins", token=None)
    assert "the Hub does not know this token" in push("ann/bins", token="hf_wrong")
    hub.users["hf_reader"] = "ann"
    hub.readers.add("hf_reader")
    assert "this token may only read" in push("ann/bins", token="hf_reader")
    assert "this token writes for ann only" in push("bob/bins")
    assert not hub.repositories

    hub.create("model", "ann/other", is_private=True, files={"config.json": b"{}"})
    assert "holds something else (config.json): choose another" in push("ann/other")
    hub.create("model", "ann/empty", is_private=False)
    assert "ann/empty is public: add --public" in push("ann/empty")
    hub.create("model", "ann/hidden", is_private=True)
    assert "ann/hidden is there and private" in push("ann/hidden", "--public")
    assert len(hub.model("ann/other").commits) == 2
    assert not hub.requests_with(HUB_TOKEN)


@pytest.mark.slow
def test_a_jobs_model_comes_from_s3(
    aws: AwsServer, run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pack_job(run_copy, tmp_path / "output")
    bucket = aws.bucket("models")
    for path in (model, model.with_name("output.tar.gz")):
        bucket.upload_file(str(path), f"bins-vit/output/{path.name}")
    uri = "s3://models/bins-vit/output/model.tar.gz"
    push_to_hub.main([uri, "--repo_id", "ann/bins", "--dry_run"])
    assert "The model answers as recorded" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        push_to_hub.main(
            ["s3://models/none/output/model.tar.gz", "--repo_id", "ann/bins", "--dry_run"]
        )
    assert "there is no s3://models/none/output/model.tar.gz" in capsys.readouterr().err
