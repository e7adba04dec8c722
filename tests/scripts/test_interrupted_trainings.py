"""Trainings that are killed at random moments end with the weights of one that was left alone."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paths import ROOT
from training.checkpoints import COMPLETE, checkpoint_folders, checkpoint_to_resume

NUM_RUNS = 10  # each killed twice, and resumed twice
FULL_RECIPE = ["--loss", "soft_labels", "--class_weights", "balanced", "--regularize", "true"]
FULL_RECIPE += ["--augment_geometry", "true", "--augment_colour", "true", "--mixup", "true"]
FULL_RECIPE += ["--calibrate", "true"]


class Trainings:
    """Starts trainings of one dataset and config, and kills them when it is asked to."""

    def __init__(self, server: subprocess.Popen[str], flags: list[str]) -> None:
        self.server, self.flags = server, flags

    def run(
        self, run_dir: Path, seconds: float | None = None, change: int | None = None
    ) -> dict[str, Any]:
        """Return how a training ended that was killed after these seconds or at this change."""
        request = {
            "argv": [*self.flags, "--output_dir", str(run_dir)],
            "log": str(run_dir) + ".log",
            "checkpoints_of": str(run_dir),
            "seconds": seconds,
            "change": change,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="module")
def trainings(dataset_dir: Path, config_dir: Path) -> Iterator[Trainings]:
    """Return what trains with all that a checkpoint has to hold, in three epochs of many steps."""
    flags = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    flags += ["--num_train_epochs", "3", "--per_device_train_batch_size", "4", *FULL_RECIPE]
    flags += ["--learning_rate", "1e-3", "--disable_tqdm", "true", "--logging_steps", "1"]
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "killed_trainings.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A fork has no other threads than the one that made it.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield Trainings(server, flags)
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a training that was left alone, and how it ended."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = trainings.run(run_dir)
    assert ended["status"] == 0, run_dir.with_suffix(".log").read_text()
    return run_dir, ended


def weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_weights(
    trainings: Trainings, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    undisturbed_dir, ended = undisturbed
    moments = random.Random(7)
    num_kills = num_from_a_checkpoint = 0
    for index in range(NUM_RUNS):
        run_dir = tmp_path / f"run-{index}"
        while num_kills < 2 * (index + 1):
            killed = trainings.run(run_dir, seconds=moments.uniform(0.3, 0.95) * ended["seconds"])
            if killed["status"] == 0:  # it was faster than the clock: it has nothing to go on from
                shutil.rmtree(run_dir)
                continue
            assert killed["status"] == -signal.SIGALRM
            num_kills += 1
        assert trainings.run(run_dir)["status"] == 0
        assert weights(run_dir) == weights(undisturbed_dir)
        num_from_a_checkpoint += "Going on from" in Path(f"{run_dir}.log").read_text()
    assert num_kills == 2 * NUM_RUNS
    assert num_from_a_checkpoint > 0


@pytest.mark.slow
def test_a_training_that_is_killed_while_it_writes_checkpoints_ends_with_the_same_weights(
    trainings: Trainings, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    undisturbed_dir, ended = undisturbed
    # The first epoch's checkpoint, the second's, the third's with the removal of an older one.
    moments = random.Random(8)
    num_left_incomplete = 0
    for change in moments.sample(range(1, ended["changes"] + 1), NUM_RUNS):
        run_dir = tmp_path / f"change-{change}"
        assert trainings.run(run_dir, change=change)["status"] == -signal.SIGKILL
        newest = checkpoint_folders(run_dir)
        num_left_incomplete += bool(newest) and not (newest[0] / COMPLETE).exists()
        again = trainings.run(run_dir, seconds=moments.uniform(0.3, 0.95) * ended["seconds"])
        assert again["status"] in (0, -signal.SIGALRM)
        assert trainings.run(run_dir)["status"] == 0
        assert weights(run_dir) == weights(undisturbed_dir)
        assert len(checkpoint_folders(run_dir)) <= 3
    assert num_left_incomplete >= 3


@pytest.mark.slow
def test_each_file_of_the_newest_checkpoint_may_be_damaged_and_the_one_before_it_is_taken(
    trainings: Trainings,
    undisturbed: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed_dir, _ = undisturbed
    newest, before = checkpoint_folders(undisturbed_dir)[:2]
    names = sorted(path.name for path in newest.iterdir())
    assert {"model.safetensors", "trained_weights.safetensors", "optimizer.pt"} < set(names)
    assert {"scheduler.pt", "rng_state.pth", "trainer_state.json", COMPLETE} < set(names)
    for name in names:
        content = (newest / name).read_bytes()
        for damaged in (None, content[: len(content) // 2], b""):
            (newest / name).unlink()
            if damaged is not None:
                (newest / name).write_bytes(damaged)
            assert checkpoint_to_resume(undisturbed_dir, None) == str(before)
            message = capsys.readouterr().err
            assert re.fullmatch(rf"{newest} is passed over \(.*{name}.*\)\.\n", message)
            (newest / name).write_bytes(content)
        assert checkpoint_to_resume(undisturbed_dir, None) == str(newest)
    # And once to the end.
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed_dir, run_dir)
    shutil.rmtree(run_dir / "model")
    (checkpoint_folders(run_dir)[0] / "optimizer.pt").write_bytes(b"")
    assert trainings.run(run_dir)["status"] == 0
    log = Path(f"{run_dir}.log").read_text()
    assert f"{newest.name} is passed over (optimizer.pt is damaged: 0 bytes of" in log
    assert f"Going on from {run_dir / before.name}." in log
    assert weights(run_dir) == weights(undisturbed_dir)


@pytest.mark.slow
def test_the_two_newest_checkpoints_and_the_best_one_are_kept(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, _ = undisturbed
    newest = checkpoint_folders(run_dir)
    state = json.loads((newest[0] / "trainer_state.json").read_text())
    kept = {int(path.name.rpartition("-")[2]) for path in newest}
    assert kept >= {state["global_step"], state["best_global_step"]}
