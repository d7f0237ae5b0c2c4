"""Tables, tokens and a progress line in a terminal: what needs no run and no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

COLOURS = ("#d9ecff", "#ffe3c2", "#d8f3dc", "#f6d6e8", "#e6dcfa")
"""Backgrounds of tokens in turn, so that neighbours differ."""


def show_rows(rows: list[dict[str, Any]], *, console: Console | None = None, title: str | None = None) -> None:
    """A list of dictionaries as a table."""
    console = console or Console(highlight=False)
    if not rows:
        console.print("nothing to show")
        return
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row.values()))
    _print_titled(table, title, console)


def show_pairs(pairs: Sequence[tuple[str, str]], *, title: str) -> None:
    """Names and values, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in pairs:
        table.add_row(name, Text(value))
    _print_titled(table, title, Console(highlight=False))


def _print_titled(table: Table, title: str | None, console: Console) -> None:
    """A table under its title, which as the table's own would be folded to its width."""
    if title is not None:
        console.print(Text(title, style="italic"))
    console.print(table)


def show_bars(values: Mapping[str, tuple[float, str]], *, title: str, width: int = 40, console: Console | None = None) -> None:
    """A horizontal bar for each value above zero, the longest ``width`` characters, with its text and its share of the sum."""
    console = console or Console(highlight=False)
    most, total = max((value for value, _ in values.values()), default=0), sum(value for value, _ in values.values())
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, (value, text) in values.items():
        if value > 0:
            eighths = round(8 * width * value / most)
            bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
            table.add_row(name, Text(bar or "▏", style="cyan"), text, f"{value / total:.1%}")
    _print_titled(table, title, console)


def visible(token: bytes) -> str:
    """A token's bytes as text: what is no whole character is spelled \\xNN, and ↵ stands before a line's end."""
    return token.decode("utf-8", "backslashreplace").replace("\r", "\\r").replace("\n", "↵\n")


def show_tokens(tokens: Sequence[tuple[int, bytes]], *, console: Console | None = None) -> None:
    """A text's tokens (id, bytes), each on a colour of its own."""
    console = console or Console(highlight=False)
    shown = Text()
    for i, (_, token) in enumerate(tokens):
        shown.append(visible(token), style=f"black on {COLOURS[i % len(COLOURS)]}")
    console.print(shown, soft_wrap=True)
    n_bytes = sum(len(token) for _, token in tokens)
    console.print(f"{len(tokens):,} tokens, {n_bytes:,} bytes" + (f", {n_bytes / len(tokens):.2f} bytes a token" if tokens else ""))


@contextlib.contextmanager
def training_tokenizer() -> Iterator[Any]:
    """A progress line on standard error for ``Tokenizer.train``: bytes counted, then merges learned."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        task = progress.add_task("reading the text", total=None)

        def told(stage: Literal["count", "merge"], done: int, total: int | None) -> None:
            what = f"counted {done / 1e6:,.1f} MB" if stage == "count" else f"learned {done:,} merges"
            progress.update(task, description=what, completed=done, total=total)

        yield told


@contextlib.contextmanager
def counting() -> Iterator[Any]:
    """A progress line on standard error for each thing that is told of: its name, how many are done, how many there are."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield told
