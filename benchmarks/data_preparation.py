"""Measure data_prep/build_dataset.py against the loop of other projects and against this machine.

    python benchmarks/data_preparation.py        # some minutes; goals in the last column

Every contender is a process of its own and they take turns, so what else the machine does hits all
of them. The photos come over HTTP from photo_server.py, which answers after 30 ms as S3 does and
whose own processor time is not counted. They are the real ones of ../shared/abid_originals where
these are present, or drawn ones, and are numbered on to make as many bins as are asked for.
"""

import argparse
import importlib.util
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image, features

from photo_server import PhotoServer, serving

ROOT = Path(__file__).resolve().parent.parent
REAL_PHOTOS = ROOT.parent / "shared/abid_originals"
LATENCY_MS = 30
BUCKET = "s3://photos"
# As data_prep/dataset/photos.py has them.
IMAGE_SIZE, RESAMPLE, JPEG_QUALITY = 224, Image.Resampling.BILINEAR, 95
NUM_WORKERS = max(2, os.cpu_count() or 1)
ROUNDS = 3  # of each decoder
FEWEST_BINS = 8000  # an eighth of them fills two shards of 500


class Usage(NamedTuple):
    """What a command and the processes that it started took together."""

    seconds: float
    cpu_seconds: float
    parent_mib: float  # largest resident memory of the command itself
    worker_mib: float  # and of the largest process that it started


# ---- The contenders, each in a process of its own


def download_one_by_one(num_photos: int, photos: Path) -> dict[str, float]:
    """Do as the loop does that published projects share; return its photos a second."""
    import boto3

    client = boto3.client("s3")
    bin_ids = [f"{number:05d}" for number in range(1, num_photos + 1)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for bin_id in bin_ids:
            path = f"{folder}/{bin_id}.jpg"
            client.download_file("photos", f"bin-images/{bin_id}.jpg", path)
            Image.open(path).resize((IMAGE_SIZE, IMAGE_SIZE)).save(path)
        return {"photos_a_second": num_photos / (time.perf_counter() - start)}


def prepare_in_memory(num_photos: int, photos: Path) -> dict[str, float]:
    """Decode, resize and encode photos that are there already: what this machine allows.

    In as many processes as the dataset is built with: cores that share a unit slow each other down.
    """
    with ProcessPoolExecutor(NUM_WORKERS) as pool:
        shares = [num_photos // NUM_WORKERS] * NUM_WORKERS
        cpu_seconds = sum(pool.map(prepare_share, shares, [photos] * NUM_WORKERS))
    return {"cpu_ms_a_photo": 1000 * cpu_seconds / sum(shares)}


def prepare_share(num_photos: int, photos: Path) -> float:
    contents = read_photos(photos)
    start = time.process_time()
    for number in range(num_photos):
        shrink(decode_with_pillow(contents[number % len(contents)]))
    return time.process_time() - start


def decode_with_pillow(content: bytes) -> Image.Image:
    photo = Image.open(io.BytesIO(content))
    photo.load()
    return photo


def decode_with_draft(content: bytes) -> Image.Image:
    photo = Image.open(io.BytesIO(content))
    photo.draft("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    photo.load()
    return photo


def decode_with_simplejpeg(content: bytes) -> Image.Image:
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(content, colorspace="RGB"))


def decode_with_opencv(content: bytes) -> Image.Image:
    import cv2

    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return Image.fromarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


# Name -> function that decodes into what Pillow resizes, and the module and package it needs.
DECODERS: Mapping[str, tuple[Callable[[bytes], Image.Image], str, str]] = {
    "Pillow": (decode_with_pillow, "PIL", "Pillow"),
    "Pillow draft": (decode_with_draft, "PIL", "Pillow"),
    "simplejpeg": (decode_with_simplejpeg, "simplejpeg", "simplejpeg"),
    "OpenCV": (decode_with_opencv, "cv2", "opencv-python-headless"),
}


def time_decoder(name: str, photos: Path) -> dict[str, float]:
    """Return a decoder's processor time, and how far its photos are from Pillow's once resized."""
    decode = DECODERS[name][0]
    contents = read_photos(photos)
    decode(contents[0])  # imports, and tables that are made once
    differences = [
        np.abs(resized(decode(content)) - resized(decode_with_pillow(content)))
        for content in contents
    ]
    start = time.process_time()
    for content in contents:
        decode(content)
    decoded = time.process_time()
    for content in contents:
        shrink(decode(content))
    prepared = time.process_time()
    return {
        "decode_ms": 1000 * (decoded - start) / len(contents),
        "prepare_ms": 1000 * (prepared - decoded) / len(contents),
        "mean_difference": float(np.mean([difference.mean() for difference in differences])),
        "largest_difference": float(max(difference.max() for difference in differences)),
    }


def resized(photo: Image.Image) -> np.ndarray:
    """Return pixels as the dataset has them before they are encoded, int (224, 224, 3)."""
    return np.asarray(photo.resize((IMAGE_SIZE, IMAGE_SIZE), RESAMPLE)).astype(int)


def shrink(photo: Image.Image) -> None:
    """Resize and encode as the dataset does."""
    small = photo.resize((IMAGE_SIZE, IMAGE_SIZE), RESAMPLE)
    small.save(io.BytesIO(), format="JPEG", quality=JPEG_QUALITY)


CONTENDERS: Mapping[str, Callable[[int, Path], dict[str, float]]] = {
    "loop": download_one_by_one,
    "memory": prepare_in_memory,
    **{
        name: lambda _, photos, name=name: time_decoder(name, photos)  # type: ignore[misc]
        for name in DECODERS
    },
}

# ---- Photos


def read_photos(folder: Path) -> list[bytes]:
    """Return the content of every photo of a bucket."""
    return [path.read_bytes() for path in sorted(folder.glob("bin-images/*.jpg"))]


def some_photos(parser: argparse.ArgumentParser, given: Path | None, folder: Path) -> Path:
    """Return a bucket in `folder` of the photos that were given, the real ones, or drawn ones."""
    source, photos = given or REAL_PHOTOS, folder / "photos"
    if not source.is_dir():
        if given:
            parser.error(f"--photos {given}: there is no such folder.")
        source = folder / "drawn"
        draw = [sys.executable, str(ROOT / "data_prep/synthetic_bins.py")]
        measured([*draw, "--output_dir", str(source), "--num_bins", "400"], {})
    if link_whole_photos(source.resolve(), photos) == 0:
        parser.error(f"{source}: no photo there that can be decoded.")
    return photos


def link_whole_photos(source: Path, folder: Path) -> int:
    """Make a bucket of the bins of `source` whose photo can be decoded; return how many."""
    (folder / "bin-images").mkdir(parents=True)
    (folder / "metadata").mkdir()
    num_photos = 0
    for path in sorted(source.glob("bin-images/*.jpg")):
        metadata = source / f"metadata/{path.stem}.json"
        try:
            decode_with_pillow(path.read_bytes())
        except (OSError, Image.DecompressionBombError):
            continue
        if metadata.exists():
            (folder / "bin-images" / path.name).symlink_to(path)
            (folder / "metadata" / metadata.name).symlink_to(metadata)
            num_photos += 1
    return num_photos


# ---- Measuring


def measured(command: Sequence[str], environment: Mapping[str, str]) -> tuple[Usage, str]:
    """Run a command; return what it took with all its processes, and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        watched = psutil.Process(process.pid)
        parent = worker = 0
        while True:
            # Its own time and that of the processes for which it waited.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            try:
                parent = max(parent, watched.memory_info().rss)
                for child in watched.children(recursive=True):
                    worker = max(worker, child.memory_info().rss)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{printed}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Usage(seconds, cpu_seconds, parent / 2**20, worker / 2**20), printed


def contend(name: str, num_photos: int, photos: Path, environment: Mapping[str, str]) -> Any:
    """Run one contender of this module and return its figures."""
    command = [sys.executable, __file__, "--photos", str(photos)]
    command += ["--num_bins", str(num_photos), "--contender", name]
    _, printed = measured(command, environment)
    return json.loads(printed.splitlines()[-1])


class Build(NamedTuple):
    """What the two steps of a dataset took."""

    catalog: Usage
    dataset: Usage


def build(num_bins: int, photos: Path) -> Build:
    """Build the catalog and the dataset of so many bins over HTTP."""
    with serving_bins(num_bins, photos) as server, tempfile.TemporaryDirectory() as folder:
        catalog = ["--source", BUCKET, "--output", f"{folder}/catalog.parquet"]
        dataset = ["--source", BUCKET, "--catalog", f"{folder}/catalog.parquet"]
        dataset += ["--output_dir", f"{folder}/bins", "--image_size", str(IMAGE_SIZE)]
        dataset += ["--num_workers", str(NUM_WORKERS)]
        # All bins, and all shards of one size.
        dataset += ["--min_count", "0", "--max_count", "1000", "--test_fraction", "1.0"]
        usages = [
            measured([sys.executable, str(ROOT / "data_prep" / entry), *flags], server.environment)[
                0
            ]
            for entry, flags in (("build_catalog.py", catalog), ("build_dataset.py", dataset))
        ]
        return Build(*usages)


def serving_bins(num_bins: int, photos: Path) -> AbstractContextManager[PhotoServer]:
    """Serve so many bins with the latency of S3."""
    return serving(photos, "--copies", str(num_bins), "--latency_ms", str(LATENCY_MS))


def compare(num_bins: int, photos: Path) -> Iterator[list[str]]:
    """Yield the rows of the table: what was measured, ours, the rival's, ratio, goal, reached."""
    num_few = num_bins // 8
    loops, limits, builds = [], [], []
    for num_built in (num_few, num_bins):
        with serving_bins(num_few, photos) as server:
            loops.append(contend("loop", num_few // 5, photos, server.environment))
        limits.append(contend("memory", num_few, photos, {}))
        builds.append(build(num_built, photos))
        limits.append(contend("memory", num_few, photos, {}))
    few, many = builds
    loop = fmean(figures["photos_a_second"] for figures in loops)
    limit = fmean(figures["cpu_ms_a_photo"] for figures in limits)
    speed = num_bins / (many.catalog.seconds + many.dataset.seconds)
    yield [
        f"photos a second at {LATENCY_MS} ms, with their metadata; the loop one by one",
        *(f"{speed:.0f}", f"{loop:.1f}", *verdict(speed / loop, "at least", 20)),
    ]
    for scope, cpu_seconds, num_photos in (
        (f"a photo of {num_bins:,}", many.dataset.cpu_seconds, num_bins),
        (
            "a further photo",
            many.dataset.cpu_seconds - few.dataset.cpu_seconds,
            num_bins - num_few,
        ),
    ):
        cpu_ms = 1000 * cpu_seconds / num_photos
        yield [
            f"processor time of {scope}, ms; photos in memory",
            *(f"{cpu_ms:.2f}", f"{limit:.2f}", *verdict(cpu_ms / limit, "at most", 1.2)),
        ]
    cpu_ms = 1000 * many.catalog.cpu_seconds / num_bins
    yield [
        "processor time of a bin's metadata, ms; photos in memory",
        *(f"{cpu_ms:.2f}", f"{limit:.2f}", f"{cpu_ms / limit:.2f}", "", ""),
    ]
    for name, step in (("catalog", "catalog"), ("parent", "dataset"), ("worker", "dataset")):
        figure = "worker_mib" if name == "worker" else "parent_mib"
        large, small = (getattr(getattr(build, step), figure) for build in (many, few))
        yield [
            f"peak memory of the {name}, MiB: {num_bins:,} bins; {num_few:,} bins",
            *(f"{large:.0f}", f"{small:.0f}", *verdict(large / small, "at most", 1.1)),
        ]


def verdict(ratio: float, relation: str, goal: float) -> tuple[str, str, str]:
    """Return ratio, goal, and whether it is reached."""
    is_reached = ratio >= goal if relation == "at least" else ratio <= goal
    return f"{ratio:.2f}", f"{relation} {goal:g}", "yes" if is_reached else "**no**"


def compare_decoders(photos: Path) -> Iterator[list[str]]:
    """Yield the rows of the decoders' table."""
    rounds: dict[str, list[dict[str, float]]] = {
        name: [] for name, (_, module, _) in DECODERS.items() if importlib.util.find_spec(module)
    }
    for _ in range(ROUNDS):
        for name, figures in rounds.items():
            figures.append(contend(name, 0, photos, {}))

    def cpu_ms(name: str, figure: str) -> float:
        return median(figures[figure] for figures in rounds[name])

    for name, (_, _, package) in DECODERS.items():
        if name not in rounds:
            yield [name, f"skipped: pip install {package}", "", "", "", ""]
            continue
        yield [
            name,
            f"{cpu_ms(name, 'decode_ms'):.2f}",
            f"{cpu_ms(name, 'prepare_ms'):.2f}",
            f"{cpu_ms('Pillow', 'prepare_ms') / cpu_ms(name, 'prepare_ms'):.2f}",
            f"{rounds[name][0]['mean_difference']:.2f}",
            f"{rounds[name][0]['largest_difference']:.0f}",
        ]


def print_table(header: Sequence[str], rows: Iterator[list[str]]) -> None:
    """Print markdown."""
    print(f"| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def describe_machine() -> str:
    """Return processor, cores and the versions that matter."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, Pillow {Image.__version__}, "
        f"libjpeg-turbo {features.version_feature('libjpeg_turbo')}."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num_bins",
        type=int,
        default=8000,
        help="of the larger dataset, beside one of an eighth; both must fill several shards "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--photos", type=Path, help=f"a bucket's folder (default: {REAL_PHOTOS}, or drawn ones)"
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        figures = CONTENDERS[arguments.contender](arguments.num_bins, arguments.photos)
        print(json.dumps(figures))
        return
    if arguments.num_bins < FEWEST_BINS:
        parser.error(f"--num_bins: at least {FEWEST_BINS:,}, so that workers share the shards.")
    with tempfile.TemporaryDirectory() as folder:
        photos = some_photos(parser, arguments.photos, Path(folder))
        print(f"{describe_machine()} {len(read_photos(photos))} photos, {NUM_WORKERS} workers.\n")
        header = ["measured", "data_prep", "against", "ratio", "goal", "reached"]
        print_table(header, compare(arguments.num_bins, photos))
        print("\nDecoders; differences from Pillow's pixels (0-255) once resized:\n")
        header = ["decoder", "decode, ms", "and resize, encode", "times as fast"]
        header += ["mean difference", "largest"]
        print_table(header, compare_decoders(photos))


if __name__ == "__main__":
    main()
