"""The main job: text and a budget in, the best model that the budget can buy out.

Each phase is one function that takes what the phases before it made. What is decided is decided before training begins, but for the
number of steps (see ``train.agenda``), and written down: a run that is killed and resumed ends in the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from groundup import ahead
from groundup.account import Budget, parse_budget
from groundup.account.plan import Plan, final_steps, make_plan, restate
from groundup.account.rules import Overrides, most_steps
from groundup.config import from_dict, to_dict
from groundup.data import SPLITS, BatchStream, Corpus, Document, ShardsWriter, Split, Splits, TokenStore, assign_splits, open_corpus, take
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.writing import tokens_written
from groundup.files import write_file
from groundup.kernels.attention import choose_backend
from groundup.kernels.memory import keep_freed_memory
from groundup.model.prior import NgramPrior
from groundup.optim import OptimizerConfig, Schedule, build_optimizer, describe
from groundup.parallel.data import World, barrier, broadcast_object, join_world, leave_world
from groundup.recorder import (
    EVALUATION_SHARE,
    EVALUATIONS,
    LOOK_TOKENS,
    LOOKS_SHARE,
    Clock,
    Listener,
    Recorder,
    parse_samples,
    reset_peak_memory,
    sample_stages,
)
from groundup.rehearsal import rehearse
from groundup.runfolder import RunFolder, code_version, environment, lock_run, new_folder
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer import COMPILED
from groundup.train.calibrate import measure_machine, pick_device
from groundup.train.checkpoint import load_checkpoint
from groundup.train.feed import Feed
from groundup.train.loop import Callbacks, Interrupted, StopSignal, sigterm_interrupts, train
from groundup.train.step import StepConfig, TrainState
from groundup.workbench import Workbench, compiled_loss, compute_dtype, encoded, open_workbench

MEASURING_SHARE = 0.1  # of a budget of time, for the trial steps that the plan rests on; fewer of them where they are slow
COMPILING_S = 4.0  # that a first run still loses after measuring, with a core less and the text encoded plainly (docs/lab.md)
LEAST_TRAINING = 0.05  # of the budget, whatever the phases before it took
COUNTING = "groundup.kernels.ngram"  # compiled ahead on a first run, and waited for; see ``groundup.ahead``
OTHER_SHARE = 0.01  # of the budget: what is written after the last step


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

    def check(self) -> None:
        """UsageError for what cannot be, before anything is read."""
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"--seed {self.seed}: give a whole number from 0 on, below 2^63")
        if not self.save_every_s >= 0:
            raise UsageError(f"--save-every {self.save_every_s}: give seconds from 0 on")
        self.overrides.check()


def start(job: Job, listener: Listener) -> RunFolder:
    """Runs the whole job in a new run folder; a failure before training leaves nothing behind."""
    job.check()
    budget = parse_budget(job.budget)
    keep_freed_memory()
    world, device = join_world(), pick_device()
    try:
        with sigterm_interrupts(), new_folder(job.out) if world.is_main else contextlib.nullcontext():
            if world.is_main and ahead.begin((COUNTING,), (COMPILED,)):
                listener.event("first run on this machine: its loops are compiled beside it, once")
            listener.phase("read")
            started = time.monotonic()
            corpus = open_corpus(job.data, text_field=job.text_field)
            splits = assign_splits(corpus)
            read_seconds = time.monotonic() - started
            if world.is_main:
                run = RunFolder.create(job.out, _first_manifest(job, corpus, splits, device, world))
            else:
                run = RunFolder(job.out, {})
                run.read_only = True
            run.log("phase", name="read", seconds=read_seconds)
            clock = Clock(run, listener)
            bench = prepare(run, job, budget, corpus, splits, device, world, clock)
            finish(run, device, world, clock, listener, bench=bench)
            ahead.release()
            return run
    finally:
        leave_world(world)


def resume(path: Path, listener: Listener) -> RunFolder:
    """Goes on with a run that was stopped or killed during training, to the same weights as if it had not been."""
    keep_freed_memory()
    world, device = join_world(), pick_device()
    try:
        RunFolder.open(path)  # a folder that is no run must not get a lock
        with sigterm_interrupts(), lock_run(path) if world.is_main else contextlib.nullcontext():
            run = RunFolder.open(path)  # only now: the process that held it may have ended it
            run.read_only = not world.is_main
            if run.manifest["status"] == "finished":
                raise UsageError(f"{path} is finished: there is nothing to resume; start a new run with `groundup train`")
            if not run.resumable:
                raise UsageError(f"{path} was stopped before training began: start again with `groundup train --out {path}`")
            for text in _changes(run, device, world):
                listener.event(text)
            run.log("event", what="resume", text="resumed")
            run.update(status="running")
            finish(run, device, world, Clock(run, listener), listener, resumed=True)
        return run
    finally:
        leave_world(world)


def _changes(run: RunFolder, device: torch.device, world: World) -> list[str]:
    """What is not as it was when the run began, and so may change the last bits; UsageError for another kind of device."""
    begun, now = run.manifest["environment"], environment(str(device))
    if torch.device(begun["device"]).type != device.type:
        raise UsageError(f"{run.path} was begun on {begun['device']}, and this is {device}: go on with it there")
    pairs = {"threads": (begun["threads"], now["threads"]), "PyTorch": (begun["torch"], now["torch"])}
    pairs["processes"] = run.manifest["command"]["processes"], world.size
    pairs["the code"] = run.manifest["code"], code_version()
    return [
        f"{what} changed since the run began" + ("" if what == "the code" else f" ({before} then, {after} now)") + ": sums may differ"
        for what, (before, after) in pairs.items()
        if before != after
    ]


def _first_manifest(job: Job, corpus: Corpus, splits: Splits, device: torch.device, world: World) -> dict[str, Any]:
    asked = {"data": list(job.data), "text_field": job.text_field, "budget": job.budget, "seed": job.seed}
    return {
        "command": asked | {"save_every": job.save_every_s, "processes": world.size, "overrides": to_dict(job.overrides)},
        "corpus": corpus.manifest() | {"splits": splits.manifest()},
        "environment": environment(str(device)),
        "code": code_version(),
        "seed": job.seed,
        "save_every_s": job.save_every_s,
    }


# ---- before training ----


def prepare(
    run: RunFolder, job: Job, budget: Budget, corpus: Corpus, splits: Splits, device: torch.device, world: World, clock: Clock
) -> Workbench | None:
    """Calibrates, plans, trains the tokenizer, encodes the text and counts; afterwards the folder holds all that training needs.

    Returns the bench on the main rank, so that it need not be set up again.
    """
    bench = None
    dtype = compute_dtype(device)
    with clock.phase("calibrate"):
        most_s = MEASURING_SHARE * budget.amount if budget.unit == "seconds" else math.inf
        machine = measure_machine(device, dtype, most_s=most_s) if world.is_main else None
        machine, spent = broadcast_object((machine, clock.spent + COMPILING_S * ahead.pending(COMPILED)), world)
        settings = {"overrides": job.overrides, "world_size": world.size, "seed": job.seed, "spent_s": spent}
        plan = make_plan(budget, machine, splits.bytes["train"], **settings)
    if world.is_main:
        clock.listener.plan(plan.to_dict(), to_dict(machine))
        tokenizer = _tokenize(run, plan, corpus, splits, clock)
        plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, vocab_size=tokenizer.vocab_size))
        prior = None
        if plan.model.prior is not None:
            with clock.phase("counts"):
                ahead.wait_for(COUNTING)
                prior = NgramPrior.build(TokenStore.open(run.path / "tokens" / "train"), tokenizer.vocab_size, plan.model.prior)
                prior.save(run.path / "prior.safetensors")
        run.update(plan=plan.to_dict() | {"machine": to_dict(machine)})
        bench = open_workbench(run, device, prior=prior)
        with clock.phase("counts"):
            for split in bench.stores:
                bench.table(split)
        with clock.phase("rehearse"):
            plan = _fix_steps(plan, bench, device, clock, world)
        write_file(run.path / "config.json", json.dumps(to_dict(plan.model), indent=1))
        # last: from here on the run can be resumed
        run.update(plan=plan.to_dict() | {"machine": to_dict(machine)}, seconds_before_training=clock.spent)
    barrier(world)
    return bench


def _tokenize(run: RunFolder, plan: Plan, corpus: Corpus, splits: Splits, clock: Clock) -> Tokenizer:
    with clock.phase("tokenizer"):
        texts = (document.text for split, document in _documents(corpus, splits, plan) if split == "train")
        tokenizer = Tokenizer.train(texts, plan.model.vocab_size, max_bytes=plan.tokenizer_bytes)
        tokenizer.save(run.path / "tokenizer.json")
    with clock.phase("encode"), contextlib.ExitStack() as stack:
        what = {"vocab_size": tokenizer.vocab_size, "tokenizer_hash": tokenizer.hash}
        writers = {split: stack.enter_context(ShardsWriter(run.path / "tokens" / split, **what)) for split in SPLITS}
        split_of: deque[Split] = deque()  # of the documents on their way through the encoder, in its order

        def documents() -> Iterator[Document]:
            for split, document in _documents(corpus, splits, plan):
                split_of.append(split)
                yield document

        for document, ids in encoded(tokenizer, documents()):
            writers[split_of.popleft()].add(document, ids)
    return tokenizer


def _documents(corpus: Corpus, splits: Splits, plan: Plan) -> Iterator[tuple[Split, Document]]:
    """The documents with their splits; where the plan takes only a part of the text, that part of them."""
    share = {split: plan.held_out_bytes / n for split, n in splits.bytes.items()} | {"train": plan.text_bytes / splits.bytes["train"]}
    for split, document in splits.apply(corpus.documents()):
        for piece in take(document, share[split]):
            yield split, piece


def _fix_steps(plan: Plan, bench: Workbench, device: torch.device, clock: Clock, world: World) -> Plan:
    """The plan with as many steps as the time that is left really holds, by a rehearsal."""
    state, settings = first_state(bench.plan, bench)
    stream = BatchStream(bench.stores["train"], plan.batch_size, plan.seq_len, plan.seed, 0, world.size)
    cost = rehearse(bench, state, Feed(stream, device, bench.table("train")), settings)
    held_out = {split: store.n_tokens for split, store in bench.stores.items()}
    final, test_tokens = held_out["test"] * cost.scored_token, None
    if final > EVALUATION_SHARE * plan.seconds:
        final = EVALUATION_SHARE * plan.seconds
        test_tokens = max(1000, int(final / cost.scored_token))
    affordable = int(LOOKS_SHARE * plan.seconds / EVALUATIONS / cost.scored_token)
    look_tokens = min(held_out["validation"], max(LOOK_TOKENS[0], affordable), LOOK_TOKENS[1])
    looks = EVALUATIONS * look_tokens * cost.scored_token
    looks += (sample_stages(plan.seconds) - 1) * tokens_written(bench, 0) * cost.written_token
    after = final + tokens_written(bench, parse_samples(plan.seconds)) * cost.written_token + OTHER_SHARE * plan.seconds
    left = plan.seconds - clock.spent - looks - after
    # given steps may need more or less than the budget: what is predicted is what they need
    # where the phases before took longer than planned, a little training beats throwing their work away
    by_clock = max(1, int(max(left, LEAST_TRAINING * plan.seconds) / cost.step))
    if plan.most_steps is not None:
        most = most_steps(plan.max_epochs, held_out["train"], plan.batch_size * plan.seq_len)
        plan = dataclasses.replace(plan, most_steps=most)
    n_steps = final_steps(plan, by_clock, bench.prior_shape)
    plan = dataclasses.replace(
        plan,
        n_steps=n_steps,
        step_seconds=cost.step,
        compiled=cost.compiled,
        train_seconds=n_steps * cost.step,
        predicted_seconds=plan.seconds - left + n_steps * cost.step,
        schedule=plan.schedule | {"warmup_steps": max(1, n_steps // 50)},
        look_tokens=look_tokens,
        test_tokens=test_tokens,
        look_seconds=looks / EVALUATIONS,
        after_seconds=after,
    )
    return dataclasses.replace(plan, choices=restate(plan, held_out["train"]))


def first_state(plan: dict[str, Any], bench: Workbench) -> tuple[TrainState, StepConfig]:
    """What training begins with."""
    optimizer = build_optimizer(bench.model.named_parameters(), from_dict(OptimizerConfig, plan["optimizer"]))
    settings = StepConfig(plan["n_steps"], plan["micro_batch_size"], Schedule(**plan["schedule"]), plan["clip_norm"])
    return TrainState(bench.model, optimizer), settings


# ---- training and after ----


def finish(
    run: RunFolder,
    device: torch.device,
    world: World,
    clock: Clock,
    listener: Listener,
    *,
    resumed: bool = False,
    bench: Workbench | None = None,
) -> None:
    """Trains from wherever the run stands to its last step, evaluates, samples, and notes what was measured, or how it ended."""
    run.manifest = RunFolder.open(run.path).manifest
    try:
        _finish(run, device, world, clock, listener, resumed=resumed, bench=bench)
    except BaseException as e:
        stopped = isinstance(e, Interrupted | KeyboardInterrupt)
        text = str(e) or type(e).__name__
        with contextlib.suppress(GroundupError):  # what the disk refuses is not what ended the run
            run.log("event", what="interrupted" if stopped else "failed", text=text)
            run.finish("interrupted" if stopped else "failed")
        if stopped:
            raise Interrupted(f"{text}; to go on: groundup train --resume {run.path}") from None
        raise


def _finish(
    run: RunFolder, device: torch.device, world: World, clock: Clock, listener: Listener, *, resumed: bool, bench: Workbench | None
) -> None:
    if bench is None:
        bench = open_workbench(run, device)
    else:
        bench = dataclasses.replace(bench.restart(), plan=run.manifest["plan"])
    plan = bench.plan
    state, steps = first_state(plan, bench)
    previous = load_checkpoint(run.path, state)
    before = (previous or {}).get("spent", run.manifest["seconds_before_training"]) if resumed else 0.0
    recorder = Recorder(run, bench, clock, listener, world, before)
    predicted = recorder.predict()
    if world.is_main:
        notes = ["attention: {}: {}".format(*choose_backend(device))]
        notes += [f"backward computes again: {plan['recompute']}"] if plan.get("recompute", "none") != "none" else []
        notes += ["loss: through torch.compile"] if plan.get("compiled") else []
        listener.training(plan, predicted, describe(state.optimizer.groups), notes)
    stream = BatchStream(bench.stores["train"], plan["batch_size"], plan["seq_len"], plan["seed"], world.rank, world.size)
    reset_peak_memory(device)
    with clock.phase("train"), StopSignal() as stop:
        train(
            state,
            Feed(stream, device, bench.table("train")),
            steps,
            Callbacks(recorder.step, recorder.look, recorder.save, recorder.skip),
            agenda=recorder.begin(state),
            save_every_s=run.manifest["save_every_s"],
            world=world,
            stop=stop,
            loss_fn=compiled_loss(bench.model) if plan.get("compiled") else None,
        )
        recorder.save(state)  # so that a kill in what follows repeats no training
    if world.is_main:
        recorder.conclude(state)
