"""The road as a picture and a page: bits per byte against year, and against the FLOPs of training."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.account.budget import format_bytes, format_count, format_flops, format_seconds
from groundup.files import write_bytes
from groundup.history.road import Road, title
from groundup.history.shannon import ENGLISH_1951, HUMAN_1951
from groundup.history.study import Result
from groundup.report.curves import spread
from groundup.report.figure import BLUE, GREEN, INK, MUTED, PAPER, VERMILLION, Plot, draw, label_ends, log_ticks
from groundup.report.page import document, section, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (15.0, 6.6)
COLOURS = {"counting": GREEN, "neural": BLUE, "today": VERMILLION}
KINDS = {"counting": "counts", "neural": "neural networks", "today": "today's recipe"}
LABEL_POINTS = 9.0


def write_road(road: Road, folder: Path) -> list[Path]:
    """Writes history.png and history.html into the folder, and returns their paths."""
    plot = draw_road(road)
    files = {"history.png": plot.png, "history.html": page(road, plot).encode("utf-8", "replace")}
    for name, data in files.items():
        write_bytes(folder / name, data)
    return [folder / name for name in files]


def draw_road(road: Road) -> Plot:
    """The picture."""

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
        values = [r.bits_per_byte for r in road.results] + [c.after_training for c in road.compressed]
        low, high = min(HUMAN_1951[0], *values) - 0.15, max(HUMAN_1951[1], *values) + 0.25
        for axes in (left, right):
            axes.set_ylim(low, high)
            axes.axhspan(*HUMAN_1951, color=MUTED, alpha=0.12, linewidth=0)
            for c in road.compressed:
                axes.axhline(c.after_training, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        dots = [_by_year(left, road.results), _by_flops(right, road.results)]
        left.set_title(f"Bits per byte of {road.text}, lower is better; all models shared {format_seconds(road.budget_s)} evenly")
        left.set_ylabel("bits per byte of held-out text")
        right.set_title("What it took to train")
        lines = [(c.after_training, f"{c.name} {c.after_training:.2f}", MUTED) for c in road.compressed]
        label_ends(right, [*lines, (sum(HUMAN_1951) / 2, "people, by Shannon\n{} to {} a letter".format(*HUMAN_1951), INK)])
        _legend(left, [family for family in KINDS if any(r.family == family for r in road.results)])
        figure.draw_without_rendering()  # so that the axes stand where they will be when labels look for room
        for axes, points in zip((left, right), dots, strict=True):
            _label(axes, points)

    return draw("history", f"Bits per byte of {road.text} against year and training FLOPs", paint, SIZE)


def _legend(axes: Axes, families: Sequence[str]) -> None:
    """Kinds of models in their colours, one after another inside the band."""
    at = 8.0
    for family in families:
        axes.annotate(KINDS[family], (0, HUMAN_1951[0]), xycoords=("axes fraction", "data"), xytext=(at, 7), textcoords="offset points",
                      color=COLOURS[family], fontweight="bold")  # fmt: skip
        at += 0.66 * LABEL_POINTS * len(KINDS[family]) + 14


@dataclass(frozen=True)
class Dot:
    """A model where it is drawn."""

    x: float
    y: float
    words: str
    colour: str


def _by_year(axes: Axes, results: Sequence[Result]) -> list[Dot]:
    """A dot a model, and the line of the best so far."""
    years = [r.year for r in results]
    best = list(accumulate((r.bits_per_byte for r in results), min))
    if results:
        axes.step([*years, max(*years, 2026) + 2], [*best, best[-1]], where="post", color=INK, linewidth=1.1, alpha=0.5, zorder=2)
        axes.set_xlim(min(years) - 4, max(*years, 2026) + 3)
    dots = [Dot(r.year, r.bits_per_byte, f"{r.name} {r.bits_per_byte:.2f}", COLOURS[r.family]) for r in results]
    _draw_dots(axes, dots, results)
    axes.set_xlabel("year of the paper (the line: the best so far)")
    return dots


def _by_flops(axes: Axes, results: Sequence[Result]) -> list[Dot]:
    """FLOPs of training's matrix products on a log axis; what counts stands in a strip of its own, on the left."""
    spent = [r.training_flops for r in results if r.training_flops]
    low, high = (10 ** np.floor(np.log10(min(spent)) - 0.15), 10 ** (np.log10(max(spent)) + 0.35)) if spent else (1.0, 10.0)
    strip = low / (high / low) ** 0.32
    axes.set_xscale("log")
    axes.set_xlim(strip, high)
    log_ticks(axes.xaxis, low, high)
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
    axes.axvline(low, color=MUTED, linewidth=0.8)
    axes.annotate("none", (strip, 0), xycoords=("data", "axes fraction"), xytext=(9, -8), textcoords="offset points", va="top",
                  color=COLOURS["counting"])  # fmt: skip
    dots = []
    for r in results:
        x = float(r.training_flops or strip * (low / strip) ** 0.1)
        dots.append(Dot(x, r.bits_per_byte, r.name, COLOURS[r.family]))
    _draw_dots(axes, dots, results)
    axes.set_xlabel("training FLOPs (matrix products; none where it counts)")
    _label_column(axes, [dot for dot, r in zip(dots, results, strict=True) if not r.training_flops])
    return [dot for dot, r in zip(dots, results, strict=True) if r.training_flops]


def _label_column(axes: Axes, dots: Sequence[Dot]) -> None:
    """Names of dots that stand above each other: beside them, pushed apart, in their order."""
    low, high = axes.get_ylim()
    gap = 1.3 * LABEL_POINTS / (72 * SIZE[1] * 0.85)
    places = spread([(dot.y - low) / (high - low) for dot in dots], gap, 0.02, 0.98)
    for dot, place in zip(dots, places, strict=True):
        y = low + place * (high - low)
        text = axes.annotate(dot.words, (dot.x, y), xytext=(14, 0), textcoords="offset points", va="center", color=dot.colour, zorder=5)
        text.set_path_effects(_halo())
        if abs(y - dot.y) > 0.3 * gap * (high - low):
            axes.annotate(
                "", (dot.x, dot.y), xytext=(dot.x, y), zorder=2, arrowprops={"arrowstyle": "-", "color": dot.colour, "linewidth": 0.6}
            )


def _draw_dots(axes: Axes, dots: Sequence[Dot], results: Sequence[Result]) -> None:
    for dot, r in zip(dots, results, strict=True):
        if r.interval:
            axes.plot([dot.x, dot.x], r.interval, color=dot.colour, linewidth=1.4, alpha=0.55, zorder=3)
        axes.plot(dot.x, dot.y, "o", color=dot.colour, markersize=7, markeredgecolor=PAPER, markeredgewidth=1.0, zorder=4)


def _label(axes: Axes, dots: Sequence[Dot]) -> None:
    """Names every dot beside it, at the nearest of many places where it meets no dot and no other name."""
    scale = 72 / axes.get_figure().dpi  # type: ignore[union-attr]
    places = [axes.transData.transform((dot.x, dot.y)) * scale for dot in dots]
    box = axes.get_window_extent()
    x0, y0, x1, y1 = box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for line in axes.get_lines():
        corners = line.get_path().vertices if line.get_drawstyle() != "default" else ()
        taken += _along([axes.transData.transform(corner) * scale for corner in corners])
    for i in sorted(range(len(dots)), key=lambda i: places[i][1]):
        (x, y), dot = places[i], dots[i]
        width, height = 0.56 * LABEL_POINTS * len(dot.words), 1.25 * LABEL_POINTS
        best = None
        for dx, dy in _offsets(width, height):
            rectangle = (x + dx, y + dy - height / 2, x + dx + width, y + dy + height / 2)
            outside = max(0.0, x0 - rectangle[0]) + max(0.0, rectangle[2] - x1) + max(0.0, y0 - rectangle[1]) + max(0.0, rectangle[3] - y1)
            overlap = sum(_overlap(rectangle, other) for other in taken)
            cost = 40 * outside + 5 * overlap + abs(dy) + 0.3 * max(0.0, abs(dx + width / 2) - width / 2)
            if best is None or cost < best[0]:
                best = cost, dx, dy, rectangle
        assert best is not None
        _, dx, dy, rectangle = best
        taken.append(rectangle)
        far = abs(dy) > 14
        text = axes.annotate(dot.words, (dot.x, dot.y), xytext=(dx, dy), textcoords="offset points", va="center", color=dot.colour,
                             fontsize=LABEL_POINTS, annotation_clip=False, zorder=5)  # fmt: skip
        text.set_path_effects(_halo())
        if far:
            end = (dx if dx > 0 else dx + width if dx + width < 0 else dx + width / 2, dy - np.sign(dy) * height / 2)
            axes.annotate("", (dot.x, dot.y), xytext=end, textcoords="offset points", zorder=2,
                          arrowprops={"arrowstyle": "-", "color": dot.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkB": 4})  # fmt: skip


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Where a name may stand, from its dot: left end and middle, in points; right, left, above and below, near and far."""
    out = []
    for step in range(14):
        for sign in (1, -1):
            dy = sign * step * height * 0.5
            out += [(8.0, dy), (-8.0 - width, dy)]
            if step >= 2:
                out += [(-width / 2, dy), (-width * 0.15, dy), (-width * 0.85, dy)]
    return out


def _halo() -> list[Any]:
    """A seam of paper around a name, so that lines may pass behind it."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground=PAPER)]


def _along(corners: Sequence[np.ndarray]) -> list[tuple[float, float, float, float]]:
    """Thin rectangles along the steps of a line that is best so far: across to the next dot, then down."""
    out = []
    for (x, y), (x2, y2) in pairwise(corners):
        out += [(x, y - 2, x2, y + 2), (x2 - 2, min(y, y2), x2 + 2, max(y, y2))]
    return out


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two rectangles share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def page(road: Road, plot: Plot) -> str:
    """The picture, the table with whole samples, the compressors and where it ran."""
    best = min(road.results, key=lambda r: r.bits_per_byte, default=None)
    lead = f"<b>{best.bits_per_byte:.3f} bits per byte</b> by {html.escape(best.name)} ({best.year})." if best else ""
    about = f"{title(road)}, every byte scored. Budget {format_seconds(road.budget_s)}, shared evenly."
    rows = [
        (
            r.year,
            r.name,
            format_count(r.parameters),
            "counts" if r.training_flops is None else format_flops(r.training_flops),
            f"{r.seconds:.1f} s",
            f"{r.bits_per_byte:.4f}",
            f"{r.interval[0]:.4f} to {r.interval[1]:.4f}" if r.interval else "",
            r.note,
            r.paper,
        )
        for r in road.results
    ]
    names = ("year", "model", "parameters", "training FLOPs", "trained", "bits per byte", "95 % over pieces", "size", "paper")
    wrote = [(f"{r.year} {r.name}, {r.bits_per_byte:.3f}", r.sample) for r in road.results]
    samples = "".join(f'<p class="muted">{html.escape(by)}</p><pre>{html.escape(sample)}</pre>' for by, sample in wrote)
    compressed = [
        (c.name, f"{c.bits_per_byte:.4f}", f"{c.after_training:.4f}" if c.training_bytes else "", format_bytes(c.training_bytes))
        for c in road.compressed
    ]
    shannon = [(kind, *(f"{x:.3f}" for x in found)) for kind, found in road.entropies.items()]
    shannon += [("English in 27 letters, Shannon 1951", *map(str, ENGLISH_1951))]
    sections = [
        f'<h1>The road from counts to transformers</h1><p class="muted">{html.escape(about)}</p><p class="lead">{lead}</p>',
        f'<div class="plots"><figure class="wide" role="img" aria-label="{html.escape(plot.title, quote=True)}">{plot.svg}</figure></div>',
        section("The stops", table(names, rows)),
        section("What they write", samples),
        section("Entropies of blocks, bits a symbol", table(("", *(f"F{i}" for i in range(len(ENGLISH_1951)))), shannon)),
        section("Compressors", table(("", "alone", "after the training text's end", "of"), compressed)),
        section("Where it ran", table(("", ""), road.environment.items())),
    ]
    return document("history", sections)
