"""Print the log of a SageMaker training job, from CloudWatch.

    python metrics/fetch_logs.py bins-vit-2026-11-21-10-00-00-000 --output vit.log
    python metrics/fetch_logs.py bins-vit-2026-11-21-10-00-00-000 --follow

The lines of several hosts come in the order of their time, with the host's name in front.
--follow goes on until the job has ended; then the exit code is 0 if it completed, else 1. Ctrl-C
ends the following, not the job.
"""

import contextlib
import heapq
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from strict_parser import StrictParser

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
ENDED = ("Completed", "Failed", "Stopped")
# CloudWatch allows a few dozen requests a second to the whole account.
RETRIES = Config(retries={"mode": "standard", "max_attempts": 10})
LONGEST_WAIT = 10.0  # seconds between two looks at a job that says nothing


class LogEvent(NamedTuple):
    """What a host wrote at one time: as a rule one line."""

    timestamp: int  # milliseconds
    host: str  # algo-1, algo-2, ...
    message: str


@dataclass
class JobLog:
    """The log streams of one job, each read on from where it was read last.

    Args:
        logs: a boto3 client of CloudWatch Logs.
        job: the training job's name.
    """

    logs: Any
    job: str
    tokens: dict[str, str | None] = field(default_factory=dict)  # of each stream, to read on

    def new_events(self) -> Iterator[LogEvent]:
        """Yield what came since the last call, in order of time."""
        for name in self._stream_names():
            # Hosts start at their own time, and a spot instance that comes back has a new stream.
            self.tokens.setdefault(name, None)
        return heapq.merge(*map(self._unread, sorted(self.tokens)), key=lambda e: e.timestamp)

    def _stream_names(self) -> Iterator[str]:
        pages = self.logs.get_paginator("describe_log_streams").paginate(
            logGroupName=LOG_GROUP, logStreamNamePrefix=f"{self.job}/"
        )
        try:
            for page in pages:
                yield from (stream["logStreamName"] for stream in page["logStreams"])
        except self.logs.exceptions.ResourceNotFoundException:
            return  # the account's first job, before its first line

    def _unread(self, stream: str) -> Iterator[LogEvent]:
        # JOB/algo-1-1763719200
        host = stream.removeprefix(f"{self.job}/").rpartition("-")[0]
        while True:
            token = self.tokens[stream]
            page = self.logs.get_log_events(
                logGroupName=LOG_GROUP,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            for event in page["events"]:
                yield LogEvent(event["timestamp"], host, event["message"])
            self.tokens[stream] = page["nextForwardToken"]
            # A page may be empty in mid-stream; at the end the token comes back as it was sent.
            if page["nextForwardToken"] == token:
                return


def write_events(events: Iterator[LogEvent], with_host: bool, output: TextIO) -> int:
    """Write events as lines, each with its host in front if asked for; return their number."""
    num_events = 0
    for event in events:
        num_events += 1
        for line in event.message.removesuffix("\n").split("\n"):
            print(f"{event.host} | {line}" if with_host else line, file=output)
    output.flush()
    return num_events


def describe_job(sagemaker: Any, job: str) -> dict[str, Any]:
    """Return what AWS says of a training job. Raises: ValueError: there is no such job."""
    try:
        return sagemaker.describe_training_job(TrainingJobName=job)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        raise ValueError(
            f"{job}: no such training job in {sagemaker.meta.region_name}; "
            "`python sagemaker_jobs/job_report.py list` names those that there are."
        ) from error


def fetch(session: boto3.Session, job: str, follow: bool, output: TextIO) -> dict[str, Any]:
    """Write a job's log, with `follow` until the job has ended, and return its last description.

    Raises: ValueError: there is no such job.
    """
    sagemaker = session.client("sagemaker", config=RETRIES)
    job_log = JobLog(session.client("logs", config=RETRIES), job)
    wait = 1.0
    while True:
        # Before the lines are read: those that were written last are read after the end.
        description = describe_job(sagemaker, job)
        with_host = description["ResourceConfig"].get("InstanceCount", 1) > 1
        num_events = write_events(job_log.new_events(), with_host, output)
        has_ended = description["TrainingJobStatus"] in ENDED
        if not follow or (has_ended and num_events == 0):
            return description
        wait = 1.0 if num_events else min(2 * wait, LONGEST_WAIT)
        time.sleep(wait)


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Open a file, which gets its name when all is written, or standard output."""
    if path is None:
        yield sys.stdout
        return
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("w") as output:
        try:
            yield output
        except BaseException:
            if output.tell():
                print(f"\nThe lines until here are in {temporary}.", file=sys.stderr)
            else:
                temporary.unlink()
            raise
    os.replace(temporary, path)


def main(argv: list[str] | None = None) -> int:
    """Print the log and return the exit code."""
    parser = StrictParser(__doc__)
    parser.add_argument("job", metavar="JOB", help="name of a training job")
    parser.add_argument(
        "--region", help="default: AWS_REGION, AWS_DEFAULT_REGION, else the profile's"
    )
    parser.add_argument("--follow", action="store_true", help="go on until the job has ended")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    arguments = parser.parse_args(argv)
    try:
        # boto3 does not read AWS_REGION, which AWS's other tools do.
        region = arguments.region or os.environ.get("AWS_REGION")
        session = boto3.Session(region_name=region or None)
        with opened(arguments.output) as output:
            description = fetch(session, arguments.job, arguments.follow, output)
    except KeyboardInterrupt:
        print(
            f"\n{arguments.job} is not touched: if it is running, it goes on. To stop it: "
            f"python sagemaker_jobs/job_report.py stop {arguments.job}",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except NoCredentialsError:
        parser.error("no AWS credentials: run `aws configure`, or set AWS_PROFILE.")
    except NoRegionError:
        parser.error("no AWS region: give --region, or set AWS_REGION.")
    except ClientError as error:
        details = error.response["Error"]
        parser.error(
            f"AWS refused {error.operation_name}: {details['Message']} ({details['Code']})"
        )
    except (BotoCoreError, ValueError, OSError) as error:
        parser.error(str(error))
    status = description["TrainingJobStatus"]
    if not arguments.follow or status == "Completed":
        return 0
    # A job that took all of its time is stopped too, and the second status says so.
    reason = description.get("FailureReason") or description.get("SecondaryStatus", "")
    print(f"{arguments.job}: {status}: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
