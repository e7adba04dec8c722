"""Check what local runs need, and say how to mend what is missing.

    python docker_debugging/doctor.py

Each line is ok, a note (something is missing that only some runs need) or a problem (no run in
Docker can be made). Exit code 0 without problems, else 1. Nothing is changed, installed or fetched.
"""

import contextlib
import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import containers
import debug
import this_machine
import toolkit
from image import (
    IMAGE,
    architecture,
    default_base_image,
    docker,
    docker_version,
    ecr_host,
    ecr_login,
    is_podman,
    is_present,
    output_of,
)
from plain_parser import PlainParser, port_number

OK, NOTE, PROBLEM = "ok", "note", "problem"
# An estimate: the training container takes some 10 GB to fetch and twice that unpacked.
IMAGE_GIGABYTES = 30
DEBUGPY_PORT = 5678  # where IDEs look for debugpy
DOCKER_FIRST = "unknown until Docker runs"


@dataclass
class Finding:
    """What a check found.

    Args:
        state: ok, note or problem.
        mend: what to do about it; empty for ok.
    """

    check: str
    state: str
    found: str
    mend: str = ""


def examine(base_image: str | None, port: int) -> list[Finding]:
    """Return one finding a check, in the order in which they are worth mending."""
    found_docker = check_docker()
    runs = found_docker.state == OK
    return [
        check_system(),
        found_docker,
        check_platform(base_image) if runs else Finding("platform", NOTE, DOCKER_FIRST),
        check_compose(),
        check_base_image(base_image) if runs else Finding("base image", NOTE, DOCKER_FIRST),
        check_disk(base_image) if runs else Finding("disk", NOTE, DOCKER_FIRST),
        check_gpu(runs),
        check_credentials(),
        check_toolkit(),
        check_port(port),
    ]


def check_system() -> Finding:
    """Check that this is a system that runs can be made on."""
    system = f"{platform.system()} {platform.machine()}"
    try:
        this_machine.check_system()
    except ValueError as error:
        return Finding("system", PROBLEM, system, str(error))
    return Finding("system", OK, system + ", SELinux" * bool(this_machine.mount_label()))


def check_docker() -> Finding:
    """Check that Docker, or Podman, is installed, runs, and may be used."""
    try:
        version = docker_version()
        return Finding("docker", OK, f"{'Podman' * is_podman()} version {version} runs".lstrip())
    except ValueError as error:
        what, _, mend = str(error).partition(": ")
        return Finding("docker", PROBLEM, what, mend)


def check_platform(base_image: str | None) -> Finding:
    """Check that Docker's machine runs the base image as it is."""
    found = architecture()
    is_from_aws = base_image is None or ecr_host(base_image) is not None
    if found == "amd64" or not is_from_aws:
        return Finding("platform", OK, f"linux/{found}")
    mend = (
        "AWS's images are made for x86 alone; debug.py --no_docker is as fast as this machine, and "
        "so is a --base_image of its kind"
    )
    return Finding("platform", NOTE, f"linux/amd64 on {found}: emulated, slow", mend)


def answer(command: list[str]) -> str:
    """Return what a command prints, nothing where it fails or is not there."""
    try:
        return output_of(command)
    except (OSError, subprocess.SubprocessError):
        return ""


def check_compose() -> Finding:
    """Check for a compose: Docker's plugin, whatever its version, or docker-compose."""
    if plugin := answer(docker("compose", "version", "--short")):
        return Finding("compose", OK, f"docker compose {plugin}")
    if shutil.which("docker-compose"):
        version = answer(["docker-compose", "version", "--short"])
        return Finding("compose", OK, f"docker-compose {version}")
    mend = "only vit.py --local needs one: apt-get install docker-compose"
    return Finding("compose", NOTE, "none", mend)


def check_base_image(base_image: str | None) -> Finding:
    """Check that the image to build on is here, or that it can be fetched."""
    try:
        base_image = base_image or default_base_image()
    except ValueError as error:
        return Finding("base image", PROBLEM, "unknown", str(error))
    if is_present(base_image):
        built = "is built" if is_present(IMAGE) else "is built on first use"
        return Finding("base image", OK, f"{base_image} is here; {IMAGE} {built}")
    host = ecr_host(base_image)
    if host is None:
        mend = "Docker will try to pull it; `docker pull` says whether it can"
        return Finding("base image", NOTE, f"{base_image} is not here", mend)
    try:
        ecr_login(host)
    except ValueError as error:
        return Finding("base image", PROBLEM, f"{base_image} is not here", str(error))
    return Finding("base image", OK, f"{base_image} is not here yet, but can be pulled")


def check_disk(base_image: str | None) -> Finding:
    """Check for room where Docker keeps its images."""
    root = "{{.Store.GraphRoot}}" if is_podman() else "{{.DockerRootDir}}"
    folder = Path(answer(docker("info", "--format", root)) or "unknown")
    try:
        free = shutil.disk_usage(folder).free // 10**9
    except OSError:
        found = f"Docker keeps its images on a disk of its own ({folder})"
        mend = f"{IMAGE_GIGABYTES} GB should be free there; Docker Desktop's settings say how much"
        return Finding("disk", NOTE, found, mend)
    found = f"{free} GB free in {folder}"
    if free >= IMAGE_GIGABYTES or is_present(IMAGE):
        return Finding("disk", OK, found)
    mend = f"the training container wants {IMAGE_GIGABYTES} GB: docker system prune"
    # A smaller image may well fit.
    return Finding("disk", NOTE if base_image else PROBLEM, found, mend)


def check_gpu(docker_runs: bool) -> Finding:
    """Check that a GPU that is here can be used in Docker."""
    gpus = this_machine.gpus()
    if not gpus:
        return Finding("gpu", OK, "none: runs use the CPU")
    found = ", ".join(gpus)
    if not docker_runs:
        return Finding("gpu", NOTE, f"{found}; in Docker {DOCKER_FIRST}")
    if containers.gpu_flags(len(gpus)):
        return Finding("gpu", OK, found)
    if is_podman():
        mend = (
            "install nvidia-container-toolkit, then `sudo nvidia-ctk cdi generate "
            f"--output={containers.PODMAN_GPUS[0]}`; till then runs use the CPU"
        )
        return Finding("gpu", NOTE, f"{found}, but Podman knows of none", mend)
    mend = (
        "install nvidia-container-toolkit, then `sudo nvidia-ctk runtime configure "
        "--runtime=docker` and `sudo systemctl restart docker`; till then runs use the CPU"
    )
    return Finding("gpu", NOTE, f"{found}, but Docker has no NVIDIA runtime", mend)


def check_credentials() -> Finding:
    """Check that AWS credentials are found; whether they are good, the base image's line says."""
    mend = "only to fetch the training container and to launch jobs: aws configure"
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return Finding("credentials", NOTE, "boto3 is missing", "pip install -r requirements.txt")
    try:
        credentials = boto3.Session().get_credentials()
    except BotoCoreError as error:
        return Finding("credentials", NOTE, str(error).rstrip("."), mend)
    if credentials is None:
        return Finding("credentials", NOTE, "no AWS credentials", mend)
    return Finding("credentials", OK, f"AWS credentials found ({credentials.method})")


def check_toolkit() -> Finding:
    """Check that --no_docker can be used: its environment is made, or can be."""
    if toolkit.STAMP.exists() and toolkit.STAMP.read_text() == toolkit.fingerprint():
        return Finding("toolkit", OK, f"{toolkit.FOLDER.name} is made, for --no_docker")
    try:
        toolkit.check_compiler()
    except ValueError as error:
        what, _, mend = str(error).partition(": ")
        return Finding("toolkit", NOTE, what, f"only --no_docker needs it: {mend}")
    return Finding("toolkit", OK, f"{toolkit.FOLDER.name} is made on first use of --no_docker")


def check_port(port: int) -> Finding:
    """Check that debugpy can listen where an IDE looks for it."""
    try:
        debug.check_port(port)
    except ValueError as error:
        reason = str(error).partition(": ")[2].partition(";")[0]
        return Finding("debug port", NOTE, f"{port}: {reason}", "give --debugpy another port")
    return Finding("debug port", OK, f"{port} is free")


def table(findings: list[Finding]) -> str:
    """Return the findings as aligned lines, each with its remedy below it."""
    indent = 9 + max(len(finding.check) for finding in findings) + 2
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<9}{finding.check:<{indent - 9}}{finding.found}")
        if finding.mend:
            lines += textwrap.wrap(
                finding.mend,
                width=100,
                initial_indent=" " * indent + "-> ",
                subsequent_indent=" " * (indent + 3),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the findings; exit with 1 where no run in Docker can be made."""
    parser = PlainParser(__doc__)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--base_image", help="the one that debug.py is to build on")
    parser.add_argument(
        "--debugpy",
        type=port_number,
        default=DEBUGPY_PORT,
        metavar="PORT",
        help="the one that debug.py is to wait at (default: %(default)s)",
    )
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        findings = examine(arguments.base_image, arguments.debugpy)
        runs = all(finding.state != PROBLEM for finding in findings)
        with contextlib.suppress(BrokenPipeError):  # the exit code says it to `| head` too
            if arguments.json:
                print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
            else:
                print(table(findings))
                print("\n" + conclusion(findings))
    sys.exit(0 if runs else 1)


def conclusion(findings: list[Finding]) -> str:
    """Return what can be done here."""
    problems = {finding.check for finding in findings if finding.state == PROBLEM}
    if not problems:
        return "Runs in Docker can be made: python docker_debugging/debug.py"
    if "system" in problems:
        return "No run can be made on this system; launchers, metrics and this doctor work."
    return "No run in Docker can be made; docker_debugging/debug.py --no_docker needs none."


if __name__ == "__main__":
    main()
