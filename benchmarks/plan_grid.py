"""Whether the planner's choice is the best of those around it: the same budget with one of its values moved a notch.

    python -m benchmarks.plan_grid [--budget 3m] [--around width depth batch vocabulary] [--seeds 1] [--data ...] [--rehearse-only]

First each choice is rehearsed by ``groundup train`` itself, one after the other on a machine that should be idle: how many steps does the
budget hold? Then each is trained with so many steps, whatever time that takes, and scored on every byte of the test split; these runs
have a core each, as many at once as there are cores, and a busy machine cannot spoil them. Results gather in
``benchmarks/results/plan_grid.json``, one entry for each text and budget; what stands there is not rehearsed or run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, ROOT, Text, load_result, provenance, save_result
from benchmarks.small_budget import Contestant, run_ours
from groundup.account import parse_budget, usable_cores
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


def rows(bits: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The table for people, best first."""
    planned = statistics.median(bits[AS_PLANNED].values())
    medians = {name: statistics.median(values.values()) for name, values in bits.items()}
    return [
        {"changed": name, "bits per byte": f"{medians[name]:.4f}", "worse by": f"{medians[name] - planned:+.4f}"}
        for name in sorted(bits, key=medians.__getitem__)
    ]


def rehearse(flags: Sequence[str], budget_s: float, text: Text) -> dict[str, Any]:
    """The plan that ``groundup train`` begins training with; the run is stopped there."""
    folder = text.work / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    command = ["-m", "groundup.cli", "train", "--data", str(text.folder), "--budget", f"{budget_s:g}s", "--out", str(folder), *flags]
    with (text.work / "rehearsal.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, cwd=ROOT)
        try:
            while process.poll() is None:
                file = folder / "manifest.json"
                manifest = json.loads(file.read_text()) if file.exists() else {}
                if "seconds_before_training" in manifest:
                    return manifest["plan"]
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        raise GroundupError(f"{' '.join(command)} ended before training: {log.read().strip()[-300:]}")


def fixed(plan: Mapping[str, Any]) -> list[str]:
    """Flags that make ``groundup train`` follow this plan, whatever it measures of the machine."""
    model = plan["model"]
    hashed = model["hash_embedding"]
    values = {
        "vocab-size": model["vocab_size"],
        "seq-len": plan["seq_len"],
        "d-model": model["d_model"],
        "n-layers": len(model["layers"]),
        "hash-rows": hashed["n_rows"] if hashed else 0,
        "batch-size": plan["batch_size"],
        "micro-batch-size": plan["micro_batch_size"],
        "steps": plan["n_steps"],
        "prior": "on" if model["prior"] else "off",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="3m", help="of each run")
    parser.add_argument("--around", nargs="+", default=list(NOTCHES), choices=list(NOTCHES), help="what to move")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=[], help="sources, as for groundup train; none: the standard library")
    parser.add_argument("--limit-bytes", type=int, default=12_500_000, help="of the text")
    parser.add_argument("--rehearse-only", action="store_true", help="leave the training to a later call")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_grid.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = parse(arguments)
    budget = parse_budget(given.budget)
    if budget.unit != "seconds":
        raise UsageError(f"--budget {given.budget}: give a time")
    with tempfile.TemporaryDirectory() as work:
        text = Text(given.data, given.limit_bytes, Path(work))
        key = f"{text.name}, {given.budget}"
        entry = load_result(given.out).get("grids", {}).get(key) or {
            **provenance(),
            "corpus": text.manifest(),
            "budget_s": budget.amount,
            "plans": {},
            "bits_per_byte": {},
        }
        plans, bits = entry["plans"], entry["bits_per_byte"]
        saving = threading.Lock()

        def save() -> None:
            with saving:
                grids = load_result(given.out).get("grids", {})
                save_result(given.out, {"benchmark": "plan_grid", "grids": grids | {key: entry}})

        def ready(name: str, flags: Sequence[str]) -> dict[str, Any]:
            if name not in plans:
                plan = rehearse(flags, budget.amount, text)
                plans[name] = {"flags": fixed(plan), "step_seconds": plan["step_seconds"], "rows": plan["rows"]}
                print(f"{name}: {plan['n_steps']:,} steps", file=sys.stderr)
                save()
                return plan
            return {}

        def train(name: str, seed: int) -> None:
            run = run_ours(name.replace(" ", "-"), Contestant(name, flags=tuple(plans[name]["flags"])), budget.amount, seed, text)
            bits.setdefault(name, {})[str(seed)] = run.bits_per_byte
            print(f"{name}, seed {seed}: {run.bits_per_byte:.4f} bits per byte, {run.steps:,} steps", file=sys.stderr)
            save()

        planned = ready(AS_PLANNED, ())
        if planned:
            entry["moved"] = {name: list(flags) for name, flags in neighbours(planned, list(NOTCHES)).items()}
        names = [name for name in entry["moved"] if name.split()[0] in given.around]
        for name in names:
            ready(name, entry["moved"][name])
        if given.rehearse_only:
            return
        os.environ["OMP_NUM_THREADS"] = "1"
        waiting = [(n, s) for s in range(given.seeds) for n in (AS_PLANNED, *names) if str(s) not in bits.get(n, {})]
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(lambda job: train(*job), waiting))
    for row in rows(bits):
        print("  ".join(row.values()))
    print(json.dumps({"benchmark": "plan_grid", "bits_per_byte": bits}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"plan_grid: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
