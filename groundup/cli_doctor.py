"""``groundup doctor``: what this machine attains, and which of groundup's kernels will run on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from groundup.errors import UsageError

if TYPE_CHECKING:
    from groundup.account.measured import Measured
    from groundup.kernels.choices import Choice

LOOPS = {
    "exponentials": "an exponential",
    "softmax": "a score through a softmax",
    "rotation": "a number of a head turned by PyTorch's operations",
    "norm": "a number of a head normalized by them",
    "heads": "a number of a head normalized and turned in one loop",
}
QUIET = 0.8  # of the processor's time; with less, rates are what others left over


@dataclass(frozen=True)
class Doctor:
    """Measures this machine in seconds, stores the result for `cost --device here`, and says which kernels will run and why."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to measure; auto takes the GPU if there is one."""
    threads: int | None = None
    """Threads of the processor (default: as many as training uses)."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Measures, stores and prints."""
        import torch

        from groundup.account import usable_cores
        from groundup.account.measured import save_measured
        from groundup.kernels.choices import kernel_choices
        from groundup.parallel.data import join_world, leave_world
        from groundup.train.ceilings import examine

        if self.threads is not None:
            cores = usable_cores()
            if not 1 <= self.threads <= cores:
                raise UsageError(f"--threads {self.threads}: give at least 1 and at most {cores}, the cores that this process may run on")
            torch.set_num_threads(self.threads)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: PyTorch finds no GPU here; leave it out to measure the processor")
        world = join_world()
        try:
            on_gpu = self.device != "cpu" and torch.cuda.is_available()
            device = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
            measured = examine(device, world)
            if world.is_main:
                path = save_measured(measured)
                choices = kernel_choices(device)
                show(measured, choices)
                if measured.own_share < QUIET:
                    print(f"\nothers took {1 - measured.own_share:.0%} of the processor while this measured: run it again when it is quiet")
                print(f"\nwrote {path}; `groundup cost MODEL --device here` rests on it")
                if self.json:
                    print(json.dumps(asdict(measured) | {"kernels": {choice.part: choice.kernel for choice in choices}}))
        finally:
            leave_world(world)


def show(measured: Measured, choices: list[Choice]) -> None:
    """Tables: rates of products, of memory, the rest, and the kernels."""
    from groundup.account import format_bytes, format_flops, format_seconds
    from groundup.terminal import show_pairs, show_rows

    first = measured.ceilings[0]
    dims = sorted({dim for c in measured.ceilings for dim, _ in c.product_rates})
    print(first.name)
    show_rows(
        [
            {"smallest dim": f"{dim:,.0f}"} | {c.precision: format_flops(c.product_rate(dim)) + "/s" for c in measured.ceilings}
            for dim in dims
        ],
        title="\nMatrix products",
    )
    show_rows(
        [{"moved at once": format_bytes(size), "rate": format_bytes(rate) + "/s"} for size, rate in first.bandwidths],
        title="\nReading and writing",
    )
    rest = [("a small operation, with its gradient's bookkeeping", format_seconds(first.dispatch_s))]
    rest += [(LOOPS[loop], f"{1e9 / rate:.2f} ns") for loop, rate in first.loop_rates]
    if measured.all_reduce_bytes_per_s:
        rest.append((f"sum over {measured.ranks} ranks", format_bytes(measured.all_reduce_bytes_per_s) + "/s"))
    rest += [("peak that utilization is of", format_flops(first.peak_flops) + "/s"), ("memory", format_bytes(measured.memory_bytes))]
    show_pairs(rest, title="\nThe rest")
    show_rows([{"part": c.part, "kernel": c.kernel, "why": c.why} for c in choices], title="\nKernels that will run")
