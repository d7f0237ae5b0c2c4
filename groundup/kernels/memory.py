"""The C allocator, told to keep what it has: large tensors otherwise go back to the kernel at every free and page-fault at every use."""

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Makes glibc serve tensors up to 1 GiB from its heap and never trim it; returns whether the platform took it.

    On a CPU this is worth up to 3x on memory-bound layers (docs/lab.md): a tensor above glibc's default threshold is a fresh mmap, and the
    kernel zeroes every page of it again in each step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library (musl) has no mallopt
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def release_freed_memory() -> None:
    """Gives back to the system what is free in the C heap, so that memory in use can be measured; nothing without glibc."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
