"""Training speed at an equal configuration: our ``train_step`` against nanoGPT's, and against what the matrix products alone would allow.

    python -m benchmarks.step_speed [--batch-size 16] [--rounds 7] [--steps 5] [--out benchmarks/results/step_speed.json]

Four layers of width 128, vocabulary 2,048, windows of 256 tokens, fp32, both with four heads, an MLP of four times the width and full
batches of random tokens, so both multiply the same matrices. Each contestant lives in a process of its own (ours keeps freed memory, as
``groundup train`` does), and they take turns: a few steps each, round after round, medians over rounds. ``gemm`` is every product of a
weight in a step, forward and the two of backward, done alone by ``torch.matmul`` into memory that is there already; its FLOP/s is the rate
that utilization is measured against. Attention's products are in a model's FLOPs (causal pairs only) and not in that rate's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.resources import RESULTS, ROOT, provenance, save_result
from groundup.account import cost
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.errors import GroundupError, UsageError

N_LAYERS, WIDTH, HEAD_DIM, VOCAB, SEQ_LEN = 4, 128, 32, 2048, 256
WORKERS = {
    "ours": "groundup, Muon and AdamW",
    "ours-adamw": "groundup, AdamW",
    "nanogpt": "nanoGPT",
    "nanogpt-compiled": "nanoGPT, compiled",
    "gemm": "matrix products alone",
}
REFERENCE = "nanogpt"
WARMUP_STEPS = 3


class Shape(NamedTuple):
    """A product [m, k] x [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """2 m k n."""
        return 2 * self.m * self.k * self.n


def our_config() -> ModelConfig:
    """Our architecture at the common size, with nanoGPT's matrices: its MLP, and no hashed or value embeddings, which it has not."""
    ours = architecture("groundup", vocab_size=VOCAB, d_model=WIDTH, n_layers=N_LAYERS, head_dim=HEAD_DIM, context_length=SEQ_LEN)
    layer = ours.layers[0]
    layer = replace(layer, mixer=replace(layer.mixer, value_embedding=False), mlp=replace(layer.mlp, d_ff=4 * WIDTH))
    return replace(ours, layers=(layer,) * N_LAYERS)


def products(tokens: int) -> list[Shape]:
    """All products of a weight in one step: for each weight [out, in], y = x W^T, dx = dy W, dW = dy^T x."""
    layer = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    weights = layer * N_LAYERS + [(VOCAB, WIDTH)]
    return [shape for o, i in weights for shape in (Shape(tokens, i, o), Shape(tokens, o, i), Shape(o, tokens, i))]


# ---- workers: a function that does one step ----


def ours(batch_size: int, matrices: str) -> Callable[[], object]:
    """A step of ours; ``matrices`` names the optimizer of the layers' matrices."""
    import torch

    from groundup.kernels.memory import keep_freed_memory
    from groundup.model.decoder import Decoder
    from groundup.model.initialize import initialize
    from groundup.optim import OptimizerConfig, build_optimizer
    from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

    keep_freed_memory()
    model = initialize(Decoder(our_config()), 0)
    state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig(matrices=matrices)))
    ids = torch.randint(VOCAB, (batch_size, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    batch = TrainBatch(ids[:, :-1], ids[:, 1:], torch.zeros_like(ids[:, :-1], dtype=torch.int32))
    config = StepConfig(n_steps=1_000_000, micro_batch_size=batch_size)
    return lambda: train_step(state, batch, config)


def nanogpt(batch_size: int, compiled: bool) -> Callable[[], object]:
    """A step of nanoGPT's."""
    import torch

    from benchmarks.peers.nanogpt import NanoGPT, Settings, build_optimizer, update

    torch.manual_seed(0)
    settings = Settings(N_LAYERS, WIDTH, HEAD_DIM, SEQ_LEN, batch_size, vocab_size=VOCAB)
    model = NanoGPT(settings, VOCAB)
    optimizer = build_optimizer(model, settings)
    ids = torch.randint(VOCAB, (batch_size, SEQ_LEN + 1))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    forward = torch.compile(model) if compiled else model
    return lambda: update(forward, optimizer, x, y)


def gemm(batch_size: int) -> Callable[[], object]:
    """All products of a step, each shape with operands and result of its own."""
    import torch

    operands = [
        (torch.randn(s.m, s.k), torch.randn(s.k, s.n), torch.empty(s.m, s.n)) for s in dict.fromkeys(products(batch_size * SEQ_LEN))
    ]
    place = {shape: i for i, shape in enumerate(dict.fromkeys(products(batch_size * SEQ_LEN)))}
    order = [operands[place[shape]] for shape in products(batch_size * SEQ_LEN)]

    def step() -> None:
        for a, b, out in order:
            torch.matmul(a, b, out=out)

    return step


def work(name: str, batch_size: int) -> None:
    """Serves rounds: a number of steps on each line of standard input, their seconds on each line of standard output."""
    make: Mapping[str, Callable[[], Callable[[], object]]] = {
        "ours": lambda: ours(batch_size, "muon"),
        "ours-adamw": lambda: ours(batch_size, "adamw"),
        "nanogpt": lambda: nanogpt(batch_size, False),
        "nanogpt-compiled": lambda: nanogpt(batch_size, True),
        "gemm": lambda: gemm(batch_size),
    }
    step = make[name]()
    for _ in range(WARMUP_STEPS):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - started, flush=True)


# ---- the comparison ----


class Worker:
    """A worker's process, which does nothing until it is asked."""

    def __init__(self, name: str, batch_size: int):
        env = os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.step_speed", "--worker", name, "--batch-size", str(batch_size)]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self._read()  # ready: nobody else's warm-up runs while another is timed

    def seconds(self, steps: int) -> float:
        """Seconds of so many steps, done now."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return float(self._read())

    def stop(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise GroundupError(f"{self.name} ended with {self.process.wait()}; its own words stand above")
        return line


def measure(names: Sequence[str], rounds: int, steps: int, batch_size: int) -> dict[str, list[float]]:
    """Seconds a step of each contestant in each round, taken in turns."""
    workers: list[Worker] = []
    try:
        for name in names:
            workers.append(Worker(name, batch_size))
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for worker in workers:
                times[worker.name].append(worker.seconds(steps) / steps)
        return times
    finally:
        for worker in workers:
            worker.stop()


def summarize(times: Mapping[str, Sequence[float]], batch_size: int) -> dict[str, dict[str, Any]]:
    """By contestant: median seconds a step, tokens/s, FLOP/s, ratio to nanoGPT, and share of the products' rate.

    Ratios are medians of the ratios round by round, so that what slows the machine for a while slows both sides of a ratio.
    """
    tokens = batch_size * SEQ_LEN
    flops = {name: cost(our_config(), Training(SEQ_LEN)).flops_per_token_training * tokens for name in times}
    flops["gemm"] = float(sum(shape.flops for shape in products(tokens)))
    summary = {}
    for name, own in times.items():
        row: dict[str, Any] = {"what": WORKERS[name], "seconds_per_step": statistics.median(own)}
        row["flops_per_s"] = flops[name] / row["seconds_per_step"]
        if name != "gemm":
            row["tokens_per_s"] = tokens / row["seconds_per_step"]
            if REFERENCE in times:
                row["speed_over_nanogpt"] = statistics.median(r / o for r, o in zip(times[REFERENCE], own, strict=True))
            if "gemm" in times:
                rates = ((flops[name] / o) / (flops["gemm"] / g) for o, g in zip(own, times["gemm"], strict=True))
                row["share_of_gemm_rate"] = statistics.median(rates)
        summary[name] = row
    return summary


def rows(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table for people."""
    return [
        {
            "contestant": row["what"],
            "tokens/s": f"{row['tokens_per_s']:,.0f}" if "tokens_per_s" in row else "",
            "of nanoGPT's": f"{row['speed_over_nanogpt']:.2f}" if "speed_over_nanogpt" in row else "",
            "GFLOP/s": f"{row['flops_per_s'] / 1e9:.0f}",
            "of the products' rate": f"{row['share_of_gemm_rate']:.0%}" if "share_of_gemm_rate" in row else "",
        }
        for row in summary.values()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes the result file, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contestants", default="ours,ours-adamw,nanogpt,nanogpt-compiled,gemm", help=", ".join(WORKERS))
    parser.add_argument("--batch-size", type=int, default=16, help="windows a step")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=5, help="steps in a turn")
    parser.add_argument("--out", type=Path, default=RESULTS / "step_speed.json", help="result file")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        return work(given.worker, given.batch_size)
    names = given.contestants.split(",")
    for name in names:
        if name not in WORKERS:
            raise UsageError(f"--contestants: {name!r} is not known; choose from {', '.join(WORKERS)}")
    if min(given.batch_size, given.rounds, given.steps) < 1:
        raise UsageError("--batch-size, --rounds and --steps must be at least 1")
    from groundup.terminal import show_rows

    times = measure(names, given.rounds, given.steps, given.batch_size)
    shape = {"n_layers": N_LAYERS, "width": WIDTH, "vocab_size": VOCAB, "seq_len": SEQ_LEN, "batch_size": given.batch_size}
    summary = summarize(times, given.batch_size)
    save_result(given.out, {"benchmark": "step_speed", **provenance(), "shape": shape, "summary": summary, "seconds_per_step": times})
    show_rows(rows(summary), title=f"Training at width {WIDTH}, {N_LAYERS} layers, fp32, {given.batch_size} x {SEQ_LEN} tokens a step")
    print(json.dumps({"benchmark": "step_speed", "summary": summary}))
    return None


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"step_speed: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
