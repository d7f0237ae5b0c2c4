"""What a person sees in the terminal: the plan, a progress line, what happened against what was said."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from groundup.account import format_bytes, format_count, format_flops, format_seconds
from groundup.recorder import Listener
from groundup.runfolder import RunFolder
from groundup.terminal import show_rows

PHASES = {
    "read": "reading the text",
    "calibrate": "measuring this machine",
    "tokenizer": "training the tokenizer",
    "encode": "encoding the text",
    "counts": "counting n-grams",
    "rehearse": "rehearsing a few steps",
    "train": "training",
    "evaluate": "scoring held-out text",
    "samples": "writing samples",
}


class Screen(Listener):
    """Shows a job as it goes; says nothing when quiet."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            refresh_per_second=4,
        )
        self.task: Any = None
        self.recent: list[tuple[float, int, float]] = []
        self.last_plain = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.task is not None:
            self.progress.stop()

    def phase(self, name: str) -> None:
        """One line a phase."""
        if self.task is not None:
            self.progress.stop()
            self.task = None
        self.console.print(f"[dim]{PHASES.get(name, name)} ...[/dim]")

    def plan(self, plan: dict[str, Any], machine: dict[str, Any]) -> None:
        """The plan as a table, each value with its reason."""
        table = Table(title=Text(f"The plan for {plan['budget']} on {machine['name']}"), title_justify="left", box=None, pad_edge=False)
        for column in ("", "chosen", "why", "source"):
            table.add_column(column, overflow="fold", style="dim" if column in ("why", "source") else None)
        for row in plan["rows"]:
            table.add_row(*(Text(row[column]) for column in ("name", "value", "why", "source")))
        self.console.print(table)

    def training(self, plan: dict[str, Any], predicted: dict[str, Any], groups: list[dict[str, str]], notes: list[str]) -> None:
        """The parameter groups, what runs, and what the whole will cost."""
        show_rows(groups, console=self.console, title="Parameter groups")
        for note in notes:
            self.console.print(f"[dim]{note}[/dim]")
        self.console.print(
            f"[bold]predicted[/bold]: {format_count(predicted['parameters'])} parameters, {plan['n_steps']:,} steps, "
            f"{format_count(predicted['tokens'])} tokens, {format_flops(predicted['flops'])}, {format_seconds(predicted['seconds'])}, "
            f"{format_bytes(predicted['peak_memory_bytes'])} of memory at the peak",
            soft_wrap=True,
        )

    def step(self, record: dict[str, Any], n_steps: int) -> None:
        """Moves the bar."""
        self.recent = [*self.recent[-19:], (time.monotonic(), record["tokens"], record["bits_per_byte"])]
        (t0, n0, _), (t1, n1, _) = self.recent[0], self.recent[-1]
        rate = (n1 - n0) / (t1 - t0) if t1 > t0 else record["tokens_per_s"]
        left = (n_steps - record["step"]) * (record["tokens"] / record["step"]) / max(rate, 1e-9)
        bits = sum(b for *_, b in self.recent) / len(self.recent)
        text = (
            f"loss {record['loss']:.3f}  {bits:.3f} bits/byte  {format_count(rate)} tokens/s  "
            f"{100 * record['mfu']:.0f}% of peak  {format_seconds(max(0.0, left))} left"
        )
        if not self.console.is_terminal:
            if time.monotonic() - self.last_plain > 10 and not self.quiet:
                self.last_plain = time.monotonic()
                self.console.print(f"step {record['step']}/{n_steps}  {text}", soft_wrap=True)
            return
        if self.task is None:
            self.progress.start()
            self.task = self.progress.add_task("training", total=n_steps, text=text)
        self.progress.update(self.task, completed=record["step"], total=n_steps, text=text)

    def evaluation(self, record: dict[str, Any]) -> None:
        """One line an evaluation."""
        bits = record["bits_per_byte"]
        parts = ", ".join(f"{name} {bits[name]:.3f}" for name in ("network", "counts") if name in bits)
        self.console.print(
            f"{record['split']} after {format_seconds(record['seconds'])}: [bold]{bits['model']:.4f} bits per byte[/bold]"
            + (f"  [dim]({parts})[/dim]" if parts else "")
        )

    def event(self, text: str) -> None:
        """One line."""
        self.console.print(Text(text))


def show_runs(rows: list[dict[str, Any]]) -> None:
    """Runs as ``report.compare`` gives them, a line each."""
    shown = {
        "name": ("run", str),
        "created": ("created (UTC)", lambda text: text[:16].replace("T", " ")),
        "status": ("status", str),
        "budget": ("budget", str),
        "parameters": ("params", format_count),
        "tokens": ("tokens", format_count),
        "bits_per_byte": ("bits/byte", "{:.4f}".format),
        "seconds": ("time", format_seconds),
    }
    show_rows([{title: "" if row[name] is None else show(row[name]) for name, (title, show) in shown.items()} for row in rows])


def conclusion(run: RunFolder, report: Path) -> None:
    """What happened against what was said, a sample, and the next command worth typing."""
    console = Console(highlight=False)
    said, was = run.manifest["plan"]["predicted"], run.manifest["measured"]
    table = Table(title="Predicted and measured", title_justify="left", box=None, pad_edge=False)
    for column in ("", "predicted", "measured", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    shown = {
        "parameters": format_count,
        "steps": format_count,
        "tokens": format_count,
        "flops": format_flops,
        "seconds": format_seconds,
        "peak_memory_bytes": format_bytes,
    }
    for name, show in shown.items():
        table.add_row(name.removesuffix("_bytes").replace("_", " "), show(said[name]), show(was[name]), f"{was[name] / said[name]:.3f}")
    console.print(table)
    whole = run.manifest["corpus"]["splits"]["bytes"]["test"]
    part = "" if was["bytes_scored"] == whole else f", {was['bytes_scored'] / whole:.0%} of it, evenly spread"
    console.print(f"[bold]{was['bits_per_byte']:.4f} bits per byte[/bold] on held-out text (test split{part})")
    samples = run.records("samples.jsonl")
    texts = [s for s in samples if "text" in s and s["step"] == samples[-1]["step"]]
    if texts:
        console.print("\n[dim]it writes:[/dim]", end=" ")
        console.print(Text(f"{texts[0]['prompt']}{texts[0]['text']}\n"))
    folder, root = shlex.quote(str(run.path)), shlex.quote(str(run.path.parent))
    console.print(Text(f"report: {report}"), soft_wrap=True)
    console.print(
        Text(f"next:   groundup generate {folder} --prompt '...'   groundup chat {folder}   groundup runs {root}"), soft_wrap=True
    )
