"""Data parallelism: every rank holds the whole model, takes its rows of the batch, and the gradients are summed."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from groundup.errors import UsageError

PREPARATION = datetime.timedelta(days=2)  # the first rank may tokenize for long while the others wait; who dies is torchrun's affair
BUCKET_NUMBERS = 4 << 20  # gradients summed in one message: large enough that latency is hidden, small enough to copy cheaply


@dataclass(frozen=True)
class World:
    """Who takes part in the run."""

    rank: int = 0
    """This process's place among ``size``."""
    size: int = 1
    """Processes in the run."""
    local_rank: int = 0
    """This process's place on its machine: the GPU it takes."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


ALONE = World()


def join_world() -> World:
    """The world that torchrun describes in the environment, its process group opened; a world of one without torchrun."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    missing = [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"RANK is set but {missing[0]} is not: start several processes with torchrun")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PREPARATION)
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))


def leave_world(world: World) -> None:
    """Closes what ``join_world`` opened."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def sum_over_ranks(value: Tensor, world: World) -> Tensor:
    """The sum of a small tensor over all ranks; the tensor itself in a world of one."""
    if world.size == 1:
        return value
    device = torch.device("cuda", world.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = value.to(device)
    dist.all_reduce(total)
    return total.to(value.device)


def broadcast_object(value: object, world: World) -> object:
    """Rank 0's picklable value, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier(world: World) -> None:
    """Returns once every rank is here."""
    if world.size > 1:
        dist.barrier()


def sum_gradients(parameters: Iterable[Tensor], world: World) -> None:
    """Replaces each gradient by its sum over all ranks; every rank gets the same bits.

    Dense gradients travel in flat buckets, row-sparse ones as their rows and values, summed in rank order.
    """
    if world.size == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = _sum_sparse(parameter.grad.coalesce(), world)
            continue
        bucket.append(parameter.grad)
        if sum(g.numel() for g in bucket) >= BUCKET_NUMBERS:
            _sum_bucket(bucket)
            bucket = []
    _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for g, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        g.copy_(part.view_as(g))


def _sum_sparse(gradient: Tensor, world: World) -> Tensor:
    rows, values = gradient.indices()[0], gradient.values()
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world.size)]
    dist.all_gather(counts, torch.tensor([rows.numel()], device=rows.device))
    most = int(max(counts))
    padded_rows = torch.zeros(most, dtype=rows.dtype, device=rows.device)
    padded_values = torch.zeros(most, values.shape[1], dtype=values.dtype, device=values.device)
    padded_rows[: rows.numel()], padded_values[: rows.numel()] = rows, values
    all_rows = [torch.empty_like(padded_rows) for _ in counts]
    all_values = [torch.empty_like(padded_values) for _ in counts]
    dist.all_gather(all_rows, padded_rows)
    dist.all_gather(all_values, padded_values)
    kept_rows = torch.cat([r[: int(n)] for r, n in zip(all_rows, counts, strict=True)])
    kept_values = torch.cat([v[: int(n)] for v, n in zip(all_values, counts, strict=True)])
    return torch.sparse_coo_tensor(kept_rows[None], kept_values, gradient.shape, check_invariants=False).coalesce()
