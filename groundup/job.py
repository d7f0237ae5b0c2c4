"""The main job: text and a budget in, the best model that the budget can buy out.

Each phase is one function that takes what the phases before it made. What is decided is decided before training begins, so that nothing
in training depends on the clock: a run that is killed and resumed ends in the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from groundup.account import CPU, GPU, Budget, cost, parse_budget, process_memory_bytes, training_memory
from groundup.account.hardware import peak_process_memory_bytes, reset_peak_process_memory
from groundup.account.plan import Overrides, Plan, make_plan, restate
from groundup.config import ModelConfig, from_dict, to_dict
from groundup.data import BatchStream, Corpus, Document, Splits, TokenStore, assign_splits, open_corpus, write_shards
from groundup.data.corpus import content_hash
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.bits import Score, evaluate
from groundup.evaluate.writing import write_samples
from groundup.files import disk_errors, write_file
from groundup.kernels.attention import choose_backend
from groundup.kernels.memory import keep_freed_memory
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.model.prior import NgramPrior, Table
from groundup.optim import OptimizerConfig, Schedule, build_optimizer, describe
from groundup.parallel.data import World, barrier, broadcast_object, join_world, leave_world
from groundup.runfolder import RunFolder, code_version, environment
from groundup.tokenizer import Tokenizer
from groundup.train.calibrate import measure_machine, pick_device, time_steps
from groundup.train.checkpoint import load_checkpoint, lock_run, model_tensors, save_checkpoint
from groundup.train.feed import Feed
from groundup.train.loop import Callbacks, Interrupted, NotFinite, StopSignal, train
from groundup.train.step import StepConfig, StepMetrics, TrainState

EVALUATIONS = 8  # looks at the validation split during training, evenly spread in steps
SAMPLE_STAGES = 4  # of those, how many also write samples
LONG_BUDGET_S = 120.0  # a shorter budget writes samples at the end only, and fewer
VALIDATION_TOKENS = 20_000  # tokens of each look
EVALUATION_SHARE = (
    0.1  # of the budget that the final evaluation may take; where all of the test split needs more, evenly spread windows of it
)


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


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    data: tuple[str, ...] = ()
    """Sources; none means the standard library."""
    budget: str = "3m"
    """What may be spent."""
    out: Path = Path("runs/run")
    """The run's folder."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet."""
    seed: int = 0
    """Seed of every random stream."""
    save_every_s: float = 60.0
    """Seconds between checkpoints."""
    overrides: Overrides = field(default_factory=Overrides)
    """Values set by hand."""


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


def start(job: Job, listener: Listener) -> RunFolder:
    """Runs the whole job in a new run folder; a failure before training leaves nothing behind."""
    keep_freed_memory()
    world, device = join_world(), pick_device()
    budget = parse_budget(job.budget)
    if world.is_main and (job.out / "manifest.json").exists():
        raise UsageError(f"{job.out} already holds a run: choose another --out, or go on with it by --resume {job.out}")
    new = not job.out.exists()
    trained = False
    try:
        with contextlib.ExitStack() as stack:
            if world.is_main:
                stack.enter_context(lock_run(job.out))
            listener.phase("read")
            started = time.monotonic()
            corpus = open_corpus(job.data, text_field=job.text_field)
            splits = assign_splits(corpus)
            read_seconds = time.monotonic() - started
            if world.is_main:
                run = RunFolder.create(job.out, _first_manifest(job, corpus, splits, device))
            else:
                run = RunFolder(job.out, {})
                run.read_only = True
            run.log("phase", name="read", seconds=read_seconds)
            clock = Clock(run, listener)
            prior = prepare(run, job, budget, corpus, splits, device, world, clock)
            trained = True
            finish(run, device, world, clock, listener, prior=prior)
            return run
    except (GroundupError, KeyboardInterrupt):
        if world.is_main and new and not trained:
            shutil.rmtree(job.out, ignore_errors=True)
        raise
    finally:
        leave_world(world)


def resume(path: Path, listener: Listener) -> RunFolder:
    """Goes on with a run that was stopped or killed during training, to the same weights as if it had not been."""
    keep_freed_memory()
    world, device = join_world(), pick_device()
    try:
        run = RunFolder.open(path)
        run.read_only = not world.is_main
        if run.manifest["status"] == "finished":
            raise UsageError(f"{path} is finished: there is nothing to resume; start a new run with `groundup train`")
        if "plan" not in run.manifest:
            raise UsageError(f"{path} was stopped before training began: remove the folder and start again with `groundup train`")
        with lock_run(path) if world.is_main else contextlib.nullcontext():
            threads = run.manifest["environment"]["threads"]
            if threads != torch.get_num_threads():
                listener.event(f"resumed with {torch.get_num_threads()} threads, begun with {threads}: sums may differ in the last bit")
            run.log("event", what="resume", text="resumed")
            run.update(status="running")
            finish(run, device, world, Clock(run, listener), listener, resumed=True)
        return run
    finally:
        leave_world(world)


def _first_manifest(job: Job, corpus: Corpus, splits: Splits, device: torch.device) -> dict[str, Any]:
    return {
        "command": {"data": list(job.data), "budget": job.budget, "seed": job.seed, "overrides": to_dict(job.overrides)},
        "corpus": corpus.manifest() | {"splits": splits.manifest()},
        "environment": environment(str(device)),
        "code": code_version(),
        "seed": job.seed,
        "save_every_s": job.save_every_s,
    }


# ---- before training ----


def prepare(
    run: RunFolder, job: Job, budget: Budget, corpus: Corpus, splits: Splits, device: torch.device, world: World, clock: Clock
) -> NgramPrior | None:
    """Calibrates, plans, trains the tokenizer, encodes the text and counts; afterwards the folder holds all that training needs.

    Returns the counts, where there are any and this rank made them, so that they need not be read back.
    """
    prior = None
    dtype = compute_dtype(device)
    with clock.phase("calibrate"):
        machine = measure_machine(device, dtype) if world.is_main else None
        machine = broadcast_object(machine, world)
        plan = make_plan(budget, machine, splits.bytes["train"], overrides=job.overrides, world_size=world.size, seed=job.seed)
    if world.is_main:
        clock.listener.plan(plan.to_dict(), to_dict(machine))
        tokenizer = _tokenize(run, plan, corpus, splits, clock)
        stores = {split: TokenStore.open(run.path / "tokens" / split) for split in ("train", "validation", "test")}
        if plan.model.prior is not None:
            with clock.phase("counts"):
                prior = NgramPrior.build(stores["train"], tokenizer.vocab_size, plan.model.prior)
                prior.save(run.path / "prior.safetensors")
        with clock.phase("calibrate"):
            plan = _fix_steps(plan, tokenizer, {split: store.n_tokens for split, store in stores.items()}, device, dtype, clock, world)
        run.update(plan=plan.to_dict() | {"machine": to_dict(machine)}, seconds_before_training=clock.spent)
        write_file(run.path / "config.json", json.dumps(to_dict(plan.model), indent=1))
    barrier(world)
    return prior


def _tokenize(run: RunFolder, plan: Plan, corpus: Corpus, splits: Splits, clock: Clock) -> Tokenizer:
    with clock.phase("tokenizer"):
        texts = (document.text for document in _documents(corpus, splits, "train", plan))
        tokenizer = Tokenizer.train(texts, plan.model.vocab_size, max_bytes=plan.tokenizer_bytes)
        tokenizer.save(run.path / "tokenizer.json")
    with clock.phase("encode"):
        for wanted in ("train", "validation", "test"):
            write_shards(
                _encoded(tokenizer, _documents(corpus, splits, wanted, plan)),
                run.path / "tokens" / wanted,
                vocab_size=tokenizer.vocab_size,
                tokenizer_hash=tokenizer.hash,
            )
    return tokenizer


def _documents(corpus: Corpus, splits: Splits, wanted: str, plan: Plan) -> Iterator[Document]:
    """The documents of a split; of train, when the plan takes only a part, those whose hash falls below that part."""
    part = plan.text_bytes / splits.bytes["train"]
    for split, document in splits.apply(corpus.documents()):
        if split == wanted and (split != "train" or part >= 1 or int.from_bytes(content_hash(document.text)[:8], "big") < part * 2**64):
            yield document


def _encoded(tokenizer: Tokenizer, documents: Iterator) -> Iterator:
    """Documents with their ids, ``<|endoftext|>`` first, encoded many at a time."""
    end = np.array([tokenizer.end_of_text], np.uint32)
    group: list = []
    for document in chain(documents, [None]):
        if document is not None:
            group.append(document)
        if group and (document is None or sum(len(d.text) for d in group) > 16 << 20):
            for d, ids in zip(group, tokenizer.encode_ordinary_batch([d.text for d in group]), strict=True):
                yield d, np.concatenate((end, ids))
            group = []


def _fix_steps(
    plan: Plan, tokenizer: Tokenizer, held_out: dict[str, int], device: torch.device, dtype: torch.dtype, clock: Clock, world: World
) -> Plan:
    """The plan with the vocabulary that the text really gave, and as many steps as the time that is left really holds."""
    model = dataclasses.replace(plan.model, vocab_size=tokenizer.vocab_size)
    step_seconds = time_steps(
        model, device, dtype, batch_size=plan.batch_size // world.size, seq_len=plan.seq_len, micro_batch_size=plan.micro_batch_size, n=5
    )
    if plan.model.prior is not None:
        step_seconds *= 1.05  # the gate and its features, which the trial has not
    forward = step_seconds / 3 / (plan.batch_size * plan.seq_len)  # seconds a token; backward costs twice as much
    evaluation = forward * (EVALUATIONS * min(VALIDATION_TOKENS, held_out["validation"]) + 2 * held_out["test"])
    test_tokens = None
    if evaluation > EVALUATION_SHARE * plan.seconds:
        test_tokens = max(1000, int(EVALUATION_SHARE * plan.seconds / (2 * forward)))
        evaluation = min(evaluation, 2 * EVALUATION_SHARE * plan.seconds)
    left = plan.seconds - clock.spent - evaluation - 0.04 * plan.seconds - 0.5
    chosen_by_hand = any(c.name == "steps" and c.source == "you" for c in plan.choices)
    n_steps = plan.n_steps if chosen_by_hand else int(left / step_seconds)
    if n_steps < 1:
        raise UsageError(
            f"--budget {plan.budget}: {clock.spent:.0f} s went into tokenizer and counts, and none are left for a step; give more"
        )
    plan = dataclasses.replace(
        plan,
        model=model,
        n_steps=n_steps,
        step_seconds=step_seconds,
        train_seconds=n_steps * step_seconds,
        schedule=plan.schedule | {"warmup_steps": max(1, n_steps // 50)},
        test_tokens=test_tokens,
    )
    return dataclasses.replace(plan, choices=restate(plan, held_out["train"]))


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it fast, else fp32; parameters are fp32 in both."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


# ---- training and after ----


@dataclass
class Workbench:
    """What training and evaluation work with, all of it read from the run folder."""

    tokenizer: Tokenizer
    stores: dict[str, TokenStore]
    prior: NgramPrior | None
    model: Decoder
    plan: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)

    def evaluate(self, split: str, max_tokens: int | None = None) -> Score:
        """Bits per byte of a split under the model as it is."""
        store = self.stores[split]
        if self.prior is not None and split not in self.tables:
            self.tables[split] = self.prior.features(store)
        table = self.tables.get(split)
        return evaluate(
            self.model,
            store,
            seq_len=self.plan["seq_len"],
            table=table,
            counts_nats=table.counts_nats if table is not None else None,
            max_tokens=max_tokens,
            token_bytes=self.tokenizer.n_bytes(np.arange(self.tokenizer.vocab_size)),
        )


def open_workbench(run: RunFolder, device: torch.device, *, weights: bool = False, prior: NgramPrior | None = None) -> Workbench:
    """Reads tokenizer, tokens, counts (unless given) and model of a run; with ``weights``, the trained ones."""
    plan = run.manifest["plan"]
    config = from_dict(ModelConfig, plan["model"])
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    stores = {s: TokenStore.open(run.path / "tokens" / s) for s in ("train", "validation", "test") if (run.path / "tokens" / s).exists()}
    if config.prior is not None and prior is None:
        prior = NgramPrior.load(run.path / "prior.safetensors")
    shape = (prior.n_experts, prior.n_features) if prior is not None else None
    model = initialize(Decoder(config, prior_shape=shape), plan["seed"]).to(device)
    model.compute_dtype = compute_dtype(device)
    if weights:
        from safetensors.torch import load_file

        file = run.path / "model.safetensors"
        if not file.is_file():
            raise UsageError(f"{run.path} has no trained weights yet: go on with `groundup train --resume {run.path}`")
        model.load_state_dict(load_file(file))
    return Workbench(tokenizer, stores, prior, model, plan)


def finish(
    run: RunFolder,
    device: torch.device,
    world: World,
    clock: Clock,
    listener: Listener,
    *,
    resumed: bool = False,
    prior: NgramPrior | None = None,
) -> None:
    """Trains from wherever the run stands to its last step, evaluates, samples, and notes what was measured."""
    run.manifest = RunFolder.open(run.path).manifest
    bench = open_workbench(run, device, prior=prior)
    plan = bench.plan
    steps = StepConfig(plan["n_steps"], plan["micro_batch_size"], Schedule(**plan["schedule"]), plan["clip_norm"])
    optimizer = build_optimizer(bench.model.named_parameters(), from_dict(OptimizerConfig, plan["optimizer"]))
    state = TrainState(bench.model, optimizer)
    previous = load_checkpoint(run.path, state)
    before = (previous or {}).get("spent", run.manifest["seconds_before_training"]) if resumed else 0.0
    recorder = Recorder(run, bench, clock, listener, world, before)
    table = bench.prior.training_features(bench.stores["train"]) if bench.prior is not None else None
    predicted = recorder.predict(table)
    if world.is_main:
        listener.training(plan, predicted, describe(optimizer.groups), ["attention: {}: {}".format(*choose_backend(device))])
    stream = BatchStream(bench.stores["train"], plan["batch_size"], plan["seq_len"], plan["seed"], world.rank, world.size)
    looks = frozenset(round(steps.n_steps * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS))
    reset_peak_process_memory()
    with clock.phase("train"), StopSignal() as stop:
        try:
            train(
                state,
                Feed(stream, device, table),
                steps,
                Callbacks(recorder.step, recorder.look, recorder.save, recorder.skip),
                milestones=looks,
                save_every_s=run.manifest["save_every_s"],
                world=world,
                stop=stop,
            )
        except (Interrupted, NotFinite) as e:
            if world.is_main:
                run.log("event", what=type(e).__name__.lower(), step=state.step, text=str(e))
                run.finish("interrupted" if isinstance(e, Interrupted) else "failed")
            raise
    if world.is_main:
        recorder.conclude(state)


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

    def predict(self, table: Any) -> dict[str, Any]:
        """What the plan says the run will cost, written to the manifest before the first step."""
        plan = self.bench.plan
        tokens = plan["n_steps"] * plan["batch_size"] * plan["seq_len"]
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
            "seconds": plan["seconds"],
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
        self._evaluation(state, "validation", VALIDATION_TOKENS)
        number = round(state.step / self.bench.plan["n_steps"] * EVALUATIONS)
        long = self.bench.plan["seconds"] >= LONG_BUDGET_S
        if long and number % (EVALUATIONS // SAMPLE_STAGES) == 0 and state.step < self.bench.plan["n_steps"]:
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
                file.with_suffix(".partial").replace(file)
            score = self._evaluation(state, "test", self.bench.plan["test_tokens"])
        with self.clock.phase("samples"):
            write_samples(self.run, self.bench, state.step, self.spent, n_parse=8 if self.bench.plan["seconds"] >= LONG_BUDGET_S else 2)
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


def score_text(bench: Workbench, data: Sequence[str], text_field: str) -> tuple[str, Score]:
    """Bits per byte of any text under a trained run, every document and byte of it."""
    import tempfile

    if not data:
        raise UsageError("--data: name the text to score")
    corpus = open_corpus(data, text_field=text_field)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        write_shards(
            _encoded(bench.tokenizer, corpus.documents()), path, vocab_size=bench.tokenizer.vocab_size, tokenizer_hash=bench.tokenizer.hash
        )
        scored = dataclasses.replace(bench, tables={}, stores={"text": TokenStore.open(path)})
        return corpus.name, scored.evaluate("text")
