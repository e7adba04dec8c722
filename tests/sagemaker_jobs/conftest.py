"""What the tests of launchers share."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import build_dataset
import prepare_data
from launching import train_flags
from stand_ins.aws_server import AwsServer, make_role
from stand_ins.policy_stack import BUCKET, HUB_SECRET, Stack, make_stack
from training import command_line, flag_table


@pytest.fixture(autouse=True)
def checks_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let train.py and build_dataset.py check flags here: processes would import torch each time.

    test_train_flags.py has the real processes, and so has whatever starts a launcher.
    """
    if request.path.name != "test_train_flags.py":
        for module in (prepare_data, train_flags):
            monkeypatch.setattr(module, "checked_by", checked_here)


@contextlib.contextmanager
def checked_here(command: Sequence[str], path: Path | None = None) -> Iterator[None]:
    """Do what train_flags.checked_by does, without a process of its own."""
    yield
    if command[0] == "-P":
        modules = {"training.flag_table": flag_table, "training.command_line": command_line}
        run, flags = modules[command[2]].main, command[3:]
    else:
        run, flags = build_dataset.main, command[1:]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            run([*flags])
        except SystemExit as end:
            code = end.code
        else:
            code = 0
    if code:
        raise ValueError(errors.getvalue().splitlines()[-1].partition("error: ")[2])


@pytest.fixture
def account(aws: AwsServer) -> AwsServer:
    """Return an account with a dataset and a role."""
    bucket = aws.bucket("photos")
    bucket.put_object(Key="bins/README.md", Body=b"")
    for split in ("train", "validation", "test"):
        bucket.put_object(Key=f"bins/data/{split}-00000-of-00001.parquet", Body=b"")
    make_role(aws, "jobs")
    return aws


@pytest.fixture
def stack(aws: AwsServer) -> Stack:
    """Return the policies, made in an empty account."""
    return make_stack(aws, Bucket=BUCKET, HubTokenSecretArn=HUB_SECRET)
