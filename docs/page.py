"""What all numbers of the docs share: how they are drawn, and where results are read."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table on lines of its own."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n" + "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def load(benchmark: str) -> dict[str, Any]:
    """A result file by the name of its benchmark."""
    sys.path.append(str(DOCS.parent))  # benchmarks are a part of the repository, not of the installed package
    from benchmarks.resources import RESULTS, load_result

    return load_result(RESULTS / f"{benchmark}.json")
