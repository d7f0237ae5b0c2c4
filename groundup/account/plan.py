"""The planner: a budget, a machine and an amount of text in; every size and rate of the run out, each with its reason.

What may be spent on training is worked out first; ``account.rules`` say what it buys.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from groundup.account.budget import Budget, format_count, format_flops, format_seconds
from groundup.account.cost import cost
from groundup.account.execution import Recompute
from groundup.account.law import SMALL_SCALE, LossLaw
from groundup.account.rules import (
    LEAST_STEPS,
    MAX_EPOCHS,
    Choice,
    Machine,
    Overrides,
    Sayer,
    best_shape,
    bytes_per_token,
    choose_micro_batch,
    choose_recompute,
    choose_seq_len,
    choose_tokens_per_step,
    choose_vocab_size,
    most_steps,
    optimizer_fields,
    schedule_fields,
    score_shapes,
)
from groundup.account.workload import Training
from groundup.config import ModelConfig, to_dict
from groundup.errors import UsageError

TOKENIZER_BYTES_PER_S = 2.5e6  # training the tokenizer and encoding, on two cores (docs/lab.md)
COUNTS_BYTES_PER_S = 1.4e6  # counting n-grams, leaving documents out and fitting the gate, two cores
HELD_OUT_SHARE = 0.05  # of the training text that is used: as much, and at least a megabyte, of each held-out split
MEASURING_S = 2.0  # of a quiet machine that has run before
LEAST_LEFT = 0.5  # of what text and training would have had otherwise, if measuring took long: to run late beats not to run
TEXT_SHARE = 0.5  # of the budget that tokenizer and counts may take; beyond it, documents are left out
FLOPS_TEXT_SECONDS = 120.0  # a budget in FLOPs that is spent sooner counts as so long where text is concerned


@dataclass(frozen=True)
class Plan:
    """A whole run, decided."""

    budget: Budget
    """What may be spent."""
    seconds: float
    """The budget on this machine."""
    model: ModelConfig
    """The model."""
    seq_len: int
    """T."""
    batch_size: int
    """Sequences a step, over all ranks."""
    micro_batch_size: int
    """Sequences at a time on one rank."""
    recompute: Recompute
    """What backward computes again."""
    n_steps: int
    """Training steps."""
    steps_from: Literal["clock", "flops", "you"]
    """What the number of steps follows: the time left, a budget in FLOPs, or the user."""
    train_seconds: float
    """Seconds that training may take."""
    predicted_seconds: float
    """Seconds of the whole run, predicted."""
    step_seconds: float
    """Predicted seconds of a step."""
    optimizer: dict[str, Any]
    """Fields of OptimizerConfig."""
    schedule: dict[str, Any]
    """Fields of Schedule."""
    clip_norm: float
    """Most that the gradient norm may be."""
    text_bytes: int
    """Bytes of training text used: documents or pieces of them, chosen by hash, of about so many bytes."""
    held_out_bytes: int
    """Most bytes of text used of each held-out split, chosen alike."""
    tokenizer_bytes: int
    """Bytes of text that the tokenizer is trained on."""
    seed: int
    """Seed of every random stream."""
    look_tokens: int
    """Tokens of the validation split scored at each look during training."""
    test_tokens: int | None
    """Tokens of the test split scored at the end; None is all of them."""
    choices: tuple[Choice, ...]
    """The plan as it is printed."""
    look_seconds: float = 0.0
    """Predicted seconds of a look, its samples included."""
    max_epochs: float = MAX_EPOCHS
    """Most times that the text is trained on."""
    most_steps: int | None = None
    """Steps that come to: there are never more, unless they are set by hand."""
    compiled: bool = False
    """Whether training goes through torch.compile: measured where there is a GPU and time enough."""
    after_seconds: float = 0.0
    """Predicted seconds of what comes after the last step."""

    @property
    def steps_given(self) -> bool:
        """Whether the steps stand whatever the clock says."""
        return self.steps_from != "clock"

    @property
    def tokens(self) -> int:
        """Tokens seen in training."""
        return self.n_steps * self.batch_size * self.seq_len

    @property
    def flops(self) -> int:
        """Model FLOPs of training."""
        return cost(self.model, Training(self.seq_len)).flops_training(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("budget", "model", "choices")}
        body |= {"steps_given": self.steps_given, "budget": str(self.budget)}
        return body | {"model": to_dict(self.model), "rows": [to_dict(c) for c in self.choices]}


def make_plan(
    budget: Budget,
    machine: Machine,
    n_bytes: int,
    *,
    overrides: Overrides | None = None,
    world_size: int = 1,
    seed: int = 0,
    law: LossLaw = SMALL_SCALE,
    spent_s: float = 0.0,
) -> Plan:
    """Decides the whole run. ``n_bytes`` is the training text; ``spent_s`` of the budget are gone, by measuring the machine.

    Raises UsageError when the budget is too small for a single step, or when overrides contradict each other.
    """
    say = Sayer(overrides or Overrides())
    funds = _funds(budget, machine, n_bytes, world_size, say, spent_s)
    flops = funds.train_seconds * world_size / machine.seconds_per_flop
    vocab = say(
        "vocab_size", choose_vocab_size(flops, funds.text_bytes), "2048 (C / 1e13)^0.15, at least 1,000 bytes of text a token", "assumed"
    )
    seq_len = say("seq_len", choose_seq_len(flops), "256 (C / 1e13)^0.2, at least 256: shorter lost", "docs/lab.md")
    max_epochs = say("max_epochs", MAX_EPOCHS, "more and the network learns the text by heart, and other texts worse", "docs/lab.md")
    unique = funds.text_bytes / bytes_per_token(vocab)
    tokens_per_step = min(choose_tokens_per_step(flops), max(seq_len, int(max_epochs * unique / LEAST_STEPS)))
    seconds = funds.train_seconds * world_size
    scored = score_shapes(say.overrides, machine, vocab, seq_len, tokens_per_step, seconds, unique, funds.prior, law, max_epochs)
    model = best_shape(say, scored, seq_len, max_epochs * unique, law)
    batch, micro = _batch(machine, model, seq_len, tokens_per_step, world_size, say)
    recompute, again = choose_recompute(say, machine, model, seq_len, micro, accumulating=batch // world_size > micro)
    step_seconds = (1 + again) * machine.seconds_of_step(model, seq_len, batch * seq_len / world_size)
    most = most_steps(max_epochs, unique, batch * seq_len)
    n_steps = _steps(budget, funds, model, seq_len, batch, step_seconds, most, say)
    plan = Plan(
        budget=budget,
        seconds=funds.seconds,
        model=model,
        seq_len=seq_len,
        batch_size=batch,
        micro_batch_size=micro,
        recompute=recompute,
        n_steps=n_steps,
        steps_from="you" if say.overrides.steps is not None else "flops" if budget.unit == "flops" else "clock",
        train_seconds=funds.train_seconds,
        predicted_seconds=funds.seconds - funds.train_seconds + n_steps * step_seconds,
        step_seconds=step_seconds,
        optimizer=optimizer_fields(model.d_model, say),
        schedule=schedule_fields(n_steps, say),
        clip_norm=1.0,
        text_bytes=funds.text_bytes,
        held_out_bytes=max(1_000_000, int(HELD_OUT_SHARE * funds.text_bytes)),
        tokenizer_bytes=funds.tokenizer_bytes,
        seed=seed,
        look_tokens=20_000,
        test_tokens=None,
        max_epochs=max_epochs,
        most_steps=None if say.overrides.steps is not None else most,
        choices=(),
    )
    return dataclasses.replace(plan, choices=(*say.choices, *_totals(plan, unique)))


def final_steps(plan: Plan, by_clock: int, prior_shape: tuple[int, int] | None) -> int:
    """The steps of the run: those set by hand, what a budget in FLOPs holds (the gate's own included, now that there are counts), or
    what the clock allows; the last two only as long as the text is good for."""
    if plan.steps_from == "you":
        return plan.n_steps
    n_steps = by_clock
    if plan.steps_from == "flops":
        each = cost(plan.model, Training(plan.seq_len, prior_shape=prior_shape)).flops_training(plan.batch_size * plan.seq_len)
        n_steps = max(1, int(plan.budget.amount / each))
    return n_steps if plan.most_steps is None else min(n_steps, plan.most_steps)


def restate(plan: Plan, unique_tokens: float) -> tuple[Choice, ...]:
    """The plan's lines with the vocabulary, steps and totals that it has now."""
    totals = {choice.name: choice for choice in _totals(plan, unique_tokens)}
    planned = next(choice for choice in plan.choices if choice.name == "vocab_size")
    if planned.value != (learned := f"{plan.model.vocab_size:,}"):
        why = f"{planned.value} were planned, and the text has no pair left to merge"
        totals["vocab_size"] = Choice("vocab_size", learned, why, "exact")
    if plan.n_steps == plan.most_steps:
        totals["steps"] = Choice("steps", f"{plan.n_steps:,}", _used_up(plan.max_epochs), "exact")
    elif not plan.steps_given:
        why = f"what the time left holds at {plan.step_seconds * 1e3:.0f} ms a step; follows the clock until the learning rate falls"
        totals["steps"] = Choice("steps", f"{plan.n_steps:,}", why, "measured")
    return tuple(totals.get(choice.name, choice) for choice in plan.choices)


def _totals(plan: Plan, unique_tokens: float) -> list[Choice]:
    parameters = cost(plan.model, Training(plan.seq_len)).parameters
    return [
        Choice("parameters", format_count(parameters), "counted, without the counts' gate", "exact"),
        Choice("tokens", f"{format_count(plan.tokens)} ({plan.tokens / unique_tokens:.2f} epochs)", "steps x batch x length", "exact"),
        Choice("training FLOPs", format_flops(plan.flops), "6 a parameter in matrix products, plus attention's pairs", "exact"),
    ]


@dataclass(frozen=True)
class _Funds:
    """What the budget leaves for training, and what is done before; a budget in FLOPs is for training alone."""

    seconds: float
    prior: bool
    text_bytes: int
    tokenizer_bytes: int
    train_seconds: float


def _funds(budget: Budget, machine: Machine, n_bytes: int, world_size: int, say: Sayer, spent_s: float) -> _Funds:
    price = say.overrides.usd_per_hour or machine.usd_per_hour
    if budget.unit == "usd" and price:
        source = "you" if say.overrides.usd_per_hour else "assumed"
        say.add("price", f"${price:.2f} an hour", "of each process", source)
    seconds = budget.seconds_on(attainable_flops=world_size / machine.seconds_per_flop, usd_per_hour=price and price * world_size)
    # a budget in FLOPs does not count what comes before training, so that this may take a while longer
    beyond = max(0.0, spent_s - MEASURING_S)  # as on a first run, which compiles, or beside other work
    left = max(seconds - beyond, LEAST_LEFT * seconds)
    for_text = TEXT_SHARE * (max(seconds, FLOPS_TEXT_SECONDS) if budget.unit == "flops" else left)
    prior = _choose_prior(min(n_bytes, int(for_text / _seconds_per_byte(machine, True))), machine, say)
    text_bytes = min(n_bytes, int(for_text / _seconds_per_byte(machine, prior)))
    does = "be tokenized and counted" if prior else "be tokenized"
    why = "all of it" if text_bytes == n_bytes else f"what can {does} in {format_seconds(for_text)}, {TEXT_SHARE:.0%} of the budget"
    say.add("text", f"{text_bytes / 1e6:.1f} of {n_bytes / 1e6:.1f} MB", why, "measured")
    tokenizer_bytes = int(min(text_bytes, max(1_000_000, 0.05 * seconds * machine.tokenizer_bytes_per_s)))
    spare = _reserve(seconds, text_bytes, tokenizer_bytes, machine, prior)
    spare += min(beyond, max(0.0, LEAST_LEFT * (seconds - spare)))
    if budget.unit == "flops":
        return _Funds(seconds + spare, prior, text_bytes, tokenizer_bytes, seconds)
    if spare >= seconds:
        raise UsageError(
            f"--budget {budget}: tokenizer, evaluation and the rest need about {format_seconds(spare)} on this machine; give more than "
            f"{format_seconds(1.5 * spare)}, or less text"
        )
    return _Funds(seconds, prior, text_bytes, tokenizer_bytes, seconds - spare)


def _used_up(max_epochs: float) -> str:
    return f"{max_epochs:g} times the text, which is used up then; what is left of the budget is not spent"


def _steps(budget: Budget, funds: _Funds, model: ModelConfig, seq_len: int, batch: int, step_seconds: float, most: int, say: Sayer) -> int:
    """As many steps as the seconds left for training hold, or the FLOPs of the budget, but at most so many."""
    if budget.unit == "flops":
        n_steps = int(budget.amount / cost(model, Training(seq_len)).flops_training(batch * seq_len))
        why, source = f"{budget} over the model FLOPs of a step", "exact"
    else:
        n_steps = int(funds.train_seconds / step_seconds)
        why, source = f"{format_seconds(funds.train_seconds)} left for training at {step_seconds * 1e3:.0f} ms a step", "measured"
    if n_steps < 1 and say.overrides.steps is None:
        raise UsageError(
            f"--budget {budget}: too little for one step, which takes {format_seconds(step_seconds)} where "
            f"{format_seconds(funds.train_seconds)} are left for training: give more"
        )
    if n_steps > most:
        n_steps, why, source = most, _used_up(say.overrides.max_epochs or MAX_EPOCHS), "exact"
    return say("steps", n_steps, why, source)


def _batch(machine: Machine, model: ModelConfig, seq_len: int, tokens_per_step: int, world_size: int, say: Sayer) -> tuple[int, int]:
    """Sequences a step, and sequences at a time on a rank."""
    batch = say(
        "batch_size",
        max(1, round(tokens_per_step / seq_len / world_size)) * world_size,
        f"2048 (C / 1.5e13)^0.33 tokens a step, but some {LEAST_STEPS} steps before the text is used up",
        "docs/lab.md; the exponent assumed",
    )
    if batch % world_size:
        raise UsageError(f"--batch-size {batch} must be a multiple of the {world_size} processes")
    micro = say(
        "micro_batch_size",
        max(1, min(batch // world_size, choose_micro_batch(machine, model, seq_len))),
        "activations of a micro-batch fit the cache (processor) or the memory (GPU)",
        "assumed",
    )
    return batch, micro


def _choose_prior(text_bytes: int, machine: Machine, say: Sayer) -> bool:
    o = say.overrides
    if o.arch != "groundup":
        if o.prior == "on":
            raise UsageError(f"--prior on and --arch {o.arch} contradict each other: counts cannot be exported; leave one of them out")
        say.add("prior", "off", f"--arch {o.arch} is for export, and counts cannot be exported", "you")
        return False
    fits = 80 * text_bytes < machine.memory_bytes  # tables, and the experts' word on every token, at three bytes a token
    if o.prior != "auto":
        say.add("prior", o.prior, "set by hand", "you")
        return o.prior == "on"
    why = "beside a network of three minutes they gained 0.29 bits a byte" if fits else "the tables of so much text do not fit the memory"
    say.add("prior", "on" if fits else "off", why, "docs/lab.md")
    return fits


def _seconds_per_byte(machine: Machine, prior: bool) -> float:
    """On a machine that is slow, or busy, with one as with the other."""
    quick = 1 / TOKENIZER_BYTES_PER_S + (1 / COUNTS_BYTES_PER_S if prior else 0.0)
    return quick * TOKENIZER_BYTES_PER_S / machine.tokenizer_bytes_per_s


def _reserve(seconds: float, text_bytes: int, tokenizer_bytes: int, machine: Machine, prior: bool) -> float:
    """Seconds that are not training: measuring, tokenizer, encoding, counts, evaluations, samples, report."""
    of_text = tokenizer_bytes / machine.tokenizer_bytes_per_s + text_bytes * _seconds_per_byte(machine, prior)
    return of_text + MEASURING_S + 0.08 * seconds
