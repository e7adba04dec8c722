"""Jobs without AWS and without Docker: from the launchers' own requests, through SageMaker's own
toolkit, to a model where SageMaker collects it.
"""

import contextlib
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForImageClassification

import toolkit
from layout import configuration, job_variables, lay_out
from paths import ROOT
from tiny_model import TINY_VIT

# Whole jobs, each of which imports torch three times.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPTS = ROOT / "scripts"
# Small enough for a CPU; the recipes' own learning rates and flags stay.
TINY_CONFIGS = {
    "vit": TINY_VIT,
    "resnet34": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    },
}
# A log line and a checkpoint at every step.
SHORT = ["--per_device_train_batch_size", "16", "--num_train_epochs", "2"]
SHORT += ["--logging_steps", "1", "--checkpoint_minutes", "1e-9"]

Request = dict[str, Any]


@pytest.fixture(scope="module")
def request_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Request]:
    """Return a function that gives what a launcher would send, for a tiny model of its kind."""
    made: dict[tuple[str, ...], Request] = {}

    def request(recipe: str, *flags: str) -> Request:
        if (recipe, *flags) not in made:
            folder = tmp_path_factory.mktemp("config")
            (folder / "config.json").write_text(json.dumps(TINY_CONFIGS[recipe]))
            launcher = ROOT / "sagemaker_jobs" / f"{recipe}.py"
            command = [sys.executable, str(launcher), "--dry_run", *SHORT, *flags]
            # Some config that travels with the code; the tiny one takes its place.
            printed = subprocess.run(
                [*command, "--config_name", "vit_demo"], check=True, capture_output=True
            ).stdout
            request = made[recipe, *flags] = json.loads(printed)
            request["HyperParameters"]["config_name"] = json.dumps(str(folder))
        return json.loads(json.dumps(made[recipe, *flags]))

    return request


class Host:
    """One machine of a job: a disk of its own, and SageMaker's toolkit on it."""

    def __init__(self, base_dir: Path, request: Request, dataset_dir: Path, *hosts: str) -> None:
        """Lay out the disk of the first of the hosts that are named."""
        self.base_dir = base_dir
        self.process: subprocess.Popen[bytes] | None = None
        self.variables = job_variables(request)
        self.log_file = base_dir.with_suffix(".log")
        lay_out(base_dir, configuration(request, hosts, hosts[0], "lo"), dataset_dir, SCRIPTS)

    @property
    def log(self) -> str:
        """What the job has printed so far."""
        return self.log_file.read_text()

    def start(self) -> None:
        """Start the toolkit in a process group of its own."""
        environment = toolkit.environment_of_run(self.base_dir) | self.variables
        # Both hosts are this machine, whatever its name and its network are.
        environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [toolkit.ensure_toolkit()],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Return the exit code when the job has ended."""
        assert self.process
        return self.process.wait()

    def run(self) -> int:
        """Return the exit code of the whole job."""
        self.start()
        return self.wait()

    def wait_for(self, text: str) -> None:
        """Return when the log holds a text, or when the job has ended."""
        assert self.process
        while text not in self.log and self.process.poll() is None:
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill what still runs, as a spot instance goes."""
        if self.process and self.process.poll() is None:
            toolkit_process = psutil.Process(self.process.pid)
            # torchrun gives its workers process groups of their own.
            for process in [*toolkit_process.children(recursive=True), toolkit_process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()


@pytest.fixture
def machine(tmp_path: Path, dataset_dir: Path) -> Iterator[Callable[..., Host]]:
    """Return a function that makes hosts; those that still run are stopped at the end."""
    hosts: list[Host] = []

    def make(request: Request, *names: str) -> Host:
        base_dir = tmp_path / f"disk{len(hosts)}"
        hosts.append(Host(base_dir, request, dataset_dir, *(names or ["localhost"])))
        return hosts[-1]

    yield make
    for host in hosts:
        host.stop()


def changed(request: Request, hyperparameters: Mapping[str, Any]) -> Request:
    """Return a request with hyperparameters in place of its own, in the SDK's encoding."""
    encoded = {name: json.dumps(value) for name, value in hyperparameters.items()}
    return request | {"HyperParameters": request["HyperParameters"] | encoded}


def results(host: Host) -> dict[str, float]:
    """Return the figures that SageMaker collects."""
    return json.loads((host.base_dir / "output" / "data" / "all_results.json").read_text())


def weights(host: Host) -> bytes:
    return (host.base_dir / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("recipe", TINY_CONFIGS)
def test_a_recipe_trains_in_the_container_and_leaves_what_sagemaker_collects(
    recipe: str, request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    host = machine(request_of(recipe))
    assert host.run() == 0, host.log
    assert "Reporting training SUCCESS" in host.log
    model = AutoModelForImageClassification.from_pretrained(host.base_dir / "model")
    assert model.config.model_type == TINY_CONFIGS[recipe]["model_type"]
    assert sorted(model.config.id2label.values()) == ["1", "2", "3", "4", "5"]
    assert {"eval_accuracy", "test_accuracy", "train_loss"} <= results(host).keys()
    collected = {path.name for path in (host.base_dir / "output" / "data").iterdir()}
    assert {"arguments.json", "predictions_test.parquet"} <= collected
    assert not list((host.base_dir / "model").glob("checkpoint-*"))
    assert not (host.base_dir / "output" / "failure").exists()


def test_a_trial_of_a_search_trains_whatever_aws_adds_to_what_it_is_given(
    request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    launcher = str(ROOT / "sagemaker_jobs" / "tune.py")
    command = [
        sys.executable,
        launcher,
        "--recipe",
        "vit",
        "--dry_run",
        "--config_name",
        "vit_demo",
    ]
    printed = subprocess.run(command, check=True, capture_output=True).stdout
    trial = json.loads(printed)["TrainingJobDefinition"]
    # Its values of the search come as AWS writes them: those of a list in the SDK's own JSON.
    chosen = {
        "learning_rate": "0.000316",
        "per_device_train_batch_size": '"16"',
        "num_train_epochs": "1",
        "_tuning_objective_metric": "eval_loss",
    }
    of_a_tiny_model = request_of("vit")
    config = {"config_name": of_a_tiny_model["HyperParameters"]["config_name"]}
    given = {**trial["StaticHyperParameters"], **chosen, **config}
    host = machine(of_a_tiny_model | {"HyperParameters": given})
    assert host.run() == 0, host.log
    assert results(host)["epoch"] == 1
    assert not {name for name in results(host) if name.startswith("test_")}


@pytest.mark.parametrize("launched_by", ["python", "torchrun"])
def test_a_failure_leaves_the_scripts_own_message_and_a_code_that_is_not_zero(
    launched_by: str, request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    request = changed(request_of("vit"), {"config_name": "/nowhere"})
    if launched_by == "torchrun":
        request = changed(request, {"sagemaker_torch_distributed_enabled": True})
    host = machine(request)
    assert host.run() != 0
    failure = (host.base_dir / "output" / "failure").read_text()
    assert "ValueError" in failure, host.log
    assert "/nowhere" in failure
    assert not list((host.base_dir / "model").iterdir())


def test_two_hosts_train_one_model_and_the_first_keeps_it(
    request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    request = request_of("vit", "--instance_count", "2")
    assert request["HyperParameters"]["sagemaker_torch_distributed_enabled"] == "true"
    # Two names of the loopback, in SageMaker's order: the first is the one that others connect to.
    names = ("127.0.0.1", "localhost")
    first, second = machine(request, *names), machine(request, *reversed(names))
    second.start()
    assert first.run() == 0, first.log
    assert second.wait() == 0, second.log
    AutoModelForImageClassification.from_pretrained(first.base_dir / "model")
    assert (
        json.loads((first.base_dir / "output/data/arguments.json").read_text())["world_size"] == 2
    )
    assert results(first)["test_accuracy"] >= 0
    assert not list((second.base_dir / "model").iterdir())
    # What the two write lies in one folder in S3: the first writes, for both.
    assert list((first.base_dir / "checkpoints").glob("checkpoint-*"))
    assert not list((second.base_dir / "checkpoints").iterdir())


def test_a_spot_instance_that_goes_at_any_step_costs_no_weight(
    request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    request = request_of("vit")
    undisturbed = machine(request)
    assert undisturbed.run() == 0, undisturbed.log
    num_steps = int(re.findall(r"metrics split=train step=(\d+)", undisturbed.log)[-1])
    # Before the second step there is nothing to go on from.
    step = random.randrange(2, num_steps)
    print(f"killed at step {step} of {num_steps}")

    interrupted = machine(request)
    interrupted.start()
    interrupted.wait_for(f"metrics split=train step={step} ")
    interrupted.stop()

    again = machine(request)
    (again.base_dir / "checkpoints").rmdir()
    (interrupted.base_dir / "checkpoints").rename(again.base_dir / "checkpoints")
    assert again.run() == 0, again.log
    assert "Going on from" in again.log
    assert weights(again) == weights(undisturbed)
    assert results(again)["test_loss"] == results(undisturbed)["test_loss"]


# In place of train.py: leaves the words that it was given.
NOTING_SCRIPT = """
import json, os, sys
with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "words.json"), "w") as file:
    json.dump(sys.argv[1:], file)
"""


# Hyperparameters, and the words that reach the script: a shell stands in between.
READ_BY_A_SHELL = {
    "run_name": ("my run", ["my", "run"]),
    "lr_scheduler_kwargs": ('{"num_cycles": 2}', ["{num_cycles:", "2}"]),
    "optim_args": ('{"eps":1}', ["{eps:1}"]),
    "hub_model_id": ("$SM_CURRENT_HOST", ["localhost"]),
    "project": ("plain-run_1.0", ["plain-run_1.0"]),
    "learning_rate": (0.0003, ["0.0003"]),
}


def noting_host(
    request: Request, machine: Callable[..., Host], values: Mapping[str, Any]
) -> tuple[Host, Path]:
    """Return a host whose script notes its words, and the file that they will be in."""
    host = machine(changed(request, values))
    (host.base_dir / "code" / "requirements.txt").unlink(missing_ok=True)
    (host.base_dir / "code" / "train.py").write_text(NOTING_SCRIPT)
    return host, host.base_dir / "output" / "data" / "words.json"


def test_a_shell_reads_the_flags_here_as_in_the_container(
    request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    values = {name: value for name, (value, _) in READ_BY_A_SHELL.items()}
    host, noted = noting_host(request_of("vit"), machine, values)
    assert host.run() == 0, host.log
    flags: dict[str, list[str]] = {}
    for word in json.loads(noted.read_text()):
        if word.startswith("--"):
            flag = flags[word.removeprefix("--")] = []
        else:
            flag.append(word)
    assert {name: flags[name] for name in values} == {
        name: words for name, (_, words) in READ_BY_A_SHELL.items()
    }


def test_a_flag_that_a_shell_cannot_read_fails_here_as_in_the_container(
    request_of: Callable[..., Request], machine: Callable[..., Host]
) -> None:
    host, noted = noting_host(request_of("vit"), machine, {"run_name": "it's"})
    assert host.run() != 0
    assert not noted.exists()


def test_no_secret_of_the_callers_is_in_anything_that_a_job_leaves(
    request_of: Callable[..., Request],
    machine: Callable[..., Host],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    canary = "canary7Jq2"
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, canary)
    host = machine(request_of("vit"))
    assert host.run() == 0, host.log
    left = [path for path in host.base_dir.rglob("*") if path.is_file()]
    assert {"model.safetensors", "arguments.json"} <= {path.name for path in left}
    assert not [path for path in [*left, host.log_file] if canary.encode() in path.read_bytes()]
    # The toolkit does print the job's environment and hyperparameters.
    assert "learning_rate" in host.log
