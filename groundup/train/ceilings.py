"""What this machine attains: matrix products by size, memory by size, a small operation, loops, and sums over ranks.

Each is timed through the code that trains: products as the layers call them, small operations with their gradients. Medians, not bests:
a prediction is of what usually happens.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

from groundup.account import detect, total_memory_bytes
from groundup.account.hardware import CPU_USD_PER_CORE_HOUR
from groundup.account.measured import Measured
from groundup.account.roofline import Ceilings
from groundup.account.work import Loop
from groundup.kernels import elementwise
from groundup.model.functional import linear, rotate
from groundup.parallel.data import ALONE, World
from groundup.parallel.threads import LEAST_TOKENS, MOST_WORKERS, run_together
from groundup.train.calibrate import device_name

DIMS = {"cpu": (4, 16, 64, 256, 1024), "cuda": (16, 64, 256, 1024, 4096, 8192)}
"""Smallest dims of the products that are timed."""
OTHER_DIMS = {"cpu": 512, "cuda": 4096}
"""Their other two dims are at least so large."""
COPIES = {"cpu": tuple(1 << n for n in range(15, 29, 2)), "cuda": tuple(1 << n for n in range(16, 31, 2))}
"""Bytes that a timed pass over memory moves."""
RING_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}
"""Bytes of the tensors that timed passes go through in turns."""
HEADS = (4, 256, 4, 32)
"""[B, T, H, E] of the heads that loops are timed on."""
CHAIN = 64
"""Small operations between two looks at the clock."""
CALL_S = 2e-3
"""A timed call is repeated until it takes about so long."""


class Meter:
    """Times many small things in turns, so that a machine that is busy for a while is so for all of them."""

    def __init__(self, device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> None:
        """``clock`` returns seconds: wall-clock time, or with one thread ``time.process_time``, which leaves out what others took."""
        self.clock = clock
        self.device, self.dtype = device, dtype
        kind = device.type
        self._calls: dict[tuple[str, int], tuple[Callable[[], object], float]] = {}
        for dim in DIMS[kind]:
            other = max(dim, OTHER_DIMS[kind])
            for m, k, n in {(dim, other, other), (other, dim, other), (other, other, dim)}:
                self._add(f"product {m} {k} {n}", dim, *self._product(m, k, n))
        for moved in COPIES[kind]:
            self._add("pass", moved, *self._pass(moved))
        self._add("dispatch", 0, *self._small())
        self._add("one call", 0, *self._one_call())
        self._loops: tuple[Loop, ...] = ()
        self._masters: Meter | None = None
        if kind == "cpu":  # the loops that training on a processor goes through; in two bytes some of them are PyTorch's operations
            loops = {"exponentials": self._exponentials, "softmax": self._softmax, "rotation": self._rotation}
            loops |= {"heads": self._heads} if dtype == torch.float32 else {"norm": self._norm}
            for name, made in loops.items():
                self._add(name, 0, *made())
            self._loops = tuple(loops)
            self._masters = None if dtype == torch.float32 else Meter(device, torch.float32, clock)
        self._seconds: dict[tuple[str, int], list[float]] = {key: [] for key in self._calls}

    def _add(self, name: str, size: int, call: Callable[[], object], amount: float) -> None:
        self._calls[name, size] = (call, amount)

    def _new(self, *shape: int) -> Tensor:
        return torch.full(shape, 0.25, device=self.device, dtype=self.dtype)

    def _product(self, m: int, k: int, n: int) -> tuple[Callable[[], object], float]:
        """As a layer calls it: activations that are not in the core's cache, a weight, a result that is new."""
        size = m * k * self._number_bytes
        left = cycle([self._new(m, k) for _ in range(max(2, min(64, RING_BYTES[self.device.type] // (8 * size))))])
        right = self._new(n, k)
        return (lambda: next(left) @ right.T), 2.0 * m * k * n

    def _pass(self, moved: int) -> tuple[Callable[[], object], float]:
        """Two tensors read and one written, in turns through a ring: a step finds little of what it needs in the core's cache."""
        n = moved // (3 * self._number_bytes)
        ring = cycle([self._new(n) for _ in range(max(4, RING_BYTES[self.device.type] // (n * self._number_bytes)))])
        return (lambda: torch.add(next(ring), next(ring), out=next(ring))), float(3 * n * self._number_bytes)

    def _exponentials(self) -> tuple[Callable[[], object], float]:
        """As the loss takes them, over rows of logits in place; after the first call all are 1, whose exponential takes as long as any."""
        from groundup.kernels.fused import exp_rows

        rows = torch.full((512, 512), 0.25)  # logits are fp32 whatever the activations are
        return (lambda: exp_rows(rows)), float(rows.numel())

    def _softmax(self) -> tuple[Callable[[], object], float]:
        """Of a block of scores."""
        scores = self._new(32, 128, 256)
        return (lambda: torch.softmax(scores, dim=-1)), float(scores.numel())

    def _both_ways(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Callable[[], object], float]:
        """A function and its gradient; numbers of its argument, twice."""
        x, gradient = self._new(*shape).requires_grad_(), self._new(*shape)
        return (lambda: torch.autograd.grad(function(x), x, gradient)), 2.0 * x.numel()

    def _norm(self) -> tuple[Callable[[], object], float]:
        """RMSNorm of heads, by PyTorch's operations."""
        return self._both_ways(elementwise.rms_norm, HEADS)

    def _rotation(self) -> tuple[Callable[[], object], float]:
        """Rotation of heads by PyTorch's operations."""
        angles = torch.full((HEADS[1], HEADS[3] // 2), 0.25, device=self.device)
        return self._both_ways(lambda x: rotate(x, angles, angles), HEADS)

    def _heads(self) -> tuple[Callable[[], object], float]:
        """Norm and rotation of heads, forward and backward, by the processor's loop; numbers of the product that it reads, twice."""
        from groundup.kernels import native

        b, t, heads, e = HEADS
        x, dx = self._new(b, t, 3 * heads * e), self._new(b, t, 3 * heads * e)
        q, k, v, inverse = (self._new(*shape) for shape in (*[(b, heads, t, e)] * 3, (b, t, 2 * heads)))
        given = (x.numpy(), self._new(t, e // 2).numpy(), self._new(t, e // 2).numpy(), torch.zeros(b, t, dtype=torch.int32).numpy())
        eps, scale = native.number(1e-6), native.number(0.2)
        out = tuple(a.numpy() for a in (q, k, v, inverse))

        def both() -> None:
            native.heads_rows(0, b * t, *given, eps, scale, False, *out)
            native.heads_backward_rows(0, b * t, *given, scale, False, *out, dx.numpy())

        return both, 2.0 * x.numel()

    def _small(self) -> tuple[Callable[[], object], float]:
        """A chain of layers of a few numbers, forward and backward: three products each, with their views and bookkeeping."""
        x, w = self._new(1, 8, 8).requires_grad_(), self._new(8, 8).requires_grad_()

        def chain() -> None:
            y = x
            for _ in range(CHAIN):
                y = linear(y, w)
            torch.autograd.grad(y.sum(), (x, w))

        return chain, 3.0 * CHAIN

    def _one_call(self) -> tuple[Callable[[], object], float]:
        """What is left of a pass without its bytes."""
        a = self._new(8)
        return (lambda: torch.add(a, a)), 1.0

    @property
    def _number_bytes(self) -> int:
        return self.dtype.itemsize

    def measure(self, rounds: int = 1) -> None:
        """Times everything once more, ``rounds`` times."""
        for _ in range(rounds):
            for key, (call, _) in self._calls.items():
                self._seconds[key].append(self._time(call))
            if self._masters is not None:
                self._masters.measure()

    def forget(self) -> None:
        """Begins anew: the next ceilings are of what is measured from now on."""
        for seconds in self._seconds.values():
            seconds.clear()
        if self._masters is not None:
            self._masters.forget()

    def _time(self, call: Callable[[], object]) -> float:
        self._wait()
        started = self.clock()
        call()
        self._wait()
        times = max(1, int(CALL_S / max(1e-9, self.clock() - started)))
        started = self.clock()
        for _ in range(times):
            call()
        self._wait()
        return (self.clock() - started) / times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _rates(self, name: str) -> dict[int, list[float]]:
        """By size: the median rate of each thing timed."""
        found: dict[int, list[float]] = {}
        for (called, size), (_, amount) in self._calls.items():
            if called.startswith(name):
                found.setdefault(size, []).append(amount / statistics.median(self._seconds[called, size]))
        return found

    def join(self, other: Meter) -> None:
        """Takes over what another meter measured beside this one."""
        for key, seconds in other._seconds.items():
            self._seconds[key] += seconds
        if self._masters is not None and other._masters is not None:
            self._masters.join(other._masters)

    def ceilings(self, workers: int = 1) -> Ceilings:
        """The medians of what was measured so far, by each of so many workers at once."""
        products, cpu = self._rates("product"), self.device.type == "cpu"
        passes = [(moved, rate) for moved, (rate,) in sorted(self._rates("pass").items())]
        call = 1 / self._rates("one call")[0][0] if cpu else 0.0  # is in dispatch already; a GPU hides it
        known = None if cpu else detect(device_name(self.device))
        precision = "fp32" if self.dtype == torch.float32 else "bf16"
        best = workers * max(rate for rates in products.values() for rate in rates)
        price = known.usd_per_hour if known else None
        return Ceilings(
            device_name(self.device),
            precision,
            tuple((float(dim), statistics.fmean(rates)) for dim, rates in sorted(products.items())),
            tuple((float(moved), moved / max(0.2 * moved / rate, moved / rate - call)) for moved, rate in passes),
            1 / self._rates("dispatch")[0][0],
            tuple((loop, self._rates(loop)[0][0]) for loop in self._loops),
            overlapped=not cpu,
            workers=workers,
            tokens_a_worker=LEAST_TOKENS,
            peak_flops=known.peak(precision) if known else best,
            usd_per_hour=CPU_USD_PER_CORE_HOUR * torch.get_num_threads() if cpu else price,
            masters=None if self._masters is None else self._masters.ceilings(workers),
        )


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, *, rounds: int = 5, workers: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Ceilings:
    """Times everything ``rounds`` times, in turns, on as many workers at once as would share the rows of a batch."""
    meters = [Meter(device, dtype, clock) for _ in range(workers)]
    for _ in range(rounds):
        run_together([meter.measure for meter in meters])
    for meter in meters[1:]:
        meters[0].join(meter)
    return meters[0].ceilings(workers)


def examine(device: torch.device, world: World = ALONE, *, rounds: int = 5) -> Measured:
    """All that ``groundup doctor`` stores of one device: its ceilings in the precision that it trains in and in the other, and the sum
    over ranks if there are several."""
    on_gpu = device.type == "cuda"
    dtypes = (torch.bfloat16, torch.float32) if on_gpu else (torch.float32, torch.bfloat16)
    workers = 1 if on_gpu else min(torch.get_num_threads(), MOST_WORKERS)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    ceilings = tuple(measure_ceilings(device, dtype, rounds=rounds if i == 0 else 2, workers=workers) for i, dtype in enumerate(dtypes))
    share = (time.process_time() - cpu_s) / (workers * (time.perf_counter() - wall_s))
    return Measured(
        device.type,
        1 if on_gpu else torch.get_num_threads(),
        torch.cuda.get_device_properties(device).total_memory if on_gpu else total_memory_bytes(),
        datetime.date.today().isoformat(),
        torch.__version__,
        ceilings,
        measure_all_reduce(device, world),
        world.size,
        1.0 if on_gpu else min(1.0, share),
    )


def measure_all_reduce(device: torch.device, world: World) -> float | None:
    """Bytes a second of a sum of 64 MiB over all ranks, each byte of a rank's tensor counted once; None in a world of one."""
    if world.size == 1:
        return None
    import torch.distributed as dist

    summed, seconds = torch.ones(1 << 24, device=device), []
    for _ in range(5):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(summed)
        float(summed[0])  # waits for the device
        seconds.append(time.perf_counter() - started)
        summed.fill_(1.0)
    return summed.numel() * 4 / statistics.median(seconds)
