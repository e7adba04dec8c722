"""Trainings that are killed, each forked from a process that has imported train.py already.

    python tests/killed_trainings.py < REQUESTS

Two thirds of a short training's time are imports. A request is a JSON line: `argv` of train.py,
`log` (a file that is appended to), `checkpoints_of` (the run folder), and when to kill the process:
`seconds` after its start, or at the `change` (counting from 1) that it is about to make to a file
or folder of a checkpoint; null means never. The answer is a JSON line: `status` (of waitpid, as an
exit code, negative for a signal), `seconds`, and the number of `changes` that it made.
"""

import json
import mmap
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a training, wait for its end, and say how it ended."""
    num_changes = mmap.mmap(-1, 8)  # both processes see it
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        train_until_killed(request, num_changes)
    _, status = os.waitpid(child, 0)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - start,
        "changes": int.from_bytes(num_changes[:], "little"),
    }


def train_until_killed(request: dict[str, Any], num_changes: mmap.mmap) -> NoReturn:
    """Be the training, and never return."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    prefix = os.path.join(request["checkpoints_of"], "checkpoint-")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not os.fsdecode(arguments[0]).startswith(prefix):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        count = int.from_bytes(num_changes[:], "little") + 1
        num_changes[:] = count.to_bytes(8, "little")
        if count == request["change"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_paths(event: str, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], str | bytes):
            watch(event, arguments)

    sys.addaudithook(watch_paths)
    if request["seconds"] is not None:
        # Its default action ends the process as SIGKILL would: no handler runs, nothing is flushed.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    status = 1
    try:
        train.main(request["argv"])
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import train

    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
