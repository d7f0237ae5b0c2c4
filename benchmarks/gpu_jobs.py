"""What the parts of the GPU benchmark share: where it runs, jobs that may fail alone, rows, clocks."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

Status = Literal["ok", "FAILED", "info", "skipped"]


@dataclass(frozen=True)
class Setting:
    """Where the benchmark runs."""

    device: torch.device
    """The GPU, or the processor where the script itself is tested."""
    quick: bool
    """Shapes small enough for a processor."""

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return torch.bfloat16 if self.cuda else torch.float32


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    section: str
    """Part of the benchmark."""
    name: str
    """What was checked or timed."""
    text: str
    """What came of it, for people."""
    status: Status = "info"
    """ok and FAILED for what has a bound, info for what is only measured."""
    data: dict = field(default_factory=dict)
    """The numbers."""


@dataclass(frozen=True)
class Outcome:
    """What a job found: a row without its place."""

    text: str
    status: Status = "info"
    data: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One thing to check or time; fails alone."""

    name: str
    work: Callable[[], Outcome | Sequence[tuple[str, Outcome]]]
    """Returns an outcome, or several with a name each."""


def run_jobs(section: str, jobs: Iterable[Job], deadline: float) -> list[Row]:
    """Runs every job that begins before the deadline; one that raises is a row that says so, and the next one runs."""
    rows = []
    for job in jobs:
        started = time.perf_counter()
        if started > deadline:
            rows.append(Row(section, job.name, "out of time", "skipped"))
            continue
        try:
            found = job.work()
        except Exception as error:  # whatever breaks on a GPU seen for the first time, the other rows are still wanted
            traceback.print_exc()
            message = str(error).strip().splitlines() or [""]
            found = Outcome(f"{type(error).__name__}: {message[0][:160]}", "FAILED")
        several = [("", found)] if isinstance(found, Outcome) else found
        for suffix, outcome in several:
            rows.append(Row(section, f"{job.name} {suffix}".strip(), outcome.text, outcome.status, outcome.data))
            print(f"[{time.perf_counter() - started:6.1f} s] {section}: {rows[-1].name}: {outcome.text} ({outcome.status})", flush=True)
    return rows


def bounded(text: str, value: float, bound: float, **data: float) -> Outcome:
    """ok if value <= bound; NaN is not."""
    return Outcome(
        f"{text} {value:.2e} (bound {bound:.0e})", "ok" if value <= bound else "FAILED", {"value": value, "bound": bound, **data}
    )


def as_json(rows: Sequence[Row]) -> list[dict]:
    """The rows as plain data."""
    return [asdict(row) for row in rows]


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(functions: dict[str, Callable[[], object]], device: torch.device, *, rounds: int) -> dict[str, float]:
    """Median seconds of a call of each, taken in turns after two to warm up; on a GPU by its own clock, ten calls at a time."""
    calls = 10 if device.type == "cuda" else 1
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(rounds + 2):
        for name, call in functions.items():
            elapsed = _clock(call, calls, device)
            if round_number >= 2:
                seconds[name].append(elapsed / calls)
    return {name: statistics.median(of_name) for name, of_name in seconds.items()}


def _clock(call: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - started
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000
