"""The grid of ``benchmarks.accounting`` on a GPU: peak memory against ``torch.cuda.max_memory_allocated``, and seconds of a step."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.accounting import DTYPES, LIVE, Case, Trainer, grid, predict
from benchmarks.gpu_jobs import Job, Outcome, Setting
from groundup.account import GPU, Ceilings, format_bytes, format_seconds, training_memory
from groundup.account.workload import Training
from groundup.train.ceilings import measure_ceilings


def accounting(setting: Setting) -> Iterator[Job]:
    """What the account predicts of each case, from ceilings measured first; in a trial run of the script, two cases."""
    found: dict[str, Ceilings] = {}
    yield Job("ceilings", lambda: _ceilings(setting, found))
    precision = next(name for name, dtype in DTYPES.items() if dtype == setting.dtype)
    cases = [replace(case, precision=precision) for case in grid() if case.precision == "fp32"]  # the others are the same on a GPU
    for case in cases[: 2 if setting.quick else None]:
        yield Job(case.name, partial(_compare, setting, case, found))


def _ceilings(setting: Setting, found: dict[str, Ceilings]) -> Outcome:
    ceilings = found["ceilings"] = measure_ceilings(setting.device, setting.dtype, rounds=1 if setting.quick else 5)
    text = f"{ceilings.best_product_rate / 1e12:.3g} TFLOP/s, {ceilings.bandwidth(1e12) / 1e9:.0f} GB/s, {ceilings.dispatch_s * 1e6:.1f} µs"
    rates = {"product_rates": ceilings.product_rates, "bandwidths": ceilings.bandwidths, "dispatch_s": ceilings.dispatch_s}
    return Outcome(text, data=rates)


def _compare(setting: Setting, case: Case, found: dict[str, Ceilings]) -> list[tuple[str, Outcome]]:
    """Ratios without a bound: beside small models the vendor's own workspaces count, and launches do."""
    gc.collect()
    trainer = Trainer(case, setting.device)
    for _ in range(3):
        trainer.step()
    seconds = []
    for _ in range(3 if setting.quick else 10):
        started = time.perf_counter()
        trainer.step()
        if setting.cuda:
            torch.cuda.synchronize(setting.device)
        seconds.append(time.perf_counter() - started)
    measured, step = trainer.peak_bytes(), statistics.median(seconds)
    run, sizes = case.run(GPU if setting.cuda else LIVE), {"batch_size": case.batch_size, "seq_len": case.seq_len}
    predicted = training_memory(case.config, Training(**sizes, run=run, matrices=case.matrices, others=case.others)).peak_bytes
    memory = {"measured": measured, "predicted": predicted, "ratio": predicted / measured}
    text = f"measured {format_bytes(measured)}, predicted {format_bytes(predicted)} ({memory['ratio'] - 1:+.1%})"
    outcomes = [("memory", Outcome(text, data=memory))]
    if ceilings := found.get("ceilings"):
        expected = predict(case, ceilings, run).seconds
        text = f"measured {format_seconds(step)}, predicted {format_seconds(expected)} ({expected / step - 1:+.1%})"
        outcomes.append(("time", Outcome(text, data={"measured": step, "predicted": expected, "ratio": expected / step})))
    return outcomes
