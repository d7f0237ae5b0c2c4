"""Draws the picture of the road for the docs from its result file.

python docs/draw_history.py
"""

from __future__ import annotations

from page import DOCS, load

from groundup.files import write_bytes
from groundup.history.road import from_record
from groundup.report.road import draw_road


def main() -> None:
    """Writes docs/history.png."""
    write_bytes(DOCS / "history.png", draw_road(from_record(load("history"))).png)
    print(f"wrote {DOCS / 'history.png'}")


if __name__ == "__main__":
    main()
