"""Run a job here as SageMaker would run it, before it costs anything.

    python docker_debugging/debug.py --config_name vit_demo               # in Docker
    python docker_debugging/debug.py --config_name vit_demo --no_docker   # through the toolkit
    python docker_debugging/debug.py --job resnet34 --dataset data/bins --max_train_samples 500

The launcher (sagemaker_jobs/vit.py) gives the request that it would send; /opt/ml is laid out for
it, and SageMaker's own program runs scripts/ as it is now. Any flag of the launcher or of train.py
may follow. The same command goes on where a run was stopped. The exit code is the script's own.
"""

import argparse
import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import containers
import toolkit
from image import ROOT, ensure_image, has_network
from layout import (
    CHECKPOINTS,
    check_base_dir,
    check_dataset,
    configuration,
    for_the_toolkit,
    job_variables,
    lay_out,
    num_gpus,
)
from plain_parser import PlainParser, port_number
from stopping import Stopped, raise_when_stopped
from this_machine import check_system, gpus

FAILURE = Path("output/failure")
# The toolkit's words, and torchrun's, whose own exit code is 1 whatever the script's was.
EXIT_CODE = re.compile(r"^\s*(?:ExitCode|exitcode\s*:) (-?\d+)", re.MULTILINE)


def main(argv: list[str] | None = None) -> None:
    """Run a job here, and exit with its script's exit code."""
    parser = make_parser()
    with parser.errors_of_one_line():
        arguments, flags = parser.parse_known_args(argv)
        raise_when_stopped()
        try:
            code = debug(arguments, flags)
        except Stopped as stopped:
            code = 128 + stopped.number
            with contextlib.suppress(OSError):  # a closed terminal
                print(
                    "\nStopped. The same command goes on from the last checkpoint.", file=sys.stderr
                )
    sys.exit(code)


def make_parser() -> PlainParser:
    """Return the parser of this entry's own flags."""
    parser = PlainParser(__doc__)
    parser.add_argument("--job", choices=("vit", "resnet34"), default="vit", help="the recipe")
    parser.add_argument(
        "--dataset",
        type=Path,
        default="data/demo",
        metavar="FOLDER",
        help="a dataset of data_prep/build_dataset.py (default: %(default)s, of `make demo`)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default="runs/debug",
        metavar="FOLDER",
        help="stands for /opt/ml (default: %(default)s)",
    )
    parser.add_argument("--base_image", metavar="URI", help="default: SageMaker's own")
    parser.add_argument("--fresh", action="store_true", help="start again, without checkpoints")
    parser.add_argument("--shell", action="store_true", help="open a shell there; `train` runs it")
    parser.add_argument("--no_docker", action="store_true", help="run the toolkit without Docker")
    parser.add_argument(
        "--debugpy", type=port_number, metavar="PORT", help="wait for an IDE at 127.0.0.1:PORT"
    )
    return parser


def debug(arguments: argparse.Namespace, flags: list[str]) -> int:
    """Run the job and return its script's exit code.

    Raises: ValueError, OSError: what the user has to mend first.
    """
    check_system()
    # At once, not after the image is built.
    base_dir = arguments.output_dir.resolve()
    check_base_dir(base_dir)
    check_dataset(arguments.dataset)
    if arguments.no_docker and arguments.base_image:
        raise ValueError("--base_image says what to run in Docker: leave out --no_docker or this.")
    if arguments.debugpy:
        check_port(arguments.debugpy)
    request = request_of(arguments.job, flags)
    run = run_without_docker if arguments.no_docker else run_in_docker
    with locked(base_dir):
        code = run(arguments, base_dir, request)
    if arguments.shell:
        return code
    failure = base_dir / FAILURE
    code = exit_code(code, failure.read_text() if failure.exists() else "")
    with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough; the code stays
        report(arguments, flags, code)
    return code


@contextlib.contextmanager
def locked(base_dir: Path) -> Iterator[None]:
    """Keep a folder for this process; the lock goes with the process, however that ends.

    Raises: ValueError: another run uses the folder.
    """
    import fcntl  # here, since Windows has none, and --help works there

    path = Path(tempfile.gettempdir()) / f"{containers.container_name(base_dir)}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--output_dir {base_dir}: a run is going on there.") from error
        yield


def request_of(job: str, flags: list[str]) -> dict[str, Any]:
    """Return the CreateTrainingJob request that a launcher would send.

    Raises: ValueError: the launcher refuses the flags, in its own words.
    """
    launcher = ROOT / "sagemaker_jobs" / f"{job}.py"
    # train.py shows what it holds before and after the model is loaded, unless a flag forbids it.
    command = [sys.executable, str(launcher), "--dry_run", "--log_memory", "true", *flags]
    print(f"Taking the job's request from sagemaker_jobs/{launcher.name}", file=sys.stderr)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip() or "it gave no reason").splitlines()[-1]
        raise ValueError(reason.removeprefix(f"{launcher.name}: error: "))
    return for_the_toolkit(json.loads(result.stdout))


def check_port(port: int) -> None:
    """Check that debugpy can listen. Raises: ValueError: the port is taken, or not allowed."""
    with socket.socket() as listener:
        # A connection that ended a moment ago keeps no port from a listener.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            reason = "the port is taken" if error.errno == errno.EADDRINUSE else error.strerror
            raise ValueError(f"--debugpy {port}: {reason}; give another.") from error


def run_in_docker(arguments: argparse.Namespace, base_dir: Path, request: Mapping[str, Any]) -> int:
    """Lay out /opt/ml, run the job in the image, and return the container's exit code."""
    image = ensure_image(arguments.base_image)
    is_reachable = has_network()
    variables = job_variables(request)
    flags = containers.platform_flags(image) + containers.gpu_flags(gpus_of(request))
    if arguments.debugpy:
        if not is_reachable:
            raise ValueError(
                "--debugpy: this Docker daemon gives containers no network to reach them by; add "
                "--no_docker."
            )
        variables |= debugger_variables("/opt/debugger", "0.0.0.0", arguments.debugpy)  # noqa: S104
        flags += ["--publish", f"127.0.0.1:{arguments.debugpy}:{arguments.debugpy}"]
    if arguments.shell:
        flags += ["--interactive"] + (["--tty"] if sys.stdin.isatty() else [])
    containers.take_back(base_dir, image)  # of a run that was killed
    # One host trains alone: it reaches itself, whatever Docker calls its network.
    files = configuration(request, [containers.HOST], containers.HOST, "lo")
    prepare(arguments, base_dir, files)
    name = containers.container_name(base_dir)
    command = ["bash"] if arguments.shell else ["train"]
    create = containers.create_command(image, name, base_dir, variables, command, flags)
    try:
        return containers.run_container(create, name, is_interactive=arguments.shell)
    finally:
        containers.take_back(base_dir, image)


def run_without_docker(
    arguments: argparse.Namespace, base_dir: Path, request: Mapping[str, Any]
) -> int:
    """Lay out /opt/ml elsewhere, run the job through the toolkit, and return its exit code."""
    train = toolkit.ensure_toolkit()
    variables = job_variables(request)
    if not runs_torchrun(request):  # which starts a process on each GPU of the machine
        variables |= visible_gpus(gpus_of(request))
    if arguments.debugpy:
        variables |= debugger_variables(str(containers.DEBUGGER), "127.0.0.1", arguments.debugpy)
    prepare(arguments, base_dir, configuration(request, [toolkit.HOST], toolkit.HOST, "lo"))
    command = [os.environ.get("SHELL", "/bin/sh")] if arguments.shell else [str(train)]
    return toolkit.run_in_toolkit(command, base_dir, variables, is_interactive=arguments.shell)


def gpus_of(request: Mapping[str, Any]) -> int:
    """Return the number of GPUs that the job's instance has; say so where there are fewer here."""
    instance_type = request["ResourceConfig"]["InstanceType"]
    wanted, here = num_gpus(instance_type), len(gpus())
    if 0 < here < wanted:
        print(f"{instance_type} has {wanted} GPUs, this machine {here}", file=sys.stderr)
    return wanted


def runs_torchrun(request: Mapping[str, Any]) -> bool:
    """Say whether the job trains in several processes."""
    flag = request["HyperParameters"].get("sagemaker_torch_distributed_enabled", "false")
    return json.loads(flag) is True


def visible_gpus(num_wanted: int) -> dict[str, str]:
    """Return the variable that shows a process no more GPUs than a job has, unless it is set."""
    if "CUDA_VISIBLE_DEVICES" in os.environ or len(gpus()) <= num_wanted:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(num_wanted)))}


def debugger_variables(folder: str, address: str, port: int) -> dict[str, str]:
    """Return the variables that make train.py wait for an IDE."""
    return {
        "PYTHONPATH": folder,
        "DEBUGPY_LISTEN": f"{address}:{port}",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # warns of Python's own modules
    }


def prepare(
    arguments: argparse.Namespace, base_dir: Path, files: Mapping[str, Mapping[str, Any]]
) -> None:
    """Lay out /opt/ml, with the checkpoints of an earlier run unless --fresh."""
    if arguments.fresh and (base_dir / CHECKPOINTS).exists():
        shutil.rmtree(base_dir / CHECKPOINTS)
    lay_out(base_dir, files, arguments.dataset, ROOT / "scripts")
    if arguments.shell:
        print("In this shell `train` runs the job; `exit` leaves it.", file=sys.stderr)


def exit_code(returned: int, failure: str) -> int:
    """Return the script's own exit code, as a shell counts: a signal is 128 and its number.

    Args:
        returned: the toolkit's exit code, which is 1 for every failure of the script.
        failure: contents of output/failure, empty where there is none.
    """
    codes = [int(code) for code in EXIT_CODE.findall(failure)]
    code = codes[-1] if returned and codes else returned
    return code if code >= 0 else 128 - code


def report(arguments: argparse.Namespace, flags: list[str], code: int) -> None:
    """Print where everything is, and the next command."""
    folder = arguments.output_dir
    print(f"\nExit code of the script: {code}")
    if code:
        if (folder / FAILURE).exists():
            print(f"Failure: {folder / FAILURE}")
        print(
            "Next: mend what the script says above; the same command goes on from the last "
            "checkpoint, --fresh starts again, another run wants another --output_dir."
        )
        return
    print(f"Model: {folder / 'model'}")
    print(f"Output: {folder / 'output' / 'data'}")
    launch = shlex.join(["python", f"sagemaker_jobs/{arguments.job}.py", *flags])
    print(f"Next, on SageMaker: {launch} --dataset s3://YOUR-BUCKET/YOUR-DATASET")


if __name__ == "__main__":
    main()
