"""What the account predicts of a training step against what happens: peak memory and seconds, over a grid of configurations on this CPU.

    python -m benchmarks.accounting [--rounds 5] [--only NAME] [--threads 1] [--out benchmarks/results/accounting.json]

Memory: live bytes at the step's peak as PyTorch's allocator counts them, against ``training_memory`` without its allowance for the heap.
Time: one thread, medians; ``step_time`` from ceilings that are measured in turns with the steps, since a machine that does other work is
now faster and now slower. Seconds are the process' own CPU time: what others took is in neither side. A few cases once more on two threads,
by the clock on the wall: CPU time says nothing of how long threads wait, so there what others took is in both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.resources import RESULTS, load_result, provenance, save_result
from groundup.account import CPU, Execution, format_bytes, format_seconds, training_memory
from groundup.account.execution import Recompute
from groundup.account.roofline import Ceilings, StepTime, step_time
from groundup.account.shapes import Architecture, architecture
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, ModelConfig, Norm, Rotary, Router
from groundup.errors import GroundupError
from groundup.kernels.memory import keep_freed_memory
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.parallel.threads import run_together
from groundup.terminal import show_rows
from groundup.train.allocations import peak_allocated
from groundup.train.ceilings import Meter
from groundup.train.recompute import apply_recompute
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

LIVE = replace(CPU, allocator_overhead=0.0)
CPU_DEVICE = torch.device("cpu")
STEPS = 3  # a round
THREADS = 2  # of the second grid
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MEMORY_BOUND, MEDIAN_BOUND, WORST_BOUND = 0.03, 0.15, 0.35


@dataclass(frozen=True)
class Case:
    """One configuration of a training step."""

    name: str
    """For the table."""
    config: ModelConfig
    """The model."""
    batch_size: int
    """Sequences of the step."""
    seq_len: int
    """Tokens of each."""
    matrices: Literal["muon", "soap", "adamw", "sgd"] = "muon"
    """Method of the layers' matrices."""
    others: Literal["adamw", "sgd"] = "adamw"
    """Method of everything else."""
    recompute: Recompute = "none"
    """What backward computes again."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of activations and products."""

    def run(self, base: Execution = LIVE) -> Execution:
        """How it is computed."""
        return replace(base, recompute=self.recompute, precision=self.precision)


class Trainer:
    """Takes steps of one case on random tokens."""

    def __init__(self, case: Case, device: torch.device = CPU_DEVICE) -> None:
        model = apply_recompute(initialize(Decoder(case.config), 0).to(device), case.recompute)
        model.compute_dtype = DTYPES[case.precision]
        # a batch that is learnt by heart makes numbers so small that processors multiply them ten times slower: learn next to nothing
        rates = {f.name: 1e-7 for f in fields(OptimizerConfig) if f.name.endswith("_lr")}
        optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(matrices=case.matrices, others=case.others, **rates))
        self.device, self.state, self.settings = device, TrainState(model, optimizer), StepConfig(1000, case.batch_size)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(case.config.vocab_size, (case.batch_size, case.seq_len + 1), generator=generator).to(device)
        documents = torch.zeros(case.batch_size, case.seq_len, dtype=torch.int32, device=device)
        self.batch = TrainBatch(ids[:, :-1].clone(), ids[:, 1:].clone(), documents)

    def step(self) -> None:
        """One training step; it waits for the device, for its metrics are numbers."""
        self.state, metrics = train_step(self.state, self.batch, self.settings)
        if not metrics.finite:
            raise GroundupError("a step whose loss is not finite does not update: its time and memory mean nothing")

    def peak_bytes(self) -> int:
        """Live bytes at the peak of a step that begins without gradients: weights, state and batch, and what the step allocates."""
        self.state.optimizer.zero_grad()
        batch = (self.batch.tokens, self.batch.targets, self.batch.documents)
        held = [*self.state.model.parameters(), *(t for t in self.state.optimizer.state_dict().values() if t.ndim), *batch]
        return sum(t.numel() * t.element_size() for t in held) + peak_allocated(self.step, self.device)


def grid() -> Iterator[Case]:
    """Sizes, optimizers, sequence lengths, batches, and every kind of layer that the decoder has."""
    for d, n, v, b, t in ((64, 4, 512, 4, 256), (128, 4, 2048, 8, 256), (256, 4, 2048, 4, 256), (128, 8, 4096, 2, 512)):
        yield Case(f"groundup {d}x{n}", _model("groundup", d, n, v, t), b, t)
    for method in ("adamw", "sgd"):
        others = "sgd" if method == "sgd" else "adamw"
        for d, n, v, b, t in ((128, 4, 2048, 8, 256), (256, 2, 4096, 4, 512)):
            yield Case(f"qwen3 {d}x{n} {method}", _model("qwen3", d, n, v, t), b, t, method)
            yield Case(f"llama {d}x{n} {method}", _model("llama", d, n, v, t), b, t, method, others)
    llama = _model("llama", 128, 4, 2048, 1024, n_kv_heads=1)
    yield Case("multi-query, 1024 tokens", llama, 2, 1024)
    yield Case("grouped-query", _model("llama", 128, 4, 2048, 256, n_kv_heads=2), 8, 256)
    yield Case("softcap and bias of the head", replace(llama, logit_softcap=30.0, head_bias=True), 4, 256)
    yield Case("large vocabulary", _model("llama", 384, 2, 16_384, 256, head_dim=64), 2, 256)
    yield Case("wide and shallow", _model("llama", 512, 1, 2048, 128, head_dim=64), 8, 128)
    yield Case("narrow and deep", _model("llama", 64, 12, 512, 128), 8, 128)
    yield Case("groundup 128x4, 64 tokens", _model("groundup", 128, 4, 2048, 64), 16, 64)
    yield Case("groundup 128x4, one sequence", _model("groundup", 128, 4, 2048, 256), 1, 256)
    yield Case("groundup 128x2, 1024 tokens", _model("groundup", 128, 2, 2048, 1024), 2, 1024)
    yield Case("groundup 384x3 adamw", _model("groundup", 384, 3, 4096, 256, head_dim=64), 4, 256, "adamw")
    yield Case("groundup 128x4 soap", _model("groundup", 128, 4, 2048, 256), 8, 256, "soap")
    for name, layer in _layers():
        for tied in (False, True) if name == "gelu" else (False,):
            config = ModelConfig(2048, 128, 512, (layer,) * 4, final_norm=layer.norm, tied=tied)
            yield Case(f"{name}{', tied' * tied}", config, 4, 512, "adamw")
    yield from _again()
    yield from _kinds()


def _kinds() -> Iterator[Case]:
    """The layers of open families: latent attention, experts, linear mixers, and attention as Gemma, gpt-oss, OLMo and GPT-2 have it.

    Tokens are routed as random weights do it, and not evenly, as they are predicted.
    """
    attention, dense = Attention(4, 4, 32), Dense(336)
    latent = LatentAttention(4, 32, 16, 32, kv_rank=64)
    experts = Experts(8, 2, 128, Router(renormalize=True), shared=Dense(128))
    linear = LinearMixer(4, 2, 32, 32)
    capped = replace(attention, rotary=Rotary(interleaved=True), softcap=50.0, sinks=True)
    after = Layer(replace(attention, qk_norm=Norm(), qk_norm_over="projection"), dense, placement="after")
    gpt2 = Layer(Attention(4, 4, 32, rotary=None, bias=True, output_bias=True), Dense(512, "gelu", bias=True), Norm("layer", bias=True))
    of = {
        "latent attention": Layer(latent, dense),
        "latent queries too": Layer(replace(latent, q_rank=96), dense),
        "experts": Layer(attention, experts),
        "64 experts": Layer(attention, Experts(64, 4, 64)),
        "linear mixer": Layer(linear, dense),
        "softcap and sinks": Layer(capped, dense),
        "norms after": after,
        "geglu, sandwich, wide gains": Layer(attention, Dense(336, "geglu"), Norm(plus_one=True, wide_gain=True), "sandwich"),
        "experts of gpt-oss": Layer(capped, replace(experts, activation="clamped_swiglu", bias=True, shared=None)),
        "gpt-2": gpt2,
    }
    cases = {}
    for name, layer in of.items():
        config = ModelConfig(2048, 128, 512, (layer,) * 4, final_norm=layer.norm, learned_positions=name == "gpt-2", tied=name == "gpt-2")
        cases[name] = Case(name, config, 4, 512, "adamw")
    yield from cases.values()
    for name in ("experts", "latent attention", "linear mixer"):
        yield replace(cases[name], name=f"{name}, layers again", recompute="layers")
    for name in ("experts", "latent queries too", "linear mixer"):
        yield replace(cases[name], name=f"{name} bf16", precision="bf16")
    yield replace(cases["experts"], name="experts muon", matrices="muon")


def _again() -> Iterator[Case]:
    """What backward computes again, in both precisions."""
    ours = Case("groundup 128x4", _model("groundup", 128, 4, 2048, 256), 8, 256)
    llama = Case("llama 256x2 adamw", _model("llama", 256, 2, 4096, 512), 4, 512, "adamw")
    qwen = Case("qwen3 128x4 sgd", _model("qwen3", 128, 4, 2048, 256), 8, 256, "sgd", "sgd")
    for case in (ours, llama):
        for policy in ("attention", "mlp", "layers"):
            yield replace(case, name=f"{case.name}, {policy} again", recompute=policy)
    for name, layer in _layers():
        if name != "window of 128":
            config = ModelConfig(2048, 128, 512, (layer,) * 4, final_norm=layer.norm)
            yield Case(f"{name}, layers again", config, 4, 512, "adamw", recompute="layers")
    for case in (ours, llama, qwen):
        yield replace(case, name=f"{case.name} bf16", precision="bf16")
    yield replace(ours, name=f"{ours.name} bf16, layers again", precision="bf16", recompute="layers")
    yield replace(llama, name=f"{llama.name} bf16, mlp again", precision="bf16", recompute="mlp")


def shared_grid() -> Iterator[Case]:
    """Cases whose rows two threads share."""
    names = ("groundup 128x4", "groundup 256x4", "llama 256x2 adamw", "qwen3 128x4 adamw", "gelu", "groundup 128x4, layers again")
    return (case for case in grid() if case.name in names)


def _model(name: Architecture, d: int, n: int, v: int, t: int, *, head_dim: int = 32, n_kv_heads: int | None = None) -> ModelConfig:
    sizes = {"d_model": d, "n_layers": n, "head_dim": head_dim, "n_kv_heads": n_kv_heads}
    return architecture(name, vocab_size=v, context_length=t, hash_rows=16_384 if name == "groundup" else 0, **sizes)


def _layers() -> Iterator[tuple[str, Layer]]:
    attention, norm = Attention(4, 4, 32), Norm("layer", bias=True)
    yield "gelu", Layer(replace(attention, bias=True, output_bias=True, rotary=None), Dense(512, "gelu", bias=True), norm)
    yield "window of 128", Layer(replace(attention, window=128), Dense(336))
    yield "sandwich", Layer(attention, Dense(512, "relu2"), Norm(), "sandwich")
    yield "post", Layer(attention, Dense(512, "relu2"), Norm(), "post")


def measure(trainer: Trainer, meters: Sequence[Meter], rounds: int) -> list[float]:
    """Seconds of steps in turns with ceilings."""
    trainer.step()
    trainer.step()
    for meter in meters:
        meter.forget()
    steps: list[float] = []
    for _ in range(rounds):
        run_together([meter.measure for meter in meters])
        for _ in range(STEPS):
            started = meters[0].clock()
            trainer.step()
            steps.append(meters[0].clock() - started)
    for meter in meters[1:]:
        meters[0].join(meter)
    return steps


def predict(case: Case, ceilings: Ceilings, run: Execution) -> StepTime:
    """The account's view of a case."""
    sizes = {"batch_size": case.batch_size, "seq_len": case.seq_len}
    return step_time(case.config, ceilings, Training(**sizes, run=run, matrices=case.matrices, others=case.others))


def compare_seconds(case: Case, trainer: Trainer, meters: Sequence[Meter], rounds: int) -> dict[str, Any]:
    """Seconds measured and predicted, and their ratio."""
    steps = measure(trainer, meters, rounds)
    ceilings = meters[0].ceilings(len(meters))
    predicted, step_s = predict(case, ceilings, case.run()), statistics.median(steps)
    row = {"name": case.name, "step_s": step_s, "step_quartiles_s": statistics.quantiles(steps, n=4)}
    row |= {"parameters": predicted.cost.parameters, "tokens": predicted.tokens, "mfu": predicted.mfu}
    row |= {"predicted_s": predicted.seconds, "time_ratio": predicted.seconds / step_s}
    attained = {"product_flops_per_s": ceilings.best_product_rate, "bytes_per_s": ceilings.bandwidth(1e9)}
    return row | {"ceilings": attained | {"dispatch_s": ceilings.dispatch_s}}


def compare(case: Case, meters: Sequence[Meter], rounds: int) -> dict[str, Any]:
    """Seconds and bytes measured, predicted and their ratios; the allocations of one step more are counted."""
    trainer = Trainer(case)
    row = compare_seconds(case, trainer, meters, rounds)
    measured = trainer.peak_bytes()
    sizes = {"batch_size": case.batch_size, "seq_len": case.seq_len}
    memory = training_memory(case.config, Training(**sizes, run=case.run(), matrices=case.matrices, others=case.others))
    row |= {"recompute": case.recompute, "precision": case.precision, "peak_bytes": measured, "predicted_bytes": memory.peak_bytes}
    return row | {"peak_at": memory.peak.name, "memory_ratio": memory.peak_bytes / measured}


def errors_of(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Worst and median error of "memory" or "time"."""
    errors = {row["name"]: abs(row[f"{name}_ratio"] - 1) for row in rows}
    worst = max(errors, key=lambda case: errors[case])
    return {f"{name}_worst": errors[worst], f"{name}_worst_case": worst, f"{name}_median": statistics.median(errors.values())}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Worst and median errors, and whether they keep the bounds."""
    found = errors_of(rows, "memory") | errors_of(rows, "time")
    kept = found["memory_worst"] <= MEMORY_BOUND, found["time_median"] <= MEDIAN_BOUND, found["time_worst"] <= WORST_BOUND
    return found | {"cases": len(rows), "memory_within": kept[0], "time_within": kept[1] and kept[2]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures every case, writes the result file and prints the table and a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accounting", description="Predicted against measured: memory and time.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of ceilings and steps a case")
    parser.add_argument("--only", default="", help="only cases whose name has this in it")
    parser.add_argument("--threads", type=int, choices=(1, THREADS), help="only the grid on so many; the result file keeps the other")
    parser.add_argument("--out", type=Path, default=RESULTS / "accounting.json", help="result file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = [case for case in grid() if given.only in case.name]
    if not cases or given.rounds < 1:
        parser.error(f"--only {given.only!r} must be part of a case's name and --rounds at least 1")
    found = load_result(given.out) if given.threads else {}
    if given.threads != THREADS:
        found |= alone(cases, given.rounds)
    shared = [case for case in shared_grid() if given.only in case.name]
    if given.threads != 1 and shared:
        found |= share(shared, given.rounds)
    save_result(given.out, found)
    print(json.dumps({name: found[name] for name in found if name.startswith(("memory_", "time_"))}))
    show(found)
    return 0


def alone(cases: Sequence[Case], rounds: int) -> dict[str, Any]:
    """Seconds and bytes of cases on one thread, by the process' own time."""
    meters = {precision: Meter(CPU_DEVICE, dtype, clock=time.process_time) for precision, dtype in DTYPES.items()}
    rows = []
    for case in cases:
        rows.append(compare(case, [meters[case.precision]], rounds))
        ratios = f"time {rows[-1]['time_ratio']:.3f}, memory {rows[-1]['memory_ratio']:.4f}"
        print(f"{len(rows)}/{len(cases)} {case.name}: {ratios}", file=sys.stderr)
    clock = "CPU seconds of the process, one thread"
    return {**provenance(), "clock": clock, "rounds": rounds, **summary(rows), "rows": rows}


def share(cases: Sequence[Case], rounds: int) -> dict[str, Any]:
    """Seconds of cases whose rows threads share, by the clock on the wall."""
    torch.set_num_threads(THREADS)
    meters = [Meter(CPU_DEVICE, torch.float32) for _ in range(THREADS)]
    rows = []
    for case in cases:
        rows.append(compare_seconds(case, Trainer(case), meters, rounds))
        print(f"{THREADS} threads: {len(rows)}/{len(cases)} {case.name}: time {rows[-1]['time_ratio']:.3f}", file=sys.stderr)
    how = {**provenance(), "threads": THREADS, "clock": "on the wall", "rounds": rounds}
    return {"shared": {**how, **errors_of(rows, "time"), "rows": rows}}


def show(found: dict[str, Any]) -> None:
    """The table for people, with the worst cases below it."""
    rows, shared = found.get("rows", []), found.get("shared")
    show_rows(
        [
            {
                "case": row["name"],
                "parameters": f"{row['parameters']:,}",
                "peak": format_bytes(row["peak_bytes"]),
                "predicted": format_bytes(row["predicted_bytes"]),
                "ratio": f"{row['memory_ratio']:.3f}",
                "step": format_seconds(row["step_s"]),
                "predicted ": format_seconds(row["predicted_s"]),
                "ratio ": f"{row['time_ratio']:.3f}",
            }
            for row in rows
        ],
        title=f"{len(rows)} training steps, predicted against measured",
    )
    if shared:
        print(f"time on {shared['threads']} threads: {_errors(shared, 'time')}")
    if rows:
        print(f"memory: {_errors(found, 'memory')}")
        print(f"time:   {_errors(found, 'time')}")


def _errors(found: dict[str, Any], name: str) -> str:
    return f"worst {found[f'{name}_worst']:.1%} ({found[f'{name}_worst_case']}), median {found[f'{name}_median']:.1%}"


if __name__ == "__main__":
    sys.exit(main())
