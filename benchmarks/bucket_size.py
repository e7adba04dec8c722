"""Read as many records as the public bucket has, and build a dataset of 50,000 of its photos.

    python benchmarks/bucket_size.py             # a quarter of an hour of two cores

The records and photos of ../shared/abid_originals, or drawn ones, are numbered on to 535,234 bins,
and come over HTTP from photo_server.py, which answers after 30 ms as S3 does and works on the same
machine: its processor time is told apart. From what a record and a photo cost follows, on paper,
what the whole bucket takes of machines that have more cores, with nobody but S3's limit of requests
to wait for, were each of their vCPUs a core of this one.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from data_preparation import (
    BUCKET,
    IMAGE_SIZE,
    LATENCY_MS,
    NUM_WORKERS,
    Usage,
    describe_machine,
    measured,
    print_table,
    some_photos,
)
from photo_server import PhotoServer, serving

DATA_PREP = Path(__file__).resolve().parent.parent / "data_prep"
NUM_BINS = 535_234  # of the public bucket
# What S3 promises for the keys below one prefix, such as bin-images/; GETs a second.
MOST_REQUESTS = 5500
MACHINE, CORES = "c5.9xlarge", 36
MACHINES = (1, 8)


class Step(NamedTuple):
    """What a step did, with what it took here and what the server took for it."""

    name: str
    objects: int
    usage: Usage
    server_cpu_seconds: float

    @property
    def cpu_ms(self) -> float:
        """Processor time of an object, the server's left out."""
        return 1000 * self.usage.cpu_seconds / self.objects


def take(name: str, objects: int, command: list[str], server: PhotoServer) -> Step:
    """Run a step against a server."""

    def server_cpu() -> float:
        times = psutil.Process(server.process.pid).cpu_times()
        return times.user + times.system

    before = server_cpu()
    usage, _ = measured([sys.executable, *command], server.environment)
    return Step(name, objects, usage, server_cpu() - before)


def take_both(num_bins: int, num_photos: int, photos: Path) -> tuple[Step, Step]:
    """Read all records, and build a dataset of some of the bins."""
    flags = ("--copies", str(num_bins), "--latency_ms", str(LATENCY_MS))
    with serving(photos, *flags) as server, tempfile.TemporaryDirectory() as folder:
        catalog = f"{folder}/catalog.parquet"
        command = [str(DATA_PREP / "build_catalog.py"), "--source", BUCKET, "--output", catalog]
        records = take("records", num_bins, command, server)
        command = [str(DATA_PREP / "build_dataset.py"), "--source", BUCKET, "--catalog", catalog]
        command += ["--output_dir", f"{folder}/bins", "--image_size", str(IMAGE_SIZE)]
        command += ["--num_workers", str(NUM_WORKERS), "--max_bins", str(num_photos)]
        # All counts, and one split: copies of a photo in another one would be set aside.
        command += ["--min_count", "0", "--max_count", "1000", "--test_fraction", "1.0"]
        return records, take("photos", num_photos, command, server)


def measured_rows(steps: tuple[Step, Step]) -> Iterator[list[str]]:
    """Yield what was measured of each step."""
    for step in steps:
        seconds, cores = step.usage.seconds, os.cpu_count() or 1
        busy = (step.usage.cpu_seconds + step.server_cpu_seconds) / (seconds * cores)
        yield [
            f"{step.objects:,} {step.name}",
            f"{seconds:.0f}",
            f"{step.objects / seconds:,.0f}",
            f"{step.usage.cpu_seconds:.0f}",
            f"{step.cpu_ms:.2f}",
            f"{step.server_cpu_seconds:.0f}",
            f"{busy:.0%}",
            f"{step.usage.parent_mib:.0f}",
            f"{step.usage.worker_mib:.0f}" if step.usage.worker_mib else "",
        ]


def paper_rows(steps: tuple[Step, Step]) -> Iterator[list[str]]:
    """Yield what the whole bucket would take: the longer of its two limits for each step.

    One process reads the records, as many as there are cores prepare the photos.
    """
    records, photos = steps
    by_requests = NUM_BINS / MOST_REQUESTS
    reading = NUM_BINS * records.cpu_ms / 1000
    for machines in MACHINES:
        preparing = NUM_BINS * photos.cpu_ms / 1000 / (CORES * machines)
        total = max(reading, by_requests) + max(preparing, by_requests)
        yield [
            f"{machines} x {MACHINE}",
            *(f"{seconds:.0f}" for seconds in (reading, preparing, by_requests, total)),
        ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_bins", type=int, default=NUM_BINS, help="default: %(default)s")
    parser.add_argument(
        "--num_photos", type=int, default=50_000, help="of the dataset; default: %(default)s"
    )
    parser.add_argument("--photos", type=Path, help="as data_preparation.py has it")
    arguments = parser.parse_args()
    if arguments.num_photos > arguments.num_bins:
        parser.error(f"--num_photos {arguments.num_photos}: there are no more than --num_bins.")
    with tempfile.TemporaryDirectory() as folder:
        photos = some_photos(parser, arguments.photos, Path(folder))
        print(f"{describe_machine()} {NUM_WORKERS} workers.\n", flush=True)
        steps = take_both(arguments.num_bins, arguments.num_photos, photos)
    header = ["read", "seconds", "a second", "processor, s", "of one, ms", "the server's, s"]
    header += ["cores busy", "peak MiB", "of a worker"]
    print_table(header, measured_rows(steps))
    print(f"\nOn paper, all {NUM_BINS:,} records and photos, seconds:\n")
    header = ["machines", "records, one process", "photos, all cores"]
    header += [f"either, at {MOST_REQUESTS:,} requests a second", "in all, at least"]
    print_table(header, paper_rows(steps))


if __name__ == "__main__":
    main()
