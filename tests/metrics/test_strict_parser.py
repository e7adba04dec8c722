import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

ENTRIES = "fetch_logs", "parse_logs", "plot_metrics", "compare_runs", "learning_curve", "report"


def without_reader(unbuffered: str, entry: str, *arguments: str) -> tuple[int, bytes]:
    """Return exit code and standard error of an entry whose output nobody reads any more."""
    command = [sys.executable, str(ROOT / "metrics" / f"{entry}.py"), *arguments]
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    try:
        result = subprocess.run(
            command, env=environment, stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    return result.returncode, result.stderr


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_reader_that_is_gone_is_no_error(entry: str) -> None:
    assert without_reader("", entry, "--help") == (0, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_was_to_be_written_is_written_although_nobody_reads_the_summary(
    tmp_path: Path, unbuffered: str
) -> None:
    log, table = tmp_path / "vit.log", tmp_path / "vit.csv"
    log.write_text("{'loss': 1.5, 'epoch': 0.5}\n")
    assert without_reader(unbuffered, "parse_logs", str(log), "--output", str(table)) == (0, b"")
    assert table.read_text().endswith("loss,1.5\n")
