"""Seconds of a training step, from the tree: an operation takes its FLOPs or its bytes, whichever is longer, and its dispatch.

seconds = sum over operations of max(FLOPs / rate(smallest dim), bytes / bandwidth(bytes), loops) + dispatch
(the roofline of Williams et al. 2009, one operation at a time; overlapping dispatch, as GPUs have it, goes into the maximum instead).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from groundup.account.component import Component
from groundup.account.cost import Cost, cost
from groundup.account.devices import Device
from groundup.account.execution import CPU, GPU, Execution
from groundup.account.updates import update_work
from groundup.account.work import MASTER_BYTES, Loop, Pass, Product, Work
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.errors import UsageError

Bound = Literal["compute", "memory", "loops", "dispatch"]
PRODUCT_EFFICIENCY = 0.70
"""Assumed share of a datasheet's peak that large matrix products attain: 0.6 to 0.8 on A100 and H100 in published measurements."""
BANDWIDTH_EFFICIENCY = 0.85
"""Assumed share of a datasheet's bandwidth that a large copy attains."""
LAUNCH_S = 5e-6
"""Assumed seconds from one kernel launch to the next, from Python."""


@dataclass(frozen=True)
class Ceilings:
    """What a machine attains at best at each thing that operations are made of."""

    name: str
    """Which machine."""
    precision: str
    """Type of the products."""
    product_rates: tuple[tuple[float, float], ...]
    """(smallest dim of a product, FLOP/s), dims rising; between them the rate is interpolated over log(dim), beyond them it is constant."""
    bandwidths: tuple[tuple[float, float], ...]
    """(bytes that one operation moves, bytes/s), bytes rising: caches make small operations faster."""
    dispatch_s: float
    """Seconds that an operation takes however small it is."""
    loop_rates: tuple[tuple[Loop, float], ...] = ()
    """(loop, numbers/s) of passes that take longer than their bytes where their numbers are in cache; one that is not here never binds."""
    overlapped: bool = False
    """Whether the next operation is dispatched while one runs, as on a GPU."""
    workers: int = 1
    """Threads that share the rows of a batch, each of which attains all of this while the others work too."""
    tokens_a_worker: int = 1
    """Fewest tokens that are worth a worker."""
    peak_flops: float = 0.0
    """Dense peak that utilization is measured against: the datasheet's, or the best product that was measured."""
    usd_per_hour: float | None = None
    """Rental price, if known."""
    source: str = "measured"
    """Where the numbers are from."""
    masters: Ceilings | None = None
    """What it attains in fp32, in which the optimizer works; None: the same as in this precision."""

    def __post_init__(self) -> None:
        numbers = [x for pairs in (self.product_rates, self.bandwidths) for pair in pairs for x in pair]
        numbers += [self.peak_flops, *(rate for _, rate in self.loop_rates)]
        if not self.product_rates or not self.bandwidths or min(numbers) <= 0 or self.dispatch_s < 0 or self.workers < 1:
            raise UsageError(f"{self.name}: rates, bandwidths, the peak and the workers must be above 0, and dispatch_s at least 0")

    @classmethod
    def of_device(
        cls,
        device: Device,
        precision: str = "bf16",
        *,
        product_efficiency: float = PRODUCT_EFFICIENCY,
        bandwidth_efficiency: float = BANDWIDTH_EFFICIENCY,
        dispatch_s: float = LAUNCH_S,
    ) -> Ceilings:
        """Ceilings from a datasheet, times the share of each that is attained. UsageError for shares outside (0, 1] or no bandwidth."""
        for name, share in (("product_efficiency", product_efficiency), ("bandwidth_efficiency", bandwidth_efficiency)):
            if not 0 < share <= 1:
                raise UsageError(f"{name} {share}: give the share of the datasheet that is attained, above 0 and at most 1")
        if device.bandwidth_bytes_per_s is None:
            raise UsageError(f"{device.name}: its memory bandwidth is not known, and a step's time rests on it; name another device")
        peak = device.peak(precision)
        return cls(
            device.name,
            precision,
            ((1.0, product_efficiency * peak),),
            ((1.0, bandwidth_efficiency * device.bandwidth_bytes_per_s),),
            dispatch_s,
            overlapped=True,
            peak_flops=peak,
            usd_per_hour=device.usd_per_hour,
            source=f"{device.source}; x {product_efficiency:g} of the peak, x {bandwidth_efficiency:g} of the bandwidth (assumed)",
        )

    def product_rate(self, smallest_dim: float) -> float:
        """FLOP/s of a product whose smallest dim is this."""
        return _between(self.product_rates, smallest_dim)

    def bandwidth(self, n_bytes: float) -> float:
        """Bytes/s of an operation that moves so many."""
        return _between(self.bandwidths, n_bytes)

    def loop_rate(self, loop: Loop | None) -> float:
        """Numbers/s of a loop, infinite for one that was not measured."""
        return next((rate for name, rate in self.loop_rates if name == loop), math.inf)

    def workers_for(self, batch_size: int, seq_len: int) -> int:
        """How many workers share a micro-batch of so many sequences."""
        return max(1, min(self.workers, batch_size, batch_size * seq_len // self.tokens_a_worker))

    @property
    def together(self) -> Ceilings:
        """What all workers attain as one, where an operation is shared out among them."""
        n = self.workers
        rates, bandwidths = (tuple((x, n * rate) for x, rate in pairs) for pairs in (self.product_rates, self.bandwidths))
        return replace(self, product_rates=rates, bandwidths=bandwidths, workers=1)

    @property
    def best_product_rate(self) -> float:
        """FLOP/s of the best product."""
        return max(rate for _, rate in self.product_rates)


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear in log x between points, constant beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * math.log(x / x0) / math.log(x1 / x0)
    return points[-1][1]


class Parts(NamedTuple):
    """Seconds that operations would take if only one thing counted."""

    compute: float = 0.0
    """FLOPs / rate."""
    memory: float = 0.0
    """Bytes / bandwidth."""
    loops: float = 0.0
    """Numbers of loops, by their rates."""
    dispatch: float = 0.0
    """Operations x dispatch."""

    @property
    def largest(self) -> Bound:
        """What binds."""
        return max(self._fields, key=lambda name: getattr(self, name))  # type: ignore[return-value]


@dataclass(frozen=True)
class Timed:
    """The predicted seconds of one component, or of one role in all layers."""

    name: str
    """Which."""
    seconds: float
    """Of forward and backward."""
    parts: Parts
    """Sums over its operations of what each thing alone would take."""
    flops: float
    """Executed FLOPs, of all workers."""
    n_bytes: float
    """Bytes moved, by all workers."""

    @property
    def bound(self) -> Bound:
        """What takes most."""
        return self.parts.largest


def time_of(work: Work, ceilings: Ceilings, number_bytes: float) -> tuple[float, Parts]:
    """Seconds of one work of a micro-batch, and what each ceiling alone would take."""
    moved = work.bytes(number_bytes)
    if isinstance(work, Product):
        compute, loops = work.flops / ceilings.product_rate(work.smallest_dim), 0.0
    else:
        compute, loops = work.flops / ceilings.best_product_rate, work.looped / ceilings.loop_rate(work.loop)
    memory = moved / ceilings.bandwidth(moved / work.calls) if moved else 0.0
    parts = Parts(compute, memory, loops, work.calls * ceilings.dispatch_s)
    busy = max(parts[:3])
    return (max(busy, parts.dispatch) if ceilings.overlapped else busy + parts.dispatch), parts


def _timed(name: str, works: Iterable[Work], ceilings: Ceilings, number_bytes: float, times: int = 1) -> Timed:
    seconds, flops, moved, sums = 0.0, 0, 0.0, [0.0] * len(Parts._fields)
    for work in works:
        took, parts = time_of(work, ceilings, number_bytes)
        seconds += took
        flops += work.flops
        moved += work.bytes(number_bytes)
        sums = [a + b for a, b in zip(sums, parts, strict=True)]
    return Timed(name, times * seconds, Parts(*(times * s for s in sums)), times * flops, times * moved)


@dataclass(frozen=True)
class StepTime:
    """The predicted time of a training step on one device."""

    cost: Cost
    """The model, for one sequence, as it is executed."""
    sequences: int
    """Sequences of the whole step."""
    components: tuple[Timed, ...]
    """Every leaf of the tree, then clipping and the optimizer."""
    ceilings: Ceilings
    """What it was predicted from."""

    @cached_property
    def seconds(self) -> float:
        """All components one after another."""
        return sum(timed.seconds for timed in self.components)

    @property
    def tokens(self) -> int:
        """Tokens of the step."""
        return self.sequences * self.cost.seq_len

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization against the ceilings' peak."""
        return self.cost.mfu(self.tokens_per_s, self.ceilings.peak_flops)

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilization: masked pairs and what is recomputed count, an optimizer's products do not."""
        return self.cost.hfu(self.tokens_per_s, self.ceilings.peak_flops)

    def rows(self) -> list[Timed]:
        """One line a role (all layers' queries together, ...), in the order of the tree; they sum to the step."""
        groups: dict[str, list[Timed]] = {}
        for timed in self.components:
            role = ".".join(part for part in timed.name.split(".") if not part.isdigit())
            groups.setdefault(role, []).append(timed)
        return [_sum(role, found) for role, found in groups.items()]


def _sum(name: str, found: Sequence[Timed]) -> Timed:
    parts = Parts(*(sum(values) for values in zip(*(t.parts for t in found), strict=True)))
    return Timed(name, sum(t.seconds for t in found), parts, sum(t.flops for t in found), sum(t.n_bytes for t in found))


def step_time(
    config: ModelConfig,
    ceilings: Ceilings,
    workload: Training,
) -> StepTime:
    """Predicts the time of a training step on one device.

    Where the workload does not say how it is computed, it is as the decoder does it on what ``ceilings`` describe: ``GPU`` where dispatch
    overlaps, else ``CPU``. What the loader does is not in it, nor is communication.
    Raises UsageError for sizes or methods that make no sense.
    """
    workload.check_one_device("the time of a step")
    run = workload.run or (GPU if ceilings.overlapped else CPU)
    counted = cost(config, replace(workload, run=run))
    batch_size, seq_len, micro_batches = workload.batch_size, workload.seq_len, workload.micro_batches
    c, found, workers = run.number_bytes, [], ceilings.workers_for(batch_size, seq_len)
    alike: dict[tuple[Work, ...], Timed] = {}
    for _, part in counted.tree.walk():
        if not part.parts:
            works = tuple(_works(part, run))
            if works not in alike:  # layers are mostly alike
                timed = _timed("", [work.of_batch(-(-batch_size // workers)) for work in works], ceilings, c, micro_batches)
                flops = micro_batches * sum(work.of_batch(batch_size).flops for work in works)
                alike[works] = replace(timed, flops=flops, n_bytes=workers * timed.n_bytes)
            found.append(replace(alike[works], name=part.name))
    wide, wide_bytes = (ceilings, c) if ceilings.masters is None else (ceilings.masters, MASTER_BYTES)
    summed = Pass(masters=3 * counted.parameters, calls=len(counted.weights))  # of later micro-batches, and of the other workers
    found.append(_timed("gradient sum", [summed] * (micro_batches - 1 + workers - 1), wide, wide_bytes))
    tokens = batch_size * micro_batches * seq_len
    updates = update_work(
        counted.weights, matrices=workload.matrices, others=workload.others, run=run, hashed=config.hash_embedding, step_tokens=tokens
    )
    found += [_timed(name, works, wide.together, wide_bytes) for name, works in updates.items()]
    return StepTime(counted, batch_size * micro_batches, tuple(found), ceilings)


def _works(part: Component, run: Execution) -> list[Work]:
    """A leaf's own, and where activations are no masters the casts of its matrices and of their gradients."""
    works: list[Work] = [*part.own_work.forward, *part.own_work.backward]
    cast = sum(w.numbers for w in part.weights if w.kind not in ("table", "vector"))
    if run.number_bytes < 4 and cast:  # four bytes read and two written, and the other way round
        times = 2 + part.own_recomputed
        works.append(Pass(masters=3 * cast * times // 2, calls=times))
    return works
