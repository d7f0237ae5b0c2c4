"""Everything that only a GPU can show, in one script of under eight minutes: is it right, how fast is it, where does the time go.

    python -m benchmarks.gpu [--out benchmarks/results/gpu.json] [--quick] [--device cpu]

A check that breaks is a row that says FAILED, the rest still runs, and the exit status is 1. ``--device cpu --quick`` runs the script
itself on a processor, on small shapes.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_accounting import accounting
from benchmarks.gpu_checks import correctness, packed_documents, random, random_batch
from benchmarks.gpu_jobs import Job, Outcome, Row, Setting, as_json, interleaved, run_jobs, wait
from groundup.account import GPU, causal_pairs, cost, detect, format_bytes, training_memory
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.files import write_file
from groundup.kernels.attention import BACKENDS, HAS_TRITON
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.train.calibrate import device_name, matmul_rate
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

DEADLINE_S = 420  # no job begins later than this
BACKWARD_SHARE = 2.5  # attention's backward over its forward: five products, the scores again among them, against two (Dao 2023)


# --- The machine.


def machine(setting: Setting) -> Iterator[Job]:
    """Its name and versions, and what it attains at the two things that everything else is made of."""
    yield Job("device", lambda: Outcome(device_name(setting.device)))
    yield Job("versions", lambda: Outcome(", ".join(f"{k} {v}" for k, v in versions().items()), data=versions()))
    yield Job("matrix product", lambda: measure_matmul(setting))
    yield Job("copy", lambda: measure_copy(setting))


def versions() -> dict[str, str]:
    """Of all that decides the result."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    try:
        found["triton"] = version("triton")
    except PackageNotFoundError:
        found["triton"] = "not installed"
    return found


def measure_matmul(setting: Setting) -> Outcome:
    """The rate of the largest plain product, beside the datasheet's."""
    rate, peak = product_rate(setting), datasheet_peak(setting)
    share = f", {rate / peak:.0%} of the datasheet's {peak / 1e12:.0f}" if peak else ""
    return Outcome(f"{rate / 1e12:.1f} TFLOP/s{share}", data={"flops_per_s": rate, "datasheet": peak})


@lru_cache
def product_rate(setting: Setting) -> float:
    """FLOP/s of the largest plain product, measured once."""
    return matmul_rate(setting.device, setting.dtype)


def measure_copy(setting: Setting) -> Outcome:
    """Bytes read and written a second by a copy too large for the caches."""
    source = torch.zeros((16 << 20) if setting.quick else (1 << 30), dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, setting.device, rounds=5)["copy"]
    return Outcome(f"{2 * source.numel() / seconds / 1e9:.0f} GB/s", data={"bytes_per_s": 2 * source.numel() / seconds})


def datasheet_peak(setting: Setting) -> float | None:
    """Dense bf16 FLOP/s by the datasheet; None for a device that the table does not have."""
    device = detect(device_name(setting.device)) if setting.cuda else None
    return device.peak("bf16") if device else None


# --- The speed of attention.


@dataclass(frozen=True)
class AttentionInputs:
    """Queries, keys, values and the gradient of the output."""

    q: Tensor
    k: Tensor
    v: Tensor
    upstream: Tensor

    @property
    def flops(self) -> float:
        """Model FLOPs of a causal forward: two products over the visible pairs."""
        batch, t, heads, dim = self.q.shape
        return 4.0 * batch * heads * dim * causal_pairs(t)


def attention_inputs(setting: Setting, t: int, head_dim: int) -> AttentionInputs:
    """16,384 tokens of width 768 to 1024."""
    tokens, heads = (256, 2) if setting.quick else (16_384, 12 if head_dim == 64 else 8)
    shape = (max(1, tokens // t), t, heads, head_dim)
    made = [random(*shape, seed=i, dtype=setting.dtype, device=setting.device) for i in range(4)]
    return AttentionInputs(*(x.requires_grad_() for x in made[:3]), made[3])


def attention_speed(setting: Setting) -> Iterator[Job]:
    """Ours against the vendor's, then with documents, then our blocks against their neighbours."""
    lengths, dims = ((64, 128), (16,)) if setting.quick else ((1024, 4096), (64, 128))
    for dim in dims:
        for t in lengths:
            yield Job(f"T {t}, head_dim {dim}", partial(compare_attention, setting, t, dim))
    longest, first = lengths[-1], dims[0]
    yield Job(f"T {longest}, head_dim {first}, documents", partial(compare_attention, setting, longest, first, documents=True))
    if setting.cuda:
        yield Job(f"T {longest}, head_dim {first}, with flex", partial(compare_attention, setting, longest, first, flex=True))


def compare_attention(setting: Setting, t: int, head_dim: int, *, documents: bool = False, flex: bool = False) -> list[tuple[str, Outcome]]:
    """Seconds of every backend in turns, forward and with backward; ratios to sdpa."""
    x = attention_inputs(setting, t, head_dim)
    owners = packed_documents(x.q.shape[0], t, t // 8, setting.device) if documents else None
    backends: dict[str, Callable] = {
        name: BACKENDS[name] for name in (("triton", "sdpa") if setting.cuda and HAS_TRITON else ("blocked", "sdpa"))
    }
    ours = next(iter(backends))
    if flex:
        backends["flex"] = flex_backend(t, setting.device)

    def run(f: Callable) -> Tensor:
        with torch.no_grad():
            return f(x.q, x.k, x.v, owners, None)

    def train(f: Callable) -> Sequence[Tensor]:
        return torch.autograd.grad(f(x.q, x.k, x.v, owners, None), (x.q, x.k, x.v), x.upstream)

    results = []
    for label, call, share in (("forward", run, 1.0), ("forward and backward", train, 1 + BACKWARD_SHARE)):
        seconds = interleaved({name: partial(call, f) for name, f in backends.items()}, setting.device, rounds=3 if setting.quick else 7)
        rates = {name: x.flops * share / s for name, s in seconds.items()}
        listed = ", ".join(
            f"{name} {1000 * seconds[name]:.2f} ms" + ("" if documents else f" {rates[name] / 1e12:.0f} TFLOP/s") for name in seconds
        )
        text = f"{ours} {seconds['sdpa'] / seconds[ours]:.2f} x sdpa's speed: {listed}"
        results.append((label, Outcome(text, data={"seconds": seconds})))
    return results


def flex_backend(t: int, device: torch.device) -> Callable:
    """PyTorch's flex_attention, compiled, in our layout; the third opinion on what a GPU can do."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, t, t, device=device.type)
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, documents: None, window: None) -> Tensor:
        return compiled(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=mask).transpose(1, 2)

    return attend


def tiles(setting: Setting) -> Iterator[Job]:
    """The block sizes of our kernels against neighbours, one kernel at a time."""
    if not (setting.cuda and HAS_TRITON):
        yield Job("block sizes", lambda: Outcome("needs a GPU and Triton", "skipped"))
        return
    for dim in (64, 128):
        for kernel in ("forward", "d_queries", "d_keys"):
            yield Job(f"{kernel}, head_dim {dim}", partial(sweep_tiles, setting, kernel, dim))


def sweep_tiles(setting: Setting, kernel: str, head_dim: int) -> Outcome:
    """Milliseconds of one kernel for each tile (queries, keys, warps, stages), fastest first; those that do not fit are left out."""
    from groundup.kernels import triton_attention as ours

    x = attention_inputs(setting, 4096, head_dim)
    q, k, v = (a.detach() for a in (x.q, x.k, x.v))
    chosen = ours.choose_tiles(head_dim, 2)
    out, lse = ours.forward(q, k, v, None, None, chosen.forward)
    neighbours = {
        "forward": [(128, 64, 4, 3), (128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3)],
        "d_queries": [(128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2)],
        "d_keys": [(64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 4, 3), (32, 64, 4, 2)],
    }[kernel]
    calls: dict[str, Callable] = {}
    for tile in dict.fromkeys([getattr(chosen, kernel), *(ours.Tile(*n) for n in neighbours)]):
        if kernel == "forward":
            call = partial(ours.forward, q, k, v, None, None, tile)
        else:
            call = partial(ours.backward, q, k, v, None, out, lse, x.upstream, None, chosen._replace(**{kernel: tile}))
        if fits(call):
            calls[str(tuple(tile))] = call
    seconds = interleaved(calls, setting.device, rounds=5)
    ranked = sorted(seconds, key=lambda name: seconds[name])
    listed = ", ".join(f"{name} {1000 * seconds[name]:.2f}" for name in ranked)
    what = "ms of the forward" if kernel == "forward" else "ms of the whole backward"
    return Outcome(f"chosen {tuple(getattr(chosen, kernel))}; {what}: {listed}", data={"seconds": seconds})


def fits(call: Callable[[], object]) -> bool:
    """Whether the kernels of a call have the shared memory and registers they ask for."""
    from triton import OutOfResources

    try:
        call()
    except OutOfResources:
        return False
    return True


# --- A model of 124 M parameters.


def model_config(setting: Setting, name: str) -> ModelConfig:
    """GPT-2 small's size in one of our architectures; the head is the embedding's transpose, as there, and values have no tables."""
    if setting.quick:
        return architecture(name, vocab_size=256, d_model=32, n_layers=2, head_dim=16, context_length=64)
    full = architecture(name, vocab_size=50_304, d_model=768, n_layers=12, head_dim=64, context_length=1024)
    layers = tuple(replace(layer, mixer=replace(layer.mixer, value_embedding=False)) for layer in full.layers)
    return replace(full, tied=True, layers=layers)


@dataclass
class Trainer:
    """A model with its optimizer and batches, ready to step."""

    state: TrainState
    batches: list[TrainBatch]
    settings: StepConfig
    loss_fn: Callable

    def step(self) -> float:
        """One step; its loss."""
        batch = self.batches[self.state.step % len(self.batches)]
        self.state, metrics = train_step(self.state, batch, self.settings, loss_fn=self.loss_fn)
        return metrics.loss


def build_trainer(setting: Setting, config: ModelConfig, rows: int, *, compiled: bool) -> Trainer:
    """On random tokens; two batches that differ in how many targets count, as in real text."""
    model = initialize(Decoder(config), 0).to(setting.device)
    model.compute_dtype = setting.dtype
    state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig()))
    batches = [random_batch(config, rows, config.context_length, setting.device, seed) for seed in (0, 1)]
    loss_fn = torch.compile(model.loss, backend="inductor" if setting.cuda else "aot_eager") if compiled else model.loss
    return Trainer(state, batches, StepConfig(100, rows), loss_fn)


def model_speed(setting: Setting) -> Iterator[Job]:
    """Both architectures at several micro-batch sizes; the compiler at one."""
    sizes = (2,) if setting.quick else (8, 16, 32)
    middle = sizes[len(sizes) // 2]
    for name in ("groundup", "qwen3"):
        for rows in sizes:
            yield Job(f"{name}, {rows} rows", partial(measure_model, setting, name, rows, compiled=False))
        if name == "qwen3" or not setting.quick:
            yield Job(f"{name}, {middle} rows, compiled", partial(measure_model, setting, name, middle, compiled=True))


def measure_model(setting: Setting, name: str, rows: int, *, compiled: bool) -> list[tuple[str, Outcome]]:
    """Steps on one micro-batch of random tokens: tokens a second, utilization, memory against its prediction, compilation."""
    config = model_config(setting, name)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    if setting.cuda:
        gc.collect()  # what a failed job left in cycles must not count here
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
    try:
        trainer = build_trainer(setting, config, rows, compiled=compiled)
        seconds, losses = time_training(trainer, setting, 5 if setting.quick else 20)
    except torch.cuda.OutOfMemoryError:
        return [("", Outcome("out of memory", data={"out_of_memory": True}))]
    steady = statistics.median(seconds[3:])
    results = [("", speed_outcome(setting, config, rows, steady, losses))]
    if compiled:
        results.append(("compilation", compile_outcome(seconds, steady)))
    if setting.cuda and not compiled:
        results.append(("memory", memory_outcome(setting, config, rows)))
    return results


def time_training(trainer: Trainer, setting: Setting, n: int) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step."""
    seconds, losses = [], []
    for _ in range(n):
        started = time.perf_counter()
        losses.append(trainer.step())
        wait(setting.device)
        seconds.append(time.perf_counter() - started)
    return seconds, losses


def speed_outcome(setting: Setting, config: ModelConfig, rows: int, steady: float, losses: list[float]) -> Outcome:
    """Tokens a second, and the model FLOPs of whole sequences over both peaks."""
    counted = cost(config, Training(config.context_length))
    rate = rows * config.context_length / steady
    peaks = {"datasheet": datasheet_peak(setting), "measured product": product_rate(setting)}
    used = {name: counted.mfu(rate, peak) for name, peak in peaks.items() if peak}
    text = f"{rate:,.0f} tokens/s, {1000 * steady:.1f} ms a step, MFU " + ", ".join(
        f"{share:.1%} of the {name}" for name, share in used.items()
    )
    finite = all(torch.isfinite(torch.tensor(losses)))
    text += f"; {counted.parameters / 1e6:.0f} M parameters, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    return Outcome(
        text, "ok" if finite else "FAILED", {"tokens_per_s": rate, "mfu": used, "parameters": counted.parameters, "losses": losses}
    )


def compile_outcome(seconds: list[float], steady: float) -> Outcome:
    """What the compiler took, and where it gave up on one graph."""
    counters = torch._dynamo.utils.counters
    breaks, graphs = dict(counters["graph_break"]), counters["stats"]["unique_graphs"]
    lost = sum(s - steady for s in seconds if s > 2 * steady)
    text = f"compilation {lost:.1f} s in the steps that it held up, {graphs} graphs, {sum(breaks.values())} graph breaks"
    if breaks:
        text += ": " + "; ".join(str(reason).split("\n")[0][:100] for reason in breaks)
    return Outcome(text, data={"compile_s": lost, "graphs": graphs, "breaks": {str(k): v for k, v in breaks.items()}})


def memory_outcome(setting: Setting, config: ModelConfig, rows: int) -> Outcome:
    """Peak bytes of live tensors against their prediction."""
    measured = torch.cuda.max_memory_allocated(setting.device)
    predicted = training_memory(config, Training(config.context_length, rows, run=GPU)).peak_bytes
    off = predicted / measured - 1
    text = f"measured {format_bytes(measured)}, predicted {format_bytes(predicted)} ({off:+.1%}, bound 10%)"
    return Outcome(text, "ok" if abs(off) <= 0.1 else "FAILED", {"measured": measured, "predicted": predicted})


# --- Where the time goes.


def profile(setting: Setting) -> Iterator[Job]:
    """One step of each architecture."""
    for name in ("groundup",) if setting.quick else ("groundup", "qwen3"):
        yield Job(name, partial(profile_step, setting, name))


def profile_step(setting: Setting, name: str) -> list[tuple[str, Outcome]]:
    """The twelve kernels that take most of a step, and the share of the step in which the device worked at all."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    trainer = build_trainer(setting, model_config(setting, name), 2 if setting.quick else 16, compiled=False)
    for _ in range(3):
        trainer.step()
    wait(setting.device)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setting.cuda else [])
    started = time.perf_counter()
    trainer.step()
    wait(setting.device)
    plain = time.perf_counter() - started
    with record(activities=activities) as recorded:
        trainer.step()
        wait(setting.device)
    where = DeviceType.CUDA if setting.cuda else DeviceType.CPU
    column = "self_device_time_total" if setting.cuda else "self_cpu_time_total"
    events = [e for e in recorded.key_averages() if e.device_type == where]
    total = sum(getattr(e, column) for e in events) / 1e6
    busy = Outcome(f"kernels {1000 * total:.1f} ms of a step of {1000 * plain:.1f} ms", data={"kernel_s": total, "step_s": plain})
    results = [("busy", busy)]
    for place, event in enumerate(sorted(events, key=lambda e: -getattr(e, column))[:12], 1):
        spent = getattr(event, column) / 1e6
        text = f"{spent / max(total, 1e-12):5.1%} {1000 * spent:8.3f} ms {event.count:5d} calls  {event.key[:90]}"
        results.append((f"kernel {place:2d}", Outcome(text, data={"kernel": event.key, "s": spent, "calls": event.count})))
    return results


# --- All of it.

SECTIONS: dict[str, Callable[[Setting], Iterator[Job]]] = {
    "machine": machine,
    "correctness": correctness,
    "model": model_speed,
    "profile": profile,
    "attention": attention_speed,
    "accounting": accounting,
    "tiles": tiles,
}
"""In the order in which they run: what may be skipped when time runs out comes last."""


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    width = max(len(row.name) for row in rows)
    lines, section = [], ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(f"\n{section}")
        lines.append(f"  {row.status:8}{row.name:{width}}  {row.text}")
    failed = sum(row.status == "FAILED" for row in rows)
    return "\n".join([*lines, "", f"{len(rows)} rows, {failed} FAILED"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all sections, writes the result file, prints one line of JSON and then the table; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Checks and times everything on one GPU.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="result file")
    parser.add_argument("--quick", action="store_true", help="small shapes: tries the script, measures nothing")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only to try the script, with --quick")
    given = parser.parse_args(arguments)
    if given.device == "cpu" and not given.quick:
        parser.error("--device cpu tries the script on small shapes: give --quick too")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU that PyTorch can use; --device cpu --quick tries the script without one")
    setting = Setting(torch.device(given.device), given.quick)
    started = time.perf_counter()
    rows = [row for section, jobs in SECTIONS.items() for row in run_jobs(section, jobs(setting), started + DEADLINE_S)]
    seconds = time.perf_counter() - started
    result = {"device": device_name(setting.device), "versions": versions(), "date": time.strftime("%Y-%m-%d"), "seconds": seconds}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(given.out, json.dumps({**result, "quick": given.quick, "rows": as_json(rows)}, indent=1) + "\n")
    failed = [f"{row.section}: {row.name}" for row in rows if row.status == "FAILED"]
    print(json.dumps({**result, "rows": len(rows), "failed": failed}))
    print(table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
