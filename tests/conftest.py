"""What many tests share: a small bucket, the dataset built from it, a model small enough to train.

Nothing here reaches for a network, and nothing is mocked: the bucket is drawn, the dataset built
and the model trained by the project's own entries.
"""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before the libraries read them: tests leave nothing in the user's caches and ask no Hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")

import boto3
import hypothesis
import pytest
from moto.server import ThreadedMotoServer

import build_dataset
import synthetic_bins
import train
from stand_ins import aws_server, hub_server
from stand_ins.aws_server import AwsServer
from stand_ins.hub_server import HUB_TOKEN, HubServer
from stand_ins.served_model import ServedModel, serve_locally
from tiny_model import TINY_VIT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples everywhere, and no verdict on the speed of a shared machine.
hypothesis.settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=2, help="of each build in test_interrupted_builds.py"
    )


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a drawn mirror of the bucket with 300 bins."""
    folder = tmp_path_factory.mktemp("bucket") / "mirror"
    synthetic_bins.main(["--output_dir", str(folder), "--num_bins", "300", "--num_workers", "1"])
    return folder


@pytest.fixture(scope="session")
def dataset_dir(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 32-pixel photos, built from the bucket."""
    folder = tmp_path_factory.mktemp("dataset") / "bins"
    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(folder), "--image_size", "32"]
        + ["--test_fraction", "0.2", "--num_workers", "1"]
    )
    return folder


@pytest.fixture(scope="session")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the config of a ViT that trains in seconds."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(TINY_VIT))
    return folder


@pytest.fixture(scope="session")
def run_dir(dataset_dir: Path, config_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of one epoch."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    train.main(
        ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir)]
        + ["--output_dir", str(folder), "--do_train", "--do_eval", "--do_predict"]
        + ["--num_train_epochs", "1", "--learning_rate", "1e-3", "--disable_tqdm", "true"]
    )
    return folder


@pytest.fixture(scope="session")
def served_run(run_dir: Path) -> Iterator[ServedModel]:
    """Return the finished run's handler, served here: one process for all tests that ask it."""
    with serve_locally(run_dir / "model") as server:
        yield server


@pytest.fixture(scope="session")
def running_aws_server() -> Iterator[AwsServer]:
    """Return one server for all tests, which ask for `aws`."""
    server = aws_server.start()
    yield server
    server.stop()


@pytest.fixture
def aws(running_aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """Return an empty AWS account, which this process and those that it starts talk to."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SAGEMAKER_")):
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": running_aws_server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": aws_server.REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    running_aws_server.reset()
    return running_aws_server


@pytest.fixture(scope="session")
def running_hub_server() -> Iterator[HubServer]:
    """Return one server for all tests, which ask for `hub`."""
    server = hub_server.start()
    yield server
    server.stop()


@pytest.fixture
def hub(running_hub_server: HubServer, tmp_path: Path) -> HubServer:
    """Return an empty Hub with one user, ann, whose token is HUB_TOKEN."""
    running_hub_server.reset()
    running_hub_server.home = str(tmp_path / "hf-home")
    running_hub_server.users[HUB_TOKEN] = "ann"
    return running_hub_server


@pytest.fixture(scope="module")  # its event loop must not run on into other files' tests
def browser() -> Iterator["Browser"]:
    """Return a real browser, without a window."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def running_s3() -> Iterator[str]:
    """Return the address of one S3 server for all tests, which ask for `s3_bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3_bucket(running_s3: str, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of the drawn bucket at a real S3 endpoint on loopback; nothing else is there.

    It is filled once: moto's memory is the process's, and `aws` empties it.
    """
    for name, value in {
        "AWS_ENDPOINT_URL": running_s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.resource("s3", endpoint_url=running_s3, region_name="us-east-1")
    mirror = s3.Bucket("mirror")
    if mirror not in s3.buckets.all():
        mirror.create()
        for path in bucket.rglob("*.*"):
            mirror.put_object(Key=f"abid/{path.relative_to(bucket)}", Body=path.read_bytes())
    yield "s3://mirror/abid"
    for entry in mirror.objects.all():
        if not entry.key.startswith("abid/"):
            entry.delete()
