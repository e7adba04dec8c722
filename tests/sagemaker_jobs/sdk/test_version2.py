"""What is said of version 2 of the SageMaker SDK, asked of it."""

import subprocess
from pathlib import Path

import pytest

from sdk import version2
from sdk.installed import installed_sdk
from sdk.version2 import _compose_of_any_version

if installed_sdk() is not version2:
    pytest.skip("another version of the SageMaker SDK is installed", allow_module_level=True)


def folder_of(uri: str) -> str:
    """Return where the SDK itself looks for a file:// channel."""
    version2.load()
    from sagemaker.local.data import get_data_source_instance

    return get_data_source_instance(uri, None).get_root_dir()


@pytest.mark.parametrize("name", ["bins", "my bins", "bins[1]", "Süd & 100%"])
def test_the_sdk_reads_the_folder_that_is_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert folder_of(f"file://{folder}") == str(folder)


@pytest.mark.parametrize(
    ("version", "command"),
    [("v2.40.1", ["docker", "compose"]), ("v5.1.0", ["docker-compose"])],
)
def test_dockers_own_compose_is_enough_whatever_its_version(
    version: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version2.load()
    from sagemaker.local.image import _SageMakerContainer

    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\n[ "$2" = version ] && echo Docker Compose version {version} || echo "$@"\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with _compose_of_any_version():
        found = _SageMakerContainer._get_compose_cmd_prefix()
        up = subprocess.run([*found, "up", "a b"], capture_output=True, text=True, check=True)
    assert found == command
    assert up.stdout == "compose up a b\n"
    with pytest.raises(FileNotFoundError):
        subprocess.run(["docker-compose"], check=False)
