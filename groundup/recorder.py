"""The books of a run: phases, metrics, evaluations, samples, checkpoints, and what was predicted against what was measured."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file

from groundup.account import CPU, GPU, cost, process_memory_bytes, training_memory
from groundup.account.hardware import peak_process_memory_bytes, reset_peak_process_memory
from groundup.account.workload import Training
from groundup.evaluate.bits import Score
from groundup.evaluate.writing import write_samples
from groundup.files import disk_errors, settle
from groundup.kernels.memory import release_freed_memory
from groundup.optim import Schedule
from groundup.parallel.data import World, barrier, broadcast_object
from groundup.runfolder import RunFolder
from groundup.train.agenda import Agenda, evenly, may_change, revised
from groundup.train.checkpoint import model_tensors, save_checkpoint
from groundup.train.step import StepMetrics, TrainState
from groundup.workbench import Workbench

EVALUATIONS = 8  # looks at the validation split during training, evenly spread in steps
LONG_BUDGET_S, VERY_LONG_BUDGET_S = 120.0, 600.0  # a short budget writes samples at the end only, and fewer
LOOK_TOKENS = (2_000, 20_000)  # fewest and most tokens of a look, between them what LOOKS_SHARE of the budget holds
LOOKS_SHARE = 0.03
TOLD_CHANGE = 0.1  # of the number of steps, from which on a change of it is worth a line
FEW_STEPS = 4  # since training began, too few to say how long one takes
EVALUATION_SHARE = (
    0.1  # of the budget that the final evaluation may take; where all of the test split needs more, evenly spread windows of it
)


def reset_peak_memory(device: torch.device) -> None:
    """Starts the peak anew, so that it is training's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_process_memory()


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was held since then: of a GPU what tensors took, of a processor what the process did."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_process_memory_bytes()


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


@dataclass
class _Pace:
    """What steps and looks took since training began, or went on, in this process."""

    began: float = 0.0
    first_step: int = 0
    looks: int = 0
    look_seconds: float = 0.0

    def looked(self, seconds: float) -> None:
        self.looks += 1
        self.look_seconds += seconds

    def seconds_of_look(self, planned: float) -> float:
        return self.look_seconds / self.looks if self.looks else planned

    def seconds_of_step(self, step: int, planned: float) -> float:
        """Mean over all steps, with all that came between them but looks; as planned where there were hardly any."""
        n = step - self.first_step
        return (time.monotonic() - self.began - self.look_seconds) / n if n >= FEW_STEPS else planned


class Recorder:
    """Keeps the books of a run: metrics, evaluations, samples, checkpoints, and what was predicted against what was measured."""

    def __init__(self, run: RunFolder, bench: Workbench, clock: Clock, listener: Listener, world: World, before: float):
        self.run, self.bench, self.clock, self.listener, self.world = run, bench, clock, listener, world
        self.before = before
        self.agenda = Agenda(bench.plan["n_steps"])
        self.training = _Pace()
        self.counted = cost(bench.model.config, Training(bench.plan["seq_len"], prior_shape=bench.prior_shape))
        self.bytes_per_token = bench.stores["train"].n_bytes / bench.stores["train"].n_tokens

    @property
    def spent(self) -> float:
        """Seconds of the budget spent so far, earlier attempts included."""
        return self.before + self.clock.spent

    def predict(self) -> dict[str, Any]:
        """What the plan says the run will cost, written to the manifest before the first step."""
        plan = self.bench.plan
        tokens = plan["n_steps"] * plan["batch_size"] * plan["seq_len"]
        release_freed_memory()  # what earlier phases freed is there for training to take
        on_cpu = self.bench.device.type == "cpu"
        given = {"process, text and counts": process_memory_bytes() - 4 * self.counted.parameters} if on_cpu else {}
        workload = Training(
            plan["seq_len"],
            plan["micro_batch_size"],
            -(-plan["batch_size"] // self.world.size // plan["micro_batch_size"]),
            run=dataclasses.replace(CPU if on_cpu else GPU, recompute=plan.get("recompute", "none")),
            matrices=plan["optimizer"]["matrices"],
            prior_shape=self.bench.prior_shape,
        )
        memory = training_memory(self.bench.model.config, workload, given=given)
        predicted = {
            "parameters": self.counted.parameters,
            "steps": plan["n_steps"],
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": plan["predicted_seconds"],
            "peak_memory_bytes": memory.peak_bytes,
        }
        if self.world.is_main and "predicted" not in self.run.manifest["plan"]:
            self.run.manifest["plan"]["predicted"] = predicted
            self.run.write_manifest()
        return self.run.manifest["plan"].get("predicted", predicted)

    def begin(self, state: TrainState) -> Agenda:
        """The agenda that stands at the state's step: the last one decided by then, at first that of the plan."""
        decided = [d for d in self.run.manifest.get("agendas", []) if d["step"] <= state.step]
        last = decided[-1] if decided else None
        self.agenda = Agenda(last["n_steps"], tuple(last["looks"])) if last else evenly(0, self.bench.plan["n_steps"], EVALUATIONS)
        self.training = _Pace(time.monotonic(), state.step)
        return self.agenda

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
        self.listener.step(record, self.agenda.n_steps)

    def skip(self, state: TrainState, metrics: StepMetrics) -> None:
        """Notes a dropped step."""
        text = f"step {state.step} dropped: loss {metrics.loss}, gradient norm {metrics.grad_norm}"
        if self.world.is_main:
            self.run.log("event", what="skipped", step=state.step, text=text)
            self.listener.event(text)

    def look(self, state: TrainState) -> Agenda:
        """A quick evaluation on the validation split, samples at some of the looks, and whether the number of steps is still right."""
        if self.world.is_main:
            began = time.monotonic()
            self._evaluation(state, "validation", self.bench.plan["look_tokens"])
            stages = EVALUATIONS // sample_stages(self.bench.plan["seconds"])
            if (EVALUATIONS - self.agenda.left(state.step)) % stages == 0 and state.step < self.agenda.n_steps:
                write_samples(self.run, self.bench, state.step, self.spent, n_parse=0)
            self.training.looked(time.monotonic() - began)
            self._decide(state)
        self.agenda = broadcast_object(self.agenda, self.world)
        return self.agenda

    def _decide(self, state: TrainState) -> None:
        """Makes the agenda for what is ahead: the one decided here before the run was killed, or one by the pace so far."""
        plan, decided = self.bench.plan, self.run.manifest.get("agendas", [])
        before = next((d for d in decided if d["step"] == state.step), None)
        if before is not None:
            self.agenda = Agenda(before["n_steps"], tuple(before["looks"]))
        elif not plan["steps_given"] and may_change(Schedule(**plan["schedule"]), state.step, self.agenda.n_steps):
            looks = self.agenda.left(state.step) * self.training.seconds_of_look(plan["look_seconds"])
            left = plan["seconds"] - self.spent - looks - plan["after_seconds"]
            pace = self.training.seconds_of_step(state.step, plan["step_seconds"])
            agenda = revised(Schedule(**plan["schedule"]), self.agenda, state.step, left, pace, plan.get("most_steps"))
            decision = {"step": state.step, "n_steps": agenda.n_steps, "looks": list(agenda.looks)}
            self.run.update(agendas=[*decided, decision])
            changed, self.agenda = agenda.n_steps / self.agenda.n_steps - 1, agenda
            if abs(changed) > TOLD_CHANGE:
                self.listener.event(f"{agenda.n_steps:,} steps in all now, {changed:+.0%}: what the time left holds at the pace so far")

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
            "of_bytes": self.bench.stores[split].n_bytes,
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
        peak = peak_memory_bytes(self.bench.device)
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
            "steps": state.step,
            "tokens": tokens,
            "flops": self.counted.flops_training(tokens),
            "seconds": self.spent,
            "peak_memory_bytes": peak,
            "bits_per_byte": score.bits_per_byte["model"],
            "bytes_scored": score.n_bytes,
        }
        self.run.finish("finished", measured=measured)
        shutil.rmtree(self.run.path / "state", ignore_errors=True)  # last: a kill before it must not leave a run without either
