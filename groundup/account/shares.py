"""Where the FLOPs of training go as models grow, and where the bytes of a step are as it goes on: what charts are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from groundup.account.cost import Cost, cost
from groundup.account.execution import CPU
from groundup.account.memory import Moment, kept_bytes, training_memory
from groundup.account.rules import WIDTHS, shape_of_width
from groundup.account.workload import Training
from groundup.config import ModelConfig

PARTS = {
    "query": "projections",
    "key": "projections",
    "value": "projections",
    "output": "projections",
    "scores": "attention's pairs",
    "weighted_values": "attention's pairs",
    "up": "MLP",
    "down": "MLP",
    "head": "head",
}
"""The last word of a row's name -> its part; a row within an MLP is its MLP's."""
NAMES = ("MLP", "projections", "attention's pairs", "head", "other")
"""Parts in the order of a chart."""


class SizeShares(NamedTuple):
    """A model's training FLOPs by part."""

    parameters: int
    """P."""
    shares: dict[str, float]
    """Part of the FLOPs, 0 to 1, of each of ``NAMES``."""


def shares_of(counted: Cost, *, layers_times: int = 1) -> dict[str, float]:
    """Shares of a model's training FLOPs by part, its layers taken so many times; they sum to 1."""
    found = dict.fromkeys(NAMES, 0.0)
    for row in counted.rows():
        words = row.name.split(".")
        part = "MLP" if "mlp" in words else PARTS.get(words[-1], "other")
        found[part] += row.training_flops * (layers_times if words[0] == "layers" else 1)
    total = sum(found.values())
    return {part: flops / total for part, flops in found.items()}


def shares_by_size(*, vocab_size: int, seq_len: int, widths: Sequence[int] = WIDTHS) -> list[SizeShares]:
    """Shares of the planner's shapes, of the llama architecture, narrow to wide; their layers are alike, so that one of them is counted."""
    found = []
    for width in widths:
        config = shape_of_width(width, vocab_size=vocab_size, context_length=seq_len)
        n_layers = len(config.layers)
        counted = cost(replace(config, layers=config.layers[:1]), Training(seq_len))
        one_layer = sum(w.numbers for w in counted.weights if w.name.startswith("layers."))
        found.append(SizeShares(counted.parameters + (n_layers - 1) * one_layer, shares_of(counted, layers_times=n_layers)))
    return found


def step_timeline(config: ModelConfig, workload: Training) -> list[Moment]:
    """Bytes of a training step from its first layer on: ``training_memory``'s moments, which begin at the loss, after the forward pass
    during which each layer adds what it keeps for backward. Each is named by its phase: forward, loss, backward or optimizer."""
    memory, run = training_memory(config, workload), workload.run or CPU
    first, kept = memory.timeline[0], kept_bytes(config, workload)
    each = [kept[f"layers.{i}.mixer"] + kept[f"layers.{i}.mlp"] for i in range(len(config.layers))]
    saved = first.categories["activations"] - sum(each)
    moments = []
    for layer in (0, *each):
        saved += layer
        live = first.categories | {"activations": saved, "working buffers": 0}
        holes = run.allocator_overhead * sum(n for name, n in live.items() if name != "allocator")
        moments.append(Moment("forward", live | {"allocator": round(holes)}))
    return moments + [Moment(_phase(moment.name), dict(moment.categories)) for moment in memory.timeline]


def _phase(name: str) -> str:
    return next((phase for phase in ("loss", "backward", "optimizer") if name.startswith(phase)), "backward")
