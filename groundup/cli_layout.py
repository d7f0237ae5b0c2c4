"""What a step spread over devices holds, sends and takes, as tables: for ``groundup cost --layout`` and ``groundup plan``."""

from __future__ import annotations

import dataclasses
from typing import Any

from groundup.account import Cost, cost, format_bytes, format_count, format_flops, format_seconds, format_usd
from groundup.account.answers import TrainedRun
from groundup.account.cluster import Step
from groundup.account.cost import Row
from groundup.account.layout import Layout
from groundup.account.traffic import Sent

Pairs = list[tuple[str, str]]
Rows = list[dict[str, Any]]
GROUPS = {"data": ("data", "expert_data"), "tensor": ("tensor",), "experts": ("expert",), "pipeline": ("pipeline",)}
"""Columns, and whom the bytes are sent to that they add up."""
WAITS = {
    "computing": "computing",
    "tensor": "rows within layers, tensor parallel",
    "expert": "rows to experts and back",
    "pipeline": "rows between stages",
    "bubble": "the pipeline fills and empties",
    "data": "gradients and weights, not hidden",
}
"""Where the time goes, as rows."""


def show(content: Pairs | Rows, title: str) -> None:
    """Pairs or rows as a table under its title."""
    from groundup.terminal import show_pairs, show_rows

    if content and isinstance(content[0], dict):
        show_rows(content, title=title)  # type: ignore[arg-type]
    else:
        show_pairs(content, title=title)  # type: ignore[arg-type]


def counted_in(step: Step) -> Cost:
    """The model's cost on the step's workload: its tree says what each component sends."""
    return cost(step.spread.counted.config, step.workload)


def sent_title(counted: Cost, layout: Layout) -> str:
    """What ``sent_rows`` has, in words."""
    if not any(counted.sent):
        return "parameters and FLOPs; nothing is sent"
    each = "a device" if layout.pipeline == 1 else f"a device of each of {layout.pipeline} stages"
    return f"parameters, FLOPs, and the bytes that {each} sends in a step, by whom they go to"


def sent_rows(counted: Cost) -> Rows:
    """One line a role: parameters, FLOPs, and the bytes that a device sends for it; columns and lines without any are left out."""
    rows = [row for row in counted.rows() if row.parameters or row.training_flops or any(row.sent)]
    whole = Row("all", counted.parameters, counted.tree.training_flops, 1.0, counted.sent)
    used = [column for column in GROUPS if _sum(whole.sent, column)]
    return [
        {
            "part": row.name.removeprefix("layers."),
            "parameters": format_count(row.parameters) if row.parameters else "",
            "FLOPs/token": format_flops(row.training_flops / counted.seq_len) if row.training_flops else "",
            **{column: format_bytes(n) if (n := _sum(row.sent, column)) else "" for column in used},
        }
        for row in [*rows, whole]
    ]


def _sum(sent: Sent, column: str) -> float:
    return sum(getattr(sent, group) for group in GROUPS[column])


def memory_title(step: Step) -> str:
    """Whose memory ``memory_rows`` shows, and in which types it is held."""
    types = "all in fp32" if step.spread.run.precision == "fp32" else f"{step.cluster.precision} with fp32 masters beside it"
    stage = f", in stage {step.spread.held.stage + 1} of {step.layout.pipeline}" if step.layout.pipeline > 1 else ""
    return f"Memory of the fullest device{stage}: {types}"


def memory_rows(step: Step) -> Rows:
    """What the bytes of the fullest device are for."""
    held = step.spread.held
    return [{"for": name, "bytes": format_bytes(n), "share": f"{n / held.n_bytes:.1%}"} for name, n in held.categories.items()]


def waiting_rows(step: Step) -> Rows:
    """Where the time of a step goes."""
    return [
        {"for": WAITS[name], "time": format_seconds(seconds), "share": f"{seconds / step.seconds:.1%}"}
        for name, seconds in step.parts._asdict().items()
        if seconds
    ]


def run_pairs(run: TrainedRun) -> Pairs:
    """What a run takes in a layout, for people."""
    step, device, workload = run.step, run.step.cluster.device, run.step.workload
    fits = "" if step.fits else ": does not fit"
    return [
        ("a step", f"{workload.micro_batches:,} micro-batches of {workload.batch_size} x {workload.seq_len:,} tokens a replica"),
        ("memory", f"{format_bytes(step.n_bytes)} of {format_bytes(step.cluster.memory_limit)} a device{fits}"),
        ("time of a step", f"{format_seconds(step.seconds)}, {format_count(step.tokens)} tokens"),
        ("tokens/s", f"{step.tokens_per_s:,.0f}, {step.tokens_per_s / step.cluster.devices:,.0f} a device"),
        ("utilization", f"{run.mfu:.1%} of the dense {step.cluster.precision} peak"),
        ("tokens", f"{format_count(run.tokens)}, {format_flops(run.flops)}"),
        ("time", format_seconds(run.seconds)),
        ("money", f"{format_usd(run.usd)} at {format_usd(device.usd_per_hour)} an hour and device"),
    ]


def run_figures(run: TrainedRun) -> dict[str, float]:
    """What a run takes, for machines."""
    return {"tokens": run.tokens, "flops": run.flops, "mfu": run.mfu, "seconds": run.seconds, "usd": run.usd}


def step_figures(step: Step) -> dict[str, Any]:
    """A step for machines."""
    workload = step.workload
    return {
        "layout": dataclasses.asdict(step.layout),
        "micro_batch": workload.batch_size,
        "micro_batches": workload.micro_batches,
        "recompute": step.spread.run.recompute,
        "bytes_per_device": step.n_bytes,
        "step_seconds": step.seconds,
        "tokens_per_step": step.tokens,
    }


def sent_figures(counted: Cost, step: Step) -> dict[str, Any]:
    """What is held, sent and waited for, by part, for machines."""
    return {
        "fits": step.fits,
        "memory": step.spread.held.categories,
        "seconds_by_part": step.parts._asdict(),
        "sent": counted.sent._asdict(),
        "sent_by_busiest_device": step.spread.sent._asdict(),
        "sent_by_part": {row.name: {k: v for k, v in row.sent._asdict().items() if v} for row in counted.rows() if any(row.sent)},
    }
