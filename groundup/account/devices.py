"""The machines that models run on, as a table: peaks, memory, bandwidth, links, power and price of each, with their sources.

Peaks are for dense matrix products with fp32 accumulation, one device, no overclock: never a brochure's sparse figure, which is twice as
high, nor a GeForce card's with fp16 accumulation, which is too. Prices are assumptions, stated as such: rates differ by 3x between
providers, so whoever knows a better one gives it (``dataclasses.replace``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from groundup.errors import UsageError

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp4"]

RENTED = "assumed: typical on-demand rate of specialised clouds, mid-2026"
LISTED = "Google Cloud list price on demand, us, 2024"
BOUGHT = "assumed: list price of a machine over three years"


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
    price_source: str = RENTED
    """Where the price is from."""
    interconnect_bytes_per_s: float | None = None
    """What it can send to its neighbours, one way, all links together: half of a brochure's figure for both ways. None: nothing to link."""
    interconnect: str = ""
    """What those links are."""
    power_w: float | None = None
    """Board or chip power at most; None where it was never published."""

    def peak(self, precision: str) -> float:
        """Dense peak FLOP/s in a precision; UsageError if the device has none, naming those that it has."""
        if precision not in self.peak_flops:
            raise UsageError(f"{self.name} has no {precision} matrix products; choose one of {', '.join(self.peak_flops)}")
        return self.peak_flops[precision]

    @property
    def half_precision(self) -> str:
        """The type of two bytes that it is trained in: bf16, or fp16, or fp32 for want of both."""
        return next(precision for precision in ("bf16", "fp16", "fp32") if precision in self.peak_flops)

    def ridge(self, precision: str) -> float:
        """FLOPs a byte from which on products are bound by compute: peak / bandwidth (Williams et al. 2009).

        UsageError if the device lacks the precision or its bandwidth is not known.
        """
        if self.bandwidth_bytes_per_s is None:
            raise UsageError(f"{self.name}: its memory bandwidth is not known; name another device")
        return self.peak(precision) / self.bandwidth_bytes_per_s


def _device(
    name: str,
    peaks: dict[str, float],
    memory_gib: int,
    bandwidth: float,
    links: tuple[str, float] | None,
    power_w: float | None,
    usd_per_hour: float,
    source: str,
    price_source: str = RENTED,
) -> Device:
    """Peaks in TFLOP/s, bandwidth and links (one way) in GB/s."""
    return Device(
        name,
        {precision: tera * 1e12 for precision, tera in peaks.items()},
        memory_gib << 30,
        bandwidth * 1e9,
        usd_per_hour,
        source,
        price_source,
        links[1] * 1e9 if links else None,
        links[0] if links else "",
        power_w,
    )


def _apple(name: str, tera: float, memory_gib: int, bandwidth: float, usd_per_hour: float, source: str) -> Device:
    """An Apple GPU: halves are no faster than fp32, the memory is the whole machine's, and Apple publishes no power of the chip."""
    return _device(name, {"fp32": tera, "fp16": tera, "bf16": tera}, memory_gib, bandwidth, None, None, usd_per_hour, source, BOUGHT)


_AMPERE = {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312}
_HOPPER = {"fp32": 67, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4, "fp8": 1978.9}
_HOPPER_PCIE = {"fp32": 51, "tf32": 378, "fp16": 756.5, "bf16": 756.5, "fp8": 1513}
_BLACKWELL = {"fp32": 75, "tf32": 1125, "fp16": 2250, "bf16": 2250, "fp8": 4500, "fp4": 9000}
_CDNA3 = {"fp32": 163.4, "tf32": 653.7, "fp16": 1307.4, "bf16": 1307.4, "fp8": 2614.9}
_GA102 = {"fp32": 35.6, "tf32": 35.6, "fp16": 71.2, "bf16": 71.2}
_AD102 = {"fp32": 82.6, "tf32": 82.6, "fp16": 165.2, "bf16": 165.2, "fp8": 330.3}
_GB202 = {"fp32": 104.8, "tf32": 104.8, "fp16": 209.5, "bf16": 209.5, "fp8": 419, "fp4": 1676}
_NVLINK2, _NVLINK3, _NVLINK4, _NVLINK5 = (("NVLink 2", 150.0), ("NVLink 3", 300.0), ("NVLink 4", 450.0), ("NVLink 5", 900.0))
_PCIE3, _PCIE4, _PCIE5 = (("PCIe 3.0 x16", 16.0), ("PCIe 4.0 x16", 32.0), ("PCIe 5.0 x16", 64.0))
_CORES = "Apple newsroom for memory and bandwidth; peak = GPU cores x 256 FLOP x clock"

DEVICES: dict[str, Device] = {
    "v100": _device("V100 SXM2", {"fp32": 15.7, "fp16": 125}, 32, 900, _NVLINK2, 300, 0.40, "NVIDIA V100 datasheet, 2020"),
    "v100-pcie": _device("V100 PCIe", {"fp32": 14, "fp16": 112}, 32, 900, _PCIE3, 250, 0.40, "NVIDIA V100 datasheet, 2020"),
    "a100-40gb": _device("A100 40GB SXM", _AMPERE, 40, 1555, _NVLINK3, 400, 1.20, "NVIDIA A100 datasheet, 2020"),
    "a100-40gb-pcie": _device("A100 40GB PCIe", _AMPERE, 40, 1555, _PCIE4, 250, 1.10, "NVIDIA A100 datasheet, 2020"),
    "a100": _device("A100 80GB SXM", _AMPERE, 80, 2039, _NVLINK3, 400, 1.50, "NVIDIA A100 datasheet, 2021"),
    "a100-pcie": _device("A100 80GB PCIe", _AMPERE, 80, 1935, _PCIE4, 300, 1.40, "NVIDIA A100 datasheet, 2021"),
    "h100-pcie": _device("H100 PCIe", _HOPPER_PCIE, 80, 2000, _PCIE5, 350, 2.40, "NVIDIA H100 datasheet, 2023, half of sparse"),
    "h100": _device("H100 SXM", _HOPPER, 80, 3350, _NVLINK4, 700, 2.95, "NVIDIA Hopper whitepaper, 2022"),
    "h200": _device("H200 SXM", _HOPPER, 141, 4800, _NVLINK4, 700, 3.60, "NVIDIA H200 datasheet, 2024, half of sparse"),
    "b200": _device("B200", _BLACKWELL, 180, 8000, _NVLINK5, 1000, 5.50, "NVIDIA HGX B200 figures, 2025, half of sparse"),
    "mi300x": _device("MI300X", _CDNA3, 192, 5300, ("Infinity Fabric, 7 links", 448), 750, 2.50, "AMD MI300X datasheet, 2023"),
    "tpu-v4": _device(
        "TPU v4", {"bf16": 275}, 32, 1200, ("ICI, 3D torus", 300), 192, 3.22, "Google Cloud TPU v4 documentation, 2023", LISTED
    ),
    "tpu-v5e": _device(
        "TPU v5e", {"bf16": 197}, 16, 819, ("ICI, 2D torus", 200), None, 1.20, "Google Cloud TPU v5e documentation, 2024", LISTED
    ),
    "tpu-v5p": _device(
        "TPU v5p", {"bf16": 459}, 95, 2765, ("ICI, 3D torus", 600), None, 4.20, "Google Cloud TPU v5p documentation, 2024", LISTED
    ),
    "rtx3090": _device("RTX 3090", _GA102, 24, 936, _PCIE4, 350, 0.25, "NVIDIA GA102 whitepaper, 2020"),
    "rtx4090": _device("RTX 4090", _AD102, 24, 1008, _PCIE4, 450, 0.45, "NVIDIA Ada whitepaper, 2022"),
    "rtx5090": _device("RTX 5090", _GB202, 32, 1792, _PCIE5, 575, 0.80, "NVIDIA RTX Blackwell whitepaper, 2025"),
    "m1": _apple("Apple M1", 2.6, 16, 68.25, 0.03, "Apple newsroom, 2020"),
    "m1-max": _apple("Apple M1 Max", 10.4, 64, 400, 0.12, "Apple newsroom, 2021"),
    "m1-ultra": _apple("Apple M1 Ultra", 20.8, 128, 800, 0.22, "Apple newsroom, 2022: two M1 Max"),
    "m2": _apple("Apple M2", 3.6, 24, 100, 0.04, "Apple newsroom, 2022"),
    "m2-max": _apple("Apple M2 Max", 13.6, 96, 400, 0.14, f"{_CORES} (38, 1.398 GHz), 2023"),
    "m2-ultra": _apple("Apple M2 Ultra", 27.2, 192, 800, 0.25, f"{_CORES} (76, 1.398 GHz), 2023"),
    "m3": _apple("Apple M3", 3.6, 24, 100, 0.05, f"{_CORES} (10, 1.398 GHz), 2023"),
    "m3-max": _apple("Apple M3 Max", 14.3, 128, 400, 0.18, f"{_CORES} (40, 1.398 GHz), 2023"),
    "m3-ultra": _apple("Apple M3 Ultra", 28.6, 512, 819, 0.36, f"{_CORES} (80, 1.398 GHz), 2025"),
    "m4": _apple("Apple M4", 3.8, 32, 120, 0.04, f"{_CORES} (10, 1.47 GHz), 2024"),
    "m4-max": _apple("Apple M4 Max", 17.2, 128, 546, 0.18, f"{_CORES} (40, 1.68 GHz), 2024"),
}
"""Devices by the key that a command line takes."""

# What a driver calls each device; the first that matches wins. Cut-down relatives (Ti, D, Laptop, NVL, MIG slices) are other devices.
_DRIVER_NAMES: tuple[tuple[str, str], ...] = (
    (r"V100-PCIE", "v100-pcie"),
    (r"V100-(SXM2|SXM3)", "v100"),
    (r"A100-PCIE-40GB", "a100-40gb-pcie"),
    (r"A100-SXM4-40GB", "a100-40gb"),
    (r"A100 80GB PCIe", "a100-pcie"),
    (r"A100-SXM4-80GB", "a100"),
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
        raise UsageError(f"device {key!r} is not known; choose one of {', '.join(DEVICES)}, or here for this machine")
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
