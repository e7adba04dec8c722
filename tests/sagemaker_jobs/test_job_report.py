import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import job_report
from paths import ROOT
from stand_ins.aws_server import AwsServer

ENTRY = [sys.executable, str(ROOT / "sagemaker_jobs/job_report.py")]
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
SPOT = {
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
    "CheckpointConfig": {"S3Uri": "s3://bins/checkpoints/bins-spot/"},
}
RESOURCES = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}


def reported(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ENTRY, *arguments], env=dict(os.environ), capture_output=True, text=True
    )


def metrics(**values: float) -> list[dict[str, Any]]:
    return [{"MetricName": name, "Value": v, "Timestamp": 1.7e9} for name, v in values.items()]


def finished(aws: AwsServer, name: str, training: int, billable: int, **request: Any) -> Any:
    """Make a job that took some wall-clock seconds."""
    record = aws.make_training_job(name, **request)
    record.training_time_in_seconds, record.billable_time_in_seconds = training, billable
    record.final_metric_data_list = metrics(test_accuracy=0.525)
    return record


def put_line(aws: AwsServer, job: str, line: str) -> None:
    logs = aws.client("logs")
    stream = {"logGroupName": LOG_GROUP, "logStreamName": f"{job}/algo-1-1700000000"}
    logs.create_log_group(logGroupName=LOG_GROUP)
    logs.create_log_stream(**stream)
    event = {"timestamp": int(1000 * time.time()), "message": line}
    logs.put_log_events(**stream, logEvents=[event])


def test_jobs_of_this_project_are_listed(aws: AwsServer) -> None:
    for number in range(120):  # a page has a hundred at most
        aws.make_training_job(f"bins-{number:03}")
    aws.make_training_job("somebody-elses")
    aws.training_job("bins-007").training_job_status = "Failed"
    names = [line.split()[-1] for line in reported("list").stdout.splitlines()]
    assert sorted(names) == [f"bins-{number:03}" for number in range(120)]
    (failed,) = reported("list", "--status", "Failed").stdout.splitlines()
    assert failed.endswith("Failed      bins-007")
    assert reported("list", "--name_contains", "else").stdout.split()[-1] == "somebody-elses"
    assert aws.requests("ListTrainingJobs")[0]["SortOrder"] == "Descending"
    assert "NextToken" in aws.requests("ListTrainingJobs")[1]


def test_a_reader_that_has_seen_enough_of_the_list_is_no_error(aws: AwsServer) -> None:
    for number in range(200):
        aws.make_training_job(f"bins-{number:03}-{'long' * 12}")  # more than a buffer holds
    with subprocess.Popen(
        [*ENTRY, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_the_report_of_a_spot_job_has_the_figures_of_the_seeds(aws: AwsServer) -> None:
    finished(aws, "bins-spot", 1921, 714, **SPOT)
    result = reported("report", "bins-spot", "--price_per_hour", "1.41")
    assert result.stdout.splitlines() == [
        "bins-spot: Completed (1 x ml.g5.xlarge, spot)",
        "Training seconds: 1921",
        "Billable seconds: 714",
        "Managed spot savings: 62.8 %",
        "Cost: 0.28, at 1.41 an instance and hour",
        "test_accuracy: 0.525",
        "Model: s3://bins/output/bins-spot/output/model.tar.gz",
        "Output: s3://bins/output/bins-spot/output/output.tar.gz",
        "Checkpoints: s3://bins/checkpoints/bins-spot/",
        "Next: aws s3 cp s3://bins/output/bins-spot/output/model.tar.gz .",
    ], result.stderr
    assert result.returncode == 0


def test_the_report_of_a_failed_job_has_its_reason_and_no_model(aws: AwsServer) -> None:
    record = finished(aws, "bins-bad", 60, 60)
    record.training_job_status = "Failed"
    record.failure_reason = "AlgorithmError: ValueError: no photos"
    printed = reported("report", "bins-bad").stdout
    assert "Failure reason: AlgorithmError: ValueError: no photos\n" in printed
    assert "Model:" not in printed
    assert "Cost" not in printed
    assert "savings" not in printed


def test_the_report_of_a_running_job_says_that_its_bill_is_not_known(aws: AwsServer) -> None:
    record = aws.make_training_job("bins-now")
    record.training_job_status, record.secondary_status = "InProgress", "Training"
    lines = reported("report", "bins-now").stdout.splitlines()
    assert lines[0] == "bins-now: InProgress, Training (1 x ml.g5.xlarge, on demand)"
    assert lines[1] == "Billable seconds: not known before the end"
    assert lines[-1].endswith("job_report.py attach bins-now --region us-east-1")


def test_the_comparison_is_the_table_of_the_seeds(aws: AwsServer, tmp_path: Path) -> None:
    finished(aws, "bins-normal", 1881, 1881)
    finished(aws, "bins-spot", 1921, 714, **SPOT)
    two = finished(aws, "bins-two", 2997, 2997, ResourceConfig={**RESOURCES, "InstanceCount": 2})
    two.final_metric_data_list = metrics(test_accuracy=0.5, test_rmse=0.94)
    path = tmp_path / "jobs.csv"
    jobs = ["bins-normal", "bins-spot", "bins-two"]
    result = reported("compare", *jobs, "--price_per_hour", "3.6", "--output", str(path))
    assert (result.returncode, result.stdout, result.stderr) == (0, f"Table: {path}\n", "")
    with path.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["job"] for row in rows] == jobs
    assert [row["training_seconds"] for row in rows] == ["1881", "1921", "5994"]
    assert [row["billable_seconds"] for row in rows] == ["1881", "714", "5994"]
    assert [row["savings_percent"] for row in rows] == ["", "62.8", ""]
    assert [row["cost"] for row in rows] == ["1.881", "0.714", "5.994"]
    assert [row["spot"] for row in rows] == ["False", "True", "False"]
    assert [row["test_rmse"] for row in rows] == ["", "", "0.94"]
    assert reported("compare", *jobs).stdout.splitlines()[0] == path.read_text().splitlines()[0], (
        "the same table on standard output"
    )


def test_one_price_is_not_taken_for_several_instance_types(aws: AwsServer) -> None:
    aws.make_training_job("bins-a")
    aws.make_training_job("bins-b", ResourceConfig={**RESOURCES, "InstanceType": "ml.p3.2xlarge"})
    result = reported("compare", "bins-a", "bins-b", "--price_per_hour", "1")
    assert result.returncode == 2
    assert "ml.g5.xlarge, ml.p3.2xlarge" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_status_gives_awss_own_words(aws: AwsServer) -> None:
    record = aws.make_training_job("bins-now")
    record.training_job_status, record.secondary_status = "InProgress", "Starting"
    assert reported("status", "bins-now").stdout.splitlines() == [
        "bins-now: InProgress, Starting (1 x ml.g5.xlarge, on demand)",
        "Preparing the instances for training",
    ]


def test_stop_asks_aws_and_says_how_a_spot_job_goes_on(aws: AwsServer) -> None:
    record = aws.make_training_job("bins-spot", **SPOT)
    record.training_job_status = "InProgress"
    result = reported("stop", "bins-spot")
    assert result.returncode == 0, result.stderr
    assert "--checkpoints s3://bins/checkpoints/bins-spot/" in result.stdout
    assert aws.requests("StopTrainingJob") == [{"TrainingJobName": "bins-spot"}]
    assert record.training_job_status == "Stopping"


def test_a_job_that_has_ended_is_not_stopped(aws: AwsServer) -> None:
    aws.make_training_job("bins-done")
    result = reported("stop", "bins-done")
    assert result.stdout == "bins-done is Completed already: nothing is stopped.\n"
    assert aws.requests("StopTrainingJob") == []


@pytest.mark.parametrize(("status", "code"), [("Completed", 0), ("Failed", 1)])
def test_attach_prints_the_log_and_then_the_report(aws: AwsServer, status: str, code: int) -> None:
    record = finished(aws, "bins-a", 1921, 714, **SPOT)
    record.training_job_status = record.secondary_status = status
    put_line(aws, "bins-a", "the last line")
    result = reported("attach", "bins-a")
    assert result.returncode == code
    assert result.stdout.splitlines()[:2] == [
        "the last line",
        f"bins-a: {status} (1 x ml.g5.xlarge, spot)",
    ]


def test_logs_are_those_of_fetch_logs(aws: AwsServer) -> None:
    aws.make_training_job("bins-a")
    put_line(aws, "bins-a", "a line")
    result = reported("logs", "bins-a")
    assert (result.returncode, result.stdout) == (0, "a line\n")
    unknown = reported("logs", "bins-unknown", "--follow")
    assert unknown.returncode == 2
    assert len(unknown.stderr.splitlines()) == 1


def test_a_table_replaces_what_a_link_leads_to_and_not_the_link(
    aws: AwsServer, tmp_path: Path
) -> None:
    finished(aws, "bins-a", 100, 100)
    table, link = tmp_path / "table.csv", tmp_path / "link.csv"
    table.write_text("an older table")
    link.symlink_to(table)
    assert job_report.main(["compare", "bins-a", "--output", str(link)]) == 0
    assert link.is_symlink()
    assert table.read_text().startswith("job,status,")


def test_ctrl_c_while_attached_leaves_the_job_running(aws: AwsServer) -> None:
    aws.make_training_job("bins-a").training_job_status = "InProgress"
    put_line(aws, "bins-a", "a line")
    with subprocess.Popen(
        [*ENTRY, "attach", "bins-a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, which gets Ctrl-C as a terminal's does
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)
            printed, complaints = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert printed == ""
    assert "it goes on" in complaints
    assert "Traceback" not in complaints
    assert aws.requests("StopTrainingJob") == []


@pytest.mark.parametrize("verb", ["status", "report", "stop", "compare", "attach"])
def test_an_unknown_job_is_one_line_and_exit_code_2(aws: AwsServer, verb: str) -> None:
    result = reported(verb, "bins-unknown")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert re.search("no such training(, tuning or processing)? job in us-east-1", line)


def test_without_a_region_or_credentials_one_line_says_what_to_do(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "aws configure" in reported("list").stderr
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "give --region" in reported("list").stderr


def test_help_needs_nothing() -> None:
    for arguments in (["--help"], ["report", "--help"]):
        result = subprocess.run(
            [*ENTRY, *arguments], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
        )
        assert result.returncode == 0
        assert "--price_per_hour" in result.stdout
