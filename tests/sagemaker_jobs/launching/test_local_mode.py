"""What the SDK's local mode is given; tests/docker_debugging runs it in a real container."""

import json
import os
import signal
import socket
import tarfile
import threading
from pathlib import Path

import psutil
import pytest
import yaml

from launches import error_of, run_vit
from launching import local_mode
from launching.local_mode import _check_mountable
from paths import ROOT
from stand_ins.docker_client import put_gpus


@pytest.mark.parametrize("name", ["a?b", "a#b", "a;b", "a:b"])
def test_a_folder_that_it_cannot_mount_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output .*cannot mount a folder with"):
        _check_mountable("--output", tmp_path / name)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "bins"
    folder.mkdir()
    (folder / "README.md").touch()
    return folder


def put_compose(folder: Path, up: str) -> None:
    """Put a `docker` whose Compose does what `up` says, with the file's path as $3."""
    program = folder / "docker"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '  "compose version"*) echo Docker Compose version v2.40.1 ;;\n'
        f"  compose*up*) {up} ;;\n"
        "  info*) echo '{\"nvidia\": {}}' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)


def torchrun_starts_it(container_root: Path) -> bool:
    """Say so, from what version 2 tells the container's toolkit or version 3 its own programs."""
    (path,) = container_root.rglob("hyperparameters.json")
    flag = json.loads(path.read_text()).get("sagemaker_torch_distributed_enabled", "false")
    told = [json.loads(path.read_text()) for path in container_root.rglob("distributed.json")]
    return flag == "true" or any(told)


def test_a_signal_ends_a_local_run_and_promises_no_model(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_compose(tmp_path, f"kill -TERM {os.getpid()}; sleep 0.5")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SystemExit) as exit_info:
        run_vit("--local", "--dataset", str(dataset), "--output", str(tmp_path / "out"))
    assert exit_info.value.code == 128 + signal.SIGTERM
    told = capsys.readouterr().err
    assert told.endswith("\nStopped.\n")
    assert "Model:" not in told


def test_a_run_ends_in_a_model_and_leaves_the_current_folder_as_it_was(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    for name in ("shared", "input", "algo-1", "model"):  # what SDKs call folders of theirs
        (here / name).mkdir(parents=True)
        (here / name / "mine.txt").write_text("mine")
    put_compose(tmp_path, 'cd "$(dirname "$3")" && mkdir -p model && echo w > model/weights')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(here)
    flags = ["--dataset", str(dataset), "--output", "out", "--job_name", "bins-1"]
    with pytest.raises(SystemExit) as exit_info:
        run_vit("--local", *flags)
    assert exit_info.value.code == 0
    assert "Model: out/bins-1/model.tar.gz\n" in capsys.readouterr().err
    with tarfile.open(here / "out" / "bins-1" / "model.tar.gz") as archive:
        assert archive.getnames() == ["weights"]
    assert sorted(path.name for path in here.iterdir()) == [
        *("algo-1", "input", "model", "out", "shared"),
    ]
    assert [path.name for path in (here / "out").iterdir()] == ["bins-1"]
    assert len([*here.glob("*/mine.txt")]) == 4


def test_what_a_failed_run_has_written_is_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_compose(tmp_path, 'cd "$(dirname "$3")"/algo-1*/output && echo disk > failure; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    flags = ["--dataset", str(dataset), "--output", str(tmp_path / "out"), "--job_name", "bins-1"]
    with pytest.raises(SystemExit, match="1"):
        run_vit("--local", *flags)
    with tarfile.open(tmp_path / "out" / "bins-1" / "output.tar.gz") as archive:
        assert "failure" in archive.getnames()


def test_nobody_is_told_of_a_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK reports each run to AWS, on a thread of its own, unless it is told not to."""
    put_compose(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = threading.Event()

    def refuse() -> None:
        while True:
            proxy.accept()[0].close()
            told.set()

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(SystemExit, match="1"):
            run_vit("--local", "--dataset", str(dataset), "--output", str(tmp_path / "out"))
        assert not told.wait(2)


@pytest.mark.parametrize(
    ("instance_type", "chosen", "processes"),
    [
        ("ml.g5.2xlarge", None, ("0", False)),
        ("ml.g5.2xlarge", "1", ("1", False)),
        ("ml.g5.12xlarge", None, (None, True)),
    ],
)
def test_a_process_has_one_gpu_on_a_machine_with_several(
    instance_type: str,
    chosen: str | None,
    processes: tuple[str | None, bool],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    put_compose(tmp_path, f'cp -r "$(dirname "$3")" {seen}; exit 1')
    put_gpus(tmp_path, "NVIDIA L4", "NVIDIA L4")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    flags = ["--dataset", str(dataset), "--output", str(tmp_path / "out"), "--job_name", "bins-1"]
    with pytest.raises(SystemExit, match="1"):
        run_vit("--local", *flags, "--instance_type", instance_type)
    [compose] = seen.rglob("docker-compose.yaml")
    [service] = yaml.safe_load(compose.read_text())["services"].values()
    variables = dict(line.split("=", 1) for line in service["environment"])
    assert (variables.get("CUDA_VISIBLE_DEVICES"), torchrun_starts_it(seen)) == processes
    assert variables["TRAINING_JOB_NAME"] == "bins-1"
    [resources] = seen.rglob("resourceconfig.json")
    # Compose's, or NCCL finds no socket.
    assert json.loads(resources.read_text())["network_interface_name"] == "eth0"


def test_podman_alone_is_refused_before_an_image_is_built(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    podman = tmp_path / "podman"
    podman.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = error_of(capsys, "--local", "--dataset", str(dataset))
    assert "runs `docker`, which is not installed" in line
    assert not (tmp_path / "asked").exists()


def test_a_signal_ends_the_build_of_the_image_too(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = tmp_path / "building"
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"  build*) echo $$ > {building}; kill -TERM {os.getpid()}; exec sleep 600 ;;\n"
        '  "image inspect"*) exit 1 ;;\n'
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    entry = ROOT / "docker_debugging" / "image.py"
    on_another_base = tmp_path / "image.py"  # the default one takes seconds to name
    on_another_base.write_text(
        f"import sys; sys.path.insert(0, {str(entry.parent)!r})\n"
        "import image; image.main(['--base_image', 'x'])\n"
    )
    monkeypatch.setattr(local_mode, "BUILD_IMAGE", on_another_base)
    with pytest.raises(SystemExit) as exit_info:
        run_vit("--local", "--dataset", str(dataset), "--output", str(tmp_path / "out"))
    assert exit_info.value.code == 128 + signal.SIGTERM
    assert not psutil.pid_exists(int(building.read_text()))
