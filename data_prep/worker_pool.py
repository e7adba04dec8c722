"""Worker processes that end with the run, also when the run is killed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from threading import Thread


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; what is not begun when the block ends is dropped."""
    executor = ProcessPoolExecutor(
        num_workers,
        # Not by fork: the object store's own threads do not survive it.
        multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Make a worker end when the process that started it is gone; the pool alone would wait.

    Ctrl-C reaches every process: the worker leaves it to its parent, and ends what it began.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_for_parent, daemon=True).start()
