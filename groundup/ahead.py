"""Loops compiled ahead: on a machine's first run a process beside it fills numba's cache, while the run does what needs none of them.

It is a process, since numba compiles under Python's lock, and a fresh one, since a fork of threads is not safe. Numba writes its files to
a temporary name and renames them, so that both may compile the same loop. What is compiled once is marked beside numba's files: where
the mark stands, no process is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

FIRST_NICE, LATER_NICE = 5, 10
"""How far the process stands back: a little at first, as it will be waited for, and more for what nobody waits for."""
MOST_WAIT_S = 60.0
"""After which a loop that is waited for is compiled here after all."""


class Helper:
    """A process that compiles modules' loops, in order, and tells which are done. It ends with this process, however that ends."""

    def __init__(self, first: Sequence[str], later: Sequence[str], mark: Path) -> None:
        self._left = {*first, *later}
        self._changed = threading.Condition()
        code = f"import sys; sys.path[:] = {sys.path!r}; from groundup import ahead; ahead.work({first!r}, {later!r}, {str(mark)!r})"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        threading.Thread(target=self._listen, daemon=True, name="groundup-ahead").start()

    def _listen(self) -> None:
        with self._process:
            for line in self._process.stdout or ():
                self._done({line.decode().strip()})
        self._done(set(self._left))  # it is finished, or died: what is left is compiled here when it is needed

    def _done(self, modules: set[str]) -> None:
        with self._changed:
            self._left -= modules
            self._changed.notify_all()

    def pending(self, module: str) -> bool:
        """Whether the process is still at a module, or has not come to it."""
        return module in self._left

    def wait_for(self, module: str) -> None:
        """Returns when the module's loops are compiled, or will not be by this process."""
        with self._changed:
            self._changed.wait_for(lambda: module not in self._left, MOST_WAIT_S)

    def release(self) -> None:
        """Lets the process finish what is left after this one has ended."""
        with contextlib.suppress(OSError, ValueError):  # it has ended
            os.write(self._process.stdin.fileno(), b"!")


_helper: Helper | None = None


def begin(first: Sequence[str], later: Sequence[str]) -> bool:
    """Starts the helper for modules with compiled loops, unless all was compiled before; once in a process. Returns whether it did.

    A module compiles its loops when it is imported, or has a ``compile_all`` that does. Those of ``first`` are waited for.
    """
    global _helper
    if _helper is not None or not sys.executable:
        return False
    mark = mark_of((*first, *later))
    if mark is not None and not mark.exists():
        with contextlib.suppress(OSError):  # no processes here, as in some sandboxes
            _helper = Helper(first, later, mark)
    return _helper is not None


def pending(module: str) -> bool:
    """Whether a module's loops are being compiled by the helper; where they are not, they are on disk or nobody else compiles them."""
    return _helper is not None and _helper.pending(module)


def wait_for(module: str) -> None:
    """Waits until they no longer are."""
    if _helper is not None:
        _helper.wait_for(module)


def release() -> None:
    """Lets the helper end its work by itself when this process ends: what has begun is there for the next command."""
    if _helper is not None:
        _helper.release()


def mark_of(modules: Sequence[str]) -> Path | None:
    """The file that says that all loops of some modules, as they are, are in numba's cache for this processor; None without a cache.

    It lies where the first module's loops are kept.
    """
    import llvmlite.binding
    import numba

    digest = hashlib.sha256(f"{modules} {numba.__version__} {sys.implementation.cache_tag} {llvmlite.binding.get_host_cpu_name()}".encode())
    digest.update(llvmlite.binding.get_host_cpu_features().flatten().encode())
    imported = import_module(modules[0])
    for room in sorted({module.rpartition(".")[0] for module in modules}):
        for file in sorted(Path(next(iter(import_module(room).__path__))).glob("*.py")):
            digest.update(file.read_bytes())
    loops = (value for value in vars(imported).values() if isinstance(value, numba.core.dispatcher.Dispatcher))
    folder = next((loop.stats.cache_path for loop in loops if loop.stats.cache_path), None)
    return None if folder is None else Path(folder) / f"compiled-{digest.hexdigest()[:16]}"


def work(first: Sequence[str], later: Sequence[str], mark: str) -> None:
    """What the helper does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _stand_back(FIRST_NICE)
    for module in (*first, *later):
        if later and module == later[0]:
            _stand_back(LATER_NICE)
        compile_all = getattr(import_module(module), "compile_all", None)
        if compile_all is not None:
            compile_all()
        with contextlib.suppress(OSError):  # nobody listens any more
            print(module, flush=True)
    with contextlib.suppress(OSError):
        Path(mark).touch()


def _stand_back(steps: int) -> None:
    if hasattr(os, "nice"):
        os.nice(steps)


def _end_with_parent() -> None:
    """The pipe from the parent closes when that ends, even if it is killed."""
    if not os.read(0, 1):
        os._exit(1)
