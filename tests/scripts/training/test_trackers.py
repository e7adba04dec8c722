import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from training.trackers import keep_trackers_here


def test_trackers_write_into_the_run_folder_unless_told_where_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    # So that it is gone again after the test.
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    keep_trackers_here(tmp_path, [])
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    keep_trackers_here(tmp_path, ["tensorboard", "trackio"])
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    assert os.environ["TRACKIO_DIR"] == "/elsewhere"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "pattern"), [("tensorboard", "events.out.tfevents.*"), ("trackio", "*.db")]
)
def test_what_a_tracker_writes_is_in_the_run_folder_and_in_the_output_of_a_job(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, tracker: str, pattern: str
) -> None:
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"needs {tracker}, which is in no requirements file: pip install {tracker}")
    output = tmp_path / "output"
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), "--report_to", tracker]
        + ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
        + ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1", "--do_eval"]
        + ["--do_predict", "--logging_steps", "1"],
        env={**os.environ, "SM_OUTPUT_DATA_DIR": str(output), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    names = [path.name for path in (tmp_path / "run" / tracker).rglob(pattern)]
    assert names
    assert all((output / tracker / name).stat().st_size > 0 for name in names)
    assert not (tmp_path / "home").exists()
    held = b"".join(path.read_bytes() for path in (output / tracker).rglob("*") if path.is_file())
    # The evaluation and the prediction, which come after the training, are in it.
    assert b"eval/quadratic_weighted_kappa" in held
    assert b"test/quadratic_weighted_kappa" in held
