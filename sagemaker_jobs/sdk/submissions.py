"""With what a job is sent, beside what it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3

from jobs.training_job import Hyperparameters


@dataclass(frozen=True)
class Submission:
    """As whom and where a job is sent, and what runs in it.

    `session` creates it, `role` is the ARN that it runs as, `source_dir` a folder with its code.
    """

    session: boto3.Session
    role: str
    image_uri: str
    source_dir: str


@dataclass(frozen=True)
class LocalTraining:
    """A training in the local image, container.LOCAL_IMAGE.

    `container_root` is a private folder for what the container sees and writes, `output` the one
    that model.tar.gz and output.tar.gz go to, `environment` holds the container's own variables.
    The paths are absolute.
    """

    name: str
    hyperparameters: Hyperparameters
    source_dir: str
    dataset: Path
    output: Path
    container_root: str
    has_gpus: bool
    is_distributed: bool
    environment: Mapping[str, str]
