"""Data parallelism within a process, for CPUs: threads that each take rows of the batch, instead of threads that share each operation.

An operation on a small model is done in tens of microseconds, which is what it costs to wake a second thread for half of it; and between
the operations one thread works alone. Rows of a batch need each other only when their gradients are summed. PyTorch's operations and
numba's loops let go of Python's lock, so a few threads run truly at once; with many, Python itself becomes the queue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

import torch

LEAST_TOKENS = 1024  # that are worth a thread: below, splitting operations was faster (docs/lab.md)
MOST_WORKERS = 4  # beyond it, threads wait for Python's lock; they share what threads are left among their operations
T = TypeVar("T")


def n_workers(device: torch.device, n_rows: int, seq_len: int) -> int:
    """How many threads should share these rows: on a CPU at most those of torch, MOST_WORKERS, and one for LEAST_TOKENS; on a GPU one."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), MOST_WORKERS, n_rows, n_rows * seq_len // LEAST_TOKENS))


def run_together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Makes the calls at once, each on a thread with its share of torch's threads, the first on this one; results in the calls' order.

    An exception of any call is raised once all have ended.
    """
    n_threads = torch.get_num_threads()
    share = max(1, n_threads // len(calls))

    def on_worker(call: Callable[[], T]) -> T:
        torch.set_num_threads(share)  # of this thread
        return call()

    torch.set_num_threads(share)
    try:
        others = [_pool(len(calls) - 1).submit(on_worker, call) for call in calls[1:]]
        try:
            first = calls[0]()
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]
    finally:
        torch.set_num_threads(n_threads)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For operations too small to be worth waking a second thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@lru_cache(maxsize=1)
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, n), thread_name_prefix="groundup-rows")
