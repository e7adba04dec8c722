"""A program `docker` or `podman` that notes what it is asked, and answers as if all were there.

It makes no container: `start` waits until `rm`. For what debug.py and doctor.py ask of hosts that
are not at hand: ARM, GPUs, Podman.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

# An image that is found was built for x86. Whatever is not answered here succeeds in silence.
PROGRAM = """#!/bin/sh
echo "$*" >> {folder}/calls
case "$*" in
  --version) echo "{version}" ;;
  "version --format"*) echo 28.2.2 ;;
  "info --format {{{{.Architecture}}}}") {architecture} ;;
  "info --format {{{{.Host.Arch}}}}") echo {arch} ;;
  "info --format {{{{json .Runtimes}}}}") echo '{{"nvidia": {{}}, "runc": {{}}}}' ;;
  "image inspect --format {{{{.Os}}}}/{{{{.Architecture}}}}"*) echo linux/amd64 ;;
  "start --attach"*) echo $$ > {folder}/started; exec sleep 600 ;;
  "rm --force"*) if [ -e {folder}/started ]; then kill "$(cat {folder}/started)"; fi ;;
esac
"""


@dataclass
class DockerClient:
    """The program, in a folder for PATH."""

    folder: Path

    @property
    def calls(self) -> list[list[str]]:
        """What it was asked so far, a list of words a call."""
        notes = self.folder / "calls"
        return [shlex.split(line) for line in notes.read_text().splitlines()]

    def call(self, *words: str) -> list[str]:
        """Return the only call that begins so."""
        [found] = [call for call in self.calls if call[: len(words)] == list(words)]
        return found

    def has_started(self) -> bool:
        """Say whether a container was started."""
        return (self.folder / "started").exists()


def put_docker(folder: Path, name: str = "docker", arch: str = "amd64") -> DockerClient:
    """Put the program into a folder.

    Args:
        name: docker or podman, which answers otherwise.
        arch: of the daemon's machine, as Docker names it.
    """
    is_podman = name == "podman"
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[arch]
    program = folder / name
    program.write_text(
        PROGRAM.format(
            folder=folder,
            version="podman version 5.4.2" if is_podman else "Docker version 28.2.2",
            # Podman knows no such field.
            architecture="exit 125" if is_podman else f"echo {machine}",
            arch=arch,
        )
    )
    program.chmod(0o755)
    return DockerClient(folder)


def put_gpus(folder: Path, *names: str) -> None:
    """Put a program nvidia-smi that finds GPUs into a folder."""
    program = folder / "nvidia-smi"
    lines = "\n".join(f"echo '{name}'" for name in names)
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
