"""The dataset on its way to the Hub and back, over HTTP; the Hub is the local one."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub.utils import filter_repo_objects

import push_dataset
from paths import ROOT
from push_dataset import DESTINATION, PUSHED, STATE, files_to_push, forget_other_pushes
from stand_ins.hub_server import HUB_TOKEN, HubServer

PUSH = str(ROOT / "data_prep" / "push_dataset.py")
PULL = """
import json
from datasets import load_dataset
from huggingface_hub import snapshot_download

dataset = load_dataset("ann/bins")
print(snapshot_download("ann/bins", repo_type="dataset"))
print(json.dumps({split: rows["id"] for split, rows in dataset.items()}, default=list))
print(dataset["test"].features["label"].names, dataset["test"][0]["image"].size)
"""


@pytest.fixture
def dataset_copy(dataset_dir: Path, tmp_path: Path) -> Path:
    """Return a dataset that a test may change."""
    return Path(shutil.copytree(dataset_dir, tmp_path / "bins"))


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        push_dataset.main(argv)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_dry_run_lists_what_would_be_sent(
    dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push_dataset.main([str(dataset_dir), "--repo_id", "ann/bins", "--dry_run"])
    shown = capsys.readouterr().out
    size = (dataset_dir / "data" / "test-00000-of-00001.parquet").stat().st_size
    assert f"{size:,}  data/test-00000-of-00001.parquet" in shown
    assert "README.md" in shown
    assert "counts_by_split.png" in shown
    assert "Nothing was sent" in shown
    assert "catalog.parquet" not in shown
    assert not (dataset_dir / ".cache").exists()


def test_what_is_no_whole_dataset_is_refused(
    dataset_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--repo_id", "ann/bins", "--dry_run"]
    assert "is no finished dataset" in error_of([str(tmp_path), *flags], capsys)
    shard = dataset_copy / "data" / "test-00000-of-00001.parquet"
    shard.rename(shard.with_name("test-00000-of-00002.parquet"))
    assert "1 of 2 test shards" in error_of([str(dataset_copy), *flags], capsys)
    damaged = shard.with_name("test-00000-of-00002.parquet").rename(shard)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert f"{shard} is not as it was written" in error_of([str(dataset_copy), *flags], capsys)
    (dataset_copy / "statistics" / f"{shard.stem}.json").write_text('{"sha256"')
    assert "is damaged (Expecting ':'" in error_of([str(dataset_copy), *flags], capsys)
    (dataset_copy / "statistics" / f"{shard.stem}.json").write_text('{"sha256": null}')
    assert f"{shard} is not as it was written" in error_of([str(dataset_copy), *flags], capsys)
    shard.unlink()  # of a shard without a usable photo there is no file
    assert shard.name not in files_to_push(dataset_copy)
    for path in dataset_copy.glob("data/*.parquet"):
        path.unlink()
    shutil.rmtree(dataset_copy / "statistics")
    assert "holds no shards" in error_of([str(dataset_copy), *flags], capsys)
    assert "write USER/NAME" in error_of([str(dataset_copy), "--repo_id", "x", "--dry_run"], capsys)


def test_what_a_mac_leaves_beside_a_file_is_neither_checked_nor_sent(dataset_copy: Path) -> None:
    files = files_to_push(dataset_copy)
    for path in [*dataset_copy.glob("data/*"), *dataset_copy.glob("statistics/*")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert files_to_push(dataset_copy) == files
    present = [p.relative_to(dataset_copy).as_posix() for p in dataset_copy.rglob("*")]
    # As the Hub's client chooses what it sends.
    assert {*filter_repo_objects(present, allow_patterns=list(PUSHED))} == files.keys()


def test_how_far_a_push_came_is_forgotten_when_it_goes_elsewhere(dataset_copy: Path) -> None:
    noted = dataset_copy / STATE / "README.md.metadata"

    def push_to(repo_id: str, exists: bool) -> bool:
        noted.parent.mkdir(parents=True, exist_ok=True)
        noted.touch()
        forget_other_pushes(dataset_copy, repo_id, exists)
        return noted.exists()

    assert not push_to("ann/bins", exists=True)  # nobody knows whose state that was
    assert push_to("ann/bins", exists=True)
    assert not push_to("ann/other", exists=True)
    assert not push_to("ann/other", exists=False)  # deleted meanwhile, and everything in it


def test_no_program_imports_what_the_hubs_client_brings_by_chance() -> None:
    # huggingface_hub 1 brings httpx, 2.4 httpx2: its own errors are there in both.
    programs = [p for folder in ("data_prep", "sagemaker_jobs") for p in (ROOT / folder).rglob("*")]
    texts = {p.name: p.read_text() for p in programs if p.suffix == ".py"}
    assert "push_to_hub.py" in texts
    assert not [
        name for name, text in texts.items() if re.search(r"^(import|from) httpx", text, re.M)
    ]


@pytest.mark.slow
def test_a_dataset_is_cut_off_pushed_again_and_pulled_back_byte_for_byte(
    hub: HubServer, dataset_copy: Path, tmp_path: Path
) -> None:
    files = files_to_push(dataset_copy)
    shards = [path for name, path in files.items() if name.endswith(".parquet")]
    command = [PUSH, str(dataset_copy), "--repo_id", "ann/bins"]

    hub.break_uploads_after(sum(path.stat().st_size for path in shards) - 1)
    log = tmp_path / "log"
    with log.open("w") as output:
        killed = subprocess.Popen(
            [sys.executable, *command],
            env=hub.environment(HUB_TOKEN),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            assert hub.is_broken.wait(timeout=200), log.read_text()
        finally:
            killed.kill()
            killed.wait()
    assert sorted(hub.dataset("ann/bins").files) == [".gitattributes"]
    assert (dataset_copy / DESTINATION).exists()
    sent_before = set(hub.objects)

    hub.mend()
    hub.received.clear()
    pushed = hub.run(*command, token=HUB_TOKEN)
    assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    assert f"Pushed: {hub.url}/datasets/ann/bins" in pushed.stdout
    sent_after = {r.path.rpartition("/")[2] for r in hub.received if r.method == "PUT"}
    assert not sent_before & sent_after
    assert len(hub.objects) == len(shards)
    held = hub.dataset("ann/bins")
    assert held.is_private
    assert {name: held.files[name] for name in files} == {
        name: path.read_bytes() for name, path in files.items()
    }
    assert held.files.keys() == files.keys() | {".gitattributes"}
    assert not list((dataset_copy / STATE).rglob("*"))

    pulled = hub.run("-c", PULL, token=HUB_TOKEN)
    assert pulled.returncode == 0, pulled.stderr
    folder, ids, seen = pulled.stdout.splitlines()
    for name, path in files.items():
        assert (Path(folder) / name).read_bytes() == path.read_bytes()
    dataset = load_dataset(str(dataset_copy))
    assert json.loads(ids) == {split: list(rows["id"]) for split, rows in dataset.items()}
    assert seen == "['1', '2', '3', '4', '5'] (32, 32)"
    for text in (log.read_text(), pushed.stdout, pushed.stderr, pulled.stdout, pulled.stderr):
        assert HUB_TOKEN not in text
    assert not hub.requests_with(HUB_TOKEN)


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_line(hub: HubServer, dataset_copy: Path) -> None:
    def push(repo_id: str, *flags: str, token: str | None = HUB_TOKEN) -> str:
        result = hub.run(PUSH, str(dataset_copy), "--repo_id", repo_id, *flags, token=token)
        assert result.returncode == 2, result.stderr
        (line,) = result.stderr.splitlines()
        return line

    assert "no token for the Hub: run `hf auth login`" in push("ann/bins", token=None)
    assert "the Hub does not know this token" in push("ann/bins", token="hf_wrong")
    assert "this token writes for ann only" in push("bob/bins")
    assert not hub.repositories
    hub.create("dataset", "ann/other", is_private=True, files={"data/old.parquet": b"old"})
    assert "(data/old.parquet): choose another" in push("ann/other")
    hub.create("dataset", "ann/public", is_private=False)
    assert "ann/public is public: add --public" in push("ann/public")
    assert not hub.requests_with(HUB_TOKEN)
