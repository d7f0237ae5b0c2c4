"""This machine: its processor as a device, its cores and memory, and what this process takes of them. The devices are in ``devices``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from groundup.account.devices import Device
from groundup.errors import GroundupError

CPU_USD_PER_CORE_HOUR = 0.04
"""Assumed: a virtual core of a general-purpose cloud instance on demand, 2026."""


def cpu(measured_flops: Mapping[str, float], *, bandwidth_bytes_per_s: float | None = None) -> Device:
    """This machine's processor, with peaks in FLOP/s as measured by the caller: datasheets do not know how many cores are ours."""
    cores = usable_cores()
    return Device(
        name=f"CPU, {cores} core{'s' if cores > 1 else ''}",
        peak_flops=dict(measured_flops),
        memory_bytes=total_memory_bytes(),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        usd_per_hour=CPU_USD_PER_CORE_HOUR * cores,
        source="measured here",
        price_source="assumed: a virtual core of a general-purpose cloud instance, 2026",
    )


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory_bytes() -> int:
    """Memory of this machine, or of the container that this process is confined to."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_number_in(Path(p)) for p in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min([physical, *(limit for limit in limits if limit)])


def _number_in(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdigit() else None


def process_memory_bytes() -> int:
    """Bytes of physical memory that this process holds now (resident set)."""
    if sys.platform == "linux":
        return _status_bytes("VmRSS")
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(shown.stdout) * 1024


def peak_process_memory_bytes() -> int:
    """The most bytes of physical memory that this process ever held, or since ``reset_peak_process_memory``."""
    if sys.platform == "linux":
        return _status_bytes("VmHWM")  # unlike getrusage's, not inherited from the process that started this one
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def reset_peak_process_memory() -> bool:
    """Starts the peak anew, so that one phase can be measured; returns whether the system took it."""
    if sys.platform != "linux":
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # some containers mount /proc read-only
        return False
    return True


def _status_bytes(key: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise GroundupError(f"/proc/self/status has no {key}; run where /proc is complete")
