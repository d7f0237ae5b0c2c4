"""Charts of what a model costs: FLOP shares by model size, a step's memory and its parts under the roofline, how a budget was divided,
and the layouts that were tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.account.answers import BestModel, Fit
from groundup.account.budget import format_flops
from groundup.account.cluster import Step
from groundup.account.law import FLOPS_PER_PARAMETER_TOKEN, LAWS
from groundup.account.layout import Layout
from groundup.account.memory import Moment
from groundup.account.roofline import StepTime, Timed
from groundup.account.rules import figures
from groundup.account.shares import NAMES, SizeShares
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
    YELLOW,
    label_ends,
    log_ticks,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLOURS = dict(zip(NAMES, (BLUE, SKY, VERMILLION, ORANGE, MUTED), strict=True))
BYTE_COLOURS = {
    "weights": BLUE,
    "optimizer moments": SKY,
    "gradients": GREEN,
    "activations": VERMILLION,
    "working buffers": ORANGE,
    "allocator": MUTED,
}
LAYOUT_COLOURS = {"data": BLUE, "tensor": GREEN, "pipeline": PURPLE, "both": VERMILLION}
SPARE_COLOURS = (PURPLE, YELLOW, INK)
BILLION = 1e9


def save_accounts(
    path: Path, name: str, parameters: int, sizes: Sequence[SizeShares], moments: Sequence[Moment], timed: StepTime, *, step: str
) -> Path:
    """Writes the three charts side by side; UsageError for a file that is neither .png nor .svg."""

    def paint(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
        paint_shares(left, sizes, name, parameters)
        paint_moments(middle, moments, step)
        paint_roofline(right, timed)

    return save(path, paint, (16.0, 4.4))


def save_choice(path: Path, best: BestModel) -> Path:
    """Writes the loss that each law expects of the budget's FLOPs against parameters, and the shapes that were compared."""

    def paint(figure: Figure) -> None:
        axes, labels = figure.subplots(), []
        shown = [s for s in best.shapes if s.loss < 1.25 * min(shape.loss for shape in best.shapes)]
        low, high = 0.7 * min(s.parameters for s in shown), 1.4 * max(s.parameters for s in shown)
        sizes = [low * (high / low) ** (i / 200) for i in range(201)]
        # of the whole budget, though the text may be used up before it is
        flops = max(s.tokens * figures(s.config, best.plan.seq_len).flops_per_token for s in best.shapes)
        products = flops / FLOPS_PER_PARAMETER_TOKEN
        laws = [(name, law) for name, law in LAWS.items() if law.unit == best.law.unit]
        for (name, law), colour in zip(laws, (BLUE, VERMILLION, GREEN), strict=False):
            losses = [law.loss(n, products / n, best.unique_tokens) for n in sizes]
            axes.plot([n / BILLION for n in sizes], losses, color=colour)
            labels.append((losses[-1], name, colour))
        x, y = [s.parameters / BILLION for s in shown], [s.loss for s in shown]
        axes.plot(x, y, "o", color=INK, markersize=4.5, markeredgecolor=PAPER)
        chosen = next(s for s in best.shapes if s.config.d_model == best.plan.model.d_model)
        axes.plot(chosen.parameters / BILLION, chosen.loss, "o", color=ORANGE, markersize=9, markeredgecolor=INK)
        axes.set(
            xscale="log", xlim=(low / BILLION, high / BILLION), xlabel="parameters (billions)", ylabel=f"predicted loss ({best.law.unit})"
        )
        axes.set_title(f"{format_flops(flops)}: more parameters, or more tokens (dots: the shapes compared)")
        log_ticks(axes.xaxis, low / BILLION, high / BILLION)
        label_ends(axes, labels)

    return save(path, paint, (7.0, 4.4))


def save_layouts(path: Path, name: str, fit: Fit) -> Path:
    """Writes utilization against memory of every step that was tried, what does not fit in grey, and names the best of each kind."""

    def paint(figure: Figure) -> None:
        axes, tried = figure.subplots(), list(fit.tried())
        paint_layouts(axes, tried, fit.steps[0])
        spread = "; triangles spread experts" if any(step.layout.expert > 1 for step in tried) else ""
        axes.set_title(f"{name} on {fit.steps[0].cluster}: layouts with micro-batch and recomputation{spread}")

    return save(path, paint, (11.0, 4.6))


def paint_layouts(axes: Axes, tried: Sequence[Step], chosen: Step) -> None:
    """A dot for each step that was tried, up to eight times the memory there is; kinds by colour, triangles where experts are spread."""
    limit = chosen.cluster.memory_limit / 1e9
    best: dict[str, Step] = {}
    for step in sorted(tried, key=lambda step: step.mfu):
        kind, look = _kind(step.layout), {"markersize": 5.0, "markeredgecolor": PAPER, "markeredgewidth": 0.3}
        colour = LAYOUT_COLOURS[kind] if step.fits else MUTED
        dot = "^" if step.layout.expert > 1 else "o"
        axes.plot(step.n_bytes / 1e9, 100 * step.mfu, dot, color=colour, alpha=1.0 if step.fits else 0.3, **look)
        if step.fits:
            best[kind] = step
    axes.plot(chosen.n_bytes / 1e9, 100 * chosen.mfu, "o", color="none", markersize=13, markeredgecolor=INK, markeredgewidth=1.5)
    sizes = [step.n_bytes / 1e9 for step in tried]
    low, high = 0.8 * min(sizes), min(8 * limit, 1.15 * max(*sizes, limit))
    axes.set(xscale="log", xlim=(low, high), xlabel="memory of the fullest device (GB)", ylabel="model FLOPs utilization (%)")
    axes.set_ylim(0, 112 * max(step.mfu for step in tried))
    axes.axvline(limit, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    place = {"xytext": (-5, -12), "textcoords": "offset points", "ha": "right"}
    axes.annotate(f"{limit:.3g} GB to give", (limit, axes.get_ylim()[1]), color=INK, **place)
    log_ticks(axes.xaxis, low, high)
    label_ends(axes, [(100 * step.mfu, f"{step.mfu:.1%}  {step.layout}", LAYOUT_COLOURS[kind]) for kind, step in best.items()])


def _kind(layout: Layout) -> str:
    """Which of tensor parallelism and a pipeline a layout has beside data parallelism."""
    if layout.pipeline > 1:
        return "both" if layout.tensor > 1 else "pipeline"
    return "tensor" if layout.tensor > 1 else "data"


def paint_shares(axes: Axes, sizes: Sequence[SizeShares], name: str, parameters: int) -> None:
    """Stacked shares against parameters, with a line at the model's own."""
    x = [size.parameters / BILLION for size in sizes]
    columns = {part: [100 * size.shares[part] for size in sizes] for part in NAMES if any(size.shares[part] > 5e-4 for size in sizes)}
    _stack(axes, x, columns, {part: PART_COLOURS[part] for part in columns})
    axes.set(xscale="log", xlim=(x[0], x[-1]), ylim=(0, 100), xlabel="parameters (billions)", ylabel="share of training FLOPs (%)")
    axes.set_title("Where the FLOPs go as models grow")
    log_ticks(axes.xaxis, x[0], x[-1])
    if x[0] <= parameters / BILLION <= x[-1]:
        axes.axvline(parameters / BILLION, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
        left = parameters / BILLION > (x[0] * x[-1]) ** 0.5
        axes.annotate(
            name,
            (parameters / BILLION, 4),
            xytext=(-5 if left else 5, 0),
            textcoords="offset points",
            color=PAPER,
            ha="right" if left else "left",
        )


def paint_moments(axes: Axes, moments: Sequence[Moment], step: str) -> None:
    """Stacked bytes over the moments of a step, its phases named below."""
    x = list(range(len(moments)))
    names = list(dict.fromkeys(name for moment in moments for name in moment.categories))
    columns = {name: [moment.categories.get(name, 0) / BILLION for moment in moments] for name in names}
    columns = {name: column for name, column in columns.items() if any(column)}
    spare = itertools.cycle(SPARE_COLOURS)
    _stack(axes, x, columns, {name: BYTE_COLOURS.get(name) or next(spare) for name in columns})
    totals = [sum(moment.categories.values()) / BILLION for moment in moments]
    axes.set(xlim=(0, x[-1]), ylim=(0, 1.12 * max(totals)), ylabel="memory (GB)")
    axes.set_title(f"Memory of a step: {step}")
    at = max(x, key=totals.__getitem__)
    side = "right" if at > 0.8 * x[-1] else "left" if at < 0.2 * x[-1] else "center"  # within the axes: names stand beside them
    axes.annotate(
        f"peak {totals[at]:.3g} GB", (at, totals[at]), xytext=(0, 5), textcoords="offset points", ha=side, color=INK, fontweight="bold"
    )
    starts = [i for i in x if i == 0 or moments[i].name != moments[i - 1].name]
    spans = [(start, stop, moments[start].name) for start, stop in itertools.pairwise([*starts, x[-1] + 1])]
    wide = [span for span in spans if span[1] - span[0] > 0.06 * len(x)]
    axes.set_xticks([(start + stop - 1) / 2 for start, stop, _ in wide], [phase for *_, phase in wide])
    for start in starts[1:]:
        axes.axvline(start - 0.5, ymax=0.88, color=MUTED, linewidth=0.7)


def paint_roofline(axes: Axes, step: StepTime) -> None:
    """The parts of a step that have products: FLOP/s against FLOPs a byte, below what products and memory attain; dots by their time."""
    ceilings = step.ceilings
    unit, name = (1e12, "TFLOP/s") if ceilings.peak_flops >= 1e13 else (1e9, "GFLOP/s")
    roof, slope = ceilings.together.best_product_rate / unit, ceilings.together.bandwidths[-1][1] / unit
    peak = ceilings.peak_flops / unit
    rows = [row for row in step.rows() if row.flops and row.n_bytes]
    intensities, rates = [row.flops / row.n_bytes for row in rows], [row.flops / row.seconds / unit for row in rows]
    low, high = 0.4 * min(*intensities, roof / slope), 4 * max(*intensities, roof / slope)
    axes.plot([low, roof / slope, high], [low * slope, roof, roof], color=INK, linewidth=1.2)
    if peak > 1.01 * roof:
        axes.plot([roof / slope, high], [peak, peak], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    floor = 0.5 * min(*rates, low * slope)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, 2 * max(roof, *rates, peak)))
    axes.set(xlabel="FLOPs a byte", ylabel=name)
    axes.set_title(f"Under the roofline of {ceilings.name}")
    log_ticks(axes.xaxis, low, high)
    log_ticks(axes.yaxis, *axes.get_ylim())
    labels = []
    for ((x, y), near), colour in zip(_places(rows, intensities, rates).items(), itertools.cycle(CYCLE)):
        share = sum(row.seconds for row in near) / step.seconds
        axes.plot(x, y, "o", color=colour, markersize=5 + 16 * share**0.5, markeredgecolor=PAPER)
        words = ", ".join(row.name.rpartition(".")[2].replace("_", " ") for row in near)
        labels.append((y, f"{words}: {share:.0%}", colour))
    label_ends(axes, labels)


def _places(rows: Sequence[Timed], x: Sequence[float], y: Sequence[float]) -> dict[tuple[float, float], list[Timed]]:
    """Rows by where they are drawn, those within a tenth of each other at one place."""
    places: dict[tuple[float, float], list[Timed]] = {}
    for row, *at in zip(rows, x, y, strict=True):
        near = next((place for place in places if all(abs(math.log(a / b)) < 0.1 for a, b in zip(at, place, strict=True))), tuple(at))
        places.setdefault(near, []).append(row)
    return places


def _stack(axes: Axes, x: Sequence[float], columns: dict[str, list[float]], colours: dict[str, Any]) -> None:
    """Areas on top of each other, named at the right edge."""
    axes.stackplot(x, *columns.values(), colors=list(colours.values()), edgecolor=PAPER, linewidth=0.6)
    axes.set_xlim(x[0], x[-1])
    base, labels = 0.0, []
    for name, column in columns.items():
        labels.append((base + column[-1] / 2, name, colours[name]))
        base += column[-1]
    axes.set_ylim(0, max(map(sum, zip(*columns.values(), strict=True))))
    label_ends(axes, labels)
