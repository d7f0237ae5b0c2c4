"""The plots of one run: each is drawn only where the run has something to draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from groundup.account.budget import format_seconds
from groundup.report import text
from groundup.report.curves import smooth, spread, thin
from groundup.report.figure import (
    BLUE,
    CYCLE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    WIDE,
    YELLOW,
    Plot,
    draw,
    label_ends,
    log_ticks,
)
from groundup.report.run import Run, column, dig, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = ("seconds", "tokens", "flops")
"""What learning curves are drawn against."""

PHASE_COLOURS = {
    "read": MUTED, "tokenizer": PURPLE, "encode": SKY, "calibrate": YELLOW, "rehearse": YELLOW, "counts": GREEN,
    "train": BLUE, "evaluate": VERMILLION, "samples": ORANGE,
}  # fmt: skip
_SERIES = {"counts": GREEN, "network": VERMILLION, "model": BLUE}


@dataclass(frozen=True)
class Scale:
    """A unit that keeps an axis's numbers short."""

    divisor: float
    label: str


def scale(name: str, largest: float) -> Scale:
    """The unit for an axis in seconds, tokens or FLOPs whose largest value is given."""
    if name == "seconds":
        unit, divisor = ("seconds", 1.0) if largest < 600 else ("minutes", 60.0) if largest < 7200 else ("hours", 3600.0)
        return Scale(divisor, f"time ({unit})")
    if name == "tokens":
        for divisor, unit in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
            if largest >= divisor:
                return Scale(divisor, f"tokens ({unit})")
        return Scale(1.0, "tokens")
    exponent = 3 * (math.floor(math.log10(largest)) // 3) if largest >= 1 else 0
    return Scale(10.0**exponent, f"FLOPs (× {text.power_of_ten(exponent)})" if exponent else "FLOPs")


def draw_plots(run: Run) -> list[Plot]:
    """Every plot that the run's records allow, in the order of the page."""
    plots: list[Plot] = []

    def add(name: str, title: str, painter: Callable[[Figure], None], size: tuple[float, float] | None = None) -> None:
        plots.append(draw(name, title, painter, size) if size else draw(name, title, painter))

    for measure, words in (("bits_per_byte", "Bits per byte"), ("loss", "Loss")):
        for axis in AXES:
            if _drawable(run, measure, axis):
                label = {"seconds": "time", "tokens": "tokens", "flops": "FLOPs"}[axis]
                add(f"{measure}_by_{label.lower()}", f"{words} against {label}", partial(learning_curve, run, measure, axis))
    if _has(run, "step", "lr_scale"):
        add("learning_rate", "Learning rate", partial(_learning_rate, run))
    if _has(run, "step", "grad_norm"):
        add("gradient_norm", "Gradient norm", partial(_gradient_norm, run))
    if _has(run, "seconds", "tokens_per_s"):
        add("throughput", "Throughput and utilization", partial(_throughput, run))
    if sum(run.phases.values()) > 0:
        add("phases", "Where the time went", partial(_phases, run), WIDE)
    if len({number(r.get("step")) for r in run.parse_rates if number(r.get("parse_rate")) is not None} - {None}) > 1:
        add("parse_rate", "Lines that parse as Python", partial(_parse_rate, run))
    return plots


def _has(run: Run, *keys: str) -> bool:
    return bool(np.isfinite([column(run.train, key) for key in keys]).all(axis=0).any())


def _drawable(run: Run, measure: str, axis: str) -> bool:
    return _has(run, axis, measure) or bool(np.isfinite(column(run.evaluations, axis)).any() and run.evaluations)


def _evaluated(run: Run, split: str, measure: str, part: str) -> np.ndarray:
    """Bits per byte of the split's evaluations, or their nats per token: bits per byte x ln 2 x bytes / tokens scored."""
    records = [r for r in run.evaluations if r.get("split") == split]
    bits = column(records, "bits_per_byte", part)
    if measure == "bits_per_byte":
        return bits
    tokens = column(records, "tokens_scored")
    return bits * math.log(2) * column(records, "bytes") / np.where(tokens > 0, tokens, math.nan)


def learning_curve(run: Run, measure: str, axis: str, figure: Figure) -> None:
    """Training (raw in pale, averaged on top), validation and test against time, tokens or FLOPs.

    With a prior, three validation curves: counts alone, the network alone, and both. The first steps' fall may leave the frame.
    """
    axes = figure.add_subplot()
    everything = np.concatenate([column(run.train, axis), column(run.evaluations, axis)])
    largest = float(np.nanmax(everything))
    unit = scale(axis, largest)
    smallest = float(np.nanmin(everything[everything > 0], initial=largest))
    low = 0.0 if axis == "seconds" else max(smallest, largest / 200)
    shown: list[np.ndarray] = []
    labels: list[tuple[float, str, str]] = []

    x, y = column(run.train, axis), column(run.train, measure)
    if np.isfinite(x + y).any():
        averaged = smooth(y, len(y) / 20)
        axes.plot(*thin(x / unit.divisor, y), color=MUTED, alpha=0.22, linewidth=0.8)
        axes.plot(*thin(x / unit.divisor, averaged), color=MUTED, linewidth=1.4, marker="o" if len(y) == 1 else None)
        settled = np.isfinite(x) & (x >= np.nanquantile(x, 0.06))
        shown.append(averaged[settled])
        labels.append((float(averaged[-1]), "training", MUTED))
    shown += _evaluations(axes, run, measure, axis, unit, largest, labels)

    axes.set_title(f"{'Bits per byte' if measure == 'bits_per_byte' else 'Loss'}, lower is better")
    axes.set_ylabel("bits per byte" if measure == "bits_per_byte" else "nats per token")
    axes.set_xlabel(unit.label)
    if low > 0 and largest / low > 5:
        axes.set_xscale("log")
        log_ticks(axes.xaxis, low / unit.divisor, largest / unit.divisor)
        axes.set_xlim(low / unit.divisor, largest / unit.divisor * (largest / low) ** 0.02)
    else:
        axes.set_xlim(0, largest / unit.divisor * 1.02 or 1.0)
    _frame(axes, np.concatenate(shown) if shown else np.empty(0))
    label_ends(axes, labels)


def _evaluations(
    axes: Axes, run: Run, measure: str, axis: str, unit: Scale, largest: float, labels: list[tuple[float, str, str]]
) -> list[np.ndarray]:
    """Draws the held-out points, adds a label each, and returns the values that the frame must hold."""
    validation = [r for r in run.evaluations if r.get("split") == "validation"]
    prior = any(number(dig(r, "bits_per_byte", part)) is not None for r in run.evaluations for part in ("network", "counts"))
    shown = []
    x = column(validation, axis)
    for part, colour in _SERIES.items():
        y = _evaluated(run, "validation", measure, part)
        points = np.isfinite(x + y)
        if not points.any():
            continue
        name = {"model": "both" if prior else "validation"}.get(part, part)
        axes.plot(x[points] / unit.divisor, y[points], color=colour, marker="o", markersize=3.6, markeredgecolor=PAPER,
                  markeredgewidth=0.6, clip_on=True, zorder=4)  # fmt: skip
        labels.append((float(y[points][-1]), f"{name} {y[points][-1]:.3f}", colour))
        shown.append(y[points & ((x >= 0.1 * largest) | (x == x[points][-1]))])
    test_x, test = column([r for r in run.evaluations if r.get("split") == "test"], axis), _evaluated(run, "test", measure, "model")
    if np.isfinite(test_x + test).any():
        last = int(np.flatnonzero(np.isfinite(test_x + test))[-1])
        axes.plot(test_x[last] / unit.divisor, test[last], color=INK, marker="D", markersize=4.5, markeredgecolor=PAPER, zorder=5)
        labels.append((float(test[last]), f"test {test[last]:.3f}", INK))
        shown.append(test[last : last + 1])
    return shown


def _frame(axes: Axes, values: np.ndarray) -> None:
    values = values[np.isfinite(values)]
    if len(values):
        low, high = float(values.min()), float(values.max())
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def _learning_rate(run: Run, figure: Figure) -> None:
    axes = figure.add_subplot()
    x, y = thin(column(run.train, "step"), column(run.train, "lr_scale"))
    axes.plot(x, y, color=BLUE, marker="o" if len(x) == 1 else None)
    axes.fill_between(x, y, color=BLUE, alpha=0.12, linewidth=0)
    axes.set_title("Learning rate")
    axes.set_ylabel("share of each group's peak")
    axes.set_xlabel("step")
    axes.set_ylim(0, max(1.0, float(y.max())) * 1.06)
    axes.set_xlim(0, float(x.max()) or 1.0)


def _gradient_norm(run: Run, figure: Figure) -> None:
    axes = figure.add_subplot()
    x, y = column(run.train, "step"), column(run.train, "grad_norm")
    y = np.where(y > 0, y, math.nan)  # a logarithm's domain
    if np.isfinite(y).any():
        axes.set_yscale("log")
        axes.plot(*thin(x, y), color=BLUE, alpha=0.3, linewidth=0.8)
        axes.plot(*thin(x, np.exp(smooth(np.log(y), len(y) / 20))), color=BLUE, marker="o" if len(y) == 1 else None)
        log_ticks(axes.yaxis, float(np.nanmin(y)), float(np.nanmax(y)) * 1.0001)
    steps = column(run.events, "step")
    for step, event in zip(steps, run.events, strict=True):
        if math.isfinite(step):
            axes.axvline(step, color=VERMILLION, linewidth=1.0, linestyle=(0, (2, 2)))
            if np.isfinite(steps).sum() <= 3:
                axes.annotate(str(event.get("what"))[:16], (step, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -2),
                              textcoords="offset points", color=VERMILLION, va="top", fontsize=8)  # fmt: skip
    axes.set_title("Gradient norm, before clipping")
    axes.set_ylabel("L2 norm (log)")
    axes.set_xlabel("step")
    axes.set_xlim(0, float(np.nanmax(x)) or 1.0)


def _throughput(run: Run, figure: Figure) -> None:
    """Tokens a second above, model FLOPs utilization below, where it is known."""
    x = column(run.train, "seconds")
    rows = [("tokens_per_s", BLUE, "Throughput"), ("mfu", GREEN, "Model FLOPs utilization")]
    rows = [row for row in rows if np.isfinite(column(run.train, row[0])).any()]
    unit = scale("seconds", float(np.nanmax(x)))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, colour, title) in zip(panels, rows, strict=True):
        y = column(run.train, key) * (100 if key == "mfu" else 1)
        largest = float(np.nanmax(y))
        divisor = 1e3 if key != "mfu" and largest >= 1e4 else 1.0
        average = smooth(y, len(y) / 20) / divisor
        axes.plot(*thin(x / unit.divisor, y / divisor), color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(*thin(x / unit.divisor, average), color=colour, linewidth=1.5, marker="o" if len(y) == 1 else None)
        axes.set_title(title)
        axes.set_ylabel("% of peak" if key == "mfu" else "tokens/s" if divisor == 1 else "1,000 tokens/s")
        top = 1.15 * float(np.nanquantile(y, 0.98)) / divisor
        axes.set_ylim(0, top or 1.0)
        axes.locator_params(axis="y", nbins=4)
        middle = float(np.nanmedian(y)) / divisor
        label_ends(axes, [(middle, f"median {middle:.3g}", colour)])
    panels[-1].set_xlabel(unit.label)
    panels[-1].set_xlim(0, float(np.nanmax(x)) / unit.divisor or 1.0)


def _phases(run: Run, figure: Figure) -> None:
    """One stacked bar, its parts named beneath; the plan's total is marked above it."""
    parts = [(name, seconds) for name, seconds in run.phases.items() if seconds > 0]
    if len(parts) > 9:  # more names than fit the width
        small = sorted(parts, key=lambda part: part[1])[: len(parts) - 8]
        parts = [part for part in parts if part not in small] + [("other", sum(seconds for _, seconds in small))]
    total = sum(seconds for _, seconds in parts)
    planned = number(dig(run.manifest, "plan", "predicted", "seconds"))
    width = max(total, planned or 0.0)
    axes = figure.add_subplot()
    starts = np.cumsum([0.0] + [seconds for _, seconds in parts])
    middles = [float(start + seconds / 2) for start, (_, seconds) in zip(starts, parts, strict=False)]
    places = spread(middles, width * 0.088, width * 0.04, width * 0.96)
    for i, (name, seconds) in enumerate(parts):
        colour = PHASE_COLOURS.get(name, CYCLE[i % len(CYCLE)])
        axes.barh(0, seconds, left=starts[i], height=1.0, color=colour, edgecolor=PAPER, linewidth=0.8)
        axes.plot([middles[i], places[i]], [-0.5, -1.15], color=colour, linewidth=1.0)
        for line, words in enumerate((name[:14], format_seconds(seconds), f"{seconds / total:.1%}")):
            axes.text(places[i], -1.75 - 0.68 * line, words, ha="center", color=MUTED if line else INK)
    if planned:
        axes.plot([planned, planned], [-0.5, 0.75], color=INK, linewidth=1.2)
        axes.annotate(f"planned {format_seconds(planned)} ", (planned, 0.62), ha="right", va="bottom", fontsize=8.5, color=INK)
    axes.set_xlim(0, width * 1.002)
    axes.set_ylim(-3.3, 1.3)
    axes.set_axis_off()


def _parse_rate(run: Run, figure: Figure) -> None:
    """The mean over texts of the share of lines in the longest beginning that parses: no proportion of trials, so no binomial band."""
    axes = figure.add_subplot()
    records = [r for r in run.parse_rates if number(r.get("step")) is not None and number(r.get("parse_rate")) is not None]
    x, y = column(records, "step"), 100 * column(records, "parse_rate")
    axes.plot(x, y, color=BLUE, marker="o", markersize=4, markeredgecolor=PAPER, clip_on=False)
    axes.set_title("Lines that parse as Python")
    axes.set_ylabel("% of lines written")
    axes.set_xlabel("step")
    axes.set_ylim(0, min(105.0, max(1.2 * float(y.max()), 5.0)))
    axes.set_xlim(0, float(x.max()) or 1.0)
    label_ends(axes, [(float(y[-1]), f"{y[-1]:.0f} %", BLUE)])
