import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from moto.sagemaker.models import sagemaker_backends

import fetch_logs
import parse_logs
from paths import ROOT
from stand_ins.aws_server import ACCOUNT, REGION, AwsServer

ENTRY = [sys.executable, str(ROOT / "metrics/fetch_logs.py")]
JOB = "bins-vit-2026-11-21-10-00-00-000"
# CloudWatch refuses events of long ago.
START = 1000 * int(time.time() - 60)
TWO_HOSTS = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}


def put_lines(
    aws: AwsServer,
    stream: str,
    lines: list[tuple[int, str]],
    job: str = JOB,
    group: str = fetch_logs.LOG_GROUP,
) -> None:
    """Write (milliseconds after the start, message) pairs into a stream of a job."""
    logs = aws.client("logs")
    names = {"logGroupName": group, "logStreamName": f"{job}/{stream}"}
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=group)
    with suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_stream(**names)
    logs.put_log_events(
        **names, logEvents=[{"timestamp": START + after, "message": text} for after, text in lines]
    )


def fetched(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ENTRY, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )


@contextmanager
def following(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*ENTRY, *arguments, "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts this in the background would have it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_all_pages_of_a_log_are_printed_in_order(aws: AwsServer) -> None:
    aws.make_training_job(JOB)
    lines = [f"step {number}" for number in range(21_000)]  # a page has 10,000 at most
    for first in range(0, len(lines), 7_000):
        chunk = lines[first : first + 7_000]
        put_lines(aws, "algo-1-1700000000", [(first + n, line) for n, line in enumerate(chunk)])
    aws.make_training_job(f"{JOB}-other")
    put_lines(aws, "algo-1-1700000000", [(0, "not this one's")], job=f"{JOB}-other")
    result = fetched(JOB)
    assert result.stdout.splitlines() == lines, result.stderr
    assert result.returncode == 0
    tokens = [request.get("nextToken") for request in aws.requests("GetLogEvents")]
    assert len(tokens) == len(set(tokens)) == 4


def test_lines_of_two_hosts_come_in_order_of_time_with_the_hosts_names(aws: AwsServer) -> None:
    aws.make_training_job(JOB, ResourceConfig=TWO_HOSTS)
    put_lines(aws, "algo-1-1700000001", [(0, "first"), (20, "third\nfourth")])
    put_lines(aws, "algo-2-1700000000", [(10, "second"), (30, "fifth")])
    assert fetched(JOB).stdout.splitlines() == [
        *("algo-1 | first", "algo-2 | second", "algo-1 | third", "algo-1 | fourth"),
        "algo-2 | fifth",
    ]


def test_a_log_is_whole_although_aws_asks_for_patience(aws: AwsServer) -> None:
    aws.make_training_job(JOB)
    put_lines(aws, "algo-1-1700000000", [(0, "first"), (10, "second")])
    aws.throttled |= {"DescribeTrainingJob": 1, "DescribeLogStreams": 1, "GetLogEvents": 2}
    result = fetched(JOB)
    assert (result.returncode, result.stdout) == (0, "first\nsecond\n"), result.stderr
    assert set(aws.throttled.values()) == {0}


def make_tuning_job(aws: AwsServer, name: str) -> Any:
    """Make a tuning job and return the server's record, whose state can be set."""
    limits = {"MaxNumberOfTrainingJobs": 20, "MaxParallelTrainingJobs": 2}
    aws.client("sagemaker").create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig={"Strategy": "Bayesian", "ResourceLimits": limits},
    )
    return sagemaker_backends[ACCOUNT][REGION].hyper_parameter_tuning_jobs[name]


def test_lines_of_all_trials_of_a_tuning_job_come_with_the_trials_names(aws: AwsServer) -> None:
    make_tuning_job(aws, "bins-search")
    for trial in range(60):  # a page lists 50 streams at most
        name = f"bins-search-{trial:03}-0a1b2c3d"
        put_lines(aws, "algo-1-1700000000", [(trial, f"step {trial}")], job=name)
    put_lines(aws, "algo-1-1700000000", [(0, "not its own")], job="bins-search-vit-2026")
    put_lines(aws, "algo-1-1700000000", [(0, "nor this")], job="bins-search-2-001-0a1b2c3d")
    result = fetched("bins-search")
    assert result.stdout.splitlines() == [
        f"bins-search-{trial:03}-0a1b2c3d/algo-1 | step {trial}" for trial in range(60)
    ], result.stderr


def test_following_a_tuning_job_sees_new_trials_until_it_has_ended(aws: AwsServer) -> None:
    record = make_tuning_job(aws, "bins-search")
    record.hyper_parameter_tuning_job_status = "InProgress"
    first, second = (f"bins-search-{trial:03}-0a1b2c3d" for trial in (1, 2))
    aws.make_training_job(first)  # it has ended
    aws.make_training_job(second).training_job_status = "InProgress"
    put_lines(aws, "algo-1-1700000000", [(0, "before")], job=first)
    with following("bins-search") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{first}/algo-1 | before\n"
        put_lines(aws, "algo-1-1700000000", [(10, "meanwhile")], job=second)
        assert process.stdout.readline() == f"{second}/algo-1 | meanwhile\n"
        record.hyper_parameter_tuning_job_status = "Stopped"
        _, complaints = process.communicate()
    assert process.returncode == 1
    assert complaints == "bins-search: Stopped: \n"
    # Its page, its end, and once more after it was known to have ended.
    assert num_reads(aws, f"{first}/algo-1-1700000000") == 3
    assert num_reads(aws, f"{second}/algo-1-1700000000") >= 3


def num_reads(aws: AwsServer, stream: str) -> int:
    """Return how often a stream was asked for its events."""
    return [request["logStreamName"] for request in aws.requests("GetLogEvents")].count(stream)


def test_the_stream_before_an_interruption_is_read_to_its_end_and_then_left_alone(
    aws: AwsServer,
) -> None:
    log = fetch_logs.JobLog(aws.client("logs"), JOB, "training")
    put_lines(aws, "algo-1-1700000000", [(0, "before")])
    assert [event.message for event in log.new_events()] == ["before"]
    put_lines(aws, "algo-1-1700000000", [(10, "the last words")])
    put_lines(aws, "algo-1-1700009999", [(20, "after")])
    put_lines(aws, "algo-2-1700000000", [(30, "of another host")])
    messages = [event.message for event in log.new_events()]
    assert messages == ["the last words", "after", "of another host"]
    for _ in range(3):
        assert list(log.new_events()) == []
    assert num_reads(aws, f"{JOB}/algo-1-1700000000") == 5
    assert num_reads(aws, f"{JOB}/algo-2-1700000000") == 5
    put_lines(aws, "algo-2-1700000000", [(40, "it is not over")])
    assert [event.message for event in log.new_events()] == ["it is not over"]


def test_a_silent_day_costs_no_line_and_repeats_none(aws: AwsServer) -> None:
    log = fetch_logs.JobLog(aws.client("logs"), JOB, "training")
    stream = "algo-1-1700000000"
    put_lines(aws, stream, [(0, "first"), (10, "second"), (10, "third")])
    assert len(list(log.new_events())) == 3
    for messages in (["fourth", "fifth"], ["sixth"]):
        log.places[f"{JOB}/{stream}"].token = "expired"  # CloudWatch keeps one for 24 hours
        put_lines(aws, stream, [(10, message) for message in messages])
        assert [event.message for event in log.new_events()] == messages


def test_times_stand_before_the_lines_if_asked_for_and_are_read_back(
    aws: AwsServer, tmp_path: Path
) -> None:
    aws.make_training_job(JOB, ResourceConfig=TWO_HOSTS)
    put_lines(aws, "algo-2-1700000000", [(7, "metrics split=train step=1 epoch=1 loss=1.5\nend")])
    log, table = tmp_path / "vit.log", tmp_path / "metrics.csv"
    result = fetched(JOB, "--timestamps", "--output", str(log))
    time, _, message = log.read_text().splitlines()[1].partition(" ")
    assert message == "algo-2 | end", result.stderr
    assert datetime.fromisoformat(time).timestamp() == (START + 7) / 1000
    parse_logs.main([str(log), "--output", str(table)])
    assert table.read_text().splitlines()[1] == f"vit,algo-2,{time},1,1,train,loss,1.5"


def test_a_local_log_is_printed_without_aws(tmp_path: Path) -> None:
    log = tmp_path / "vit.log"
    log.write_text("first\nsecond\n")
    bare = {name: "" for name in os.environ if name.startswith("AWS_")}
    assert fetched(str(log), **bare).stdout == "first\nsecond\n"
    fetched(str(log), "--output", str(tmp_path / "copy.log"))
    assert (tmp_path / "copy.log").read_text() == "first\nsecond\n"
    log.write_bytes(gzip.compress("first\nsecond\n".encode("utf-16")))
    assert fetched(str(log), **bare).stdout == "first\nsecond\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["vit.log"], "No such file"),
        (["./vit", "--follow"], "need a job's name"),
        (["runs/vit.log", "--timestamps"], "need a job's name"),
    ],
)
def test_a_path_that_cannot_be_printed_is_one_line(arguments: list[str], told: str) -> None:
    result = fetched(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert told in line


def test_following_prints_what_comes_until_a_spot_job_has_ended(aws: AwsServer) -> None:
    record = aws.make_training_job(JOB)
    record.training_job_status = "InProgress"
    put_lines(aws, "algo-1-1700000000", [(0, "before")])
    with following(JOB) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        put_lines(aws, "algo-1-1700000000", [(10, "meanwhile")])
        assert process.stdout.readline() == "meanwhile\n"
        put_lines(aws, "algo-1-1700009999", [(20, "after an interruption")])
        record.training_job_status = "Completed"
        printed, complaints = process.communicate()
        assert (printed, complaints) == ("after an interruption\n", "")
        assert process.returncode == 0


def test_following_a_job_that_fails_gives_its_reason_and_exit_code_1(
    aws: AwsServer, tmp_path: Path
) -> None:
    record = aws.make_training_job(JOB)
    record.training_job_status = "Failed"
    record.failure_reason = "AlgorithmError: ValueError: no photos"
    put_lines(aws, "algo-1-1700000000", [(0, "ValueError: no photos")])
    result = fetched(JOB, "--follow", "--output", str(tmp_path / "job.log"))
    assert result.returncode == 1
    assert result.stderr == f"{JOB}: Failed: AlgorithmError: ValueError: no photos\n"
    assert (tmp_path / "job.log").read_text() == "ValueError: no photos\n"
    assert [path.name for path in tmp_path.iterdir()] == ["job.log"]


def test_a_job_that_was_stopped_for_its_time_did_not_complete(aws: AwsServer) -> None:
    record = aws.make_training_job(JOB)
    record.training_job_status, record.secondary_status = "Stopped", "MaxRuntimeExceeded"
    result = fetched(JOB, "--follow")
    assert result.returncode == 1
    assert "MaxRuntimeExceeded" in result.stderr


def test_ctrl_c_while_following_leaves_the_job_running(aws: AwsServer, tmp_path: Path) -> None:
    record = aws.make_training_job(JOB)
    record.training_job_status = "InProgress"
    put_lines(aws, "algo-1-1700000000", [(0, "before")])
    with following(JOB) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate()
    assert process.returncode == 130
    assert complaints.startswith(f"\n{JOB} is not touched: if it is running, it goes on.")
    assert complaints.endswith(f"job_report.py stop {JOB}\n")
    assert record.training_job_status == "InProgress"
    assert aws.requests("StopTrainingJob") == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_came_before_the_end_is_kept_in_the_file(
    ending: signal.Signals, aws: AwsServer, tmp_path: Path
) -> None:
    aws.make_training_job(JOB).training_job_status = "InProgress"
    put_lines(aws, "algo-1-1700000000", [(0, "before")])
    part, kept = tmp_path / "job.log.part", tmp_path / "job.log.cut_off"
    with following(JOB, "--output", str(tmp_path / "job.log")) as process:
        while not (part.exists() and part.read_text()):
            time.sleep(0.01)
        process.send_signal(ending)
        _, complaints = process.communicate()
    assert process.returncode == 128 + ending
    assert str(kept) in complaints
    assert kept.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_processing_job_has_a_log_group_of_its_own_and_two_reasons(aws: AwsServer) -> None:
    aws.client("sagemaker").create_processing_job(
        ProcessingJobName=JOB,
        ProcessingResources={"ClusterConfig": TWO_HOSTS},
        AppSpecification={"ImageUri": "image"},
        RoleArn=f"arn:aws:iam::{ACCOUNT}:role/data",
    )
    put_lines(aws, "algo-1-1700000000", [(0, "of another job of this name")])
    group = fetch_logs.PROCESSING_LOG_GROUP
    put_lines(aws, "algo-1-1700000000", [(20, "second")], group=group)
    put_lines(aws, "algo-2-1700000000", [(10, "first")], group=group)
    record = aws.processing_job(JOB)
    record.processing_job_status = "Failed"
    record.failure_reason, record.exit_message = "AlgorithmError: exit code: 1", "disk full"
    result = fetched(JOB, "--follow")
    assert result.stdout == "algo-2 | first\nalgo-1 | second\n"
    assert result.stderr == f"{JOB}: Failed: AlgorithmError: exit code: 1; disk full\n"
    assert result.returncode == 1


def test_a_job_without_a_line_yet_prints_nothing(aws: AwsServer) -> None:
    aws.make_training_job(JOB)
    result = fetched(JOB)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_of_the_environment_counts(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    result = fetched(JOB, **{variable: "eu-west-1"})
    assert "no such training, tuning or processing job in eu-west-1" in result.stderr
    result = fetched(JOB, "--region", "eu-north-1", **{variable: "eu-west-1"})
    assert "no such training, tuning or processing job in eu-north-1" in result.stderr


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("", "job_report.py list"),
        ("AWS_DEFAULT_REGION", "give --region"),
        ("AWS_ACCESS_KEY_ID", "aws configure"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, absent: str, told: str
) -> None:
    monkeypatch.delenv(absent, raising=False)
    result = fetched(JOB, "--output", str(tmp_path / "job.log"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert told in line
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error(aws: AwsServer) -> None:
    aws.make_training_job(JOB)
    put_lines(aws, "algo-1-1700000000", [(n, "x" * 1000) for n in range(1000)])
    with subprocess.Popen(
        [*ENTRY, JOB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
