"""Worker processes that end with the run, also when the run is killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def worker_pool(
    num_workers: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; what is not begun when the block ends is dropped.

    Args:
        prepare: called with the arguments in each process as it starts.
    """
    executor = ProcessPoolExecutor(
        num_workers,
        # Not by fork: the object store's own threads do not survive it.
        multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(prepare, arguments),
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def map_in_workers(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    prepare: Callable[..., None],
    *arguments: Any,
) -> Iterator[Result]:
    """Yield the results as they are done; the items are taken as workers are free for them."""
    running: set[Future[Result]] = set()
    with worker_pool(num_workers, prepare, *arguments) as pool:
        for item in items:
            running.add(pool.submit(function, item))
            # One more than is worked on, so that nobody waits.
            if len(running) > num_workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _start(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    _end_with_parent()
    if prepare is not None:
        prepare(*arguments)


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
