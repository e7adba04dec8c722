"""What an endpoint serves: a trained model, checked, and packed as SageMaker wants it.

Whatever the model comes from (a run folder, an archive, a job), the archive is made anew: the
files that make the model at its top, and code/ with the handler of this checkout. So an archive's
own code is never run, and one of an older version, or packed a level too deep, is served all the
same.
"""

import gzip
import http.client
import json
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from publishing.model_archive import fetch, unpack

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WEIGHTS = "model.safetensors"
# Of each both, or none where the model has no such heads.
CHANGE_HEAD = ("change_head.json", "change_head.safetensors")
HEADS = (CHANGE_HEAD, ("item_heads.json", "item_heads.safetensors"))
NEEDED = ("config.json", "preprocessor_config.json", WEIGHTS)
NETWORK_EXPORT = ("openvino/export.json", "openvino/model.xml", "openvino/model.weights")
HEAD_EXPORT = ("openvino/change_head.xml", "openvino/change_head.weights")
EXPORT = (*NETWORK_EXPORT, *HEAD_EXPORT)
SMOKE_PHOTO_SIZE = (96, 64)  # pixels; any will do
# OpenVINO's bf16 may differ by this much from full precision; other weights differ by far more.
PROBABILITY_TOLERANCE = 0.05
# An answer in int8 from one in another precision: what export_model.py lets it differ by.
INT8_TOLERANCE = 0.25


def is_model_file(path: PurePosixPath) -> bool:
    """Return whether a path in a model folder belongs to the model: neither code nor pickles."""
    return str(path) in EXPORT or (
        len(path.parts) == 1 and path.suffix in (".json", ".safetensors")
    )


def copy_model(source: str, folder: Path, scratch: Path) -> None:
    """Bring a model's files into an empty folder.

    Args:
        source: run folder, model folder, model.tar.gz, or s3:// of one.
        scratch: an empty folder for what has to be fetched.

    Raises: ValueError: there is none, or the archive is damaged or refused.
    """
    if source.endswith(".tar.gz"):
        unpacked = scratch / "unpacked"
        unpack(
            fetch(source, scratch),
            unpacked,
            lambda path: is_model_file(PurePosixPath(path.name)) or path.parent.name == "openvino",
        )
        copy_model_folder(model_folder(unpacked, source), folder)
    else:
        copy_model_folder(model_folder(Path(source), source), folder)


def model_folder(folder: Path, source: str) -> Path:
    """Return where in a folder the model is: at its top, in `model`, or in the only folder there.

    Args:
        source: what the user calls it.

    Raises: ValueError: there is none, or not all of it.
    """
    entries = list(folder.glob("*"))
    # Never just any folder: of an unfinished run that would be a checkpoint.
    for candidate in [folder, folder / "model", *(entries if len(entries) == 1 else [])]:
        if (candidate / "config.json").is_file():
            absent = [name for name in NEEDED if not (candidate / name).is_file()]
            if absent:
                raise ValueError(
                    f"{source} holds no {absent[0]} beside config.json: it is not finished, or no "
                    "model of scripts/train.py."
                )
            return candidate
    raise ValueError(
        f"{source} holds no model: name a run folder, a finished job, or its model.tar.gz."
    )


def copy_model_folder(source: Path, folder: Path) -> None:
    """Copy a model's files, links followed, and nothing else."""
    folder.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        relative = PurePosixPath(path.relative_to(source).as_posix())
        if path.is_file() and is_model_file(relative):
            (folder / relative).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / relative)


def check_model(folder: Path, source: str) -> None:
    """Check what can be seen of a model without loading it.

    Raises: ValueError: it brings code, its labels are no counts, or its weights are cut off.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        labels = [int(name) for name in config["id2label"].values()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{source}: config.json has no counts as labels ({error!r}).") from error
    if "auto_map" in config:
        raise ValueError(
            f"{source}: the model brings code of its own (auto_map), which is refused."
        )
    if not labels:
        raise ValueError(f"{source}: config.json names no label.")
    of_heads = []
    for head in HEADS:
        there = [name for name in head if (folder / name).is_file()]
        if len(there) == 1:
            raise ValueError(f"{source} holds {there[0]} alone of {' and '.join(head)}: copy both.")
        of_heads += there[1:]
    for name in (WEIGHTS, *of_heads):
        if not is_whole(folder / name):
            raise ValueError(f"{source}: {name} is damaged or cut off; fetch it again.")


def is_whole(weights: Path) -> bool:
    """Return whether a safetensors file has the length that its header says.

    Source: the format's description, github.com/huggingface/safetensors.
    """
    with weights.open("rb") as file:
        try:
            (header_length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(header_length, 100_000_000)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
            return weights.stat().st_size == 8 + header_length + max(ends)
        except (struct.error, ValueError, LookupError, TypeError, AttributeError):
            return False


def add_handler(folder: Path) -> None:
    """Write code/ into a model folder.

    Raises: ValueError: in the words of scripts/serving/served_code.py.
    """
    command = [sys.executable, "-m", "serving.served_code", str(folder.resolve())]
    result = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(re.sub(r"^\w+\.py: error: ", "", result.stderr.strip()))


def has_export(folder: Path) -> bool:
    """Return whether a model folder has the exported form, whole."""
    has_head = (folder / CHANGE_HEAD[0]).is_file()
    needed = EXPORT if has_head else NETWORK_EXPORT
    return all((folder / name).is_file() for name in needed)


def pack(folder: Path, archive: Path) -> None:
    """Write a model folder as tar.gz: no owner and no time, so that one model is one archive."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    # Weights hardly become smaller, whatever the level.
    with (
        archive.open("wb") as output,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=output, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False, filter=plain)


def smoke_photo(path: Path) -> bytes:
    """Write a drawn photo of soft shades and hard edges, and return its bytes."""
    width, height = SMOKE_PHOTO_SIZE
    shades = Image.linear_gradient("L").resize((width, height))
    boxes = Image.new("L", (2, 2))
    boxes.putdata([40, 200, 160, 90])
    boxes = boxes.resize((width, height), Image.Resampling.NEAREST)
    Image.merge("RGB", [shades, boxes, shades.rotate(180)]).save(path)
    return path.read_bytes()


def local_answer(folder: Path, photo: bytes) -> dict[str, Any]:
    """Return what the handler answers for a model folder on this machine: the very same files.

    Raises: ValueError: it does not start, or refuses the photo; in its own words.
    """
    command = [sys.executable, str(folder / "code" / "inference.py"), "--model", str(folder)]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            assert server.stderr
            line = server.stdout.readline()
            if not line:
                error = server.stderr.read().strip().splitlines() or ["it gave no reason"]
                raise ValueError(f"the model cannot be served: {error[-1]}")
            url = urlsplit(line.split(" on ")[-1].partition(";")[0])
            connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=120)
            headers = {"Content-Type": "image/png", "Accept": "application/json"}
            connection.request("POST", "/invocations", photo, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise ValueError(f"the model does not answer: {answer.get('error')}")
            return answer
        finally:
            server.kill()


def check_same_answer(answer: dict[str, Any], expected: Mapping[str, Any]) -> float:
    """Return how far an endpoint's probabilities are from those of the same model here, at most.

    Raises: ValueError: too far, or it is no answer of the handler.
    """
    try:
        difference = max(
            abs(answer["probabilities"][count] - probability)
            for count, probability in expected["probabilities"].items()
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the endpoint's answer is not the handler's: {answer!r:.200}") from error
    # A CPU that cannot use the form in int8 answers with the safetensors.
    runtimes = {answer.get("runtime"), expected.get("runtime")}
    in_both_ways = len(runtimes) > 1 and "openvino int8" in runtimes
    # Not `>`: nan is different, too.
    if not difference <= (INT8_TOLERANCE if in_both_ways else PROBABILITY_TOLERANCE):
        raise ValueError(
            f"the endpoint answers otherwise than the model does here: a probability is off by "
            f"{difference:.3f}."
        )
    return difference
