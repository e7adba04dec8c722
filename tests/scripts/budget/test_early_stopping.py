from pathlib import Path

import pytest

import train
from training.checkpoints import checkpoint_folders, checkpoint_step

STEPS_AN_EPOCH = 3


@pytest.fixture
def argv(dataset_dir: Path, config_dir: Path, tmp_path: Path) -> list[str]:
    """Return the flags of a training that learns nothing: each evaluation is like the first."""
    return [
        *("--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"),
        *("--output_dir", str(tmp_path), "--disable_tqdm", "true", "--learning_rate", "0"),
    ]


def epochs_trained(run_dir: Path) -> int:
    return checkpoint_step(checkpoint_folders(run_dir)[0]) // STEPS_AN_EPOCH


def ended(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("ended")]


def test_the_best_epoch_is_waited_for_as_long_as_patience_says_and_no_longer_however_often(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # It is that of counts and changes together, with which the loss of counts alone does not
    # compare.
    said = "ended step={step} epoch={epoch} by=early_stopping_patience evaluations={n} best_step=3"
    train.main([*argv, "--num_train_epochs", "2", "--early_stopping_patience", "3"])
    assert epochs_trained(tmp_path) == 2
    assert ended(capsys) == []
    argv += ["--num_train_epochs", "9", "--do_eval"]
    for patience, epoch in ((3, 4), (3, 4), (4, 5), (2, 5)):
        train.main([*argv, "--early_stopping_patience", str(patience)])
        assert epochs_trained(tmp_path) == epoch
        assert ended(capsys) == [said.format(step=3 * epoch, epoch=epoch, n=epoch - 1)]


def test_a_run_goes_on_with_a_patience_that_it_did_not_have_before(
    argv: list[str], tmp_path: Path
) -> None:
    train.main([*argv, "--num_train_epochs", "2"])
    train.main([*argv, "--num_train_epochs", "9", "--early_stopping_patience", "2"])
    assert epochs_trained(tmp_path) == 4  # it counts from there
