"""The code of a training job: scripts/, and what its container lacks."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import container
from launching.train_flags import SCRIPTS


@contextlib.contextmanager
def source_folder(processor: str) -> Iterator[str]:
    """Yield a copy of scripts/ without caches; for a CPU job, with what its container lacks."""
    with tempfile.TemporaryDirectory() as folder:
        source_dir = Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, source_dir, ignore=shutil.ignore_patterns("__pycache__"))
        if processor == "cpu":
            pins = [f"{name}=={version}" for name, version in container.TRAINING_PACKAGES.items()]
            with (source_dir / "requirements.txt").open("a") as requirements:
                requirements.write("\n".join(["", *pins, ""]))
        yield str(source_dir)
