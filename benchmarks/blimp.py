"""BLiMP under a model of ``transformers``: per-paradigm accuracies with errors, and the minutes they took.

    python -m benchmarks.blimp --data BLIMP --model FOLDER [--gguf FILE] [--items 100] [--kept items.jsonl]

``--items`` is the number of pairs taken from the start of each of the 67 paradigms (1,000 are there), all paradigms in turn. A killed run
goes on from ``--kept``. Seconds count scoring alone, after loading, and only where a run was not resumed; seconds of the processor, over
all its cores, say what a machine with nothing else to do would take.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.evaluate.harness import TaskResult, run_task
from groundup.evaluate.tasks import Task, blimp
from groundup.evaluate.transformers_model import TransformersModel
from groundup.terminal import show_rows


def some_of(task: Task, n: int) -> Task:
    """The first n items of each paradigm, paradigms in turn."""
    seen: dict[str, int] = {}
    ranked = []
    for i, group in enumerate(task.groups):
        seen[group] = seen.get(group, 0) + 1
        ranked.append((seen[group], i))
    kept = [i for place, i in sorted(ranked) if place <= n]
    return Task(task.name, tuple(task.items[i] for i in kept), task.baseline, task.normalization, tuple(task.groups[i] for i in kept))


def as_result(result: TaskResult, seconds: float | None, cpu_seconds: float | None) -> dict[str, Any]:
    """The result file."""
    accuracy, bits = result.accuracy["raw"], result.bits_per_byte
    return {
        "model": result.model,
        "items_per_paradigm": len(result.task.items) // len(set(result.task.groups)),
        "accuracy": {"mean": accuracy.mean, "error": accuracy.error},
        "bits_per_byte": {"mean": bits.mean, "error": bits.error},
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "paradigms": {name: {"mean": m.mean, "error": m.error} for name, m in sorted(result.by_group().items())},
        **provenance(),
    }


def main() -> None:
    """Runs, prints the table and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of BLiMP's .jsonl files")
    parser.add_argument("--model", required=True, help="folder that transformers opens, or that holds the GGUF file")
    parser.add_argument("--gguf", help="name of a GGUF file in it")
    parser.add_argument("--items", type=int, default=100, help="pairs of each paradigm")
    parser.add_argument("--kept", type=Path, help="answers so far")
    parser.add_argument("--out", type=Path, default=RESULTS / "blimp.json")
    asked = parser.parse_args()
    task = some_of(blimp(asked.data), asked.items)
    model = TransformersModel.load(asked.model, gguf_file=asked.gguf)
    resumed = asked.kept is not None and asked.kept.exists()
    started, cpu_started = time.monotonic(), time.process_time()
    done = run_task(
        model, task, kept=asked.kept, progress=lambda name, i, n: print(f"{name} {i}/{n} {time.monotonic() - started:.0f} s", flush=True)
    )
    taken = (None, None) if resumed else (time.monotonic() - started, time.process_time() - cpu_started)
    result = as_result(done, *taken)
    accuracy = result["accuracy"]
    print(f"{accuracy['mean']:.1%} +- {accuracy['error']:.1%} over {len(task.items):,} pairs in {result['seconds'] or 0:.0f} s")
    show_rows([{"paradigm": name, "accuracy": m["mean"], "+-": m["error"]} for name, m in result["paradigms"].items()])
    save_result(asked.out, result)


if __name__ == "__main__":
    main()
