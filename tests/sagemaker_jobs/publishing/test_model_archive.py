import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from publishing.model_archive import MAX_FILES, fetch, unpack


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def pack(path: Path, *members: tarfile.TarInfo) -> Path:
    """Write an archive; a regular file holds as many zeros as its size says."""
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return path


def everything(_: object) -> bool:
    return True


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    archive = pack(
        tmp_path / "model.tar.gz",
        member(".", type=tarfile.DIRTYPE),
        member("./config.json", size=3),
        member("code", type=tarfile.DIRTYPE),
        member("code/inference.py", size=5),
    )
    unpack(archive, tmp_path / "out", lambda path: path.suffix == ".json")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written == [tmp_path / "out" / "config.json"]
    assert written[0].read_bytes() == bytes(3)


@pytest.mark.parametrize(
    ("hostile", "complaint"),
    [
        (member("../config.json", size=1), "leads out"),
        (member("a/../../config.json", size=1), "leads out"),
        (member("/tmp/config.json", size=1), "leads out"),
        (member("..\\config.json", size=1), "leads out"),
        (member("config.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (member("here", type=tarfile.SYMTYPE, linkname="."), "is a link"),
        (member("config.json", type=tarfile.LNKTYPE, linkname="../secret"), "is a link"),
        (member("null", type=tarfile.CHRTYPE), "a device"),
        (member("pipe", type=tarfile.FIFOTYPE), "a device"),
        (member("pytorch_model.bin", size=1), "may be a pickle"),
        (member("deep/MODEL.PT", size=1), "may be a pickle"),
        (member("model.pkl", size=1), "may be a pickle"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_an_archive_with_one_hostile_member_is_refused(
    hostile: tarfile.TarInfo, complaint: str, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "model.tar.gz", hostile, member("later.json", size=1))
    folder = tmp_path / "deep" / "out"
    with pytest.raises(ValueError, match=complaint):
        unpack(archive, folder, everything)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [archive]


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        # The header alone says how much would come.
        tar.fileobj.write(member("model.safetensors", size=2**40).tobuf())
    with pytest.raises(ValueError, match="holds more than"):
        unpack(archive, tmp_path / "out", everything)
    many = pack(tmp_path / "many.tar.gz", *(member(f"{n}.json") for n in range(MAX_FILES + 1)))
    with pytest.raises(ValueError, match="holds more than"):
        unpack(many, tmp_path / "out", lambda _: False)
    assert not (tmp_path / "out").exists()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("damage", [cut, lambda _: b"", lambda _: b"no archive" * 99])
def test_a_damaged_archive_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    whole = pack(tmp_path / "whole.tar.gz", member("model.safetensors", size=100_000))
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(ValueError, match=r"model.tar.gz is damaged: .*; fetch it again"):
        unpack(archive, tmp_path / "out", everything)


def test_an_archive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*/model.tar.gz"):
        fetch(str(tmp_path / "model.tar.gz"), tmp_path)
