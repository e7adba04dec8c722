"""Measure an audit of 10,000 bins, and query.py with many photos against the local server.

    python benchmarks/many_photos.py --model runs/vit_tiny/model

The bins are those of ../shared/abid_originals, or drawn ones, numbered on until there are so many
with 1 to 5 items, in a dataset folder; each photo is judged alone. The photos that are asked for,
of 224 pixels, lie in a folder. Where the model folder has the form of export_model.py, that one
answers.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from data_preparation import BUCKET, Usage, describe_machine, measured, print_table, some_photos
from photo_server import serving

ROOT = Path(__file__).resolve().parent.parent
MOST_SECONDS_TO_START = 120


def build(num_bins: int, photos: Path, folder: Path) -> None:
    """Build a dataset of so many bins, all of the test split."""
    with serving(photos, "--copies", str(3 * num_bins)) as server:
        command = [sys.executable, str(ROOT / "data_prep/build_dataset.py"), "--source", BUCKET]
        command += ["--output_dir", str(folder), "--max_bins", str(num_bins)]
        measured([*command, "--test_fraction", "1.0"], server.environment)


def audit(model: Path, dataset: Path, folder: Path) -> Usage:
    """Audit the test split."""
    command = [sys.executable, str(ROOT / "scripts/audit.py"), "--model", str(model), "--bins"]
    command += [str(dataset), "--split", "test", "--output_dir", str(folder), "--no_visits"]
    return measured([*command, "--review_budget", "0.05"], {})[0]


def write_photos(dataset: Path, number: int, folder: Path) -> None:
    """Write photos of a dataset to files."""
    folder.mkdir()
    for shard in sorted((dataset / "data").glob("*.parquet")):
        rows = pq.read_table(shard, columns=["image", "id"]).to_pylist()
        for row in rows[: number - len(list(folder.iterdir()))]:
            (folder / f"{row['id']}.jpg").write_bytes(row["image"]["bytes"])


@contextmanager
def answering(model: Path) -> Iterator[str]:
    """Serve a model on loopback, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "scripts/inference.py"), "--model", str(model)]
    command += ["--port", str(port)]
    deadline = time.monotonic() + MOST_SECONDS_TO_START
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except OSError:
                    time.sleep(0.2)
                else:
                    yield f"http://127.0.0.1:{port}"
                    return
            sys.exit(f"{' '.join(command)} does not answer.")
        finally:
            server.terminate()


def query(model: Path, photos: Path, output: Path) -> Usage:
    """Ask for all photos of a folder."""
    with answering(model) as url:
        command = [sys.executable, str(ROOT / "sagemaker_jobs/query.py"), str(photos)]
        return measured([*command, "--local", url, "--output", str(output)], {})[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of train.py")
    parser.add_argument("--num_bins", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument(
        "--num_photos", type=int, default=2_000, help="to ask for; default: %(default)s"
    )
    parser.add_argument("--photos", type=Path, help="as data_preparation.py has it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(f"{describe_machine()}\n", flush=True)
        dataset = folder / "bins"
        build(arguments.num_bins, some_photos(parser, arguments.photos, folder), dataset)
        num_bins = sum(pq.read_metadata(path).num_rows for path in (dataset / "data").iterdir())
        num_asked = min(num_bins, arguments.num_photos)
        write_photos(dataset, num_asked, folder / "asked")
        audited = audit(arguments.model, dataset, folder / "audit")
        asked = query(arguments.model, folder / "asked", folder / "counts.csv")
        rows = (
            [
                *(command, f"{number:,}", f"{usage.seconds:.0f}", f"{number / usage.seconds:.0f}"),
                f"{usage.parent_mib:.0f}",
            ]
            for command, number, usage in (
                ("audit.py, bins", num_bins, audited),
                ("query.py, photos", num_asked, asked),
            )
        )
        print_table(["command", "how many", "seconds", "a second", "peak MiB"], rows)


if __name__ == "__main__":
    main()
