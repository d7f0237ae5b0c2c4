"""Whether the planner's choice is the best of those around it: the same budget with one of its values moved a notch.

    python -m benchmarks.plan_grid [--budget 3m] [--around width depth batch vocabulary] [--seeds 1] [--data ...] [--rehearse-only]

How many steps does the budget hold, for each choice? ``groundup train`` is started as planned and stopped where training would begin; then
all choices train for a moment in turns, on a machine that should be idle. Then each is trained with its number of steps, whatever time
that takes, and scored on every byte of the test split: these runs have a core each, as many at once as there are cores, and a busy machine
cannot spoil them. Results gather in ``benchmarks/results/plan_grid.json``, one entry for each text and budget; what stands there is not
rehearsed or run again.
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

from benchmarks.resources import RESULTS, ROOT, Text, load_result, provenance, run_module, save_result
from benchmarks.small_budget import Contestant, run_ours
from groundup.account import parse_budget, usable_cores
from groundup.account.rules import WIDTHS, choose_head_dim
from groundup.errors import GroundupError, UsageError

AS_PLANNED = "as planned"
TURNS = 24  # of one step each, in which the choices are timed
Choice = dict[str, int]
"""A flag of ``groundup train``, without its dashes, and its value."""


def _around(values: Sequence[int], at: int) -> list[int]:
    i = values.index(at)
    return [*values[max(0, i - 1) : i], *values[i + 1 : i + 2]]


NOTCHES: dict[str, tuple[str, Callable[[int], list[int]]]] = {
    "width": ("d-model", lambda n: _around(WIDTHS, n)),
    "depth": ("n-layers", lambda n: [m for m in (n - 1, n + 1) if m]),
    "batch": ("batch-size", lambda n: [m for m in (n // 2, 2 * n) if m]),
    "vocabulary": ("vocab-size", lambda n: [m for m in (n // 2, 2 * n) if m > 300]),
}
"""By name: the flag, and the values beside the planned one."""


def planned(plan: Mapping[str, Any]) -> Choice:
    """What the plan of a run decided, all that the grid moves or that follows from it."""
    model = plan["model"]
    return {
        "vocab-size": model["vocab_size"],
        "seq-len": plan["seq_len"],
        "d-model": model["d_model"],
        "n-layers": len(model["layers"]),
        "hash-rows": model["hash_embedding"]["n_rows"] if model["hash_embedding"] else 0,
        "batch-size": plan["batch_size"],
        "micro-batch-size": plan["micro_batch_size"],
    }


def neighbours(choice: Choice, around: Sequence[str]) -> dict[str, Choice]:
    """The choices one notch away, by what is moved."""
    found = {}
    for name in around:
        flag, values = NOTCHES[name]
        for value in values(choice[flag]):
            other = choice | {flag: value}
            # gradients are summed over micro-batches only where a whole batch would not fit
            if name == "batch" and choice["micro-batch-size"] == choice["batch-size"]:
                other["micro-batch-size"] = value
            found[f"{name} {value:,}"] = other
    return found


def flags(choice: Mapping[str, int]) -> list[str]:
    """The command line of a choice."""
    return [word for name, value in choice.items() for word in (f"--{name}", str(value))]


def prepared(text: Text, budget_s: float, choice: Choice) -> Path:
    """The folder of a ``groundup train`` that was stopped where training begins: its text is encoded and counted."""
    folder = text.work / f"prepared-{choice.get('vocab-size', 'planned')}"
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        "-m",
        "groundup.cli",
        "train",
        "--data",
        str(text.folder),
        "--budget",
        f"{budget_s:g}s",
        "--out",
        str(folder),
        *flags(choice),
    ]
    with (text.work / "prepared.log").open("w+") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, cwd=ROOT)
        try:
            while process.poll() is None:
                file = folder / "manifest.json"
                if file.exists() and "seconds_before_training" in json.loads(file.read_text()):
                    return folder
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        raise GroundupError(f"{' '.join(command)} ended before training: {log.read().strip()[-300:]}")


def time_choices(choices: Mapping[str, tuple[Path, Choice]]) -> dict[str, float]:
    """Seconds of a training step of each choice on the tokens and counts of its folder: the median of TURNS, after two that warm up."""
    import torch

    from groundup.account.shapes import architecture
    from groundup.config import to_dict
    from groundup.data import BatchStream
    from groundup.job import first_state
    from groundup.kernels.memory import keep_freed_memory
    from groundup.runfolder import RunFolder
    from groundup.train.feed import Feed
    from groundup.train.step import train_step
    from groundup.workbench import open_workbench

    keep_freed_memory()
    device, running, times = torch.device("cpu"), {}, {name: [] for name in choices}
    for name, (folder, choice) in choices.items():
        run = RunFolder.open(folder)
        plan = run.manifest["plan"]
        shape = {"d_model": choice["d-model"], "n_layers": choice["n-layers"], "head_dim": choose_head_dim(choice["d-model"])}
        shape |= {"vocab_size": choice["vocab-size"], "context_length": choice["seq-len"], "hash_rows": choice["hash-rows"]}
        plan["model"] = to_dict(architecture("groundup", prior=plan["model"]["prior"] is not None, **shape))
        plan |= {"batch_size": choice["batch-size"], "micro_batch_size": choice["micro-batch-size"], "n_steps": 1 << 30}
        bench = open_workbench(run, device)
        stream = BatchStream(bench.stores["train"], choice["batch-size"], choice["seq-len"], plan["seed"], 0, 1)
        running[name] = (*first_state(plan, bench), Feed(stream, device, bench.table("train")))
    for _ in range(TURNS + 2):
        for name, (state, settings, feed) in running.items():
            started = time.perf_counter()
            train_step(state, feed(state.step), settings)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds[2:]) for name, seconds in times.items()}


def steps_in(plan: Mapping[str, Any], choice: Choice, step_seconds: float) -> int:
    """Steps of a choice in the time left by ``plan``, as long as the text is good for them: each choice reads it at most as often."""
    left = plan["seconds"] - plan["predicted_seconds"] + plan["train_seconds"]
    tokens = plan["most_steps"] * plan["batch_size"] * plan["seq_len"]
    return max(1, min(int(left / step_seconds), tokens // (choice["batch-size"] * choice["seq-len"])))


def rehearse(text: Text, budget_s: float, around: Sequence[str]) -> dict[str, Choice]:
    """The planned choice and its neighbours, each with the steps that the budget holds."""
    folders = {}
    first = prepared(text, budget_s, {})
    choice = planned(json.loads((first / "manifest.json").read_text())["plan"])
    folders[choice["vocab-size"]] = first
    choices = {AS_PLANNED: choice} | neighbours(choice, around)
    for other in choices.values():
        if other["vocab-size"] not in folders:
            folders[other["vocab-size"]] = prepared(text, budget_s, other)
    asked = {name: [str(folders[other["vocab-size"]]), other] for name, other in choices.items()}
    question = text.work / "choices.json"
    question.write_text(json.dumps(asked))
    seconds = run_module("benchmarks.plan_grid", ["--time", str(question)])
    for name, other in choices.items():
        plan = json.loads((folders[other["vocab-size"]] / "manifest.json").read_text())["plan"]
        other["steps"] = steps_in(plan, other, seconds[name])
        print(f"{name}: {1e3 * seconds[name]:.1f} ms a step, {other['steps']:,} steps", file=sys.stderr)
    return choices


def rows(bits: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The table for people, best first."""
    medians = {name: statistics.median(values.values()) for name, values in bits.items()}
    return [
        {"changed": name, "bits per byte": f"{medians[name]:.4f}", "worse by": f"{medians[name] - medians[AS_PLANNED]:+.4f}"}
        for name in sorted(bits, key=medians.__getitem__)
    ]


def verdict(key: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """One line on a grid: what was planned, what it reached, and the best beside it."""
    medians = {name: statistics.median(values.values()) for name, values in entry["bits_per_byte"].items()}
    choice, best = entry["choices"][AS_PLANNED], min(medians, key=medians.__getitem__)
    return {
        "text, budget": key,
        "planned": f"width {choice['d-model']}, {choice['n-layers']} layers, vocabulary {choice['vocab-size']:,}, "
        f"{choice['batch-size']} x {choice['seq-len']} tokens a step",
        "bits per byte": f"{medians[AS_PLANNED]:.4f}",
        "best": f"{medians[best]:.4f} ({best})",
        "better by": f"{medians[AS_PLANNED] - medians[best]:.4f}",
        "of": f"{len(medians)}",
    }


class Grid:
    """One entry of the result file, written whenever it has something new."""

    def __init__(self, file: Path, text: Text, budget: str):
        self.file, self.text, self.key, self.saving = file, text, f"{text.name}, {budget}", threading.Lock()
        self.budget_s = parse_budget(budget).amount
        found = load_result(file).get("grids", {}).get(self.key)
        self.entry = found or {**provenance(), "corpus": text.manifest(), "budget_s": self.budget_s, "choices": {}, "bits_per_byte": {}}

    def save(self) -> None:
        """Writes the entry beside those that other grids have."""
        with self.saving:
            grids = load_result(self.file).get("grids", {})
            save_result(self.file, {"benchmark": "plan_grid", "grids": grids | {self.key: self.entry}})

    def rehearse(self, around: Sequence[str]) -> None:
        """Finds the choices and their steps, unless the entry has them."""
        if not self.entry["choices"]:
            self.entry["choices"] = rehearse(self.text, self.budget_s, around)
            self.save()

    def train(self, name: str, seed: int) -> None:
        """Trains one choice, unless the entry has its result."""
        found = self.entry["bits_per_byte"].setdefault(name, {})
        if str(seed) not in found:
            contestant = Contestant(name, flags=tuple(flags(self.entry["choices"][name])))
            run = run_ours(name.replace(" ", "-"), contestant, self.budget_s, seed, self.text)
            found[str(seed)] = run.bits_per_byte
            print(f"{name}, seed {seed}: {run.bits_per_byte:.4f} bits per byte, {run.steps:,} steps", file=sys.stderr)
            self.save()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="3m", help="of each run, a time")
    parser.add_argument("--around", nargs="+", default=list(NOTCHES), choices=list(NOTCHES), help="what to move")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=[], help="sources, as for groundup train; none: the standard library")
    parser.add_argument("--limit-bytes", type=int, default=12_500_000, help="of the text")
    parser.add_argument("--rehearse-only", action="store_true", help="leave the training to a later call")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan_grid.json")
    parser.add_argument("--time", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    given = parse(arguments)
    if given.time:
        asked = {name: (Path(folder), choice) for name, (folder, choice) in json.loads(given.time.read_text()).items()}
        print(json.dumps(time_choices(asked)))
        return
    if parse_budget(given.budget).unit != "seconds":
        raise UsageError(f"--budget {given.budget}: give a time")
    with tempfile.TemporaryDirectory() as work:
        grid = Grid(given.out, Text(given.data, given.limit_bytes, Path(work)), given.budget)
        grid.rehearse(given.around)
        if given.rehearse_only:
            return
        os.environ["OMP_NUM_THREADS"] = "1"
        jobs = [(name, seed) for seed in range(given.seeds) for name in grid.entry["choices"]]
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(grid.train, *zip(*jobs, strict=True)))
    for row in rows(grid.entry["bits_per_byte"]):
        print("  ".join(row.values()))
    print(json.dumps({"benchmark": "plan_grid", "bits_per_byte": grid.entry["bits_per_byte"]}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"plan_grid: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
