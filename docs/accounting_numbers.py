"""The numbers of the chapter on what a run costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from page import load, table

from groundup.account import (
    GPU,
    cost,
    find_ceilings,
    find_device,
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
    format_usd,
    roofline,
    step_time,
    training_memory,
)
from groundup.account.activations import Graph, layer_activation_bytes
from groundup.account.answers import worth
from groundup.account.cluster import Cluster, Step, best_steps, take_step
from groundup.account.conventions import conventions
from groundup.account.execution import Recompute
from groundup.account.inference import Serving, cache_bytes
from groundup.account.known import known_model
from groundup.account.law import EPOCH, LAWS
from groundup.account.layout import Layout
from groundup.account.memory import saved_bytes
from groundup.account.published import BYTES_PER_TOKEN, OPT_SHAPES, PUBLISHED_RUNS, opt_counted, opt_printed
from groundup.account.published_steps import PublishedStep, published_steps
from groundup.account.spread import Counted, state_bytes
from groundup.account.workload import Inference, Training
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm


def share(x: float) -> str:
    """A share in percent."""
    return f"{x:.1%}"


def convention_table() -> str:
    """One run of an 8B model as everyone counts it."""
    config, peak = known_model("llama-3.1-8b"), find_device("h100").peak("bf16")
    speed = 0.4 * peak / cost(config, Training(8192)).flops_per_token_training
    found = conventions(config, seq_len=8192, tokens_per_s=speed, peak_flops=peak)
    rows = [(c.name, f"`{c.formula}`", format_flops(c.flops_per_token), share(c.utilization), c.used_by) for c in found]
    return table(("convention", "FLOPs of a token", "which is", "utilization", "used by"), rows)


@cache
def gpt2() -> ModelConfig:
    """GPT-2's smallest, without biases; its positions are a table beside it."""
    layer = Layer(Attention(12, 12, 64, rotary=None), Dense(3072, "gelu"), Norm("layer"))
    return ModelConfig(50_257, 768, 1024, (layer,) * 12, final_norm=Norm("layer"), tied=True)


def known_answers() -> str:
    """Numbers that the field knows, as ours come out."""
    small, h100, runs = cost(gpt2(), Training(1024)), find_device("h100"), PUBLISHED_RUNS
    a100 = find_device("a100").peak("bf16")
    found = {c.name: c.utilization for c in conventions(gpt2(), seq_len=1024, tokens_per_s=102_400 / 0.755, peak_flops=a100)}
    days = 6 * 70e9 * 15e12 / (0.5 * 1024 * h100.peak("bf16")) / 86_400
    deepseek = runs["deepseek-v3"]
    pcie, sxm = find_device("h100-pcie").peak("fp8"), h100.peak("fp8")
    rows = [
        ("GPT-2, no biases, parameters with 1,024 x 768 positions", f"{small.parameters + 1024 * 768:,}"),
        ("its forward FLOPs of 1,024 tokens, every query meeting every key", f"{small.tree.executed_forward_flops:,}"),
        ("the same, causal pairs only", f"{small.tree.forward_flops:,}"),
        ("100 such sequences trained in 755 ms on an A100: PaLM's MFU", share(found["6N + 12LHET"])),
        ("the same run, causal-exact", share(found["exact, causal pairs"])),
        ("70B parameters, 15T tokens, 1,024 H100 at half of the peak", f"{days:.1f} days"),
        ("8 x 80 GB at 16 bytes a parameter", f"{8 * 80e9 / sum(state_bytes(1).values()) / 1e9:g}B parameters"),
        ("GPT-3, 6 N D", f"{runs['gpt-3'].flops:.3g} FLOPs"),
        ("a feed-forward matrix of GPT-3 in fp32", f"{4 * 12_288 * 49_152 / (1 << 20):,.0f} MiB"),
        ("DeepSeek-V3, 6 N D of its active parameters", f"{deepseek.flops:.3g} FLOPs"),
        ("over its device hours at the fp8 peak of a PCIe card", share(deepseek.utilization(pcie))),
        ("over the same hours at the fp8 peak of the SXM module that it ran on", share(deepseek.utilization(sxm))),
    ]
    return table(("question", "answer"), rows)


def opt_table() -> str:
    """The famous table as it is printed, and as it should be."""
    rows = []
    for shape in OPT_SHAPES:
        printed, counted = opt_printed(shape), opt_counted(shape)
        cells = [f"{printed.flops:.1e}", *(f"{x:.0%}" for x in (printed.projections, printed.mlp)), share(printed.attention)]
        cells += [f"{counted.flops:.1e}", *(f"{x:.0%}" for x in (counted.projections, counted.mlp)), share(counted.attention)]
        rows.append((shape.name, *cells))
    names = ("FLOPs an update", "projections", "MLP", "attention")
    return table(("", *(f"printed: {name}" for name in names), *(f"counted: {name}" for name in names)), rows)


def law_table() -> str:
    """The laws and what they take for one budget."""
    rows = []
    for key, law in LAWS.items():
        constants = [f"{getattr(law, name):g}" for name in ("E", "A", "alpha", "B", "beta")]
        n, d = law.optimal(1e24)
        best = (format_count(n), format_count(d), f"{d / n:.0f}") if law.unit == "nats a token" else ("", "", "")
        rows.append((f"`{key}`", law.name, law.unit, *constants, *best))
    return table(("`--law`", "source", "unit", "E", "A", "alpha", "B", "beta", "N at 1e24 FLOPs", "D", "D/N"), rows)


def law_certainty() -> str:
    """What publications say of their own constants."""
    return table(("law", "interval"), [(f"`{key}`", law.certainty) for key, law in LAWS.items()])


def zero_table() -> str:
    """The first figure of the ZeRO paper."""
    rows = []
    for zero in range(4):
        found = state_bytes(7.5e9, zero=zero, data=64)
        rows.append((zero, *(f"{n / 1e9:.2f}" for n in found.values()), f"{sum(found.values()) / 1e9:.1f} GB"))
    return table(("ZeRO stage", *state_bytes(1), "together"), rows)


def activation_table() -> str:
    """A layer of GPT-3 under each policy, one sequence."""
    d, h, t = 12_288, 96, 2048
    layer = Layer(Attention(h, h, 128, rotary=None), Dense(4 * d, "gelu"), Norm("layer"))
    paper = Graph(fused_attention=False, dropout=True)
    rows = []
    for name, options in (
        ("one device, nothing recomputed", {}),
        ("8 devices, tensor parallel only", {"tensor": 8, "sequence_parallel": False}),
        ("8 devices, the sequence split too", {"tensor": 8}),
        ("and attention recomputed", {"tensor": 8, "recompute": "selective"}),
        ("and everything recomputed", {"tensor": 8, "recompute": "layers"}),
    ):
        found = layer_activation_bytes(layer, d, seq_len=t, graph=paper, **options)
        rows.append((name, f"{found / (t * d):.2f} T D", format_bytes(found)))
    return table(("layer of GPT-3, one sequence", "bytes", "which is"), rows)


def layout_table() -> str:
    """Layouts of a 70B model on 64 devices."""
    counted, cluster = on_h100("llama-3.1-70b", 64)
    steps = best_steps(counted, cluster, batch_size=1024)
    return steps_table([x for x in steps if x.fits][:5] + [x for x in steps if not x.fits][:3])


@cache
def steps_of_others() -> list[tuple[PublishedStep, Step]]:
    """What others measured, each with what is predicted."""
    return [(published, published.predicted()) for published in published_steps()]


def published_table() -> str:
    """Every published step beside its prediction."""
    rows = []
    for published, step in steps_of_others():
        found = format_seconds(published.seconds), format_seconds(step.seconds), f"{step.seconds / published.seconds:.2f}"
        where = f"{published.devices:,} {published.device.upper()}"
        measured_mfu = share(step.mfu * step.seconds / published.seconds)
        rows.append((published.name, where, step.layout, published.recompute, *found, measured_mfu, published.source))
    return table(("model", "devices", "layout", "recomputed", "published", "predicted", "ratio", "published MFU", "source"), rows)


def published_errors() -> str:
    """Median and worst error of the published steps' time, in a sentence's words."""
    errors = [abs(step.seconds / published.seconds - 1) for published, step in steps_of_others()]
    return f"{len(errors)} steps: median error {statistics.median(errors):.0%}, worst {max(errors):.0%}"


def published_memory() -> str:
    """Predicted over published memory, lowest and highest."""
    ratios = [step.n_bytes / 2**30 / x.gibibytes for x, step in steps_of_others() if x.gibibytes]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


@cache
def on_h100(name: str, devices: int) -> tuple[Counted, Cluster]:
    """A known model on sequences of 4,096, and so many devices."""
    counted = Counted(known_model(name), 4096)
    return counted, Cluster.of("h100", devices).for_model(counted)


def steps_table(steps: list[Step]) -> str:
    """Steps with what they take."""
    rows = []
    for step in steps:
        speed = (share(step.mfu), f"{step.tokens_per_s:,.0f}") if step.fits else ("does not fit", "")
        again = step.spread.run.recompute
        rows.append((step.layout, step.workload.batch_size, again, format_bytes(step.n_bytes), *speed))
    return table(("layout", "micro-batch", "recomputed", "a device", "utilization", "tokens/s"), rows)


DEEPSEEK_BATCH = 15_360
"""Sequences of a step of DeepSeek-V3 (DeepSeek-AI 2024, section 4.2)."""


def mixture_table() -> str:
    """Layouts of DeepSeek-V3 on as many devices, and with as large a batch, as it had."""
    counted, cluster = on_h100("deepseek-v3", 2048)
    steps = best_steps(counted, cluster, batch_size=DEEPSEEK_BATCH)
    return steps_table([x for x in steps if x.fits][:6] + [x for x in steps if not x.fits][:1])


def published_layout_table() -> str:
    """DeepSeek-V3's own layout, by the account and by its report."""
    counted, cluster = on_h100("deepseek-v3", 2048)
    layout = Layout(data=128, pipeline=16, zero=1, expert=64, overlap=True)
    rows = []
    for name, chosen, recompute in (
        ("nothing recomputed", layout, "none"),
        ("MLPs recomputed", layout, "mlp"),
        ("MLPs recomputed, no overlap", replace(layout, overlap=False), "mlp"),
        ("layers recomputed", layout, "layers"),
    ):
        step = take_step(counted, chosen, cluster, batch_size=DEEPSEEK_BATCH, recompute=recompute)
        sending = cluster.exchange_seconds(step.spread.sent.expert, chosen, counted.router)
        hours = PUBLISHED_RUNS["deepseek-v3"].tokens / step.tokens_per_s * cluster.devices / 3600
        fits = format_bytes(step.n_bytes) + ("" if step.fits else ", does not fit")
        seconds = [f"{x:.1f} s" for x in (step.parts.computing, sending, step.parts.bubble, step.seconds)]
        rows.append((name, fits, *seconds, f"{hours / 1e6:.2f} M", share(step.mfu)))
    rows.append(("its report: fp8, parts recomputed", "", "", "as long as computing", "", "", "2.66 M", ""))
    return table(("", "a device", "computing", "rows to experts and back", "bubble", "a step", "device hours", "of the bf16 peak"), rows)


def sent_table() -> str:
    """What each part of a layer sends in a step, by kind of layer: bytes of one sequence and layer, forward and backward."""
    layouts = {"tensor 8": Layout(tensor=8), "data 8 (ZeRO-1)": Layout(data=8, zero=1), "data 8 (expert 8)": Layout(data=8, expert=8)}
    rows = []
    for model, layer in (("llama-3.1-8b", 0), ("mixtral-8x7b", 0), ("deepseek-v3", 60)):
        for part in ("mixer", "mlp"):
            cells = []
            for layout in layouts.values():
                if layout.expert > 1 and model.startswith("llama"):
                    cells.append("")
                    continue
                workload = Training(4096, 1, 1, run=GPU, layout=layout)
                found = next(c for _, c in cost(known_model(model), workload).tree.walk() if c.name == f"layers.{layer}.{part}")
                cells.append(format_bytes(found.sent(workload).n_bytes))
            rows.append((model, part, *cells))
    return table(("a layer of", "part", *layouts), rows)


def kept_table() -> str:
    """What a layer of an 8B model keeps of a sequence for its backward: here, and as the layouts count it."""
    config, seq_len = known_model("llama-3.1-8b"), 4096
    parts = saved_bytes(config, Training(seq_len, 1, run=GPU))[0].values()
    lines = {name: n for part in parts for name, n in part.items()}
    cast = sum(n for name, n in lines.items() if "weights" in name)
    norms = sum(n for name, n in lines.items() if name.startswith("norm"))
    layout = layer_activation_bytes(config.layers[0], config.d_model, seq_len=seq_len)
    rows = [
        ("as the layouts count it", format_bytes(layout)),
        ("here", format_bytes(total := sum(sum(part.values()) for part in parts))),
        ("of it copies of weights in the activations' type", format_bytes(cast)),
        ("of it norms, their inputs in fp32", format_bytes(norms)),
        ("of it all else", format_bytes(total - cast - norms)),
    ]
    return table(("a layer, one sequence of 4,096", "bytes"), rows)


def accounting_summary() -> str:
    """Predicted against measured on the grid: medians, and the worst by name."""
    found = load("accounting")
    rows = [
        (what, f"{found[key + '_median']:.1%}", f"{found[key + '_worst']:.1%}", f"`{found[key + '_worst_case']}`")
        for what, key in (("peak memory", "memory"), ("time of a step", "time"))
    ]
    for precision in ("fp32", "bf16"):
        errors = {row["name"]: abs(row["time_ratio"] - 1) for row in found["rows"] if row["precision"] == precision}
        worst = max(errors, key=lambda name: errors[name])
        what = f"of it the {len(errors)} in {precision}"
        rows.append((what, f"{statistics.median(errors.values()):.1%}", f"{errors[worst]:.1%}", f"`{worst}`"))
    shared = found["shared"]
    what = f"time of {len(shared['rows'])} steps on {shared['threads']} threads"
    rows.append((what, f"{shared['time_median']:.1%}", f"{shared['time_worst']:.1%}", f"`{shared['time_worst_case']}`"))
    return table((f"error over {found['cases']} configurations", "median", "worst", "which"), rows)


def accounting_rows() -> str:
    """Every configuration of the grid."""
    rows = [
        (
            f"`{row['name']}`",
            *(format_bytes(row[key]) for key in ("predicted_bytes", "peak_bytes")),
            f"{row['memory_ratio']:.3f}",
            *(f"{1e3 * row[key]:.0f} ms" for key in ("predicted_s", "step_s")),
            f"{row['time_ratio']:.2f}",
        )
        for row in load("accounting")["rows"]
    ]
    return table(("step of", "memory, predicted", "measured", "ratio", "time, predicted", "measured", "ratio"), rows)


def recompute_rows() -> str:
    """What each policy saves and costs: a model of 1.7B on one H100, eight sequences of 4,096."""
    config, rows = known_model("smollm2-1.7b"), []
    policies: tuple[Recompute, ...] = ("none", "attention", "mlp", "layers")
    for policy in policies:
        workload = Training(4096, 8, run=replace(GPU, recompute=policy), matrices="adamw")
        memory, step = training_memory(config, workload), step_time(config, find_ceilings("h100"), workload)
        tree = cost(config, workload).tree
        again = f"{tree.recomputed_flops / tree.training_flops:.1%}"
        figures = (format_bytes(memory.peak_bytes), again, format_seconds(step.seconds), f"{step.mfu:.1%}", f"{step.hfu:.1%}")
        rows.append((f"`{policy}`", *figures))
    return table(("`--recompute`", "peak memory", "FLOPs again, of the model's", "a step, predicted", "MFU", "HFU"), rows)


def ceilings_of(name: str) -> str:
    """One of the shares that are assumed of a datasheet, in percent."""
    return f"{100 * getattr(roofline, name):g} %"


def serving_table() -> str:
    """Llama-2-13B at 1,024 tokens, with its own and with fewer kv heads."""
    rows = []
    for n_kv_heads in (40, 8):
        config = known_model("llama-2-13b")
        layers = tuple(replace(x, mixer=replace(x.mixer, n_kv_heads=n_kv_heads)) for x in config.layers)
        config = replace(config, layers=layers)
        for batch in (1, 64, 256):
            s = Serving(config, Inference(1023, 1, batch), Cluster.of("h100").as_one())
            fits = "" if s.memory_bytes < s.device.memory_bytes else " (does not fit)"
            seconds = s.seconds_per_token(1024)
            each = f"{cache_bytes(config, 1):,.0f}"
            rows.append(
                (n_kv_heads, each, batch, format_bytes(s.memory_bytes) + fits, f"{1e3 * seconds:.2f} ms", f"{batch / seconds:,.0f}")
            )
    return table(("kv heads", "cache of a token, bytes", "batch", "weights and cache", "a token, at least", "tokens/s, at most"), rows)


def gain_table() -> str:
    """What five percent is worth on runs whose bill is public."""
    rows = []
    for run in PUBLISHED_RUNS.values():
        found = worth(0.05, seconds=86_400 * run.days, usd=run.usd, parameters=run.parameters, tokens=run.tokens, law=EPOCH)
        bits = EPOCH.bits_per_byte(found.loss, BYTES_PER_TOKEN)
        saved = (format_usd(run.usd), format_usd(found.usd), f"{run.days:.1f}", f"{found.seconds / 86_400:.1f}", f"{bits:.5f}")
        rows.append((run.name, *saved, run.source))
    return table(("run", "rent", "5 % saves", "days", "5 % saves", "or bits per byte", "source"), rows)


ACCOUNTING: dict[str, Callable[[], str]] = {
    "recompute": recompute_rows,
    "accounting": accounting_summary,
    "accounting-rows": accounting_rows,
    "activations": activation_table,
    "bandwidth-efficiency": lambda: ceilings_of("BANDWIDTH_EFFICIENCY"),
    "conventions": convention_table,
    "gains": gain_table,
    "kept": kept_table,
    "known-answers": known_answers,
    "law-certainty": law_certainty,
    "laws": law_table,
    "layouts": layout_table,
    "sent": sent_table,
    "mixture-layouts": mixture_table,
    "published-layout": published_layout_table,
    "opt": opt_table,
    "published-errors": published_errors,
    "published-memory": published_memory,
    "published-steps": published_table,
    "product-efficiency": lambda: ceilings_of("PRODUCT_EFFICIENCY"),
    "serving": serving_table,
    "zero": zero_table,
}
