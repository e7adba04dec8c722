"""Docker for the tests: the daemon that runs, else one of their own, and a stand-in base image.

On a bare Debian machine this installs Docker (as root, with apt-get), starts the daemon by hand
without touching the machine's network, and makes an image that holds what the training container
holds, on a CPU. What takes minutes is made once, and kept in .docker-test/ and
~/.cache/bin-counting.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import container
import image
import toolkit
from paths import ROOT

KEPT = ROOT / ".docker-test"
# Beyond this checkout: the next one on this machine has the same stand-in.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bin-counting"
BASE_IMAGE = "bin-counting-base:test"
# PATH of an ordinary user may lack the folders that dockerd, runc and chroot are in.
PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
PACKAGES = ("docker.io", "containerd", "runc", "iptables", "mmdebstrap", "docker-compose")
DEBIAN = "bookworm"  # its python3 is the one below
PYTHON = "3.11"
PUBLIC_PYTHON = f"python:{PYTHON}-{DEBIAN}"
# Beside what container.py names: what these need, in the laptop's versions.
STACK = {*container.TRAINING_PACKAGES, "numpy", "Pillow", "torch", "pyarrow", "tqdm", "psutil"}
# This machine's certificates: it may stand behind a proxy with its own. Before all else AWS's
# images compile, in the current folder, a library that gives the host the job's name, and load it
# from /.
BASE_DOCKERFILE = """
FROM {debian}
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY start_as_host.sh /usr/local/bin/
COPY host_name.c /
COPY *.whl /wheels/
# As in the training container, pip installs into the system.
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED \\
 && python3 -m pip install --no-cache-dir --find-links /wheels {requirements}
ENV SAGEMAKER_TRAINING_MODULE=sagemaker_pytorch_container.training:main
WORKDIR /
ENTRYPOINT ["bash", "-m", "start_as_host.sh"]
"""
START_SCRIPT = """#!/usr/bin/env bash
if [[ "$1" = "train" ]]; then
  host=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["current_host"])' \
    < /opt/ml/input/config/resourceconfig.json)
  sed -i "s/PLACEHOLDER/$host/" host_name.c
  gcc -shared -fPIC -o libhost_name.so host_name.c
  LD_PRELOAD=/libhost_name.so train
else
  eval "$@"
fi
"""
HOST_LIBRARY = """
#include <stddef.h>
#include <stdio.h>
int gethostname(char *name, size_t length) {
  return snprintf(name, length, "PLACEHOLDER") < 0;
}
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def say(message: str) -> None:
    """Show progress: some steps take minutes."""
    print(f"docker_host: {message}", file=sys.stderr, flush=True)


def skip(reason: str) -> None:
    """Skip the tests that need Docker, aloud."""
    say(f"SKIPPED, {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def running_docker() -> Iterator[None]:
    """Have a daemon that answers: the one that runs, else one of our own until the end.

    DOCKER_HOST names our own. Where Docker neither runs nor may be installed, the tests are
    skipped.
    """
    with contextlib.suppress(ValueError):
        say(f"Docker {image.docker_version()} runs")
        yield
        return
    if platform.system() != "Linux" or os.geteuid() != 0:
        skip("Docker does not run here, and only root on Linux may install and start it")
    if missing := [name for name in ("dockerd", "mmdebstrap", "docker-compose") if not which(name)]:
        install(missing)
    with own_daemon() as host:
        previous = {name: os.environ.get(name) for name in ("DOCKER_HOST", "PATH")}
        os.environ |= {"DOCKER_HOST": host, "PATH": PATH}
        try:
            say(f"Docker {image.docker_version()} started")
            yield
        finally:
            for name, value in previous.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def which(program: str) -> str | None:
    """Return where a program is, also one that only root uses."""
    return shutil.which(program, path=PATH)


def install(missing: list[str]) -> None:
    """Install Docker and mmdebstrap, or skip the tests where that is not possible."""
    if not which("apt-get"):
        skip(f"{', '.join(missing)} missing, and no apt-get to install them")
    say(f"{', '.join(missing)} missing: apt-get install")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PATH": PATH}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        if result.returncode:
            skip(f"{' '.join(command)} failed: {result.stderr.strip()[-300:]}")


@contextlib.contextmanager
def own_daemon() -> Iterator[str]:
    """Start dockerd, yield its DOCKER_HOST, and stop it.

    It makes no bridge and no firewall rule: the machine's network stays as it is, and works inside
    machines that allow neither.
    """
    KEPT.mkdir(exist_ok=True)
    # A socket's path has to be short, which a checkout's need not be.
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/tmp") as sockets:
        host = f"unix://{sockets}/docker.sock"
        with (KEPT / "dockerd.log").open("w") as log:
            daemon = subprocess.Popen(
                # Whatever becomes of the tests, the daemon ends with them.
                ["setpriv", "--pdeathsig", "TERM", str(which("dockerd")), "--host", host]
                + [f"--data-root={KEPT / 'docker'}", f"--exec-root={sockets}/exec"]
                + [f"--pidfile={KEPT / 'dockerd.pid'}", "--bridge=none", "--iptables=false"]
                + ["--ip6tables=false", "--ip-masq=false", "--ip-forward=false"],
                stdout=log,
                stderr=log,
                env=os.environ | {"PATH": PATH},
                start_new_session=True,  # Ctrl-C in a terminal is for the tests
            )
        try:
            wait_for_daemon(daemon, host)
            # What runs that were killed have left, and stand-ins of earlier versions.
            checked(["docker", "--host", host, "system", "prune", "--force"])
            yield host
        finally:
            daemon.terminate()
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            # The daemon leaves its own network namespace mounted.
            for namespace in Path(sockets).glob("exec/netns/*"):
                subprocess.run(["umount", str(namespace)], check=False)


def wait_for_daemon(daemon: subprocess.Popen[bytes], host: str) -> None:
    """Return when the daemon answers; skip the tests where it cannot run."""
    command = ["docker", "--host", host, "version"]
    deadline = time.monotonic() + 120
    while not image.succeeds(command):
        if daemon.poll() is not None or time.monotonic() > deadline:
            lines = (KEPT / "dockerd.log").read_text().splitlines() or ["it said nothing"]
            skip(f"dockerd does not start here: {lines[-1]}")
        time.sleep(0.1)


def base_image() -> str:
    """Return the stand-in for the training container, made where it is not there yet.

    It has the training container's stack, for CPUs, and SageMaker's toolkit, whose `train` it runs.
    """
    pins = re.findall(r"^[\w]+==.*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    stack = [pin for pin in pins if pin.partition("==")[0] in STACK]
    assert len(stack) == len(STACK), "requirements.txt lacks what the container holds"
    toolkit_pins = re.findall(r"^sagemaker.*$", toolkit.REQUIREMENTS.read_text(), re.MULTILINE)
    requirements = " ".join([*stack, *toolkit_pins])
    can_bootstrap = platform.system() == "Linux" and os.geteuid() == 0 and which("mmdebstrap")
    debian = "bin-counting-debian:test" if can_bootstrap else PUBLIC_PYTHON
    dockerfile = BASE_DOCKERFILE.format(debian=debian, requirements=requirements)
    files = {
        "Dockerfile": dockerfile,
        "start_as_host.sh": START_SCRIPT,
        "host_name.c": HOST_LIBRARY,
    }
    made_from = "\0".join(files.values()).encode() + CERTIFICATES.read_bytes()
    key = hashlib.sha256(made_from).hexdigest()[:16]
    if label_of(BASE_IMAGE) == key:
        return BASE_IMAGE
    archive = CACHE / f"training-container-{key}.tar"
    if archive.exists():
        say("Loading the stand-in for the training container")
        checked(image.docker("load", "--input", str(archive)))
        return BASE_IMAGE
    say("Making the stand-in for the training container: about 3 minutes, once")
    if not image.is_present(debian):
        bootstrap(debian) if can_bootstrap else pull(debian)
    with tempfile.TemporaryDirectory(prefix="base-image-") as context:
        for name, text in files.items():
            (Path(context) / name).write_text(text)
        shutil.copy(CERTIFICATES, context)
        torch = next(pin for pin in stack if pin.startswith("torch=="))
        say(f"Fetching {torch}")
        # This machine may have a CPU wheel, where the build would fetch gigabytes of CUDA.
        checked(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", context]
            + ["--python-version", PYTHON, "--only-binary=:all:", torch]
        )
        say("Installing the training container's stack")
        command = image.docker("build", "--label", f"key={key}", "--tag", BASE_IMAGE, context)
        checked([*command, *image.build_network()])
    keep(archive)
    return BASE_IMAGE


def keep(archive: Path) -> None:
    """Write the stand-in to the cache, in place of earlier ones, if that can be done."""
    temporary = archive.with_suffix(f".{os.getpid()}")
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        checked(image.docker("save", "--output", str(temporary), BASE_IMAGE))
        for earlier in CACHE.glob("training-container-*.tar"):
            earlier.unlink(missing_ok=True)
        temporary.rename(archive)
    except (OSError, RuntimeError) as error:
        say(f"The stand-in is not kept for the next checkout: {error}")
        temporary.unlink(missing_ok=True)


def label_of(name: str) -> str | None:
    """Return what an image was made from, None where there is no such image."""
    command = image.docker("image", "inspect", "--format", '{{index .Config.Labels "key"}}', name)
    try:
        return image.output_of(command)
    except subprocess.CalledProcessError:
        return None


def pull(name: str) -> None:
    """Fetch an image, or skip the tests where that is not possible."""
    say(f"Fetching {name}")
    if not image.succeeds(image.docker("pull", name)):
        skip(f"{name} cannot be pulled, and only root can make one with mmdebstrap")


def bootstrap(name: str) -> None:
    """Make an image of Debian's own packages: no registry is needed."""
    say(f"Making an image of Debian {DEBIAN} with mmdebstrap")
    packages = "--include=python3,python3-pip,python3-dev,gcc,libc6-dev,ca-certificates"
    with tempfile.TemporaryDirectory(prefix="debian-image-") as folder:
        archive = str(Path(folder) / "debian.tar")
        checked(["mmdebstrap", "--variant=minbase", packages, DEBIAN, archive])
        checked(image.docker("import", archive, name))


def checked(command: list[str]) -> None:
    """Run a step. Raises: RuntimeError: it failed, with all that it said."""
    result = subprocess.run(
        command,
        env=os.environ | {"PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}")
