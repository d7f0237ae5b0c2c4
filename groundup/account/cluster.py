"""Many devices: what joins them, and which layout of a model's training step they run fastest.

Symbols: d, t, p, e devices of a layout (data, tensor, pipeline, expert), m micro-batches of a step, v runs of layers of a stage.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from groundup.account.budget import format_bytes
from groundup.account.devices import Device
from groundup.account.execution import GPU, Execution, Recompute
from groundup.account.layout import Layout, divides
from groundup.account.measured import find_ceilings, find_device
from groundup.account.roofline import Ceilings, step_time
from groundup.account.shards import slowdown
from groundup.account.spread import Counted, Spread, Stage
from groundup.account.workload import Training
from groundup.config import Experts, ModelConfig, Router
from groundup.errors import UsageError

KERNEL_SHARE = 0.5
"""Part of the dense peak that a device attains while it computes, communication, bubble and recomputation apart. Assumed: public runs on
H100 come to 35 to 50 % in one node, and to 38 to 43 % on thousands (Llama Team 2024, table 4)."""
LINK_SHARE = 0.8
"""Part of a link's rate that collectives attain: assumed, of NCCL's bus bandwidth on eight devices."""
TRIAL_TOKENS = 8192
"""Tokens of a micro-batch for which the share of the peak is predicted."""
USABLE_MEMORY = 0.92
"""Part of a device's memory that training or serving may take; the rest is for the driver, communication buffers and holes. Assumed."""
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Sequences at a time that are tried."""
POLICIES: tuple[Recompute, ...] = ("none", "mlp", "layers")
"""What is tried to be computed again, what takes longer later."""


class Network(NamedTuple):
    """What joins devices; rates of one device in one direction."""

    node_devices: int
    """Devices that share the fast links."""
    inside_bytes_per_s: float
    """Within a node."""
    between_bytes_per_s: float
    """Between nodes."""
    source: str
    """What the links are."""


NODE_DEVICES = 8
"""Devices of a node, as almost all that can be rented have them."""
BETWEEN_GBIT: dict[str, float] = {"v100": 100, "a100": 200, "a100-40gb": 200, "h100-pcie": 200}
"""Network of a device between nodes in Gbit/s, as in NVIDIA's own systems of its time, by key; newer data centre devices have 400."""
NEWER_GBIT, CARD_GBIT = 400.0, 25.0
"""Of those, and of a card for workstations: assumed."""


def network_of(key: str, device: Device) -> Network:
    """The device's own links within a node, and the network between nodes; a device without links has neither."""
    gbit = BETWEEN_GBIT.get(key.lower(), NEWER_GBIT if "PCIe" not in device.interconnect else CARD_GBIT)
    inside = device.interconnect_bytes_per_s or 0.0
    return Network(NODE_DEVICES, inside, gbit / 8 * 1e9, f"{device.interconnect}; {gbit:g} Gbit/s a device between nodes")


@dataclass(frozen=True)
class Cluster:
    """Equal devices that train one model."""

    device: Device
    """One of them."""
    devices: int
    """How many."""
    network: Network
    """What joins them."""
    precision: str = "bf16"
    """In which they multiply."""
    kernel_share: float = KERNEL_SHARE
    """Part of the peak that they attain while computing; what ``ceilings`` predict for a model goes before it."""
    ceilings: Ceilings | None = None
    """What one of them attains at best, if that is to be predicted."""

    @classmethod
    def of(cls, key: str, devices: int = 1) -> Cluster:
        """So many of a device by its key, such as h100 or here, with its usual network and its ceilings; UsageError as ``find_device``."""
        device = find_device(key)
        return cls(device, devices, network_of(key, device), device.half_precision, ceilings=find_ceilings(key))

    def __str__(self) -> str:
        """For people: 8 x H100 SXM."""
        return f"{self.devices} x {self.device.name}"

    def check(self) -> None:
        """UsageError for a cluster that cannot be."""
        if self.devices < 1:
            raise UsageError(f"--devices {self.devices}: give at least 1")
        if self.devices > 1 and not self.network.inside_bytes_per_s:
            raise UsageError(f"--devices {self.devices}: {self.device.name} has no links to others; give 1")
        if not 0 < self.kernel_share <= 1:
            raise UsageError(f"kernels attain a share of the peak above 0 and at most 1, not {self.kernel_share}")

    def for_model(self, counted: Counted) -> Cluster:
        """The same cluster with the share of the peak that the roofline predicts for this model on one device that had the memory, its
        optimizer spread over many micro-batches; unchanged without ceilings.

        Of experts it is given as many as work on a token: each of many devices has few of them, and rows enough for each."""
        if self.ceilings is None:
            return self
        step = step_time(_active(counted.config), self.ceilings, Training(counted.seq_len, self._trial(counted), 16, matrices="adamw"))
        return dataclasses.replace(self, kernel_share=min(1.0, step.mfu))

    @staticmethod
    def _trial(counted: Counted) -> int:
        return max(1, TRIAL_TOKENS // counted.seq_len)

    def slowdown(self, counted: Counted, workload: Training) -> float:
        """How much longer products take in the shares of a layout than whole, by the roofline; 1 without ceilings."""
        if self.ceilings is None:
            return 1.0
        o, b = workload.layout or Layout(), workload.batch_size
        sizes = {"sequences": b, "whole_sequences": self._trial(counted), "number_bytes": 4 if self.precision == "fp32" else 2}
        return counted.once("slowdown", (self.ceilings, o.tensor, o.expert, b), lambda: slowdown(counted, self.ceilings, o, **sizes))

    @property
    def peak_flops(self) -> float:
        """Dense peak of all devices."""
        return self.devices * self.device.peak(self.precision)

    @property
    def usd_per_hour(self) -> float:
        """Rent of all devices."""
        return self.devices * self.device.usd_per_hour

    @property
    def memory_limit(self) -> float:
        """Bytes that training or serving may take of one device."""
        return USABLE_MEMORY * self.device.memory_bytes

    def as_one(self) -> Device:
        """The devices as one with the memory, bandwidth and peak of all of them, for serving: tensor parallelism comes near to it within a
        node; what it sends is not counted."""
        n, device = self.devices, self.device
        return dataclasses.replace(
            device,
            name=str(self),
            memory_bytes=int(n * self.memory_limit),
            bandwidth_bytes_per_s=None if device.bandwidth_bytes_per_s is None else n * device.bandwidth_bytes_per_s,
            peak_flops={precision: n * peak for precision, peak in device.peak_flops.items()},
            usd_per_hour=self.usd_per_hour,
        )

    def link(self, devices: int, apart: int = 1) -> float:
        """Bytes a second that a device sends to a ring of so many, of whom each is so many devices from the next.

        Tensor parallel devices stand side by side, replicas t apart: a node has min(d, node / t) of a data parallel group, whose rings
        share as many links to other nodes.
        """
        net = self.network
        if self.devices <= net.node_devices or devices * apart <= net.node_devices:
            return LINK_SHARE * net.inside_bytes_per_s
        together = max(1, net.node_devices // apart)
        return LINK_SHARE * min(net.inside_bytes_per_s, together * net.between_bytes_per_s)

    def exchange_seconds(self, n_bytes: float, layout: Layout, router: tuple[int, int, int]) -> float:
        """Seconds for all experts' devices to send each other so many bytes each: the longer of the links within nodes, which carry all,
        and of those between.

        ``router`` is (n_active, n_groups, n_active_groups). A row crosses to a node once for each expert there; but where the router keeps
        a token to a few groups of experts, and so to few nodes, once a node (DeepSeek-AI 2024, section 3.2.2).
        """
        net, e = self.network, layout.expert
        together = max(1, net.node_devices // layout.tensor)
        inside = n_bytes / (LINK_SHARE * net.inside_bytes_per_s) if net.inside_bytes_per_s else 0.0
        if e <= together:
            return inside
        active, groups, chosen = router
        copies = min(active, chosen * max(1, -(-(e // together) // groups))) if groups > 1 else active
        leave = (1 - together / e) / (1 - 1 / e) * copies / active
        return max(inside, n_bytes * leave / (LINK_SHARE * net.between_bytes_per_s))

    def workload(self, seq_len: int, layout: Layout, *, batch_size: int, micro_batch: int = 1, recompute: Recompute = "none") -> Training:
        """The step of about ``batch_size`` sequences: as many as whole micro-batches of all replicas come nearest to, at least one each."""
        m = max(1, round(batch_size / (layout.data * micro_batch)))
        run = _run("fp32" if self.precision == "fp32" else "bf16", recompute)
        return Training(seq_len, micro_batch, m, run=run, matrices="adamw", layout=layout)


@lru_cache(maxsize=16)
def _run(precision: Literal["fp32", "bf16"], recompute: Recompute) -> Execution:
    return dataclasses.replace(GPU, precision=precision, recompute=recompute)


def _active(config: ModelConfig) -> ModelConfig:
    """The same model without the experts that a token does not meet."""
    layers = (
        dataclasses.replace(x, mlp=dataclasses.replace(x.mlp, n_experts=x.mlp.n_active, router=Router()))
        if isinstance(x.mlp, Experts)
        else x
        for x in config.layers
    )
    return dataclasses.replace(config, layers=tuple(layers))


class Seconds(NamedTuple):
    """Where the time of a step goes on the slowest stage; they sum to the step."""

    computing: float
    """Products and all else, what is computed again included."""
    tensor: float
    """Waiting for rows gathered and scattered within layers."""
    expert: float
    """Waiting for rows on their way to experts and back, if computing does not hide them."""
    pipeline: float
    """Waiting for rows from other stages."""
    bubble: float
    """Idle while the pipeline fills and empties."""
    data: float
    """Waiting for gradients and weights, beyond the computing that hides them."""


@dataclass(frozen=True)
class Step:
    """A training step of a model in a layout on a cluster: what it takes and whether it fits."""

    cluster: Cluster
    """The devices."""
    spread: Spread
    """The model in the layout, with the step's sizes."""

    @property
    def layout(self) -> Layout:
        """The layout."""
        return self.spread.layout

    @property
    def workload(self) -> Training:
        """The step, whose sizes and recomputation go with the layout."""
        return self.spread.workload

    @property
    def n_bytes(self) -> float:
        """Bytes of the fullest device."""
        return self.spread.held.n_bytes

    @property
    def fits(self) -> bool:
        """Whether they are there."""
        return self.n_bytes <= self.cluster.memory_limit

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.workload.tokens

    @cached_property
    def parts(self) -> Seconds:
        """(computing + sending within layers, to experts and between stages) x (1 + bubble) on the slowest stage, and sending of data
        parallelism beyond the computing that hides it: the last micro-batch's backward up to ZeRO-1, all micro-batches with 2 and 3.

        Overlap hides what is sent to experts behind computing too, which then hides nothing else.
        """
        o, m = self.layout, self.workload.micro_batches
        working = [self._working(stage) for stage in self.spread.stages]
        computing, tensor, expert, pipeline = max(working, key=lambda w: sum(w) - self._hidden(w))
        hidden = self._hidden((computing, tensor, expert, pipeline))
        busy = computing, tensor, expert - hidden, pipeline
        free = computing - hidden if o.zero >= 2 else (computing - hidden) * 2 / 3 / m
        data = max(self._data(stage) for stage in self.spread.stages)
        return Seconds(*busy, sum(busy) * o.bubble(m), max(0.0, data - free))

    def _hidden(self, working: tuple[float, float, float, float]) -> float:
        computing, _, expert, _ = working
        return min(computing, expert) if self.layout.overlap and self.workload.micro_batches > 1 else 0.0

    def _working(self, stage: Stage) -> tuple[float, float, float, float]:
        """Seconds of computing, and of sending to tensor parallel devices, experts and other stages."""
        o, cluster, sent = self.layout, self.cluster, self.spread.sent_by(stage)
        flops = stage.flops * self.workload.batch_size * self.workload.micro_batches / o.tensor
        rate = cluster.peak_flops / cluster.devices * cluster.kernel_share / cluster.slowdown(self.spread.counted, self.workload)
        return (
            flops / rate,
            sent.tensor / cluster.link(o.tensor) if sent.tensor else 0.0,
            cluster.exchange_seconds(sent.expert, o, self.spread.counted.router) if sent.expert else 0.0,
            sent.pipeline / cluster.link(2, o.tensor * o.data) if sent.pipeline else 0.0,
        )

    def _data(self, stage: Stage) -> float:
        o, cluster, sent = self.layout, self.cluster, self.spread.sent_by(stage)
        found = sent.data / cluster.link(o.data, o.tensor) if sent.data else 0.0
        return found + (sent.expert_data / cluster.link(o.data // o.expert, o.tensor * o.expert) if sent.expert_data else 0.0)

    @cached_property
    def seconds(self) -> float:
        """Seconds of the step."""
        return sum(self.parts)

    @property
    def tokens_per_s(self) -> float:
        """Of all devices together."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: causal-exact, without recomputation, over the dense peak."""
        return self.spread.counted.cost.mfu(self.tokens_per_s, self.cluster.peak_flops)


def take_step(
    counted: Counted, layout: Layout, cluster: Cluster, *, batch_size: int, micro_batch: int = 1, recompute: Recompute = "none"
) -> Step:
    """The step of about ``batch_size`` sequences in a layout (see ``Cluster.workload``)."""
    workload = cluster.workload(counted.seq_len, layout, batch_size=batch_size, micro_batch=micro_batch, recompute=recompute)
    return Step(cluster, Spread(counted, workload))


def possible_layouts(config: ModelConfig, cluster: Cluster, *, lean: bool = False) -> Iterator[Layout]:
    """Layouts over all devices into which the model divides; the lean ones are those that no other undercuts in memory.

    Tensor parallelism stays within a node, as it sends most; with a pipeline ZeRO stays at stage 1, as gradients and weights would be
    sent for each of its many micro-batches.
    """
    for t in _powers(min(cluster.devices, cluster.network.node_devices)):
        if cluster.devices % t or not divides(config, t):
            continue
        for p in _divisors(cluster.devices // t, len(config.layers)):
            d = cluster.devices // (t * p)
            stages = (0,) if d == 1 else (0, 1) if p > 1 else (0, 1, 2, 3)
            runs = [v for v in (1, 2, 4) if v == 1 or (p > 1 and len(config.layers) % (p * v) == 0)]
            spread = [(e, overlap) for e in _expert_divisors(config, d) for overlap in ((False, True) if e > 1 else (False,))]
            if lean:
                stages, runs, spread = stages[-2:] if p == 1 else stages[-1:], [1], [pair for pair in spread if not pair[1]]
            for zero, v, (e, overlap) in itertools.product(stages, runs, spread):
                yield Layout(d, t, p, zero, v, e, overlap)


def possible_steps(counted: Counted, cluster: Cluster, batch_size: int) -> Iterator[Step]:
    """Of all layouts whose replicas have something to do, and stages that take turns a micro-batch each, the steps that can be the best.

    Where a step fits, computing more again is only slower; where none does, a larger micro-batch does not either.
    """
    for layout in possible_layouts(counted.config, cluster):
        for micro in MICRO_BATCHES:
            m = batch_size // (layout.data * micro)
            if m < 1:
                break
            if m < (layout.pipeline if layout.interleave > 1 else 1 + layout.overlap):
                continue
            for policy in POLICIES:
                step = take_step(counted, layout, cluster, batch_size=batch_size, micro_batch=micro, recompute=policy)
                if step.fits:
                    break
            yield step
            if not step.fits:
                break


def best_steps(counted: Counted, cluster: Cluster, *, batch_size: int) -> list[Step]:
    """The best step of each kind of layout: the fastest that fits, or else the leanest.

    Kinds are tensor parallel or not, pipeline or not, experts spread or not, and the ZeRO stage.

    The fastest that fits comes first, then the others that fit, then those that do not. Raises UsageError where no layout is possible.
    """
    cluster.check()
    kinds: dict[tuple[bool, bool, bool, int], Step] = {}
    for step in possible_steps(counted, cluster, batch_size):
        o = step.layout
        kind = (o.tensor > 1, o.pipeline > 1, o.expert > 1, o.zero)
        if kind not in kinds or _rank(step) < _rank(kinds[kind]):
            kinds[kind] = step
    if not kinds:
        raise UsageError(
            f"{cluster.devices} devices cannot share a step of {batch_size} sequences of a model of {len(counted.config.layers)} layers: "
            f"give fewer devices, or for a given model a larger --batch-tokens"
        )
    return sorted(kinds.values(), key=_rank)


def fitting_steps(counted: Counted, cluster: Cluster, *, batch_size: int) -> list[Step]:
    """``best_steps`` of a model that fits; UsageError saying what it lacks, and how many devices would do, if it does not."""
    steps = best_steps(counted, cluster, batch_size=batch_size)
    if not steps[0].fits:
        enough = devices_needed(counted, cluster)
        would = f"{enough} of them would hold it" if enough else "no number of them would; choose a shorter --seq-len"
        raise UsageError(
            f"no layout fits: training takes at least {format_bytes(steps[0].n_bytes)} of each {cluster.device.name}, which has "
            f"{format_bytes(cluster.memory_limit)} to give, with --devices {cluster.devices}; {would}"
        )
    return steps


def devices_needed(counted: Counted, cluster: Cluster) -> int | None:
    """The least power of two of such devices on which the model trains in some layout, or None."""
    for devices in _powers(1 << 17):
        if holds(counted, dataclasses.replace(cluster, devices=devices)):
            return devices
    return None


def holds(counted: Counted, cluster: Cluster) -> bool:
    """Whether the model trains in some layout, a sequence at a time and everything computed again."""
    leanest = possible_layouts(counted.config, cluster, lean=True)
    return any(take_step(counted, layout, cluster, batch_size=cluster.devices, recompute="layers").fits for layout in leanest)


def _rank(step: Step) -> tuple[bool, float, float]:
    """Those that fit first, by time a token, where that is the same with the larger micro-batch; then by memory."""
    if not step.fits:
        return True, step.n_bytes, 0.0
    return False, round(-math.log(step.tokens_per_s), 3), -step.workload.batch_size


def _powers(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length()) if 1 << i <= most]


def _divisors(n: int, most: int) -> list[int]:
    return [i for i in range(1, min(n, max(1, most)) + 1) if n % i == 0]


def _expert_divisors(config: ModelConfig, data: int) -> list[int]:
    """Devices that can share the experts: divisors of the data parallel ones and of the experts of every layer; 1 where there are none."""
    counts = [layer.mlp.n_experts for layer in config.layers if isinstance(layer.mlp, Experts)]
    common = math.gcd(data, *counts) if counts else 1
    return _divisors(common, common)
