"""Build the local image: the training container with debugging tools.

    python docker_debugging/image.py                                # on AWS's training container
    python docker_debugging/image.py --base_image python:3.12-slim  # on another one

debug.py and vit.py --local do this by themselves. Prints the image's name. The default base is a
GPU image of some 10 GB in AWS's registry (ECR), which wants AWS credentials, though any account's.
"""

import base64
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from plain_parser import PlainParser
from stopping import raise_when_stopped

ROOT = Path(__file__).resolve().parent.parent
# LOCAL_IMAGE of sagemaker_jobs/container.py.
IMAGE = "bin-counting-debug"
ECR_HOST = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")
WITHOUT_DOCKER = "debug.py --no_docker needs no Docker"


def docker(*arguments: str) -> list[str]:
    """Return a Docker command line; the client itself reads DOCKER_HOST and its contexts.

    Podman takes the same, and its place where it is alone.
    """
    is_alone = shutil.which("docker") is None and shutil.which("podman")
    return ["podman" if is_alone else "docker", *arguments]


def is_podman() -> bool:
    """Say whether Podman answers, by whichever name."""
    try:
        return "podman" in output_of(docker("--version")).lower()
    except (OSError, subprocess.SubprocessError):
        return False


def architecture() -> str:
    """Return what the daemon's machine is, as Docker names it: amd64, arm64, ..."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    for template in ("{{.Architecture}}", "{{.Host.Arch}}"):  # Docker's, Podman's
        try:
            found = output_of(docker("info", "--format", template))
        except (OSError, subprocess.SubprocessError):
            continue
        return names.get(found, found)
    return names.get(platform.machine(), platform.machine())


def platform_flags(base_image: str) -> list[str]:
    """Return the flags of a build on AWS's images, which are made for x86 alone."""
    is_foreign = ecr_host(base_image) is not None and architecture() != "amd64"
    return ["--platform", "linux/amd64"] if is_foreign else []


def docker_version() -> str:
    """Return the version of the daemon.

    Raises: ValueError: Docker is not installed, does not run, or this user may not use it.
    """
    if shutil.which(docker()[0]) is None:
        raise ValueError(
            "Docker is not installed: apt-get install docker.io (Debian, Ubuntu), or "
            f"https://docs.docker.com/engine/install; {WITHOUT_DOCKER}."
        )
    try:
        return output_of(docker("version", "--format", "{{.Server.Version}}"))
    except subprocess.TimeoutExpired:
        problem, reason = "does not answer", ""
    except subprocess.CalledProcessError as error:
        if "permission denied" in error.stderr.lower():
            raise ValueError(
                "No permission to use Docker: `sudo usermod -aG docker $USER`, then log in again; "
                f"{WITHOUT_DOCKER}."
            ) from error
        problem, reason = "does not run", " ".join(error.stderr.split())
    host = os.environ.get("DOCKER_HOST")
    where = f" at DOCKER_HOST={host}" if host else ""
    raise ValueError(
        f"The Docker daemon {problem}{where}: `sudo systemctl start docker`, or start Docker "
        f"Desktop{', or unset DOCKER_HOST' if host else ''}; {WITHOUT_DOCKER}."
        + f" Docker says: {reason}"
        * bool(reason)
    )


def output_of(command: list[str], timeout: float = 60) -> str:
    """Return what a command prints, without the line's end.

    Raises: subprocess.CalledProcessError: it failed. subprocess.TimeoutExpired: it took too long.
    """
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
    return result.stdout.strip()


def succeeds(command: list[str]) -> bool:
    """Say whether a command ends well, whatever it prints."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def default_base_image() -> str:
    """Return the URI of the training container, as the launchers know it.

    Raises: ValueError: the launchers' environment is not complete.
    """
    command = [sys.executable, str(ROOT / "sagemaker_jobs" / "image_uri.py")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(
            f"sagemaker_jobs/image_uri.py does not name the training container ({reason}): "
            "pip install -r requirements.txt, or name one with --base_image."
        )
    return result.stdout.strip()


def is_present(image: str) -> bool:
    """Say whether Docker holds an image."""
    return succeeds(docker("image", "inspect", image))


def build_network() -> list[str]:
    """Return the flags of a build that has to reach a package index.

    A daemon that was started without a bridge has no other network to build in than the host's.
    """
    return [] if has_network() else ["--network=host"]


def has_network() -> bool:
    """Say whether containers have a network; a daemon without a bridge gives them loopback only."""
    return is_podman() or succeeds(docker("network", "inspect", "bridge"))


def ecr_host(image: str) -> str | None:
    """Return the host of AWS's registry that an image comes from, None for any other image."""
    host = image.partition("/")[0]
    return host if ECR_HOST.fullmatch(host) else None


def ecr_login(host: str) -> tuple[str, str]:
    """Return the user and the password, good for twelve hours, that AWS gives for its registry.

    Args:
        host: such as 763104351884.dkr.ecr.us-east-1.amazonaws.com

    Raises: ValueError: there are no credentials, or AWS refuses.
    """
    # Imported here: whoever has the base image needs neither the library nor credentials.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    match = ECR_HOST.fullmatch(host)
    assert match, host
    try:
        # A session of its own: boto3's default one keeps the first credentials that it finds.
        ecr = boto3.Session(region_name=match[2]).client("ecr")
        answer = ecr.get_authorization_token(registryIds=[match[1]])
    except (BotoCoreError, ClientError) as error:
        raise ValueError(
            f"AWS gives no token for {host} ({str(error).rstrip('.')}): run `aws configure`, or "
            f"set AWS_PROFILE; or name an image that is here with --base_image; {WITHOUT_DOCKER}."
        ) from error
    token = base64.b64decode(answer["authorizationData"][0]["authorizationToken"]).decode()
    user, _, password = token.partition(":")
    return user, password


def log_in_to_ecr(host: str) -> None:
    """Log Docker in to a registry of AWS.

    Raises: ValueError: there are no credentials, or AWS or Docker refuses.
    """
    user, password = ecr_login(host)
    result = subprocess.run(
        docker("login", "--username", user, "--password-stdin", host),
        input=password,  # on the command line every user of the machine could read it
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(
            f"docker login {host} failed ({reason}): name an image that is here with "
            f"--base_image; {WITHOUT_DOCKER}."
        )


def ensure_image(base_image: str | None) -> str:
    """Build the local image, in a second where nothing changed, and return its name.

    Args:
        base_image: what it stands on; None for AWS's training container.

    Raises: ValueError: Docker cannot be used, or the base image cannot be had, or the build fails.
    """
    docker_version()
    base_image = base_image or default_base_image()
    if not is_present(base_image):
        print(f"{base_image} is not here yet: Docker fetches it.", file=sys.stderr)
        if host := ecr_host(base_image):
            log_in_to_ecr(host)
    command = docker("build", "--tag", IMAGE, "--build-arg", f"BASE_IMAGE={base_image}")
    command += ["--file", str(ROOT / "docker_debugging" / "Dockerfile")]
    command += [*build_network(), *platform_flags(base_image)]
    # Standard output belongs to the run that follows.
    if subprocess.run([*command, str(ROOT)], check=False, stdout=sys.stderr).returncode:
        raise ValueError(
            f"The image does not build on {base_image}; Docker says why above. Or name another "
            f"with --base_image; {WITHOUT_DOCKER}."
        )
    return IMAGE


def main(argv: list[str] | None = None) -> None:
    """Build the image and print its name."""
    parser = PlainParser(__doc__)
    parser.add_argument("--base_image", help="default: what sagemaker_jobs/image_uri.py prints")
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        raise_when_stopped()  # a TERM alone would leave `docker build` behind
        print(ensure_image(arguments.base_image))


if __name__ == "__main__":
    main()
