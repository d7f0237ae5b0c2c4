"""One function over a stream on every core: in order, little of it in flight, the same answer for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeVar

from groundup.errors import GroundupError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any], Any]  # set in worker processes only


def resolve_workers(n_workers: int | None) -> int:
    """The number of processes to use: as asked, or one a core on Linux, where a fork costs milliseconds, and one elsewhere.

    A daemonic process may have no children, so it works alone. Raises UsageError for fewer than one.
    """
    if n_workers is not None and n_workers < 1:
        raise UsageError(f"n_workers is {n_workers}: ask for at least 1, or leave it out for one a core")
    if multiprocessing.current_process().daemon:
        return 1
    if n_workers is None:
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return n_workers


def resolve_threads(n_threads: int | None) -> int:
    """The number of threads to use: as asked, or one a core. Raises UsageError for fewer than one."""
    if n_threads is not None and n_threads < 1:
        raise UsageError(f"n_workers is {n_threads}: ask for at least 1, or leave it out for one a core")
    if n_threads is not None:
        return n_threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(items: Iterable[Item], size: int, size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Groups a stream into lists whose sizes reach ``size``, the last one perhaps less."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size_of(item)
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def map_batches(function: Callable[[Item], Result], batches: Iterable[Item], n_workers: int | None = None) -> Iterator[Result]:
    """Yields ``function(batch)`` for each batch, in order, worked out by ``n_workers`` processes; see ``resolve_workers``.

    A lone batch, or a system that grants no processes, is worked off in this one. Workers are forked on Linux, also from a process with
    threads: they run nothing but Python, ``re`` and ``regex``, which start and wait for none. Elsewhere they are spawned.
    Raises GroundupError when a worker dies, and whatever ``function`` raises.
    """
    n_workers = resolve_workers(n_workers)
    batches = iter(batches)
    first = list(islice(batches, 2))
    batches = chain(first, batches)
    if n_workers == 1 or len(first) < 2:
        yield from map(function, batches)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    try:
        pool = ProcessPoolExecutor(n_workers, context, _start_worker, (function, os.getpid()))
    except (OSError, NotImplementedError):  # no semaphores here, as in some sandboxes
        yield from map(function, batches)
        return
    pending: deque[Future[Result]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(_run, batch))
            if len(pending) > 2 * n_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise GroundupError("a tokenizer worker process died, perhaps out of memory: try again with n_workers=1") from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_threads(function: Callable[[Item], Result], items: Iterable[Item], n_threads: int) -> Iterator[Result]:
    """Yields ``function(item)`` for each item, in order, worked out by ``n_threads`` threads; for compiled code, which lets go of the lock.

    At most twice as many items as threads are under way. With one thread, or one item, that is this thread.
    """
    items = iter(items)
    first = list(islice(items, 2))
    items = chain(first, items)
    if n_threads == 1 or len(first) < 2:
        yield from map(function, items)
        return
    pool = _threads(n_threads, os.getpid())
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


@lru_cache(maxsize=4)
def _threads(n: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay, for what each remembers is worth keeping; a forked process has none of its parent's."""
    return ThreadPoolExecutor(n, thread_name_prefix="groundup-tokenizer")


def _start_worker(function: Callable[[Any], Any], parent: int) -> None:
    global _work
    _work = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent answers it and ends the pool
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler inherited from the parent is about the parent's state
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: int) -> None:
    """Ends this worker when the parent is gone: after a SIGKILL nobody else would, for the queue's other end is held by its siblings."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(batch: Any) -> Any:
    return _work(batch)
