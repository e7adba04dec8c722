"""Print the log of a SageMaker training, tuning or processing job, from CloudWatch.

    python metrics/fetch_logs.py bins-vit-20261121-101500 --output vit.log
    python metrics/fetch_logs.py bins-vit-20261121-101500 --follow
    python metrics/fetch_logs.py bins-search --timestamps --output search.log

The lines of several hosts come in the order of their time, with the host's name in front, those of
a tuning job with the trial's and the host's; --timestamps puts the time before that. A log file on
this machine may be named instead of a job, as a path: it is printed.
--follow goes on until the job has ended; then the exit code is 0 if it completed, else 1. Ctrl-C
ends the following, not the job. parse_logs.py turns what is printed into a csv.
"""

import argparse
import contextlib
import heapq
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from log_files import opened_log
from strict_parser import StrictParser, exit_code_of
from whole_outputs import whole_file

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
PROCESSING_LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
# How AWS says that there is no job of a name, for one kind of job or another.
NOT_FOUND = ("ValidationException", "ResourceNotFound")
ENDED = ("Completed", "Failed", "Stopped")
# CloudWatch allows a few dozen requests a second to the whole account.
RETRIES = Config(retries={"mode": "standard", "max_attempts": 10})
LONGEST_WAIT = 10.0  # seconds between two looks at a job that says nothing
# What AWS calls the trials of a tuning job: its name, a number, something random.
TRIAL = r"-\d{3,}-[0-9a-f]{8}"


class LogEvent(NamedTuple):
    """What a host wrote at one time: as a rule one line."""

    timestamp: int  # milliseconds
    source: str  # algo-1, algo-2, ...; for a tuning job TRIAL/algo-1
    message: str


@dataclass(frozen=True)
class JobState:
    """What AWS says of a job now."""

    kind: str  # training, tuning or processing
    has_sources: bool  # whether its lines come from several hosts or trials
    status: str
    reason: str  # why it has that status

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass
class Place:
    """How far a log stream was read."""

    since: int = 0  # milliseconds: where the token counts from
    token: str | None = None  # to read on
    last: int = 0  # time of the last event, milliseconds
    num_last: int = 0  # events at that time
    num_known: int = 0  # events from `since` on that were read before


@dataclass
class JobLog:
    """The log streams of one job, each read on from where it was read last.

    Args:
        logs: a boto3 client of CloudWatch Logs.
        job: the job's name.
        kind: training, processing, or tuning, for the streams of its trials.
    """

    logs: Any
    job: str
    kind: str
    places: dict[str, Place] = field(default_factory=dict)  # by the stream's name
    finished: set[str] = field(default_factory=set)  # streams that will hold nothing more

    @property
    def group(self) -> str:
        return PROCESSING_LOG_GROUP if self.kind == "processing" else LOG_GROUP

    @property
    def writers(self) -> set[str]:
        """The names of the jobs whose streams are still read."""
        return {name.partition("/")[0] for name in self.places.keys() - self.finished}

    def new_events(self, ended: Collection[str] = ()) -> Iterator[LogEvent]:
        """Yield what came since the last call, in order of time.

        Args:
            ended: jobs that had ended before the call. A stream of theirs that gives nothing is
                not asked again, nor is one whose host has begun another.
        """
        for name in self._stream_names():
            # Hosts start at their own time, and a spot instance that comes back has a new stream.
            self.places.setdefault(name, Place())
        newest = {name.rpartition("-")[0]: name for name in sorted(self.places)}
        unread = []
        for name in sorted(self.places.keys() - self.finished):
            is_over = name.partition("/")[0] in ended or name not in newest.values()
            unread.append(self._unread(name, is_over))
        return heapq.merge(*unread, key=lambda event: event.timestamp)

    def _stream_names(self) -> Iterator[str]:
        is_tuning = self.kind == "tuning"
        prefix = f"{self.job}-" if is_tuning else f"{self.job}/"
        # Other jobs' names may begin as a tuning job's does.
        is_ours = re.compile(f"{re.escape(self.job)}{TRIAL if is_tuning else ''}/")
        pages = self.logs.get_paginator("describe_log_streams").paginate(
            logGroupName=self.group, logStreamNamePrefix=prefix
        )
        try:
            for page in pages:
                names = (stream["logStreamName"] for stream in page["logStreams"])
                yield from filter(is_ours.match, names)
        except self.logs.exceptions.ResourceNotFoundException:
            return  # the account's first job, before its first line

    def _unread(self, stream: str, is_over: bool) -> Iterator[LogEvent]:
        place = self.places[stream]
        # JOB/algo-1-1763719200
        source = stream.removeprefix(f"{self.job}/").rpartition("-")[0]
        num_events = 0
        while True:
            token = place.token
            try:
                page = self._page(stream, place)
            except self.logs.exceptions.InvalidParameterException:
                if token is None:
                    raise
                # A token is good for 24 hours, and a job may be silent for longer.
                place.since, place.token, place.num_known = place.last, None, place.num_last
                continue
            for event in page["events"]:
                if place.num_known:
                    place.num_known -= 1
                    continue
                time = event["timestamp"]
                place.num_last = place.num_last + 1 if time == place.last else 1
                place.last = time
                num_events += 1
                yield LogEvent(time, source, event["message"])
            place.token = page["nextForwardToken"]
            # A page may be empty in mid-stream; at the end the token comes back as it was sent.
            if place.token == token:
                break
        if is_over and not num_events:
            self.finished.add(stream)

    def _page(self, stream: str, place: Place) -> dict[str, Any]:
        return self.logs.get_log_events(
            logGroupName=self.group,
            logStreamName=stream,
            startTime=place.since,
            startFromHead=True,
            **({"nextToken": place.token} if place.token else {}),
        )


def write_events(
    events: Iterator[LogEvent], with_time: bool, with_source: bool, output: TextIO
) -> int:
    """Write events as lines, each with its time and source if asked for; return their number."""
    num_events = 0
    for event in events:
        num_events += 1
        front = f"{utc(event.timestamp)} " if with_time else ""
        if with_source:
            front += f"{event.source} | "
        for line in event.message.removesuffix("\n").split("\n"):
            print(f"{front}{line}", file=output)
    output.flush()
    return num_events


def utc(milliseconds: int) -> str:
    """Return a time such as 2026-11-21T10:00:00.123Z."""
    time = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def training_state(sagemaker: Any, job: str) -> JobState:
    """Return what AWS says of a training job."""
    training = sagemaker.describe_training_job(TrainingJobName=job)
    # A job that took all of its time is stopped too, and the second status says so.
    reason = training.get("FailureReason") or training.get("SecondaryStatus", "")
    num_hosts = training["ResourceConfig"].get("InstanceCount", 1)
    return JobState("training", num_hosts > 1, training["TrainingJobStatus"], reason)


def tuning_state(sagemaker: Any, job: str) -> JobState:
    """Return what AWS says of a tuning job."""
    tuning = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=job)
    reason = tuning.get("FailureReason", "")
    return JobState("tuning", True, tuning["HyperParameterTuningJobStatus"], reason)


def processing_state(sagemaker: Any, job: str) -> JobState:
    """Return what AWS says of a processing job."""
    processing = sagemaker.describe_processing_job(ProcessingJobName=job)
    # The second is what the container itself left to say.
    reasons = [processing[name] for name in ("FailureReason", "ExitMessage") if name in processing]
    num_hosts = processing["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
    status = processing["ProcessingJobStatus"]
    return JobState("processing", num_hosts > 1, status, "; ".join(reasons))


STATES: dict[str, Callable[[Any, str], JobState]] = {
    "training": training_state,
    "tuning": tuning_state,
    "processing": processing_state,
}


def find_job(sagemaker: Any, job: str) -> JobState:
    """Return what AWS says of a job of any kind. Raises: ValueError: there is none."""
    for state in STATES.values():
        try:
            return state(sagemaker, job)
        except ClientError as error:
            if error.response["Error"]["Code"] not in NOT_FOUND:
                raise
    raise ValueError(
        f"{job}: no such training, tuning or processing job in {sagemaker.meta.region_name}; "
        "`python sagemaker_jobs/job_report.py list` names the training jobs that there are."
    )


def fetch(
    session: boto3.Session, job: str, follow: bool, with_time: bool, output: TextIO
) -> JobState:
    """Write a job's log, with `follow` until the job has ended, and return its last state.

    Raises: ValueError: there is no such job.
    """
    sagemaker = session.client("sagemaker", config=RETRIES)
    state = find_job(sagemaker, job)
    job_log = JobLog(session.client("logs", config=RETRIES), job, state.kind)
    ended: set[str] = set()
    wait = 1.0
    while True:
        events = job_log.new_events(ended)
        num_events = write_events(events, with_time, state.has_sources, output)
        if not follow or (state.has_ended and num_events == 0):
            return state
        wait = 1.0 if num_events else min(2 * wait, LONGEST_WAIT)
        time.sleep(wait)
        # Before the lines are read: those that were written last are read after the end.
        state = STATES[state.kind](sagemaker, job)
        if state.kind == "tuning":
            ended |= {trial for trial in job_log.writers - ended if has_ended(sagemaker, trial)}


def has_ended(sagemaker: Any, trial: str) -> bool:
    """Say whether a training job has ended; one that AWS no longer knows has."""
    try:
        return training_state(sagemaker, trial).has_ended
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise
        return True


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Open a file, which gets its name when all is written; a device, or standard output.

    What was written to a file before an error is kept beside it.
    """
    if path is None or path == Path("/dev/stdout"):
        yield sys.stdout
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        with path.open("w", encoding="utf-8") as output:
            yield output
        return
    with whole_file(path) as temporary:
        try:
            with temporary.open("w", encoding="utf-8", newline="") as output:
                yield output
        except BaseException:
            if temporary.stat().st_size:
                kept = path.with_name(f"{path.name}.cut_off")
                shutil.move(temporary, kept)
                print(f"\nThe lines until here are in {kept}.", file=sys.stderr)
            raise


def main(argv: list[str] | None = None) -> int:
    """Print the log and return the exit code."""
    parser = StrictParser(__doc__)
    parser.add_argument(
        "job",
        metavar="JOB",
        help="name of a training, tuning or processing job, or a path such as ./vit.log",
    )
    parser.add_argument(
        "--region", help="default: AWS_REGION, AWS_DEFAULT_REGION, else the profile's"
    )
    parser.add_argument("--follow", action="store_true", help="go on until the job has ended")
    parser.add_argument(
        "--timestamps", action="store_true", help="put the time (UTC) before each line"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        # No job's name holds either sign.
        is_path = "/" in arguments.job or "." in arguments.job
        if is_path and (arguments.follow or arguments.timestamps):
            raise ValueError(
                f"--follow and --timestamps need a job's name; {arguments.job} is a path."
            )
        with opened(arguments.output) as output:
            if is_path:
                with opened_log(Path(arguments.job)) as log:
                    shutil.copyfileobj(log, output)
                return 0
            state = fetch_in_region(arguments, output)
    if not arguments.follow or state.status == "Completed":
        return 0
    print(f"{arguments.job}: {state.status}: {state.reason}", file=sys.stderr)
    return 1


def fetch_in_region(arguments: argparse.Namespace, output: TextIO) -> JobState:
    """Do what `fetch` does, and say of AWS's refusals what to do about them.

    Raises: ValueError: there is no such job, or AWS refuses.
    """
    # boto3 does not read AWS_REGION, which AWS's other tools do.
    region = arguments.region or os.environ.get("AWS_REGION")
    try:
        session = boto3.Session(region_name=region or None)
        return fetch(session, arguments.job, arguments.follow, arguments.timestamps, output)
    except KeyboardInterrupt as interrupt:
        print(
            f"\n{arguments.job} is not touched: if it is running, it goes on. To stop a training "
            f"job: python sagemaker_jobs/job_report.py stop {arguments.job}",
            file=sys.stderr,
        )
        sys.exit(exit_code_of(interrupt))
    except NoCredentialsError as error:
        raise ValueError("no AWS credentials: run `aws configure`, or set AWS_PROFILE.") from error
    except NoRegionError as error:
        raise ValueError("no AWS region: give --region, or set AWS_REGION.") from error
    except ClientError as error:
        details = error.response["Error"]
        raise ValueError(
            f"AWS refused {error.operation_name}: {details['Message']} ({details['Code']})"
        ) from error
    except BotoCoreError as error:
        raise ValueError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
