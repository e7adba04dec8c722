"""A search on AWS: the request is read where it arrives, at a real HTTP server."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tune
from jobs.search_space import SPACES
from launches import DATASET
from launching.train_flags import flags_as_hyperparameters
from paths import ROOT
from stand_ins import tuning_account
from stand_ins.aws_server import AwsServer
from tune import main
from tuning.flags import (
    hyperparameters_of_all_trials,
    make_parser,
    recipe_named,
    space_of,
    tuning_job,
)

TUNE = str(ROOT / "sagemaker_jobs" / "tune.py")
RUN = ["--dataset", DATASET, "--role", "jobs", "--job_name", "bins-tune"]


def error_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main([*flags])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def shown(*flags: str) -> dict:
    """Return the request that --dry_run prints, without train.py's check of the flags."""
    argv = ["--dry_run", *flags]
    recipe = tune.RECIPES[recipe_named(argv)]
    arguments, train_flags = make_parser(None, recipe).parse_known_args(argv)
    space = space_of(arguments)
    shared = hyperparameters_of_all_trials(
        recipe, flags_as_hyperparameters(train_flags), space, arguments.objective
    )
    job = tuning_job(arguments, recipe, space, shared)
    return tune.dry_run(job, arguments.region, arguments.role)


def ranges_of(request: dict) -> dict[str, list[str]]:
    ranges = request["HyperParameterTuningJobConfig"]["ParameterRanges"]
    found = {
        one["Name"]: [one["MinValue"], one["MaxValue"], one["ScalingType"]]
        for kind in ("ContinuousParameterRanges", "IntegerParameterRanges")
        for one in ranges[kind]
    }
    return found | {one["Name"]: one["Values"] for one in ranges["CategoricalParameterRanges"]}


@pytest.mark.parametrize("recipe", ["vit", "resnet34"])
def test_a_dry_run_needs_nothing_but_the_command(recipe: str) -> None:
    result = subprocess.run(
        [sys.executable, TUNE, "--recipe", recipe, "--dry_run", "--price_per_hour", "2"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    request = json.loads(result.stdout)
    assert request["HyperParameterTuningJobName"].startswith(f"bins-{recipe}-")
    assert len(request["HyperParameterTuningJobName"]) <= 32
    # 20 trials of 24 hours.
    assert "all trials cost at most 960.00" in result.stderr
    assert len(result.stderr.splitlines()) == 5


def test_help_needs_nothing() -> None:
    result = subprocess.run(
        [sys.executable, TUNE, "--help"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "--learning_rate_range LOW HIGH" in result.stdout


def test_help_needs_nothing_that_windows_lacks() -> None:
    without = (
        "import runpy, signal, sys; sys.modules['fcntl'] = None; del signal.SIGHUP\n"
        f"sys.path.insert(0, {str(ROOT / 'sagemaker_jobs')!r}); import tuning.local_search\n"
        f"sys.argv = ['tune.py', '--help']; runpy.run_path({TUNE!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_ranges_suit_the_recipe() -> None:
    assert ranges_of(shown()) == {
        "learning_rate": ["0.0001", "0.001", "Logarithmic"],
        "per_device_train_batch_size": ['"32"', '"64"', '"128"'],
        "num_train_epochs": ["2", "6", "Auto"],
    }
    resnet = ranges_of(shown("--recipe", "resnet34"))
    assert resnet["learning_rate"] == ["0.001", "0.1", "Logarithmic"]


def test_the_flags_of_a_search_reach_the_request() -> None:
    request = shown(
        *("--learning_rate_range", "2e-5", "3e-4", "--batch_sizes", "16", "--epochs_range"),
        *("1", "3", "--objective", "eval_accuracy", "--max_jobs", "8", "--max_parallel_jobs", "4"),
        *("--no_early_stopping", "--weight_decay", "0.05"),
    )
    config = request["HyperParameterTuningJobConfig"]
    assert ranges_of(request) == {
        "learning_rate": ["2e-05", "0.0003", "Logarithmic"],
        "per_device_train_batch_size": ['"16"'],
        "num_train_epochs": ["1", "3", "Auto"],
    }
    assert config["HyperParameterTuningJobObjective"] == {
        "Type": "Maximize",
        "MetricName": "eval_accuracy",
    }
    assert config["ResourceLimits"] == {
        "MaxNumberOfTrainingJobs": 8,
        "MaxParallelTrainingJobs": 4,
    }
    assert config["TrainingJobEarlyStoppingType"] == "Off"
    static = request["TrainingJobDefinition"]["StaticHyperParameters"]
    assert static["weight_decay"] == '"0.05"'
    assert static["metric_for_best_model"] == '"eval_accuracy"'


def test_an_error_is_made_small_and_trials_stop_early() -> None:
    config = shown("--objective", "eval_rmse")["HyperParameterTuningJobConfig"]
    assert config["HyperParameterTuningJobObjective"]["Type"] == "Minimize"
    assert config["TrainingJobEarlyStoppingType"] == "Auto"


def test_no_trial_sees_the_test_split_nor_the_checkpoints_of_another() -> None:
    for flags in ([], ["--spot"]):
        definition = shown(*flags)["TrainingJobDefinition"]
        static = definition["StaticHyperParameters"]
        assert static["do_predict"] == "false"
        assert not {"output_dir", "bf16"} & static.keys()
        assert "CheckpointConfig" not in definition
    assert definition["EnableManagedSpotTraining"]


def test_what_an_account_demands_holds_for_the_search_and_its_trials() -> None:
    request = shown(
        *("--tags", "team=bins", "--subnets", "subnet-1", "--security_group_ids", "sg-1"),
        *("--kms_key", "out", "--volume_kms_key", "disk", "--instance_type", "ml.c7i.4xlarge"),
        *("--volume_gb", "90"),
    )
    assert request["Tags"] == [{"Key": "team", "Value": "bins"}]
    definition = request["TrainingJobDefinition"]
    assert definition["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert definition["OutputDataConfig"]["KmsKeyId"] == "out"
    # As version 2 of the SDK calls them, or version 3.
    resources = definition.get("HyperParameterTuningResourceConfig") or definition["ResourceConfig"]
    assert (resources["VolumeKmsKeyId"], resources["VolumeSizeInGB"]) == ("disk", 90)


def test_every_recipe_has_a_space() -> None:
    assert tune.RECIPES.keys() == SPACES.keys()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--spot", "--max_run", "3600", "--max_wait", "7200"],
        ["--warm_start_from", "bins-first", "--instance_count", "2"],
    ],
    ids=["plain", "spot", "warm start"],
)
def test_what_arrives_is_what_the_dry_run_printed(
    flags: list[str],
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arn = account.client("iam").get_role(RoleName="jobs")["Role"]["Arn"]
    account.received.clear()
    printed = shown(*RUN, "--role", arn, *flags)
    assert not account.received
    if "--warm_start_from" in flags:
        sagemaker = account.client("sagemaker")
        sagemaker.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName="bins-first",
            HyperParameterTuningJobConfig={
                "Strategy": "Bayesian",
                "ResourceLimits": {"MaxParallelTrainingJobs": 1},
            },
        )
        account.received.clear()
    main([*RUN, *flags])
    (arrived,) = account.requests("CreateHyperParameterTuningJob")
    assert arrived == printed
    output = capsys.readouterr()
    assert output.out == "bins-tune\n"
    assert "tune.py --report bins-tune --region us-east-1" in output.err


def test_a_warm_start_knows_the_first_search_and_does_not_repeat_it() -> None:
    first = shown("--job_name", "bins-first")
    again = shown("--job_name", "bins-second", "--warm_start_from", "bins-first")
    assert again["WarmStartConfig"] == {
        "WarmStartType": "IdenticalDataAndAlgorithm",
        "ParentHyperParameterTuningJobs": [{"HyperParameterTuningJobName": "bins-first"}],
    }
    seeds = [one["HyperParameterTuningJobConfig"]["RandomSeed"] for one in (first, again)]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective", "test_loss"], "--objective: invalid choice: 'test_loss'"),
        (["--objective", "loss"], "--objective: invalid choice: 'loss'"),
        (["--learning_rate_range", "1e-3", "1e-4"], "--learning_rate_range 0.001 0.0001: give"),
        (["--learning_rate_range", "0", "1e-4"], "give a lowest rate above 0"),
        (["--learning_rate_range", "1e-4"], "--learning_rate_range: expected 2 arguments"),
        (["--learning_rate_range", "1e-4", "nan"], "--learning_rate_range 0.0001 nan: give"),
        (["--epochs_range", "3", "3"], "--epochs_range 3 3: give"),
        (["--batch_sizes", "32", "32"], "--batch_sizes 32 32: give different"),
        (
            ["--batch_sizes", *map(str, range(1, 32))],
            "error: --batch_sizes 31 values: AWS takes 30 values at most.",
        ),
        (["--batch_sizes"], "--batch_sizes: expected at least one argument"),
        (["--max_jobs", "0"], "--max_jobs: invalid whole number above 0"),
        (["--max_jobs", "2", "--max_parallel_jobs", "3"], "--max_parallel_jobs 3 is more than"),
        (["--job_name", "bins-" + "a" * 28], "has at most 32 characters"),
        (["--job_name", "tune"], "write bins-NAME"),
        (["--recipe", "vgg"], "--recipe: invalid choice: 'vgg'"),
        (["--learning_rate", "1e-4"], "--learning_rate is searched: give its range"),
        (["--do_predict"], "--do_predict: a search must not see the test split"),
        (
            ["--push_to_hub", "--hub_model_id", "a/b", "--hub_token_secret", "arn"],
            "all trials would push to one repository",
        ),
        (["--keep_alive", "60"], "unrecognized arguments: --keep_alive"),
        (["--local"], "--local: give --dataset"),
        (["--local", "--dataset", "here", "--spot"], "--local and --spot exclude"),
        (["--local", "--dataset", "here", "--kms_key", "k"], "--local and --kms_key exclude"),
        (["--local", "--dataset", "here", "--warm_start_from", "a"], "with more --max_jobs"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    local = "--local" in flags
    line = error_of(capsys, *flags, *([] if local else ["--dry_run"]))
    assert message in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (RUN, "bins-tune: there is such a tuning job already"),
        ([*RUN[:-1], "bins-2", "--warm_start_from", "bins-x"], "bins-x: there is no such tuning"),
        ([*RUN[:-1], "bins-2", "--warm_start_from", "bins-tune"], "bins-tune: it still runs"),
        (["--report", "bins-x"], "bins-x: there is no such tuning job in us-east-1"),
        ([], "give --dataset s3://BUCKET/FOLDER"),
    ],
)
def test_what_does_not_fit_the_account_is_one_line_and_nothing_is_sent(
    flags: list[str],
    message: str,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuning_account.tuning_job_at(account, monkeypatch, [])
    record = tuning_account.all_tuning_jobs()["bins-tune"]
    record.hyper_parameter_tuning_job_status = "InProgress"
    account.received.clear()
    assert message in error_of(capsys, *flags)
    assert "CreateHyperParameterTuningJob" not in account.operations()
    assert not [r for r in account.received if r.method == "PUT"]


def test_the_report_has_every_trial_and_the_command_that_trains_with_the_best(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS)
    with pytest.raises(SystemExit) as exit_info:
        main(["--report", "bins-tune", "--output_dir", str(tmp_path)])
    assert exit_info.value.code == 0
    output = capsys.readouterr()
    assert output.out == (
        "python sagemaker_jobs/vit.py --dataset s3://photos/bins --from_tuning_job bins-tune "
        "--region us-east-1\n"
    )
    assert "Best: bins-tune-002-0a1b2c3d, eval_loss=1.2, learning_rate=5.25e-05" in output.err
    with (tmp_path / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["eval_loss"] for row in rows] == ["1.5", "1.2", "1.1", ""]
    assert (tmp_path / "trials.png").stat().st_size > 10_000


def test_the_command_names_a_model_that_is_no_recipes(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for model, entry, more in (
        ("microsoft/resnet-34", "resnet34.py", ""),
        ("facebook/dino-vitb16", "vit.py", " --model_name_or_path facebook/dino-vitb16"),
    ):
        account.reset()
        static = {**tuning_account.STATIC, "model_name_or_path": json.dumps(model)}
        tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS, static)
        with pytest.raises(SystemExit):
            main(["--report", "bins-tune", "--output_dir", str(tmp_path)])
        command = capsys.readouterr().out
        assert f"sagemaker_jobs/{entry} " in command
        assert command.endswith(f"--region us-east-1{more}\n")


def test_if_every_trial_failed_the_report_says_why(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS[3:])
    with pytest.raises(SystemExit) as exit_info:
        main(["--report", "bins-tune", "--output_dir", str(tmp_path)])
    assert exit_info.value.code == 1
    assert "No trial has succeeded: AlgorithmError: out of memory" in capsys.readouterr().err


def test_wait_follows_to_the_end_and_reports(
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tuning_account.tuning_job_at(account, monkeypatch, tuning_account.TRIALS)
    del tuning_account.all_tuning_jobs()["bins-tune"]
    with pytest.raises(SystemExit) as exit_info:
        main([*RUN, "--wait", "--output_dir", str(tmp_path)])
    assert exit_info.value.code == 0
    output = capsys.readouterr()
    # moto's word for a job that it has just made.
    assert "bins-tune: Completed; trials: 1 Completed" in output.err
    assert output.out.splitlines()[0] == "bins-tune"
    assert "--from_tuning_job bins-tune" in output.out.splitlines()[1]
    assert (tmp_path / "trials.csv").exists()
