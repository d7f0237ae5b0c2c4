"""The books of a run: phases, metrics, evaluations, samples, checkpoints, and what was predicted against what was measured."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import save_file

from groundup.account import CPU, GPU, cost, process_memory_bytes, training_memory
from groundup.account.hardware import peak_process_memory_bytes
from groundup.evaluate.bits import Score
from groundup.evaluate.writing import write_samples
from groundup.files import disk_errors, settle
from groundup.kernels.memory import release_freed_memory
from groundup.parallel.data import World, barrier
from groundup.runfolder import RunFolder
from groundup.train.checkpoint import model_tensors, save_checkpoint
from groundup.train.step import StepMetrics, TrainState
from groundup.workbench import Workbench

EVALUATIONS = 8  # looks at the validation split during training, evenly spread in steps
LONG_BUDGET_S, VERY_LONG_BUDGET_S = 120.0, 600.0  # a short budget writes samples at the end only, and fewer
LOOK_TOKENS = (2_000, 20_000)  # fewest and most tokens of a look, between them what LOOKS_SHARE of the budget holds
LOOKS_SHARE = 0.03
EVALUATION_SHARE = (
    0.1  # of the budget that the final evaluation may take; where all of the test split needs more, evenly spread windows of it
)


def sample_stages(seconds: float) -> int:
    """How many of the looks also write samples, the last one among them."""
    return 1 if seconds < LONG_BUDGET_S else 2 if seconds < VERY_LONG_BUDGET_S else 4


def parse_samples(seconds: float) -> int:
    """How many longer samples at the end are parsed as Python."""
    return 2 if seconds < LONG_BUDGET_S else 4 if seconds < VERY_LONG_BUDGET_S else 8


class Listener:
    """What the job tells as it goes; the command line overrides what it wants to show."""

    def phase(self, name: str) -> None:
        """A phase begins."""

    def plan(self, plan: dict[str, Any], machine: dict[str, Any]) -> None:
        """The plan is made, before the budget is spent on anything but measuring."""

    def training(self, plan: dict[str, Any], predicted: dict[str, Any], groups: list[dict[str, str]], notes: list[str]) -> None:
        """Training begins, with so many steps, and this is what the whole run is predicted to cost."""

    def step(self, record: dict[str, Any], n_steps: int) -> None:
        """A training step is done."""

    def evaluation(self, record: dict[str, Any]) -> None:
        """A held-out evaluation is done."""

    def event(self, text: str) -> None:
        """Something worth a line happened."""


class Clock:
    """Time since the corpus was read, and the seconds of each phase, kept in the run's metrics."""

    def __init__(self, run: RunFolder, listener: Listener):
        self.run, self.listener, self.began = run, listener, time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the clock began."""
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures a phase."""
        self.listener.phase(name)
        started = time.monotonic()
        try:
            yield
        finally:
            self.run.log("phase", name=name, seconds=time.monotonic() - started)


class Recorder:
    """Keeps the books of a run: metrics, evaluations, samples, checkpoints, and what was predicted against what was measured."""

    def __init__(self, run: RunFolder, bench: Workbench, clock: Clock, listener: Listener, world: World, before: float):
        self.run, self.bench, self.clock, self.listener, self.world = run, bench, clock, listener, world
        self.before = before
        self.counted = cost(bench.model.config, seq_len=bench.plan["seq_len"], prior_shape=self._prior_shape())
        self.bytes_per_token = bench.stores["train"].n_bytes / bench.stores["train"].n_tokens

    def _prior_shape(self) -> tuple[int, int] | None:
        prior = self.bench.prior
        return None if prior is None else (prior.n_experts, prior.n_features)

    @property
    def spent(self) -> float:
        """Seconds of the budget spent so far, earlier attempts included."""
        return self.before + self.clock.spent

    def predict(self) -> dict[str, Any]:
        """What the plan says the run will cost, written to the manifest before the first step."""
        plan = self.bench.plan
        tokens = plan["n_steps"] * plan["batch_size"] * plan["seq_len"]
        release_freed_memory()  # what earlier phases freed is there for training to take
        given = {"process, text and counts": process_memory_bytes() - 4 * self.counted.parameters}
        memory = training_memory(
            self.bench.model.config,
            batch_size=plan["micro_batch_size"],
            seq_len=plan["seq_len"],
            run=CPU if self.bench.model.embedding.weight.device.type == "cpu" else GPU,
            matrices=plan["optimizer"]["matrices"],
            accumulating=plan["batch_size"] // self.world.size > plan["micro_batch_size"],
            prior_shape=self._prior_shape(),
            given=given,
        )
        predicted = {
            "parameters": self.counted.parameters,
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": plan["predicted_seconds"],
            "peak_memory_bytes": memory.peak_bytes,
        }
        if self.world.is_main and "predicted" not in self.run.manifest["plan"]:
            self.run.manifest["plan"]["predicted"] = predicted
            self.run.write_manifest()
        return self.run.manifest["plan"].get("predicted", predicted)

    def step(self, state: TrainState, metrics: StepMetrics, seconds: float) -> None:
        """Logs a step."""
        if not self.world.is_main:
            return
        tokens = state.step * metrics.tokens
        rate = metrics.tokens / seconds
        record = {
            "step": state.step,
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": self.spent,
            "loss": metrics.loss,
            "network_loss": metrics.network_loss,
            "bits_per_byte": metrics.loss / math.log(2) / self.bytes_per_token,
            "lr_scale": metrics.lr_scale,
            "grad_norm": metrics.grad_norm,
            "tokens_per_s": rate,
            "mfu": self.counted.mfu(rate, self.bench.plan["machine"]["matmul_flops"] * self.world.size),
        }
        self.run.log("train", **record)
        self.listener.step(record, self.bench.plan["n_steps"])

    def skip(self, state: TrainState, metrics: StepMetrics) -> None:
        """Notes a dropped step."""
        text = f"step {state.step} dropped: loss {metrics.loss}, gradient norm {metrics.grad_norm}"
        if self.world.is_main:
            self.run.log("event", what="skipped", step=state.step, text=text)
            self.listener.event(text)

    def look(self, state: TrainState) -> None:
        """A quick evaluation on the validation split, and samples at some of them."""
        if not self.world.is_main:
            return
        self._evaluation(state, "validation", self.bench.plan["look_tokens"])
        number = round(state.step / self.bench.plan["n_steps"] * EVALUATIONS)
        stages = EVALUATIONS // sample_stages(self.bench.plan["seconds"])
        if number % stages == 0 and state.step < self.bench.plan["n_steps"]:
            write_samples(self.run, self.bench, state.step, self.spent, n_parse=0)

    def _evaluation(self, state: TrainState, split: str, max_tokens: int | None) -> Score:
        score = self.bench.evaluate(split, max_tokens)
        tokens = state.step * self.bench.plan["batch_size"] * self.bench.plan["seq_len"]
        record = {
            "step": state.step,
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": self.spent,
            "split": split,
            "bits_per_byte": score.bits_per_byte,
            "bytes": score.n_bytes,
            "tokens_scored": score.n_tokens,
            "interval": score.interval,
        }
        self.run.log("evaluation", **record)
        self.listener.evaluation(record)
        return score

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint; the other ranks wait for it."""
        if self.world.is_main:
            save_checkpoint(self.run.path, state, {"spent": self.spent})
        barrier(self.world)

    def conclude(self, state: TrainState) -> None:
        """Final weights, final evaluation on the test split, samples, and the account of predicted against measured."""
        peak = peak_process_memory_bytes() if self.bench.model.embedding.weight.device.type == "cpu" else torch.cuda.max_memory_allocated()
        with self.clock.phase("evaluate"):
            file = self.run.path / "model.safetensors"
            with disk_errors(file):
                save_file(model_tensors(state), file.with_suffix(".partial"))
                settle(file.with_suffix(".partial"), file)
            score = self._evaluation(state, "test", self.bench.plan["test_tokens"])
        with self.clock.phase("samples"):
            write_samples(self.run, self.bench, state.step, self.spent, n_parse=parse_samples(self.bench.plan["seconds"]))
        tokens = state.step * self.bench.plan["batch_size"] * self.bench.plan["seq_len"]
        measured = {
            "parameters": sum(p.numel() for p in self.bench.model.parameters()),
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": self.spent,
            "peak_memory_bytes": peak,
            "bits_per_byte": score.bits_per_byte["model"],
        }
        shutil.rmtree(self.run.path / "state", ignore_errors=True)
        self.run.finish("finished", measured=measured)
