"""``groundup history``: seventy years of language models on one text, in one unit, in minutes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text as Line

from groundup.account import format_bytes, format_count, format_flops, format_seconds, parse_budget
from groundup.errors import UsageError

if TYPE_CHECKING:
    from groundup.history.road import Road
    from groundup.history.study import Result

COLUMNS = ("year", "model", "params", "FLOPs", "seconds", "bits/byte", "95 %", "it writes")
SHOWN_SAMPLE, LEAST_SAMPLE = 60, 12
"""Most and fewest characters of a sample in the table."""

START_S = 5.0
"""Seconds of a processor that starting Python may have taken: a process that has used more did other things before."""


@dataclass(frozen=True)
class History:
    """Shannon to transformers: each model trained on the same text in the same time, scored on the same held-out bytes."""

    data: tuple[str, ...] = ()
    """Files, folders, .jsonl or .parquet files, hub:owner/name[:subset]; none: the Python standard library of this machine."""
    budget: str = "5m"
    """Time for all of it, such as 30s or 5m; the stops share it evenly."""
    stops: tuple[str, ...] = ()
    """Only these stops (default: all); an unknown name is answered with those there are."""
    out: Path | None = None
    """Where the record, the pictures and the page go (default: history/ and the text and budget). The same command goes on there."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet files."""
    play: bool = False
    """Play Shannon's guessing game in the terminal instead."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Does the stops, then prints the table and writes the pictures."""
        began = time.monotonic() - min(time.process_time(), START_S)  # what Python took to start counts too
        if self.play:
            self._play()
            return
        budget = parse_budget(self.budget)
        if budget.unit != "seconds":
            raise UsageError(f"--budget {self.budget}: the road is walked by the clock; give a time, such as 5m")

        from groundup.history.road import choose, travel
        from groundup.report.road import write_road
        from groundup.train.loop import Interrupted, sigterm_interrupts

        folder = self.out or Path("history") / f"{'+'.join(Path(d).stem for d in self.data) or 'stdlib'}-{self.budget}"
        screen = _Screen()
        try:
            with sigterm_interrupts(), screen.progress:
                road = travel(
                    self.data,
                    budget.amount,
                    choose(self.stops),
                    folder,
                    text_field=self.text_field,
                    listener=screen.listener(),
                    began=began,
                )
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {folder} keeps the stops that are done, and the same command goes on") from None
        files = write_road(road, folder)
        show(road, time.monotonic() - began)
        print("wrote " + ", ".join(map(str, files)))
        if self.json:
            print(json.dumps(asdict(road) | {"seconds": time.monotonic() - began}))

    def _play(self) -> None:
        """Shannon's game on a passage of the held-out text, against letters counted in the rest."""
        from groundup.history.guessing import passage, rival
        from groundup.history.play import play
        from groundup.history.study import read_text

        text = read_text(self.data, 60.0, self.text_field)
        hidden = passage(text, seed=time.time_ns())
        play(sys.stdin, sys.stdout, hidden, rival=rival(text, hidden))


def show(road: Road, seconds: float) -> None:
    """The table, compressors below it, and what all of it took."""
    from groundup.history.road import title

    console = Console(highlight=False)
    rows = [COLUMNS, *(cells(r) for r in road.results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    room = console.width - sum(widths) - 2 * len(widths)  # for the sample: the one column that gives way
    shown = len(COLUMNS) if room >= LEAST_SAMPLE else len(COLUMNS) - 1
    table = Table(title=Line(title(road)), title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(COLUMNS[:shown]):
        table.add_column(column, justify="right" if 2 <= i <= 5 else "left", no_wrap=True, overflow="ellipsis" if i == 7 else "fold")
    best = min((r.bits_per_byte for r in road.results), default=0.0)
    for r, row in zip(road.results, rows[1:], strict=True):
        table.add_row(
            *(Line(cell[:room] if i == 7 else cell, style="bold" if r.bits_per_byte == best else "") for i, cell in enumerate(row[:shown]))
        )
    console.print(table)
    for line in entropy_lines(road):
        console.print(f"[dim]{line}[/dim]", soft_wrap=True)
    for c in road.compressed:
        after = f", {c.after_training:.3f} after {format_bytes(c.training_bytes)} of training text" if c.training_bytes else ""
        console.print(f"[dim]{c.name:>10}  {c.bits_per_byte:.3f} bits/byte alone{after}[/dim]", soft_wrap=True)
    console.print(f"{format_seconds(seconds)} of {format_seconds(road.budget_s)}")


def entropy_lines(road: Road) -> list[str]:
    """Shannon's entropies, of letters beside his own of English."""
    from groundup.history.shannon import ENGLISH_1951

    lines = []
    for kind, found in road.entropies.items():
        his = f"; English in 1951: {' '.join(f'{x:.2f}' for x in ENGLISH_1951)}" if kind != "bytes" else ""
        lines.append(f"{kind:>10}  F0 to F{len(found) - 1} in bits a symbol: {' '.join(f'{x:.2f}' for x in found)}{his}")
    return lines


def cells(r: Result) -> tuple[str, ...]:
    """A finished stop as a row of the table."""
    interval = f"{r.interval[0]:.2f} to {r.interval[1]:.2f}" if r.interval else ""
    sample = " ".join(r.sample.split())[:SHOWN_SAMPLE]
    flops = format_flops(r.training_flops) if r.training_flops is not None else "counts"
    return (str(r.year), r.name, format_count(r.parameters), flops, f"{r.seconds:.1f}", f"{r.bits_per_byte:.3f}", interval, sample)


class _Screen:
    """A live line for the stop at work, and a line for each that is done."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        bar = BarColumn(bar_width=20)
        self.progress = Progress(
            TextColumn("{task.description}"), bar, TextColumn("{task.fields[words]}"), console=self.console, transient=True
        )
        self.task: Any = None

    def listener(self) -> Any:
        """What ``travel`` tells."""
        from groundup.history.road import Listener, title

        screen = self

        class Told(Listener):
            def text(self, text, road, left):
                kept = f"; {len(road.results)} stops are there already" if road.results else ""
                screen.console.print(Line(f"{title(road)}{kept}", style="dim"))

            def begin(self, stop, seconds):
                if screen.task is not None:
                    screen.progress.remove_task(screen.task)
                screen.task = screen.progress.add_task(f"{stop.year} {stop.name:22}", total=1.0, words=f"{format_seconds(seconds)} for it")

            def tell(self, progress, words):
                screen.progress.update(screen.task, completed=progress, words=words)

            def left_out(self, stop, why):
                screen.console.print(Line(f"{stop.year} {stop.name:22} left out: {why}", style="yellow"))

            def done(self, result):
                line = f"{result.year} {result.name:22} {result.bits_per_byte:.3f} bits/byte  {result.seconds:6.1f} s  {result.note}"
                screen.console.print(Line(line))

        return Told()
