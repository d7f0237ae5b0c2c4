"""Running generated Python where it can do little harm: no network, no writes outside a temporary folder, limits on time and memory.

What a machine offers is used together, and ``isolation`` says what that is:

- a network, process and user namespace of its own (util-linux ``unshare``), where the kernel lets this user have them;
- Landlock (Linux 5.13), which confines writes for this process and all its children;
- everywhere: an audit hook (PEP 578) that refuses sockets, new processes, foreign functions and writes outside the folder, and rlimits.

The first two hold against any program. The hook alone holds against mistakes and against Python code that is not written by an expert on
escaping it: where only it is active, run models that you trust, or run groundup itself in a container. Reading is not confined, and a
program that searches its own frames can find what proves that it came to its end: this guards the machine, not a contest.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TOLD_BYTES = 2000  # of what a program printed
GUARD = Path(__file__).with_name("sandbox_guard.py")
NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    ok: bool
    """It ran to the end of its last line: no exception, no exit, no limit."""
    why: str
    """Else what stopped it: the last line of its traceback, or the limit."""


def run_python(program: str, *, seconds: float = 10.0, memory_bytes: int = 1 << 30) -> Ran:
    """Runs a program in a process and folder of its own, with an empty standard input. Leaving early is no success, whatever the status."""
    proof = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="groundup-sandbox-") as folder:
        limits = {"seconds": seconds, "memory_bytes": memory_bytes}
        told = json.dumps({"program": program, "proof": proof, "folder": folder, "landlock": has_landlock(), **limits})
        command = [*(NAMESPACES if has_namespaces() else ()), sys.executable, "-I", "-S", str(GUARD)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(told.encode(), timeout=seconds + 1)
        except subprocess.TimeoutExpired:
            out = b""
            return Ran(False, f"time: over {seconds:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    last = out[-TOLD_BYTES:].decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
    if last == proof and process.returncode == 0:
        return Ran(True, "")
    if last.startswith(("refused: ", "failed: ")):
        return Ran(False, last)
    signals = {-signal.SIGXCPU: f"time: over {seconds:g} s", -signal.SIGKILL: "killed: over a limit", -signal.SIGSEGV: "crashed"}
    return Ran(False, signals.get(process.returncode, f"left early with status {process.returncode}"))


@functools.cache
def has_namespaces() -> bool:
    """Whether this user may make the namespaces."""
    if shutil.which(NAMESPACES[0]) is None:
        return False
    tried = subprocess.run([*NAMESPACES, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
    return tried.returncode == 0


@functools.cache
def has_landlock() -> bool:
    """Whether the kernel has Landlock: asked of it by the guard, in a process that ends."""
    command = [sys.executable, "-I", "-S", str(GUARD), "--landlock"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=False).returncode == 0


def isolation() -> str:
    """What keeps a program in, on this machine."""
    layers = ["its own network and processes (namespaces)"] * has_namespaces() + ["writes confined by Landlock"] * has_landlock()
    weak = "" if layers else "; this holds against mistakes, not against a program that means to escape"
    return ", ".join([*layers, "audit hook", "limits on time, memory, files"]) + weak
