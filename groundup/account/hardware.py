"""The machines that models run on: datasheet peaks, memory, bandwidth and price of devices, and what this process takes of this machine.

Peaks are for dense matrix products with fp32 accumulation (never the sparse figure of a brochure), one device, no overclock. Prices are
assumptions, stated as such: typical on-demand rates of specialised clouds in mid-2026. They differ by 3x between providers, so whoever
knows a better one gives it (``dataclasses.replace``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from groundup.errors import GroundupError, UsageError

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8"]

PRICE_SOURCE = "assumed: typical on-demand rate of specialised clouds, mid-2026"
CPU_USD_PER_CORE_HOUR = 0.04
"""Assumed: a virtual core of a general-purpose cloud instance on demand, 2026."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or the processor of this machine."""

    name: str
    """For people, such as "H100 SXM"."""
    peak_flops: Mapping[str, float] = field(hash=False)
    """Dense peak in FLOP/s of each precision it multiplies matrices in."""
    memory_bytes: int
    """Memory; the datasheet's GB are GiB here, as the chips have them, of which 1-2 % are not for use."""
    bandwidth_bytes_per_s: float | None
    """Memory bandwidth; None where it was not measured."""
    usd_per_hour: float
    """Rental price."""
    source: str
    """Where peaks, memory and bandwidth are from."""
    price_source: str = PRICE_SOURCE
    """Where the price is from."""

    def peak(self, precision: str) -> float:
        """Dense peak FLOP/s in a precision; UsageError if the device has none, naming those that it has."""
        if precision not in self.peak_flops:
            raise UsageError(f"{self.name} has no {precision} matrix products; choose one of {', '.join(self.peak_flops)}")
        return self.peak_flops[precision]


def _tera(**peaks: float) -> dict[str, float]:
    return {precision: tera * 1e12 for precision, tera in peaks.items()}


DEVICES: dict[str, Device] = {
    "v100": Device("V100 SXM2", _tera(fp32=15.7, fp16=125), 32 << 30, 0.9e12, 0.40, "NVIDIA V100 datasheet, 2020"),
    "a100-40gb": Device(
        "A100 40GB", _tera(fp32=19.5, tf32=156, fp16=312, bf16=312), 40 << 30, 1.555e12, 1.20, "NVIDIA A100 datasheet, 2021"
    ),
    "a100": Device("A100 80GB", _tera(fp32=19.5, tf32=156, fp16=312, bf16=312), 80 << 30, 2.039e12, 1.50, "NVIDIA A100 datasheet, 2021"),
    "h100-pcie": Device(
        "H100 PCIe",
        _tera(fp32=51, tf32=378, fp16=756.5, bf16=756.5, fp8=1513),
        80 << 30,
        2.0e12,
        2.40,
        "NVIDIA H100 datasheet, 2023, half of sparse",
    ),
    "h100": Device(
        "H100 SXM",
        _tera(fp32=67, tf32=494.7, fp16=989.4, bf16=989.4, fp8=1978.9),
        80 << 30,
        3.35e12,
        2.95,
        "NVIDIA Hopper whitepaper, 2022",
    ),
    "h200": Device(
        "H200 SXM", _tera(fp32=67, tf32=494.7, fp16=989.4, bf16=989.4, fp8=1978.9), 141 << 30, 4.8e12, 3.60, "NVIDIA H200 datasheet, 2024"
    ),
    "b200": Device(
        "B200",
        _tera(fp32=75, tf32=1125, fp16=2250, bf16=2250, fp8=4500),
        180 << 30,
        8.0e12,
        5.50,
        "NVIDIA HGX B200 figures, 2025, half of sparse",
    ),
    "mi300x": Device(
        "MI300X", _tera(fp32=163.4, tf32=653.7, fp16=1307.4, bf16=1307.4, fp8=2614.9), 192 << 30, 5.3e12, 2.50, "AMD MI300X datasheet, 2023"
    ),
    "rtx3090": Device(
        "RTX 3090", _tera(fp32=35.6, tf32=35.6, fp16=71.2, bf16=71.2), 24 << 30, 0.936e12, 0.25, "NVIDIA GA102 whitepaper, 2020"
    ),
    "rtx4090": Device(
        "RTX 4090", _tera(fp32=82.6, tf32=82.6, fp16=165.2, bf16=165.2, fp8=330.3), 24 << 30, 1.008e12, 0.45, "NVIDIA Ada whitepaper, 2022"
    ),
    "rtx5090": Device(
        "RTX 5090",
        _tera(fp32=104.8, tf32=104.8, fp16=209.5, bf16=209.5, fp8=419),
        32 << 30,
        1.792e12,
        0.80,
        "NVIDIA RTX Blackwell whitepaper, 2025",
    ),
}
"""Devices by the key that a command line takes."""

# What a driver calls each device; the first that matches wins. Cut-down relatives (Ti, D, Laptop, NVL, MIG slices) are other devices.
_DRIVER_NAMES: tuple[tuple[str, str], ...] = (
    (r"V100-(SXM2|SXM3|PCIE)", "v100"),
    (r"A100-(SXM4|PCIE)-40GB", "a100-40gb"),
    (r"A100(-SXM4-80GB| 80GB PCIe)", "a100"),
    (r"H100 PCIe", "h100-pcie"),
    (r"H100 80GB HBM3", "h100"),
    (r"H200$", "h200"),
    (r"B200$", "b200"),
    (r"MI300X", "mi300x"),
    (r"RTX 3090$", "rtx3090"),
    (r"RTX 4090$", "rtx4090"),
    (r"RTX 5090$", "rtx5090"),
)


def find_device(key: str) -> Device:
    """The device of a key such as ``h100``; UsageError naming the known keys otherwise."""
    if key.lower() not in DEVICES:
        raise UsageError(f"device {key!r} is not known; choose one of {', '.join(DEVICES)}")
    return DEVICES[key.lower()]


def detect(driver_name: str, memory_bytes: int | None = None) -> Device | None:
    """The device that a driver's name (``torch.cuda.get_device_name()``) means, with the memory that the driver reports if given.

    None for a device that the table does not have: its peak must be measured, not guessed from a relative's.
    """
    if re.search(r"\bMIG\b", driver_name):
        return None
    for pattern, key in _DRIVER_NAMES:
        if re.search(rf"(?<!\w){pattern}", driver_name):
            device = DEVICES[key]
            return device if memory_bytes is None else replace(device, memory_bytes=memory_bytes)
    return None


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
