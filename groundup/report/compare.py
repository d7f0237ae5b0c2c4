"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.errors import UsageError
from groundup.files import write_bytes
from groundup.report.figure import CYCLE, PAPER, draw, label_ends, log_ticks
from groundup.report.run import column, dig, is_run, number, read_run
from groundup.runfolder import is_at_work


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs says of one."""

    name: str
    """Folder name."""
    created: str
    """When it began."""
    status: str
    """running, stopped (it says running, and no process holds it), finished, interrupted or failed."""
    budget: str
    """What could be spent."""
    parameters: float | None
    """Numbers in the model."""
    tokens: float | None
    """Tokens trained on."""
    bits_per_byte: float | None
    """On the test split."""
    seconds: float | None
    """Spent in all."""
    path: Path
    """The folder."""


def list_runs(root: Path) -> list[RunSummary]:
    """The runs in a folder (or the one run that it is), oldest first; UsageError if there are none."""
    root = Path(root)
    folders = (
        [root] if root.is_dir() and is_run(root) else sorted(p for p in root.glob("*") if p.is_dir() and is_run(p)) if root.is_dir() else []
    )
    if not folders:
        raise UsageError(f"{root}: no runs there; make one with `groundup train`, or name a folder that holds some")
    return sorted((summarize(folder) for folder in folders), key=lambda run: run.created)


def summarize(path: Path) -> RunSummary:
    """Reads one run."""
    m = read_run(path).manifest
    counts = dig(m, "measured") or dig(m, "plan", "predicted")
    return RunSummary(
        path.resolve().name,
        str(m.get("created", "")),
        "stopped" if m.get("status") == "running" and not is_at_work(path) else str(m.get("status", "unknown")),
        str(dig(m, "plan", "budget") or dig(m, "command", "budget") or ""),
        number(dig(counts, "parameters")),
        number(dig(counts, "tokens")),
        number(dig(m, "measured", "bits_per_byte")),
        number(dig(m, "measured", "seconds")),
        path,
    )


def compare(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """One row a run, plain values, for a table."""
    names = ("name", "created", "status", "budget", "parameters", "tokens", "bits_per_byte", "seconds")
    return [{name: getattr(run, name) for name in names} for run in runs]


def plot_runs(runs: Sequence[RunSummary], out: Path) -> Path:
    """Writes bits per byte on the validation split against seconds, a line a run, as PNG."""

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        labels, times = [], []
        for i, summary in enumerate(runs):
            records = [e for e in read_run(summary.path).evaluations if e.get("split") == "validation"]
            x, y = column(records, "seconds"), column(records, "bits_per_byte", "model")
            shown = np.isfinite(y) & (x > 0)
            if shown.any():
                colour = CYCLE[i % len(CYCLE)]
                axes.plot(x[shown], y[shown], color=colour, marker="o", markersize=3.6, markeredgecolor=PAPER, markeredgewidth=0.6)
                labels.append((float(y[shown][-1]), f"{summary.name[:32]} {y[shown][-1]:.3f}", colour))
                times += x[shown].tolist()
        axes.set(xlabel="time (seconds)", ylabel="bits per byte", title="Bits per byte of the validation split, lower is better")
        if times and max(times) > min(times):
            axes.set_xscale("log")
            log_ticks(axes.xaxis, min(times), max(times))
        label_ends(axes, labels)

    plot = draw("runs", "Bits per byte against time", paint, (8.0, 5.0))
    write_bytes(Path(out), plot.png)
    return Path(out)
