"""Builds that are killed at random moments end with the bytes of one that was left alone.

    python -m pytest -m slow tests/data_prep/test_interrupted_builds.py --kills 30

kills each of them more often than `make test-slow` does, and those of real photos too.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dataset_builds import file_bytes
from paths import ROOT, real_path
from photo_server import serving

HOSTS = ("algo-1", "algo-2")
# Six shards; the photos are few and served again and again.
NUM_BINS = 2500
MANY_KILLS = 5  # of each build


@dataclass(frozen=True)
class Source:
    """A running server of photos, and what a build makes of them when it is left alone."""

    environment: Mapping[str, str]
    undisturbed: Path
    seconds: float  # that it took


def build_command(output: Path, *flags: str) -> list[str]:
    command = [sys.executable, str(ROOT / "data_prep" / "build_dataset.py")]
    command += ["--source", "s3://photos", "--output_dir", str(output), "--image_size", "64"]
    return [*command, *flags]


def run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module", params=["drawn photos", "real photos, a server with faults"])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Source]:
    if request.param == "drawn photos":
        folder, flags = request.getfixturevalue("bucket"), ["--copies", str(NUM_BINS)]
    elif request.config.getoption("kills") < MANY_KILLS:
        pytest.skip(f"takes minutes on real photos: add --kills {MANY_KILLS}")
    else:
        folder, flags = real_path("abid_originals"), ["--faults"]
    with serving(folder, *flags) as server:
        environment = {**os.environ, **server.environment}
        output = tmp_path_factory.mktemp("undisturbed") / "bins"
        start = time.monotonic()
        run(build_command(output, "--num_workers", "2"), environment)
        yield Source(environment, output, time.monotonic() - start)


def kill(process: subprocess.Popen[bytes], alone: bool) -> None:
    """Kill a build: the process that was started alone, or all of its workers too."""
    workers = psutil.Process(process.pid).children(recursive=True)
    # Itself first: left alone with dead workers it would end with an error of its own.
    for pid in [process.pid] if alone else [process.pid, *(worker.pid for worker in workers)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            assert pid != process.pid
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "workers outlive the run that started them"


def finished_shards(output: Path) -> dict[str, tuple[str, float]]:
    """Return of each shard that is done what was made once, and the seconds that it took.

    Both stay when bins are cut out because another split has their photos: of these, served again
    and again, most are.
    """
    found = {}
    for path in output.glob("statistics/*.json"):
        statistics = json.loads(path.read_text())
        made = statistics["cut_from"] or statistics["sha256"]
        found[path.stem] = (made, statistics["seconds"])
    return found


def check_whole(output: Path, source: Source) -> None:
    assert file_bytes(output) == file_bytes(source.undisturbed)
    for name in ("catalog.parquet", "set_aside.jsonl", "settings.json", "counts_by_split.png"):
        assert (output / name).read_bytes() == (source.undisturbed / name).read_bytes()
    assert (output / "README.md").exists()
    assert not list(output.rglob("*.part*"))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("workers", ["1", "2", "4", "two machines"])
def test_kills_at_random_moments_change_nothing(
    source: Source, workers: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    draw = random.Random(f"{workers}")
    output, number, num_kills = tmp_path / "0" / "bins", 0, pytestconfig.getoption("kills")
    while num_kills > 0:
        # What a killed run left is gone on with; a run that came to its end makes way for another.
        commands, finish = stages(output, workers, source, tmp_path)
        before = finished_shards(output)
        processes = [
            subprocess.Popen(
                command,
                env=source.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for command in commands
        ]
        victim = draw.choice(processes)
        try:
            victim.wait(timeout=draw.uniform(0, source.seconds))
        except subprocess.TimeoutExpired:
            kill(victim, alone=draw.random() < 0.5)
            num_kills -= 1
        for process in processes:
            _, errors = process.communicate()
            assert process.returncode == 0 or process is victim, errors.decode()
        after = finished_shards(output)
        assert after.items() >= before.items()
        if victim.returncode == 0:
            run(finish, source.environment)
            check_whole(output, source)
            number += 1
            output = tmp_path / str(number) / "bins"
        else:
            assert victim.returncode == -signal.SIGKILL, errors.decode()
    commands, finish = stages(output, workers, source, tmp_path)
    for command in [*commands, finish]:
        run(command, source.environment)
    check_whole(output, source)


def stages(
    output: Path, workers: str, source: Source, folder: Path
) -> tuple[list[list[str]], list[str]]:
    """Return the commands of the machines, and the last one, which needs all of them."""
    if workers != "two machines":
        command = build_command(output, "--num_workers", workers)
        return [command], command
    catalog = output / "catalog.parquet"
    if not catalog.exists():
        output.mkdir(parents=True)
        catalog.write_bytes((source.undisturbed / "catalog.parquet").read_bytes())
    flags = ["--catalog", str(catalog)]
    commands = []
    for host in HOSTS:
        config = folder / f"{host}.json"
        config.write_text(json.dumps({"current_host": host, "hosts": HOSTS}))
        machine = ["--num_workers", "1", "--resource_config", str(config)]
        commands.append(build_command(output, *flags, *machine))
    return commands, build_command(output, *flags, "--finish")
