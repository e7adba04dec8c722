import json

import pytest

import resnet34
from launches import DATASET, error_of, run_vit
from launching.launch import launch
from launching.tuned_hyperparameters import decoded, trials_of
from stand_ins import tuning_account
from stand_ins.aws_server import AwsServer


@pytest.fixture
def tuned(account: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS)
    account.received.clear()
    return account


def test_hyperparameters_are_decoded_and_those_of_aws_left_out() -> None:
    assert decoded(
        {
            "learning_rate": "3.1e-05",
            "per_device_train_batch_size": '"64"',
            "bf16": "true",
            "sagemaker_region": '"us-east-1"',
            "_tuning_objective_metric": '"eval_loss"',
        }
    ) == {"learning_rate": 3.1e-5, "per_device_train_batch_size": "64", "bf16": True}


def test_every_page_of_trials_is_read(tuned: AwsServer) -> None:
    trials = trials_of(tuned.client("sagemaker"), "bins-tune")
    assert [trial.name for trial in trials] == [f"bins-tune-00{n}-0a1b2c3d" for n in (1, 2, 3, 4)]
    assert [trial.objective for trial in trials] == [1.5, 1.2, 1.1, None]
    assert [trial.status for trial in trials] == ["Completed", "Completed", "Stopped", "Failed"]
    assert (trials[1].learning_rate, trials[1].batch_size, trials[1].epochs) == (5.25e-5, 64, 3)
    assert trials[3].reason == "AlgorithmError: out of memory"


def test_a_job_takes_the_best_trials_hyperparameters_and_tests_again(
    tuned: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", DATASET, "--role", "jobs", "--from_tuning_job", "bins-tune"]
    run_vit(*flags, "--job_name", "bins-best", "--weight_decay", "0.1")
    (arrived,) = tuned.requests("CreateTrainingJob")
    sent = arrived["HyperParameters"]
    ours = {name: json.loads(value) for name, value in sent.items() if "sagemaker" not in name}
    assert ours == {
        "model_name_or_path": "google/vit-base-patch16-224-in21k",
        "metric_for_best_model": "eval_loss",
        "do_train": True,
        "do_eval": True,
        "do_predict": True,
        "bf16": True,
        "weight_decay": "0.1",
        "learning_rate": 5.25e-5,
        "per_device_train_batch_size": "64",
        "num_train_epochs": 3,
    }
    capsys.readouterr()


def test_another_recipe_is_refused_unless_the_model_is_named(
    tuned: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dry_run", "--from_tuning_job", "bins-tune"]
    with pytest.raises(SystemExit) as exit_info:
        launch(resnet34.RECIPE, resnet34.__doc__, flags)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    model = "--model_name_or_path google/vit-base-patch16-224-in21k"
    assert (
        f"another model than resnet34 trains: give the --recipe of that model, or add {model}"
        in line
    )
    tuned.received.clear()
    launch(resnet34.RECIPE, resnet34.__doc__, [*flags, *model.split()])
    request = json.loads(capsys.readouterr().out)
    assert set(tuned.operations()) == {
        "DescribeHyperParameterTuningJob",
        "ListTrainingJobsForHyperParameterTuningJob",
        "DescribeTrainingJob",
    }
    assert request["HyperParameters"]["learning_rate"] == "5.25e-05"
    assert model.split()[1] in request["HyperParameters"]["model_name_or_path"]


def test_a_search_without_a_completed_trial_is_one_line(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS[2:])
    line = error_of(capsys, "--dry_run", "--from_tuning_job", "bins-tune")
    assert "bins-tune: no trial is completed" in line


def test_a_search_for_other_hyperparameters_is_one_line(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = {**tuning_account.TRIALS[0], "TunedHyperParameters": {"lr": "0.1"}}
    tuning_account.tuning_job_at(account, monkeypatch, [others])
    line = error_of(capsys, "--dry_run", "--from_tuning_job", "bins-tune")
    assert "bins-tune is no search of tune.py" in line


def test_an_unknown_search_is_one_line(
    tuned: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, "--dry_run", "--from_tuning_job", "bins-other")
    assert "bins-other: there is no such tuning job in us-east-1" in line
