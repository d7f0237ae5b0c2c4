"""Result files to the README's tables.

    python -m benchmarks.table            rewrites what stands between the markers in README.md
    python -m benchmarks.table --check    only compares; exit status 1 if the README is out of date

Every number there comes from ``benchmarks/results/*.json``; a file of a benchmark that is not in ``TABLES`` is not for the README.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ablation, plan_grid, small_budget, step_speed
from benchmarks.resources import RESULTS, ROOT, load_result
from groundup.errors import GroundupError, UsageError
from groundup.files import write_file

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as a Markdown table, columns that are empty in every row left out."""
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [names, ["-"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def small_budget_table(result: Mapping[str, Any]) -> str:
    """Bits per byte after a budget, with what it was measured on."""
    corpus, summary = result["corpus"], result["summary"]
    seeds = max(row["seeds"] for row in summary.values())
    swept = {name: own for name in summary if (own := _sweep(name, result["sweeps"]))}
    seconds = sorted({own.get("seconds", result["budget_s"]) for own in swept.values()})
    where = ", ".join(sorted({own.get("corpus", corpus["name"]) for own in swept.values()}))
    trials = f"of {where} in trials of {', '.join(f'{s:g}' for s in seconds)} seconds"
    tuned = f"; settings of {', '.join(swept)} swept on the validation split {trials}" if swept else ""
    return (
        f"**Bits per byte after {result['budget_s']:g} seconds on {corpus['name']}** ({corpus['n_bytes'] / 1e6:.1f} MB of text, "
        f"{corpus['splits']['bytes']['test']:,} held-out bytes, every one scored; "
        f"median of {seeds} seed{'s' if seeds > 1 else ''}{tuned})\n\n"
        f"{markdown(small_budget.rows(summary))}\n\n{origin(result)}"
    )


def _sweep(name: str, sweeps: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The sweep that a contestant's settings come from, if any."""
    return sweeps.get(name) or sweeps.get(small_budget.CONTESTANTS[name].swept_as or name)


def step_speed_table(result: Mapping[str, Any]) -> str:
    """Speed of a training step."""
    s, rounds = result["shape"], len(next(iter(result["seconds_per_step"].values())))
    return (
        f"**Training speed at an equal configuration** ({s['n_layers']} layers, width {s['width']}, vocabulary {s['vocab_size']:,}, "
        f"{s['batch_size']} x {s['seq_len']} tokens a step, fp32; median over {rounds} rounds)\n\n"
        f"{markdown(step_speed.rows(result['summary']))}\n\n{origin(result)}"
    )


def ablation_table(result: Mapping[str, Any]) -> str:
    """What each ingredient is worth."""
    s, name = result["settings"], result["corpus"]["name"]
    seeds = f"{s['seeds']} seed{'s' if s['seeds'] > 1 else ''}"
    return (
        f"**What each ingredient of the plain network is worth** ({s['n_layers']} layers, width {s['width']}, "
        f"{s['tokens'] / 1e6:.2f} M tokens of {name}, bits per byte on the validation split, {seeds})\n\n"
        f"{markdown(ablation.rows(result['summary']))}\n\n{origin(result)}"
    )


def plan_grid_table(result: Mapping[str, Any]) -> str:
    """The planner's choice, and the best of those that differ from it in one value."""
    grids = {key: entry for key, entry in result["grids"].items() if plan_grid.AS_PLANNED in entry["bits_per_byte"]}
    last = max(grids.values(), key=lambda entry: entry["date"])
    notch = "the next width, a layer, or twice or half the batch or the vocabulary"
    lines = markdown([plan_grid.verdict(key, entry) for key, entry in grids.items()])
    return (
        f"**The planner's choice against those one notch beside it** (test split, 1 seed; a notch is {notch})\n\n{lines}\n\n{origin(last)}"
    )


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "small_budget": small_budget_table,
    "step_speed": step_speed_table,
    "ablation": ablation_table,
    "plan_grid": plan_grid_table,
}


def origin(result: Mapping[str, Any]) -> str:
    """Where and when it was measured."""
    e = result["environment"]
    return f"<sub>{result['date']}, {e['cpu']}, {e['threads']} threads, PyTorch {e['torch']}, Python {e['python']}</sub>"


def block(folder: Path) -> str:
    """All tables of a folder of result files, in the order of TABLES and then of file names; a file with a sweep alone has none."""
    results = [load_result(file) for file in sorted(folder.glob("*.json"))]
    measured = [r for r in results if r.get("summary") or r.get("grids")]
    shown = [draw(r) for kind, draw in TABLES.items() for r in measured if r.get("benchmark") == kind]
    return "\n\n".join(shown)


def rewrite(text: str, tables: str, where: str) -> str:
    """The text with the tables between its markers; UsageError unless it has each marker once, in order."""
    before, opened, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (opened and closed) or BEGIN in rest or END in after:
        raise UsageError(f"{where}: put {BEGIN} and, below it, {END} on lines of their own, once")
    return before + BEGIN + "\n" + (tables + "\n" if tables else "") + END + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file to rewrite")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    given = parser.parse_args(arguments)
    text = given.readme.read_text()
    new = rewrite(text, block(given.results), given.readme.name)
    if given.check and new != text:
        print(f"{given.readme.name} is out of date: run python -m benchmarks.table", file=sys.stderr)
        return 1
    if new != text:
        write_file(given.readme, new)
        print(f"wrote {given.readme.name}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except GroundupError as e:
        print(f"table: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
