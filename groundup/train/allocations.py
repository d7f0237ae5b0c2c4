"""The most bytes of tensors that live at once while something runs: what ``account.training_memory`` predicts."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from groundup.errors import GroundupError


def peak_allocated(call: Callable[[], object], device: torch.device) -> int:
    """Runs ``call`` once; the most bytes, beyond those that lived before, that PyTorch's allocator had given out at any moment of it.

    On a GPU the allocator counts; on a CPU every allocation and release is recorded, those inside operations and in the backward pass
    too, with their sizes as asked for; but of this thread only, so let one thread train. Arrays that are not PyTorch's are not seen,
    nor is what the C library keeps for itself.
    Raises GroundupError if nothing was recorded.
    """
    gc.collect()  # what died before must not be released meanwhile
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    if not events:
        raise GroundupError("this build of PyTorch records no allocations: its profiler lacks memory events; install a standard build")
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
