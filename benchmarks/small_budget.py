"""Bits per byte after a small budget, ours against nanoGPT, nanochat and counts alone.

    python -m benchmarks.small_budget --sweep          choose the peers' settings on the validation split (hours)
    python -m benchmarks.small_budget                  measure, one fresh process after the other (half an hour a seed)
    python -m benchmarks.small_budget --data novels.jsonl --out benchmarks/results/small_budget_novels.json
    python -m benchmarks.small_budget --quick          a few minutes, to see that all works

The rules. Every contestant gets the same text and the same splits, trains in a fresh process, and is scored on every byte of the test
split in windows of its own length, half a window apart. Ours is the command ``groundup train``, whose budget counts all that comes after
reading the text: measuring the machine, planning, tokenizer, counts, training, evaluation, samples. The peers' budget counts training,
with compilation where they compile; their tokenizer (our BPE, of the size that the sweep chose) is given, and their evaluation is free.
The sweep walks from what the last one chose, at first from the settings in ``benchmarks/peers``, one value at a time, for as long as the
validation split gains, with the budget that it is given for each trial (a shorter one finds settings for a shorter run: the result file
says which) and a seed of its own; a compiled peer takes the settings of its eager twin unless it was swept itself.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import load_peer
from benchmarks.resources import RESULTS, Text, load_result, provenance, read_metrics, run_module, save_result, store_bytes
from groundup.account import parse_budget
from groundup.errors import GroundupError, UsageError

SWEEP_SEED = 1_000
"""Not one of the seeds that are compared."""
REFERENCE = "nanogpt"
QUICK = {"budget": "20s", "seeds": 1, "limit_bytes": 300_000, "out": Path(tempfile.gettempdir()) / "small_budget_quick.json"}
Score = Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Contestant:
    """One of those who train."""

    what: str
    """For the table."""
    peer: str | None = None
    """Module in benchmarks.peers; None for ours."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its settings where they differ from the peer's defaults."""
    flags: tuple[str, ...] = ()
    """Flags of ``groundup train``."""
    share: float = 1.0
    """Of the budget."""
    swept_as: str | None = None
    """Whose sweep it takes if it has none of its own."""


CONTESTANTS: dict[str, Contestant] = {
    "ours": Contestant("groundup"),
    "ours-plain": Contestant("groundup, no counts", flags=("--prior", "off")),
    "ours-qwen3": Contestant("groundup, Qwen3's architecture", flags=("--arch", "qwen3")),
    "ours-third": Contestant("groundup, a third of the time", share=1 / 3),
    "ours-plain-third": Contestant("groundup, no counts, a third of the time", flags=("--prior", "off"), share=1 / 3),
    "nanogpt": Contestant("nanoGPT", "nanogpt"),
    "nanogpt-compiled": Contestant("nanoGPT, compiled", "nanogpt", {"compile": True}, swept_as="nanogpt"),
    "nanochat": Contestant("nanochat", "nanochat"),
    "nanochat-compiled": Contestant("nanochat, compiled", "nanochat", {"compile": True}, swept_as="nanochat"),
    "counts": Contestant("n-gram counts alone (Kneser-Ney)", "counts"),
}


@dataclass(frozen=True)
class Run:
    """What one contestant reached with one seed."""

    contestant: str
    seed: int
    bits_per_byte: float
    """On the test split, every byte."""
    validation: float | None
    """On the validation split, every byte; None for ours, whose looks are in the curve."""
    n_bytes: int
    """Bytes scored."""
    seconds: float
    """Measured time that counts."""
    steps: int
    """Updates."""
    parameters: int
    """Numbers learned."""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Ours: seconds spent, and bits per byte of a sample of the validation split."""


# ---- running ----


def run_contestant(name: str, contestant: Contestant, settings: Mapping[str, Any], seconds: float, seed: int, text: Text) -> Run:
    """Trains and scores one contestant in a fresh process; GroundupError if it fails, diverges, or scored other bytes."""
    seconds *= contestant.share
    if contestant.peer is None:
        return run_ours(name, contestant, seconds, seed, text)
    scores = run_peer(contestant, settings, seconds, seed, text, ("validation", "test"))
    bits = scores["bits_per_byte"]
    if bits["test"] is None:
        raise GroundupError(f"{name}, seed {seed}: training diverged; choose settings with --sweep")
    n_bytes = store_bytes(text.tokens(settings["vocab_size"]), "test")
    return Run(name, seed, bits["test"], bits["validation"], n_bytes, scores["seconds"], scores["steps"], scores["parameters"])


def run_peer(
    contestant: Contestant, settings: Mapping[str, Any], seconds: float, seed: int, text: Text, splits: Sequence[str]
) -> dict[str, Any]:
    """What ``benchmarks.peers`` prints."""
    tokens = text.tokens(settings["vocab_size"])
    request = {"peer": contestant.peer, "settings": dict(settings), "seconds": seconds, "seed": seed, "tokens": str(tokens)}
    file = text.work / "request.json"
    file.write_text(json.dumps(request | {"splits": list(splits)}))
    return run_module("benchmarks.peers", [str(file)])


def run_ours(name: str, contestant: Contestant, seconds: float, seed: int, text: Text) -> Run:
    """``groundup train``, and its score of the test split, taken again in full where the run sampled it to stay within its budget."""
    folder = text.work / "runs" / f"{name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ["--data", str(text.folder), "--budget", f"{seconds:g}s", "--seed", str(seed), "--out", str(folder), *contestant.flags]
    said = run_module("groundup.cli", ["train", *arguments, "--json"])
    looks = [record for record in read_metrics(folder) if record["kind"] == "evaluation"]
    curve = [(r["seconds"], r["bits_per_byte"]["model"]) for r in looks if r["split"] == "validation"]
    last = next(record for record in reversed(looks) if record["split"] == "test")
    bits, n_bytes = last["bits_per_byte"]["model"], last["bytes"]
    if n_bytes != text.splits.bytes["test"]:
        score = run_module("groundup.cli", ["eval", str(folder), "--data", str(text.split_folder("test")), "--json"])
        bits, n_bytes = score["bits_per_byte"]["model"], score["bytes"]
    measured = said["measured"]
    return Run(name, seed, bits, None, n_bytes, measured["seconds"], last["step"], measured["parameters"], curve)


def compare(names: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], Run], done: Callable[[list[Run]], None]) -> list[Run]:
    """Every contestant with the first seed, then with the next, so that a machine that slows down slows all alike.

    ``done`` is told all runs so far after each. GroundupError where two were not scored on the same number of bytes.
    """
    runs: list[Run] = []
    for seed in seeds:
        for name in names:
            runs.append(run(name, seed))
            if runs[-1].n_bytes != runs[0].n_bytes:
                raise GroundupError(f"{name} was scored on {runs[-1].n_bytes} bytes and {runs[0].contestant} on {runs[0].n_bytes}")
            done(runs)
    return runs


# ---- choosing the peers' settings ----


def sweep(score: Score, start: dict[str, Any], ladders: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The best settings by a walk from ``start``, and all trials: one value a time, up or down its ladder while the score falls.

    Ends after a round over all ladders in which nothing was gained. Costs about two trials a ladder and one a gain.
    """
    trials: dict[str, dict[str, Any]] = {}

    def look(settings: dict[str, Any]) -> float:
        key = json.dumps(settings, sort_keys=True)
        if key not in trials:
            trials[key] = {"settings": settings, "bits_per_byte": score(settings)}
        return trials[key]["bits_per_byte"]

    best, before = start, math.inf
    while look(best) < before:
        before = look(best)
        for name, ladder in ladders.items():
            for towards in (1, -1):
                while 0 <= (i := ladder.index(best[name]) + towards) < len(ladder):
                    candidate = best | {name: ladder[i]}
                    if look(candidate) >= look(best):
                        break
                    best = candidate
    return best, list(trials.values())


def sweep_contestant(
    name: str, start: dict[str, Any], seconds: float, text: Text, over: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Sweeps a peer on the validation split, over all its ladders or those named; what was tried and chosen, for the result file."""
    contestant = CONTESTANTS[name]

    def score(settings: dict[str, Any]) -> float:
        bits = run_peer(contestant, settings, seconds, SWEEP_SEED, text, ("validation",))["bits_per_byte"]["validation"]
        say(f"{name} {json.dumps(settings)}: {bits}")
        return math.inf if bits is None else bits

    assert contestant.peer is not None
    ladders = load_peer(contestant.peer).LADDERS
    unknown = sorted(set(over) - set(ladders))
    if unknown:
        raise UsageError(f"--over: {name} has no ladder {unknown[0]!r}; choose from {', '.join(ladders)}")
    chosen, trials = sweep(score, start, {key: ladders[key] for key in over or ladders})
    for trial in trials:
        if math.isinf(trial["bits_per_byte"]):
            trial["bits_per_byte"] = None
    return {"corpus": text.name, "split": "validation", "seconds": seconds, "seed": SWEEP_SEED, "chosen": chosen, "trials": trials}


def settings_of(name: str, sweeps: Mapping[str, Any]) -> dict[str, Any]:
    """A contestant's settings: its own sweep's, its twin's, or the peer's defaults; none for ours."""
    contestant = CONTESTANTS[name]
    if contestant.peer is None:
        return {}
    swept = sweeps.get(name) or sweeps.get(contestant.swept_as or name)
    return asdict(load_peer(contestant.peer).Settings()) | (swept["chosen"] if swept else {}) | dict(contestant.settings)


# ---- what came out ----


def summarize(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """By contestant: median and range over seeds, ratio to nanoGPT's median, and the share of its time until nanoGPT's value."""
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(run.contestant for run in runs):
        own = [run for run in runs if run.contestant == name]
        bits = [run.bits_per_byte for run in own]
        summary[name] = {
            "what": CONTESTANTS[name].what,
            "median": statistics.median(bits),
            "low": min(bits),
            "high": max(bits),
            "seeds": len(bits),
            "seconds": statistics.median(run.seconds for run in own),
            "parameters": statistics.median_low([run.parameters for run in own]),
        }
    reference = [run for run in runs if run.contestant == REFERENCE]
    for name, row in summary.items():
        if reference:
            row["ratio"] = row["median"] / summary[REFERENCE]["median"]
            row["reaches_nanogpt_s"] = _reach(runs, name, statistics.median(run.validation or math.inf for run in reference))
    return summary


def _reach(runs: Sequence[Run], name: str, value: float) -> float | None:
    """Median seconds until a run's validation curve is at or below a value; None without curves, or if half of them never are."""
    times = [next((s for s, bits in run.curve if bits <= value), math.inf) for run in runs if run.contestant == name and run.curve]
    middle = statistics.median(times) if times else math.inf
    return middle if math.isfinite(middle) else None


def rows(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table for people."""
    return [
        {
            "contestant": row["what"],
            "bits per byte": f"{row['median']:.4f}",
            "lowest to highest": f"{row['low']:.4f} to {row['high']:.4f}",
            "of nanoGPT's": f"{row['ratio']:.3f}" if "ratio" in row else "",
            "nanoGPT's value after": f"{row['reaches_nanogpt_s']:.0f} s" if row.get("reaches_nanogpt_s") is not None else "",
            "parameters": f"{row['parameters']:,}",
            "seconds": f"{row['seconds']:.0f}",
        }
        for row in summary.values()
    ]


# ---- the command ----


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with ``--quick`` worked in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=[], help="sources as of groundup train (default: the standard library)")
    parser.add_argument("--budget", default="180s", help="time for each contestant")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--contestants", default="ours,ours-plain,nanogpt,nanogpt-compiled,nanochat,counts", help=", ".join(CONTESTANTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "small_budget.json", help="result file; its sweeps are used and kept")
    parser.add_argument("--limit-bytes", type=int, default=12_000_000, help="take no more text than this")
    parser.add_argument("--sweep", action="store_true", help="choose the peers' settings instead of comparing")
    parser.add_argument("--over", nargs="*", default=[], help="settings to sweep; none: all that the peer has ladders for")
    parser.add_argument("--quick", action="store_true", help="unless said otherwise one seed, 20 s, 300 kB, into a temporary file")
    given = parser.parse_args(arguments)
    if given.quick:
        parser.set_defaults(**QUICK)
        given = parser.parse_args(arguments)
    given.contestants = given.contestants.split(",")
    for name in given.contestants:
        if name not in CONTESTANTS:
            raise UsageError(f"--contestants: {name!r} is not known; choose from {', '.join(CONTESTANTS)}")
    if given.seeds < 1:
        raise UsageError(f"--seeds {given.seeds}: at least one is needed")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """Sweeps or compares, writes the result file after every run, prints a table and one JSON line."""
    from groundup.terminal import show_rows

    given = parse(arguments)
    budget = parse_budget(given.budget)
    if budget.unit != "seconds":
        raise UsageError(f"--budget {given.budget}: the contestants are compared at equal time; give a time such as 180s")
    with tempfile.TemporaryDirectory() as work:
        text = Text(given.data, given.limit_bytes, Path(work))
        sweeps = load_result(given.out).get("sweeps", {})
        result = {"benchmark": "small_budget", **provenance(), "corpus": text.manifest(), "budget_s": budget.amount, "sweeps": sweeps}
        if given.sweep:
            for name in (n for n in given.contestants if CONTESTANTS[n].peer is not None):
                start, before = settings_of(name, sweeps), sweeps.get(name)
                swept = sweep_contestant(name, start, budget.amount, text, given.over, lambda line: print(line, file=sys.stderr))
                sweeps[name] = swept | ({"before": before} if before else {})
                save_result(given.out, load_result(given.out) | {"benchmark": "small_budget", "sweeps": sweeps})
            print(json.dumps({name: swept["chosen"] for name, swept in sweeps.items()}))
            return
        settings = {name: settings_of(name, sweeps) for name in given.contestants}

        def run(name: str, seed: int) -> Run:
            done = run_contestant(name, CONTESTANTS[name], settings[name], budget.amount, seed, text)
            print(f"{name}, seed {seed}: {done.bits_per_byte:.4f} bits per byte, {done.steps:,} steps", file=sys.stderr)
            return done

        def save(runs: list[Run]) -> None:
            save_result(given.out, result | {"settings": settings, "summary": summarize(runs), "runs": [asdict(r) for r in runs]})

        runs = compare(given.contestants, range(given.seeds), run, save)
    summary = summarize(runs)
    show_rows(rows(summary), title=f"Bits per byte after {given.budget} on {text.name}, {runs[0].n_bytes:,} held-out bytes")
    print(json.dumps({"benchmark": "small_budget", "summary": summary}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"small_budget: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
