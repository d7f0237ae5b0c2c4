"""Whether the planner's choice is the best of those around it: the same budget with one of its values moved a notch.

    python -m benchmarks.plan_grid [--budget 3m] [--around width depth batch vocabulary] [--seeds 1] [--data ...]

The first run is as planned; the others go one notch up and down from what it chose. All are ``groundup train`` in fresh processes, one
after the other, and are scored on every byte of the test split. Results gather in ``benchmarks/results/plan_grid.json``, one entry for
each text and budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, Text, load_result, provenance, save_result
from benchmarks.small_budget import Contestant, run_ours
from groundup.account import parse_budget
from groundup.account.rules import WIDTHS
from groundup.errors import GroundupError, UsageError

AS_PLANNED = "as planned"


def _width(plan: Mapping[str, Any]) -> list[int]:
    at = WIDTHS.index(plan["model"]["d_model"])
    return [*WIDTHS[max(0, at - 1) : at], *WIDTHS[at + 1 : at + 2]]


def _halved_and_doubled(value: int) -> list[int]:
    return [half for half in (value // 2,) if half >= 1] + [2 * value]


NOTCHES: dict[str, tuple[str, Callable[[Mapping[str, Any]], list[int]]]] = {
    "width": ("--d-model", _width),
    "depth": ("--n-layers", lambda plan: [n for n in (len(plan["model"]["layers"]) + step for step in (-1, 1)) if n >= 1]),
    "batch": ("--batch-size", lambda plan: _halved_and_doubled(plan["batch_size"])),
    "vocabulary": ("--vocab-size", lambda plan: [n for n in _halved_and_doubled(plan["model"]["vocab_size"]) if n > 300]),
}
"""By name: the flag, and the values beside the planned one."""


def neighbours(plan: Mapping[str, Any], around: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Flags of the runs beside the planned one, by what is moved."""
    moved = {}
    for name in around:
        flag, values = NOTCHES[name]
        moved |= {f"{name} {value:,}": (flag, str(value)) for value in values(plan)}
    return moved


def rows(bits: Mapping[str, Sequence[float]]) -> list[dict[str, str]]:
    """The table for people, best first."""
    planned = statistics.median(bits[AS_PLANNED])
    medians = {name: statistics.median(values) for name, values in bits.items()}
    return [
        {"changed": name, "bits per byte": f"{medians[name]:.4f}", "worse by": f"{medians[name] - planned:+.4f}"}
        for name in sorted(bits, key=medians.__getitem__)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="3m", help="of each run")
    parser.add_argument("--around", nargs="+", default=list(NOTCHES), choices=list(NOTCHES), help="what to move")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=[], help="sources, as for groundup train; none: the standard library")
    parser.add_argument("--limit-bytes", type=int, default=12_500_000, help="of the text")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_grid.json")
    given = parser.parse_args(arguments)
    budget = parse_budget(given.budget)
    if budget.unit != "seconds":
        raise UsageError(f"--budget {given.budget}: give a time")
    bits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        text = Text(given.data, given.limit_bytes, Path(work))

        def measure(name: str, flags: tuple[str, ...], seed: int) -> Path:
            folder = name.replace(" ", "-")
            run = run_ours(folder, Contestant(name, flags=flags), budget.amount, seed, text)
            bits.setdefault(name, []).append(run.bits_per_byte)
            print(f"{name}, seed {seed}: {run.bits_per_byte:.4f} bits per byte, {run.steps:,} steps", file=sys.stderr)
            return text.work / "runs" / f"{folder}-{seed}"

        plan = json.loads((measure(AS_PLANNED, (), 0) / "manifest.json").read_text())["plan"]
        moved = neighbours(plan, given.around)
        for seed in range(given.seeds):
            if seed:
                measure(AS_PLANNED, (), seed)
            for name, flags in moved.items():
                measure(name, flags, seed)
        entry = {**provenance(), "corpus": text.manifest(), "budget_s": budget.amount, "bits_per_byte": bits}
        entry["planned"] = {"d_model": plan["model"]["d_model"], "n_layers": len(plan["model"]["layers"])}
        entry["planned"] |= {"batch_size": plan["batch_size"], "vocab_size": plan["model"]["vocab_size"], "n_steps": plan["n_steps"]}
    grids = load_result(given.out).get("grids", {})
    save_result(given.out, {"benchmark": "plan_grid", "grids": grids | {f"{text.name}, {given.budget}": entry}})
    for row in rows(bits):
        print("  ".join(row.values()))
    print(json.dumps({"benchmark": "plan_grid", "bits_per_byte": bits}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"plan_grid: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
