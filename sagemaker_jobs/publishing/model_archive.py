"""Take a job's model out of its archives, which may come from anybody.

Only the files that are asked for are written. An archive that holds anything a training job of this
project does not write (a link, a device, a path that leads out, a pickle) is refused as a whole.
"""

import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import boto3
from botocore.exceptions import ClientError

from aws.settings import bucket_and_prefix

MAX_FILES = 1_000
MAX_BYTES = 10 * 1024**3  # unpacked; the largest ViT has 2.5 GB
# What Python or PyTorch would unpickle, which runs whatever code is in it.
PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")


def unpack(archive: Path, folder: Path, is_wanted: Callable[[PurePosixPath], bool]) -> None:
    """Write the wanted files of a tar.gz into a folder.

    Args:
        is_wanted: says so of a path in the archive.

    Raises: ValueError: damaged, too large, or it holds what must not be there.
    """
    num_files = num_bytes = 0
    try:
        # As a stream, so that nothing is unpacked that was not counted before.
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                num_files, num_bytes = num_files + 1, num_bytes + member.size
                if num_files > MAX_FILES or num_bytes > MAX_BYTES:
                    raise ValueError(
                        f"{archive.name} holds more than {MAX_FILES:,} files or "
                        f"{MAX_BYTES / 1024**3:.0f} GiB: this is no model of scripts/train.py."
                    )
                path = _checked_path(archive, member)
                content = tar.extractfile(member)
                if content is not None and is_wanted(path):
                    # By hand: no owner, mode or time of the archive's is taken over.
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    with (folder / path).open("wb") as output:
                        shutil.copyfileobj(content, output)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive.name} is damaged: {error}; fetch it again.") from error


def _checked_path(archive: Path, member: tarfile.TarInfo) -> PurePosixPath:
    """Return a member's path. Raises: ValueError: nobody should unpack it."""
    path = PurePosixPath(member.name)
    complaint = ""
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        complaint = "leads out of the folder"
    elif not (member.isfile() or member.isdir()):
        complaint = "is a link or a device"
    elif path.suffix.lower() in PICKLES:
        complaint = "may be a pickle, which can run any code"
    if complaint:
        raise ValueError(f"{archive.name} is refused: {member.name!r} in it {complaint}.")
    return path


def fetch(uri: str, folder: Path) -> Path:
    """Return an archive on this machine: a path as it is, an S3 object brought to the folder.

    Raises: ValueError: there is none. botocore.exceptions.ClientError: AWS refuses.
    """
    absent = (
        f"there is no {uri}: a finished job leaves model.tar.gz and output.tar.gz in one place."
    )
    if not uri.startswith("s3://"):
        if not Path(uri).is_file():
            raise ValueError(absent)
        return Path(uri)
    bucket, key = bucket_and_prefix(uri)
    path = folder / PurePosixPath(key).name
    try:
        boto3.client("s3").download_file(bucket, key, str(path))
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        raise ValueError(absent) from error
    return path
