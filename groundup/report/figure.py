"""How every plot looks, and how it becomes a PNG and an inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.errors import UsageError
from groundup.files import write_bytes
from groundup.report import curves, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b1f24", "#66707a", "#dfe3e6", "#ffffff"
BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, YELLOW = "#0072b2", "#d55e00", "#008f68", "#e69f00", "#56b4e9", "#cc79a7", "#e8d93f"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, MUTED, YELLOW)
"""Distinct also to colour-blind eyes (Okabe & Ito 2008; green and yellow a little darker, to be read on white)."""

PALETTE = {
    "ink": (INK, "#e7eaed"), "muted": (MUTED, "#9aa5af"), "grid": (GRID, "#30363d"), "paper": (PAPER, "#14171b"),
    "blue": (BLUE, "#5ab4f0"), "vermillion": (VERMILLION, "#ff8d4d"), "green": (GREEN, "#3cc99c"), "orange": (ORANGE, "#f0b53c"),
    "sky": (SKY, "#8fd0f7"), "purple": (PURPLE, "#dd97bd"), "yellow": (YELLOW, "#f2e76a"),
}  # fmt: skip
"""The page's colour names -> (on light paper, on dark paper)."""

SIZE = (4.6, 3.1)
"""Inches of an ordinary plot: three stand side by side on a page, one fills a phone."""
WIDE = (10.0, 1.5)
"""Inches of a strip across the page."""

_FONT_POINTS = 9.0
_STYLE = {
    "font.size": _FONT_POINTS, "font.family": "DejaVu Sans", "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "groundup",
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "axes.linewidth": 0.7, "axes.labelsize": _FONT_POINTS,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlecolor": INK, "axes.titlepad": 9.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID,
    "grid.linewidth": 0.7, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.major.width": 0.7, "xtick.major.size": 3.0, "ytick.major.size": 0.0, "ytick.left": False, "axes.unicode_minus": True,
    "xtick.minor.size": 0.0, "ytick.minor.size": 0.0, "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER, "axes.facecolor": "none", "savefig.facecolor": PAPER,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """A drawn plot."""

    name: str
    """Name of its file, without the suffix."""
    title: str
    """What it shows, for those who cannot see it."""
    png: bytes
    """The picture on white."""
    svg: str
    """An <svg> element for an HTML page whose CSS defines PALETTE's names as variables."""
    wide: bool = False
    """Whether it wants the width of the page."""


def draw(name: str, title: str, painter: Callable[[Figure], None], size: tuple[float, float] = SIZE) -> Plot:
    """Calls the painter on an empty figure in the house's style, and keeps both renderings."""
    with _style():
        figure = _painted(painter, size)
        png = _png(figure)
        figure.set_layout_engine("none")  # laid out already
        svg = _svg(figure, transparent=True)
    return Plot(name, title, png, _inline(svg, name), wide=size == WIDE)


def save(path: Path, painter: Callable[[Figure], None], size: tuple[float, float] = SIZE) -> Path:
    """Draws a picture that stands alone into a .png or .svg file; UsageError for any other suffix."""
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"{path}: a picture is written as .png or .svg; choose one of these names")
    with _style():
        figure = _painted(painter, size)
        write_bytes(path, _png(figure) if suffix == ".png" else _svg(figure, transparent=False).encode())
    return path


@contextlib.contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from font"
        )  # a run's name in a script that the font lacks: a box will do
        yield


def _painted(painter: Callable[[Figure], None], size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    painter(figure)
    return figure


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


def _svg(figure: Figure, *, transparent: bool) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, transparent=transparent)
    return out.getvalue()


def _inline(svg: str, name: str) -> str:
    """Bare markup: no prolog, no namespaces, no size, no fonts, colours as CSS variables, and ids that are unique in the page."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL).replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"font: ((?:\d+ )?[\d.]+px) [^;\"]*", _font, body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    for variable, (light, _) in PALETTE.items():
        body = body.replace(light, f"var(--{variable})")
    body = re.sub(r"\s*\n\s*", " ", body)
    return f'<svg {box[0] if box else ""} aria-hidden="true">{body.strip()}'


def _font(match: re.Match[str]) -> str:
    weight, _, points = match[1].rpartition(" ")
    return f"font-size: {points}" + (f"; font-weight: {weight}" if weight else "")


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Ticks at 1, 2, 5 (few decades), 1, 3 (more) or powers of ten only (many), as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = np.log10(high / low)
    subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 1e-4 <= value < 1e5 else text.scientific(value, 1)))
    axis.set_minor_formatter(NullFormatter())


def label_ends(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Names lines at the right edge instead of in a legend: (y, words, colour) each, pushed apart where they would overlap."""
    bottom, top = axes.transData.transform([(1.0, y) for y in axes.get_ylim()])[:, 1]
    ends = axes.transData.transform([(axes.get_xlim()[1], y) for y, _, _ in labels])[:, 1] if labels else []
    fractions = [float((y - bottom) / (top - bottom)) for y in ends]
    height_points = axes.get_figure().get_figheight() * 72 * 0.72  # type: ignore[union-attr]  # what layout leaves to the axes
    gap = _FONT_POINTS * 1.25 / height_points
    for (_, words, colour), place in zip(labels, curves.spread(fractions, gap, 0.02, 0.98), strict=True):
        axes.annotate(words, (1.0, place), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", color=colour,
                      va="center", annotation_clip=False)  # fmt: skip
