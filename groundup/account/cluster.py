"""Many devices: what joins them, and which layout of a model's training step they run fastest.

Symbols: d, t, p devices of a layout (data, tensor, pipeline), m micro-batches of a step, v runs of layers of a stage.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from groundup.account.budget import format_bytes
from groundup.account.devices import Device
from groundup.account.kinds import check_predicted
from groundup.account.layouts import FP32_ADAMW, MIXED_ADAMW, MODERN, Counted, Graph, Layout, Policy, Spread, StateBytes
from groundup.account.roofline import Ceilings, step_time
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.errors import UsageError

KERNEL_SHARE = 0.5
"""Part of the dense peak that a device attains while it computes, communication, bubble and recomputation apart. Assumed: public runs on
H100 come to 35 to 50 % in one node, and to 38 to 43 % on thousands (Llama Team 2024, table 4)."""
LINK_SHARE = 0.8
"""Part of a link's rate that collectives attain: assumed, of NCCL's bus bandwidth on eight devices."""
TRIAL_TOKENS = 8192
"""Tokens of a micro-batch for which the share of the peak is predicted."""
USABLE_MEMORY = 0.92
"""Part of a device's memory that training may take; the rest is for the driver, communication buffers and holes. Assumed."""
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Sequences at a time that are tried."""


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
        optimizer spread over many micro-batches; unchanged without ceilings."""
        if self.ceilings is None:
            return self
        batch = max(1, TRIAL_TOKENS // counted.seq_len)
        step = step_time(counted.config, self.ceilings, Training(counted.seq_len, batch, 16, matrices="adamw"))
        return dataclasses.replace(self, kernel_share=min(1.0, step.mfu))

    @property
    def state(self) -> StateBytes:
        """Bytes of state a parameter: 16-bit weights with fp32 masters, or all fp32 where that is what they multiply in."""
        return FP32_ADAMW if self.precision == "fp32" else MIXED_ADAMW

    @property
    def graph(self) -> Graph:
        """What a layer keeps, in numbers of the type that they multiply in."""
        return MODERN._replace(number_bytes=4 if self.precision == "fp32" else 2)

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
        """Bytes that training may take of one device."""
        return USABLE_MEMORY * self.device.memory_bytes

    def link(self, group: str, layout: Layout) -> float:
        """Bytes a second that a device sends to its group.

        Tensor parallel devices stand side by side, so a node has min(d, node / t) of a data parallel group, whose rings share as many
        links to other nodes; stages are next to each other only within one node.
        """
        net = self.network
        if self.devices <= net.node_devices:
            return LINK_SHARE * net.inside_bytes_per_s
        if group == "tensor":
            return LINK_SHARE * (net.inside_bytes_per_s if layout.tensor <= net.node_devices else net.between_bytes_per_s)
        if group == "pipeline":
            return LINK_SHARE * net.between_bytes_per_s
        together = max(1, net.node_devices // layout.tensor)
        if layout.data <= together:
            return LINK_SHARE * net.inside_bytes_per_s
        return LINK_SHARE * min(net.inside_bytes_per_s, together * net.between_bytes_per_s)


@dataclass(frozen=True)
class Step:
    """A training step of a model in a layout on a cluster: what it takes and whether it fits."""

    cluster: Cluster
    spread: Spread
    batch_size: int
    """Sequences of a step, all replicas together."""

    @property
    def layout(self) -> Layout:
        """The layout."""
        return self.spread.layout

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
        return self.batch_size * self.spread.counted.seq_len

    @cached_property
    def seconds(self) -> float:
        """(computing x unevenness of the stages + sending within layers and between stages) x (1 + bubble) + sending of data parallelism
        beyond the computing that hides it: the last micro-batch's backward up to ZeRO-1, all micro-batches with 2 and 3."""
        o, m, layers = self.layout, self.spread.micro_batches, len(self.spread.counted.config.layers)
        uneven = -(-layers // o.pipeline) * o.pipeline / layers if layers else 1.0
        computing = uneven * self._executed_flops / (self.cluster.peak_flops * self.cluster.kernel_share)
        sending = {"data": 0.0, "tensor": 0.0, "pipeline": 0.0}
        for sent in self.spread.sent:
            sending[sent.group] += sent.n_bytes / self.cluster.link(sent.group, o)
        hidden = computing if o.zero >= 2 else computing * 2 / 3 / m
        return (computing + sending["tensor"] + sending["pipeline"]) * (1 + o.bubble(m)) + max(0.0, sending["data"] - hidden)

    @property
    def _executed_flops(self) -> float:
        counted = self.spread.counted
        again = counted.layers_forward_flops if self.layout.recompute == "layers" else 0
        return self.batch_size * (counted.cost.tree.training_flops + again)

    @property
    def tokens_per_s(self) -> float:
        """Of all devices together."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization: causal-exact, without recomputation, over the dense peak."""
        return self.spread.counted.cost.mfu(self.tokens_per_s, self.cluster.peak_flops)


def take_step(counted: Counted, layout: Layout, cluster: Cluster, *, batch_size: int) -> Step:
    """The step of about ``batch_size`` sequences: as many as whole micro-batches of all replicas come nearest to, at least one each."""
    m = max(1, round(batch_size / (layout.data * layout.micro_batch)))
    spread = Spread(counted, layout, m, cluster.state, cluster.graph)
    return Step(cluster, spread, m * layout.data * layout.micro_batch)


def possible_layouts(config: ModelConfig, cluster: Cluster, batch_size: int) -> Iterator[Layout]:
    """Layouts over all devices whose replicas have something to do.

    Tensor parallelism stays within a node, as it sends most; with a pipeline ZeRO stays at stage 1, as gradients and weights would be
    sent for each of its many micro-batches; fused attention keeps no probabilities that selective recomputation could drop.
    """
    policies: tuple[Policy, ...] = ("none", "layers")
    for t in _powers(min(cluster.devices, cluster.network.node_devices)):
        if cluster.devices % t or not _divides(config, t):
            continue
        for p in _divisors(cluster.devices // t, len(config.layers)):
            d = cluster.devices // (t * p)
            stages = (0,) if d == 1 else (0, 1) if p > 1 else (0, 1, 2, 3)
            for micro in MICRO_BATCHES:
                if d * micro > batch_size:
                    break
                runs = [v for v in (1, 2, 4) if v == 1 or (p > 1 and len(config.layers) % (p * v) == 0 and batch_size // (d * micro) >= p)]
                for zero, policy, v in itertools.product(stages, policies, runs):
                    yield Layout(d, t, p, zero, micro, policy, v)


def best_steps(counted: Counted, cluster: Cluster, *, batch_size: int) -> list[Step]:
    """The best step of each kind of layout (tensor or not, pipeline or not, ZeRO stage): the fastest that fits, or else the leanest.

    The fastest that fits comes first, then the others that fit, then those that do not. Raises UsageError where no layout is possible.
    """
    cluster.check()
    check_predicted(counted.config, "a layout")
    kinds: dict[tuple[bool, bool, int], Step] = {}
    for layout in possible_layouts(counted.config, cluster, batch_size):
        step = take_step(counted, layout, cluster, batch_size=batch_size)
        kind = (layout.tensor > 1, layout.pipeline > 1, layout.zero)
        if kind not in kinds or _rank(step) < _rank(kinds[kind]):
            kinds[kind] = step
    if not kinds:
        raise UsageError(
            f"{cluster.devices} devices cannot share a step of {batch_size} sequences of a model of {len(counted.config.layers)} layers: "
            f"give fewer devices, or a larger --batch-tokens"
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
    leanest = (x for x in possible_layouts(counted.config, cluster, cluster.devices) if x.micro_batch == 1 and x.recompute == "layers")
    return any(take_step(counted, layout, cluster, batch_size=cluster.devices).fits for layout in leanest)


def _rank(step: Step) -> tuple[bool, float, float]:
    """Those that fit first, by time a token, where that is the same with the larger micro-batch; then by memory."""
    if not step.fits:
        return True, step.n_bytes, 0.0
    return False, round(-math.log(step.tokens_per_s), 3), -step.layout.micro_batch


def _powers(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length()) if 1 << i <= most]


def _divisors(n: int, most: int) -> list[int]:
    return [i for i in range(1, min(n, max(1, most)) + 1) if n % i == 0]


def _divides(config: ModelConfig, tensor: int) -> bool:
    try:
        Layout(tensor=tensor).check(config)
    except UsageError:
        return False
    return True
