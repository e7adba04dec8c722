"""What every entry of sagemaker_jobs does with errors, and with readers that have gone."""

import os
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError

from aws.entry_parser import EntryParser
from paths import ROOT

PROGRAM = """
import sys
from aws.entry_parser import EntryParser

parser = EntryParser("What it does.")
parser.parse_args(sys.argv[1:])
with parser.errors_of_one_line():
    for number in range(int(sys.stdin.readline())):
        print("line", number)
"""


@pytest.mark.parametrize(("flags", "lines"), [([], 1), ([], 100_000), (["--help"], 0)])
def test_a_reader_that_has_seen_enough_is_no_error(flags: list[str], lines: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *flags],
        input=f"{lines}\n",
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "sagemaker_jobs")},
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("raise ValueError('no')", 2), ("sys.exit(0)", 0)]
)
def test_the_exit_code_stays_where_nobody_reads(end: str, code: int) -> None:
    program = (
        "import sys; from aws.entry_parser import EntryParser\n"
        f"with EntryParser(None).errors_of_one_line(): print('seen'); {end}"
    )
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "sagemaker_jobs"), "PYTHONUNBUFFERED": ""},
    )
    os.close(writing)
    assert result.returncode == code
    assert "BrokenPipe" not in result.stderr


def test_a_quota_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    refused = ClientError(
        {
            "Error": {
                "Code": "ResourceLimitExceeded",
                "Message": "The account-level service limit 'ml.g5.2xlarge for spot training job "
                "usage' is 0 Instances",
            }
        },
        "CreateTrainingJob",
    )
    with pytest.raises(SystemExit) as exit_info, EntryParser(None).errors_of_one_line():
        raise refused
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'ml.g5.2xlarge for spot training job usage' is 0" in line
    assert "Service Quotas, Amazon SageMaker" in line
