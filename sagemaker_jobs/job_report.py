"""List, watch, stop and account for training jobs.

    python sagemaker_jobs/job_report.py list
    python sagemaker_jobs/job_report.py attach JOB          # its log to the end, then the report
    python sagemaker_jobs/job_report.py report JOB --price_per_hour 1.41
    python sagemaker_jobs/job_report.py compare JOB JOB --output jobs.csv

`status`, `logs` and `stop` do what they say; each explains itself with --help. Seconds are those of
all instances together, as the SageMaker SDK prints them.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from aws.entry_parser import EntryParser, price
from aws.output_files import whole_file
from aws.settings import boto_session, find_region
from aws.started_jobs import ENDED, describe, fetch_logs

STATUSES = ("InProgress", "Completed", "Failed", "Stopping", "Stopped")
COLUMNS = (
    *("job", "status", "instance_type", "instance_count", "spot"),
    *("training_seconds", "billable_seconds", "savings_percent", "cost"),
)


@dataclass(frozen=True)
class BilledTime:
    """The seconds of all instances of a job together, as the SageMaker SDK prints them.

    `warm_seconds` are those that instances were kept for a next job (--keep_alive) so far.
    """

    training_seconds: int
    billable_seconds: int
    warm_seconds: int
    is_spot: bool

    @property
    def savings(self) -> float | None:
        """Percent of the time that managed spot training did not bill; None without spot."""
        if not self.is_spot or self.training_seconds == 0:
            return None
        return (1 - self.billable_seconds / self.training_seconds) * 100

    def cost(self, price_per_hour: float) -> float:
        """Return the cost at a price of one instance, in its currency.

        The price is that on demand, for spot jobs too: AWS bills less of their time instead.
        """
        return (self.billable_seconds + self.warm_seconds) / 3600 * price_per_hour


def billed_time(description: Mapping[str, Any]) -> BilledTime | None:
    """Return the seconds of a job; None as long as AWS does not say, which it does at the end.

    Args:
        description: what DescribeTrainingJob returned.
    """
    if description.get("BillableTimeInSeconds") is None:
        return None
    count = instance_count(description)
    warm_pool = description.get("WarmPoolStatus", {})
    return BilledTime(
        training_seconds=description["TrainingTimeInSeconds"] * count,
        billable_seconds=description["BillableTimeInSeconds"] * count,
        warm_seconds=warm_pool.get("ResourceRetainedBillableTimeInSeconds", 0) * count,
        is_spot=description.get("EnableManagedSpotTraining", False),
    )


def instance_count(description: Mapping[str, Any]) -> int:
    """Return how many instances a job asked for."""
    return description["ResourceConfig"].get("InstanceCount", 1)


def list_jobs(sagemaker: Any, name_contains: str, status: str | None) -> None:
    """Print the jobs whose names hold a text, the newest first."""
    pages = sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains=name_contains,
        SortBy="CreationTime",
        SortOrder="Descending",
        PaginationConfig={"PageSize": 100},
        **({"StatusEquals": status} if status else {}),
    )
    for page in pages:
        for job in page["TrainingJobSummaries"]:
            created = job["CreationTime"].astimezone()
            print(f"{created:%Y-%m-%d %H:%M}  {job['TrainingJobStatus']:<10}", end="  ")
            print(job["TrainingJobName"])


def instances(description: dict[str, Any]) -> str:
    """Return what a job runs on: 2 x ml.g5.xlarge, spot."""
    kind = "spot" if description.get("EnableManagedSpotTraining") else "on demand"
    instance_type = description["ResourceConfig"].get("InstanceType")
    return f"{instance_count(description)} x {instance_type}, {kind}"


def status_lines(description: dict[str, Any]) -> list[str]:
    """Return how a job is doing, in one line and AWS's own words."""
    status, secondary = description["TrainingJobStatus"], description.get("SecondaryStatus")
    both = status if secondary in (None, status) else f"{status}, {secondary}"
    lines = [f"{description['TrainingJobName']}: {both} ({instances(description)})"]
    transitions = description.get("SecondaryStatusTransitions")
    if transitions and transitions[-1].get("StatusMessage"):
        lines.append(transitions[-1]["StatusMessage"])
    return lines


def report_lines(description: dict[str, Any], price_per_hour: float | None) -> list[str]:
    """Return what is known of a job: times, cost, metrics, where its files are.

    Args:
        description: what DescribeTrainingJob returned.
        price_per_hour: of one instance; None leaves the cost out.
    """
    job, status = description["TrainingJobName"], description["TrainingJobStatus"]
    lines = status_lines(description)[:1]
    if reason := description.get("FailureReason"):
        lines.append(f"Failure reason: {reason}")
    if (billed := billed_time(description)) is None:
        reason = "AWS names none" if status in ENDED else "not known before the end"
        lines.append(f"Billable seconds: {reason}")
    else:
        lines += [
            f"Training seconds: {billed.training_seconds}",
            f"Billable seconds: {billed.billable_seconds}",
        ]
        if billed.savings is not None:
            lines.append(f"Managed spot savings: {billed.savings:.1f} %")
        if billed.warm_seconds:
            lines.append(f"Seconds kept warm: {billed.warm_seconds}")
        if price_per_hour is not None:
            lines.append(
                f"Cost: {billed.cost(price_per_hour):.2f}, at {price_per_hour:g} an instance and "
                "hour"
            )
    metrics = final_metrics(description)
    lines += [f"{name}: {metrics[name]:g}" for name in sorted(metrics)]
    model = description.get("ModelArtifacts", {}).get("S3ModelArtifacts")
    if status in ("Completed", "Stopped") and model:
        lines.append(f"Model: {model}")
    if status in ENDED:
        # Figures and predictions, or what a failure left of them, come back beside the model.
        folder = description["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        lines.append(f"Output: {folder}/{job}/output/output.tar.gz")
    if checkpoints := description.get("CheckpointConfig", {}).get("S3Uri"):
        lines.append(f"Checkpoints: {checkpoints}")
    if status not in ENDED:
        region = description["TrainingJobArn"].split(":")[3]
        lines.append(f"Next: python sagemaker_jobs/job_report.py attach {job} --region {region}")
    elif status == "Completed" and model:
        lines.append(f"Next: aws s3 cp {model} .")
    return lines


def final_metrics(description: dict[str, Any]) -> dict[str, float]:
    """Return the last value of each metric that SageMaker read in the job's log."""
    return {
        metric["MetricName"]: metric["Value"]
        for metric in description.get("FinalMetricDataList", [])
    }


def comparison(
    descriptions: Sequence[dict[str, Any]], price_per_hour: float | None
) -> list[dict[str, Any]]:
    """Return a row a job: COLUMNS and each metric that one of them has; empty where unknown.

    Raises: ValueError: one price for several instance types.
    """
    types = {description["ResourceConfig"].get("InstanceType") for description in descriptions}
    if price_per_hour is not None and len(types) > 1:
        raise ValueError(
            f"--price_per_hour is that of one instance type, and these jobs ran on "
            f"{', '.join(sorted(types))}: compare those of one type, or leave it out."
        )
    names = sorted({name for description in descriptions for name in final_metrics(description)})
    rows = []
    for description in descriptions:
        row = {
            "job": description["TrainingJobName"],
            "status": description["TrainingJobStatus"],
            "instance_type": description["ResourceConfig"].get("InstanceType"),
            "instance_count": instance_count(description),
            "spot": description.get("EnableManagedSpotTraining", False),
        }
        if billed := billed_time(description):
            row |= {
                "training_seconds": billed.training_seconds,
                "billable_seconds": billed.billable_seconds,
            }
            if billed.savings is not None:
                row["savings_percent"] = round(billed.savings, 1)
            if price_per_hour is not None:
                row["cost"] = round(billed.cost(price_per_hour), 4)
        metrics = final_metrics(description)
        rows.append(dict.fromkeys((*COLUMNS, *names), "") | row | metrics)
    return rows


def write_csv(rows: Sequence[dict[str, Any]], output: TextIO) -> None:
    """Write rows that share their keys."""
    writer = csv.DictWriter(output, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def stop(sagemaker: Any, job: str) -> list[str]:
    """Ask AWS to stop a job and return what a user should know of it."""
    description = describe(sagemaker, job)
    if description["TrainingJobStatus"] in ENDED:
        return [f"{job} is {description['TrainingJobStatus']} already: nothing is stopped."]
    sagemaker.stop_training_job(TrainingJobName=job)
    lines = [
        f"AWS is stopping {job}; what it has used until then is billed.",
        "Its log and the output that it has written stay.",
    ]
    if checkpoints := description.get("CheckpointConfig", {}).get("S3Uri"):
        lines.append(
            "So do its checkpoints: the command that launched it goes on from the last one with "
            f"--checkpoints {checkpoints}"
        )
    return lines


def make_parser() -> EntryParser:
    """Return the parser of all subcommands."""
    parser = EntryParser(__doc__)
    common = EntryParser(None, add_help=False)
    common.add_argument(
        "--region", help="default: AWS_REGION, AWS_DEFAULT_REGION, else the profile's"
    )
    priced = EntryParser(None, add_help=False)
    priced.add_argument(
        "--price_per_hour", type=price, metavar="P", help="of one instance, on demand"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str, *parents: EntryParser) -> EntryParser:
        return verbs.add_parser(name, help=text, description=text, parents=[common, *parents])

    listing = verb("list", "training jobs, the newest first")
    listing.add_argument("--name_contains", default="bins-", metavar="TEXT", help="default: bins-")
    listing.add_argument("--status", choices=STATUSES)
    watching = verb("logs", "print a job's log")
    watching.add_argument("--follow", action="store_true", help="go on until the job has ended")
    comparing = verb("compare", "table of jobs, as csv", priced)
    comparing.add_argument("jobs", nargs="+", metavar="JOB")
    comparing.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    for subparser in (
        watching,
        verb("status", "how a job is doing"),
        verb("attach", "follow a job's log until it ends, then print its report"),
        verb("stop", "stop a job"),
        verb("report", "a job's times, cost, metrics and files", priced),
    ):
        subparser.add_argument("job", metavar="JOB", help="name of a training job")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with parser.errors_of_one_line():
        region = find_region(arguments.region)
        sagemaker = boto_session(region).client("sagemaker")
        if arguments.verb == "list":
            list_jobs(sagemaker, arguments.name_contains, arguments.status)
        elif arguments.verb == "compare":
            descriptions = [describe(sagemaker, job) for job in arguments.jobs]
            rows = comparison(descriptions, arguments.price_per_hour)
            if arguments.output:
                with (
                    whole_file(arguments.output) as temporary,
                    temporary.open("w", newline="", encoding="utf-8") as output,
                ):
                    write_csv(rows, output)
                print(f"Table: {arguments.output}")
            else:
                write_csv(rows, sys.stdout)
        elif arguments.verb == "status":
            print(*status_lines(describe(sagemaker, arguments.job)), sep="\n")
        elif arguments.verb == "stop":
            print(*stop(sagemaker, arguments.job), sep="\n")
        elif arguments.verb == "report":
            description = describe(sagemaker, arguments.job)
            print(*report_lines(description, arguments.price_per_hour), sep="\n")
        else:  # logs and attach
            is_attached = arguments.verb == "attach"
            code = fetch_logs(arguments.job, region, is_attached or arguments.follow)
            if is_attached and code in (0, 1):
                print(*report_lines(describe(sagemaker, arguments.job), None), sep="\n")
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
