import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from obstore.store import LocalStore
from PIL import Image

import build_catalog
import object_store
from catalog.bin_records import BinRecord
from catalog.file import CATALOG_SCHEMA, read_catalog
from catalog.parts import CatalogParts
from catalog.reading import read_bin_list
from command_line import InputError
from object_store import list_ids, open_store
from paths import ROOT, real_path
from stand_ins import bucket_server
from stand_ins.bucket_server import BucketServer

# A run in a process of its own, with small parts so that a kill finds some on the disk.
RUN = """
import sys
import build_catalog
from catalog import parts
parts.RECORDS_PER_PART = 20
build_catalog.main(sys.argv[1:])
"""


def metadata(quantity: Any, **items: Any) -> bytes:
    data = {asin: {"asin": asin, "quantity": number} for asin, number in items.items()}
    return json.dumps({"BIN_FCSKU_DATA": data, "EXPECTED_QUANTITY": quantity}).encode()


def write_bucket(folder: Path, **records: bytes) -> Path:
    (folder / "metadata").mkdir(parents=True)
    for name, content in records.items():
        (folder / "metadata" / f"{name.removeprefix('bin_')}.json").write_bytes(content)
    return folder


def start_run(server: BucketServer, *flags: str) -> subprocess.Popen[str]:
    environment = os.environ | server.environment | {"PYTHONPATH": str(ROOT / "data_prep")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_run(server: BucketServer, *flags: str) -> str:
    process = start_run(server, *flags)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output


def wait_until_halted(server: BucketServer, process: subprocess.Popen[str]) -> None:
    while not server.halted.wait(0.05):
        assert process.poll() is None, process.communicate()[1]


def num_kept(parts: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in parts.glob("*.parquet"))


@pytest.fixture
def server(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """Serve the drawn bucket on loopback, with pages of ten names."""
    with bucket_server.serving(bucket_server.objects_of(bucket)) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def test_the_items_of_a_record_without_a_usable_count_still_hold_its_group_together(
    tmp_path: Path,
) -> None:
    bucket = write_bucket(
        tmp_path / "b", bin_1=metadata(1, A=1), bin_2=metadata(-1, A=1), bin_3=metadata(2, A=2)
    )
    catalog = build_catalog.build_catalog(str(bucket), tmp_path / "catalog.parquet")
    assert catalog["bin_group"].to_pylist() == ["1", "1", "1"]


def test_the_catalog_has_a_row_for_every_bin(bucket: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "catalog.parquet"
    build_catalog.main(["--source", str(bucket), "--output", str(output)])
    catalog = pq.read_table(output)
    assert catalog.schema.equals(CATALOG_SCHEMA)
    assert catalog["id"].to_pylist() == sorted(p.stem for p in (bucket / "metadata").iterdir())
    for row in catalog.slice(0, 20).to_pylist():
        written = json.loads((bucket / "metadata" / f"{row['id']}.json").read_text())
        assert row["count"] == written["EXPECTED_QUANTITY"]
        assert row["asins"] == list(written["BIN_FCSKU_DATA"])


def test_a_bin_list_gives_the_same_groups_as_the_whole_bucket(bucket: Path, tmp_path: Path) -> None:
    whole = build_catalog.build_catalog(str(bucket), tmp_path / "whole.parquet")
    group_of = dict(zip(whole["id"].to_pylist(), whole["bin_group"].to_pylist(), strict=True))
    # Every sixth bin: most groups reach beyond what is listed, and end far from the next one.
    listed = build_catalog.build_catalog(
        str(bucket), tmp_path / "listed.parquet", sorted(group_of)[::6]
    )
    assert listed.num_rows < whole.num_rows
    for row in listed.to_pylist():
        assert row["bin_group"] == group_of[row["id"]]


def test_a_listed_bin_without_metadata_is_set_aside(bucket: Path, tmp_path: Path) -> None:
    catalog = build_catalog.build_catalog(
        str(bucket), tmp_path / "catalog.parquet", ["00001", "999999", "../1"]
    )
    by_id = {row["id"]: row for row in catalog.to_pylist()}
    assert by_id["999999"]["set_aside"] == "no metadata"
    assert by_id["../1"]["set_aside"].startswith("the id is not made of")
    assert by_id["00001"]["set_aside"] is None


def test_a_bin_list_is_read_whatever_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"1": ["data/metadata/00152.json"], "2": ["523.jpg", "00152"]}')
    assert read_bin_list(path) == ["00152", "523"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"1": 3}', '{"1": [3]}', '{"1": "00152.json"}', r'{"1": ["\ud800"]}']
)
def test_another_file_than_a_bin_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected JSON such as"):
        read_bin_list(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no such folder"), ("ftp://x/y", "give a folder"), (".", "no metadata")],
)
def test_a_source_that_is_none_is_one_line_and_exit_code_2(
    source: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        build_catalog.main(["--source", source, "--output", "catalog.parquet"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_the_real_records_that_do_not_sum_up_are_found(tmp_path: Path) -> None:
    catalog = build_catalog.build_catalog(str(real_path("abid")), tmp_path / "catalog.parquet")
    differing = [row["id"] for row in catalog.to_pylist() if not row["quantities_match"]]
    assert set(differing) <= {"01405", "01406", "02081", "02082", "09032", "09033"}
    assert len(differing) == 4


def test_a_run_says_what_it_found_and_draws_it(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_catalog.main(["--source", str(bucket), "--output", str(tmp_path / "catalog.parquet")])
    printed = capsys.readouterr().out
    assert "300 bins in " in printed
    assert re.search(r"A random split would leak: of the \d+ bins in a test split of 10 %", printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bins_by_count.png",
        "catalog.parquet",
    ]
    with Image.open(tmp_path / "bins_by_count.png") as chart:
        assert chart.format == "PNG"


@pytest.mark.slow
@pytest.mark.parametrize("with_list", [False, True])
def test_a_killed_run_goes_on_to_the_same_catalog_byte_for_byte(
    with_list: bool, server: BucketServer, tmp_path: Path
) -> None:
    flags = ["--source", server.url]
    num_wanted = 300
    if with_list:
        ids = sorted(Path(key).stem for key in server.objects)[::3]
        num_wanted = len(ids)
        (tmp_path / "list.json").write_text(json.dumps({"1": ids}))
        flags += ["--bin_list", str(tmp_path / "list.json")]
    finish_run(server, *flags, "--output", str(tmp_path / "undisturbed" / "catalog.parquet"))
    num_asked = len(server.asked)
    assert num_asked > num_wanted if with_list else num_asked == num_wanted

    output = tmp_path / "killed" / "catalog.parquet"
    parts = output.with_name("catalog.parquet.parts")
    num_done = 0
    for share_of_rest in (0, 0.2, 0.5, 0.95):
        server.asked.clear()
        num_answers = int(share_of_rest * (num_asked - num_done))
        server.halt_after(num_answers)
        process = start_run(server, *flags, "--output", str(output))
        wait_until_halted(server, process)
        while num_kept(parts) < num_done + num_answers - 19:
            # It has the answers, and is about to write the last of them.
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.kill()
        process.communicate()
        num_done = num_kept(parts)
        assert not output.exists()
    assert num_done > num_asked / 2
    server.asked.clear()
    server.halt_after(10**9)
    finish_run(server, *flags, "--output", str(output))
    assert len(server.asked) == num_asked - num_done
    assert not parts.exists()
    undisturbed = tmp_path / "undisturbed" / "catalog.parquet"
    assert output.read_bytes() == undisturbed.read_bytes()


def test_parts_of_another_source_are_dropped(
    bucket: Path, server: BucketServer, tmp_path: Path
) -> None:
    other = write_bucket(tmp_path / "other", bin_00001=metadata(88), bin_00002=metadata(88))
    folder = LocalStore(tmp_path)
    with CatalogParts(folder, "catalog.parquet.parts", repr(open_store(str(other)))) as parts:
        parts.add(BinRecord("00001", 88))
    (tmp_path / "catalog.parquet.parts" / "damaged.parquet").write_bytes(b"PAR1")
    catalog = build_catalog.build_catalog(server.url, tmp_path / "catalog.parquet")
    assert catalog.equals(build_catalog.build_catalog(str(bucket), tmp_path / "own.parquet"))
    assert f"abid/metadata/{catalog['id'][0]}.json" in server.asked


def test_records_that_do_not_arrive_end_the_run_with_their_names_and_are_all_that_it_reads_next(
    server: BucketServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(object_store, "MAX_RETRIES", 1)
    keys = sorted(server.objects)[:12]
    server.failing = set(keys)
    flags = ["--source", server.url, "--output", str(tmp_path / "catalog.parquet")]
    with pytest.raises(SystemExit) as exit_info:
        build_catalog.main(flags)
    assert exit_info.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the metadata of 12 bins did not arrive" in error
    assert f": {', '.join(Path(key).stem for key in keys[:10])} and 2 more. " in error
    assert error.endswith("The same command goes on from here.")
    assert not (tmp_path / "catalog.parquet").exists()

    server.failing = set()
    server.asked.clear()
    build_catalog.main(flags)
    assert sorted(server.asked) == keys
    # The bar starts at what was there already.
    assert "288/300" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "catalog.parquet").num_rows == 300


def test_a_record_that_may_not_be_read_is_set_aside(server: BucketServer, tmp_path: Path) -> None:
    server.forbidden = {key := sorted(server.objects)[0]}
    catalog = build_catalog.build_catalog(server.url, tmp_path / "catalog.parquet")
    assert catalog["id"][0].as_py() == Path(key).stem
    assert catalog["set_aside"][0].as_py() == "metadata: access denied"


def test_a_listing_in_ranges_finds_every_id_once_whatever_it_looks_like(
    server: BucketServer, bucket: Path
) -> None:
    generator = random.Random(0)
    ids = {"0", "00", "000", "09", "1", "10", "99", "999", "9z", "a", "Z", "zz", "_", "-", "--"}
    ids |= {"é", "中", "!", "~", "a b", "", "A&B", "00001", "metadata"}
    ids |= {str(generator.randrange(10**6)) for _ in range(150)}
    ids |= {f"{generator.randrange(10**5):05d}" for _ in range(50)}
    ids |= {f"{generator.randrange(16**8):08x}" for _ in range(50)}
    server.objects = {f"abid/metadata/{bin_id}.json": b"{}" for bin_id in ids}
    server.objects |= {"abid/metadata/1.txt": b"", "abid/metadata/x/2.json": b""}
    server.objects |= {"abid/metadata.json": b"", "abid/metadata-old/3.json": b""}
    found = list_ids(open_store(server.url), "metadata", ".json")
    assert sorted(found) == sorted(ids)


def test_a_file_with_an_impossible_name_is_set_aside_and_stops_nothing(tmp_path: Path) -> None:
    source = write_bucket(tmp_path / "source", bin_1=metadata(2), bin_2=metadata(3))
    folder = os.fsencode(source / "metadata")
    for name in (b"a\xff.json", b"a\nb.json", b"a%2fb.json", b"a#1.json", b"...json", b".json"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(metadata(1))
    (source / "metadata" / "3.json").mkdir()
    catalog = build_catalog.build_catalog(str(source), tmp_path / "catalog.parquet")
    used = catalog.filter(catalog["set_aside"].is_null())
    assert used["id"].to_pylist() == ["1", "2"]
    assert catalog.num_rows == 8


def test_a_catalog_goes_from_s3_to_s3_as_from_folder_to_folder(
    s3_bucket: str, bucket: Path, tmp_path: Path
) -> None:
    location = "s3://mirror/own/catalog.parquet"
    store = open_store("s3://mirror/own")
    # What a killed run left: read again it would look otherwise.
    left_source = repr(open_store(s3_bucket))
    with CatalogParts(store, "catalog.parquet.parts", left_source) as parts:
        parts.add(BinRecord("00003", 3, ("left",), (3,)))
    build_catalog.main(["--source", s3_bucket, "--output", location])
    assert sorted(object_store.object_sizes(store)) == ["bins_by_count.png", "catalog.parquet"]
    catalog = read_catalog(location)
    expected = build_catalog.build_catalog(str(bucket), tmp_path / "catalog.parquet")
    assert catalog["id"].equals(expected["id"])
    left = catalog["id"].to_pylist().index("00003")
    assert catalog["asins"][left].as_py() == ["left"]
    build_catalog.main(["--source", s3_bucket, "--output", location])
    assert read_catalog(location).equals(expected)


@pytest.mark.parametrize(
    "output", ["", ".", "data/", "/tmp", "s3://mirror", "s3://mirror/", "ftp://x/y"]
)
def test_an_output_that_is_no_file_is_one_line_and_exit_code_2(
    output: str, bucket: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        build_catalog.main(["--source", str(bucket), "--output", output])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "--output" in error[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_catalog_of_the_whole_bucket_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    # All is read, nothing is put together yet: the point at which the most lies in memory.
    source = write_bucket(tmp_path / "source")
    generator = random.Random(0)
    expected_groups: list[str] = []
    asins: list[str] = []
    parts_of = CatalogParts(
        LocalStore(tmp_path), "catalog.parquet.parts", repr(open_store(str(source)))
    )
    with parts_of as parts:
        for number in range(1, 535_235):
            bin_id = f"{number:05d}"
            if len(asins) > 1 and generator.random() < 0.39:
                asins = asins[1:]
                expected_groups.append(expected_groups[-1])
            else:
                size = generator.choice((1, 2, 3, 3, 4, 5, 6, 8))
                asins = [f"B{number:07d}{place:02d}" for place in range(size)]
                expected_groups.append(bin_id)
            parts.add(BinRecord(bin_id, len(asins), tuple(asins), (1,) * len(asins)))
    (tmp_path / "list.json").write_text(
        json.dumps({"1": [f"{number:05d}" for number in range(1, 535_235)]})
    )
    # Not getrusage: its peak is that of the process it was forked from, too.
    command = (
        "import sys, build_catalog; build_catalog.main(sys.argv[1:]); "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", command, "--source", str(source)]
        + [
            "--bin_list",
            str(tmp_path / "list.json"),
            "--output",
            str(tmp_path / "catalog.parquet"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT / "data_prep")},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    assert int(printed.split()[-1]) * 1024 < 1e9
    catalog = pq.read_table(tmp_path / "catalog.parquet").to_pydict()
    expected = dict(zip((f"{n:05d}" for n in range(1, 535_235)), expected_groups, strict=True))
    assert dict(zip(catalog["id"], catalog["bin_group"], strict=True)) == expected
