"""What ``groundup doctor`` found out about this machine, kept in a file, so that plans and costs can rest on it without measuring again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from groundup.account import devices
from groundup.account.devices import Device
from groundup.account.hardware import CPU_USD_PER_CORE_HOUR
from groundup.account.roofline import Ceilings
from groundup.config import from_dict
from groundup.errors import UsageError
from groundup.files import disk_errors, write_file

HERE = ("here", "cpu", "cuda")
"""Keys of this machine: its GPU if that was measured, else its processor; or one of them by name."""


@dataclass(frozen=True)
class Measured:
    """One device of this machine, as measured."""

    kind: str
    """cpu or cuda."""
    threads: int
    """Threads that the processor worked with; 1 on a GPU."""
    memory_bytes: int
    """Memory of the device."""
    date: str
    """When, as YYYY-MM-DD."""
    torch: str
    """PyTorch's version."""
    ceilings: tuple[Ceilings, ...]
    """What it attains, for each precision; the one that it trains in first."""
    all_reduce_bytes_per_s: float | None = None
    """Bytes a second of a large sum over ranks, each byte counted once; None where there was one rank."""
    ranks: int = 1
    """Ranks of that sum."""
    own_share: float = 1.0
    """Part of the processor's time that this process had while it measured; well below 1, others were at work and the rates are low."""

    def __post_init__(self) -> None:
        if not self.ceilings or self.memory_bytes < 1 or self.threads < 1:
            raise UsageError(f"{self.kind}: a measurement has ceilings, and memory_bytes and threads of at least 1")

    def device(self) -> Device:
        """It as a row of the table of devices, its peak the best product that was measured or the datasheet's."""
        training, largest = self.ceilings[0], self.ceilings[0].bandwidths[-1][1]
        price = training.usd_per_hour
        return Device(
            training.name,
            {c.precision: c.peak_flops for c in (self.ceilings if self.kind == "cuda" else self.ceilings[:1])},
            self.memory_bytes,
            largest,
            CPU_USD_PER_CORE_HOUR * self.threads if price is None else price,
            f"measured by groundup doctor, {self.date}",
            "assumed",
            self.all_reduce_bytes_per_s,
            f"all-reduce over {self.ranks} ranks" if self.all_reduce_bytes_per_s else "",
        )


def cache_folder() -> Path:
    """Where measurements are kept: $GROUNDUP_CACHE, else groundup under $XDG_CACHE_HOME, else ~/.cache/groundup."""
    if chosen := os.environ.get("GROUNDUP_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"


def save_measured(measured: Measured, folder: Path | None = None) -> Path:
    """Writes the measurement, replacing an earlier one of the same kind; returns the file. GroundupError if it cannot be written."""
    folder = folder or cache_folder()
    path = folder / f"machine-{measured.kind}.json"
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(asdict(measured), indent=1) + "\n")
    return path


def load_measured(kind: str = "here", folder: Path | None = None) -> Measured:
    """The measurement of "cpu", "cuda" or "here" (the GPU if it was measured, else the processor).

    Raises UsageError that says to run ``groundup doctor`` where there is none or where it cannot be read.
    """
    folder = folder or cache_folder()
    for name in ("cuda", "cpu") if kind == "here" else (kind,):
        path = folder / f"machine-{name}.json"
        if path.is_file():
            try:
                values = json.loads(path.read_text(), parse_constant=_refuse)
                if isinstance(values, dict):
                    return from_dict(Measured, values, str(path))
                raise UsageError("not an object")
            except (OSError, ValueError, UsageError) as e:
                raise UsageError(f"{path}: no measurement ({e}); run `groundup doctor` again") from e
    raise UsageError(f"device {kind!r}: nothing was measured yet (no {folder / 'machine-*.json'}); run `groundup doctor` first")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def find_device(key: str) -> Device:
    """The device of a key such as ``h100``, or this machine (``here``, ``cpu``, ``cuda``) as ``groundup doctor`` measured it.

    Raises UsageError naming the keys for one that is not known, and one that says to run the doctor where it has not been.
    """
    return load_measured(key.lower()).device() if key.lower() in HERE else devices.find_device(key)


def find_ceilings(key: str) -> Ceilings:
    """What a device of the table attains by its datasheet, or this machine as measured; UsageError as ``find_device``."""
    if key.lower() in HERE:
        return load_measured(key.lower()).ceilings[0]
    device = devices.find_device(key)
    return Ceilings.of_device(device, device.half_precision)
