"""The planner: a budget, a machine and an amount of text in; every size and rate of the run out, each with its reason.

Candidates of every width and depth are costed exactly (``account.cost``), timed by a measured rate, and scored by a stated loss law; the
best is taken. What the law cannot say (batch, learning rates, vocabulary) follows from rules, each with its source or marked assumed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from groundup.account.budget import Budget, format_count, format_flops, format_seconds
from groundup.account.cost import cost
from groundup.account.law import LossLaw
from groundup.account.shapes import Architecture, architecture
from groundup.config import ModelConfig, to_dict
from groundup.errors import UsageError

SMALL_SCALE = LossLaw("own small-scale fit, docs/lab.md", 0.66, 103.0, 0.50, 84.0, 0.37)
"""Bits a byte of source code or prose for budgets of seconds to hours on a processor."""
COUNTS_BYTES_PER_S = 0.9e6  # counting n-grams, leaving documents out and fitting the gate, two cores
TEXT_SHARE = 0.5  # of the budget that tokenizer and counts may take; beyond it, documents are left out
BYTES_PER_TOKEN_512, BYTES_PER_DOUBLING = 2.1, 0.49  # BPE on code and on novels, vocabularies of 512 to 4,096


@dataclass(frozen=True)
class Machine:
    """What was measured of this machine before planning."""

    name: str
    """Processor or GPU, for people."""
    device: str
    """cpu or cuda."""
    seconds_per_flop: float
    """Time of a training step that grows with its model FLOPs ..."""
    seconds_per_activation: float
    """... and with the numbers that flow between its matrix products, tokens x layers x width: together they fit the trial steps."""
    matmul_flops: float
    """Highest rate of a matrix product of the sizes used, FLOP/s: what utilization is measured against."""
    tokenizer_bytes_per_s: float
    """Rate of training and applying the tokenizer."""
    memory_bytes: int
    """Memory of the device."""
    usd_per_hour: float | None = None
    """Rental price, or none."""
    seconds_per_step: float = 0.0
    """What a step costs however few its tokens: operations that are started, and the optimizer."""

    def seconds_of_step(self, config: ModelConfig, seq_len: int, tokens: float) -> float:
        """Predicted seconds of a training step on so many tokens."""
        flops = cost(config, seq_len=seq_len).flops_per_token_training
        per_token = flops * self.seconds_per_flop + len(config.layers) * config.d_model * self.seconds_per_activation
        return self.seconds_per_step + tokens * per_token


@dataclass(frozen=True)
class Overrides:
    """Every value that the plan derives, to be set by hand instead."""

    arch: Architecture = "groundup"
    """Architecture: groundup learns most in small budgets; qwen3 and llama can be exported."""
    prior: Literal["auto", "on", "off"] = "auto"
    """N-gram counts mixed in; auto: the plan decides."""
    vocab_size: int | None = None
    """Tokens in the vocabulary."""
    d_model: int | None = None
    """Width of the residual stream."""
    n_layers: int | None = None
    """Layers."""
    head_dim: int | None = None
    """Width of an attention head."""
    n_kv_heads: int | None = None
    """Key and value heads."""
    hash_rows: int | None = None
    """Rows of the hashed n-gram embedding (0: none)."""
    seq_len: int | None = None
    """Training length, in tokens."""
    batch_size: int | None = None
    """Sequences a step."""
    micro_batch_size: int | None = None
    """Sequences that go through the model at a time."""
    steps: int | None = None
    """Training steps (otherwise as many as the budget holds)."""
    matrix_lr: float | None = None
    """Peak learning rate of the layers' matrices."""
    table_lr: float | None = None
    """Peak learning rate of the token embedding, before scaling with the width."""
    hash_lr: float | None = None
    """Peak learning rate of the hashed n-gram embedding."""
    value_lr: float | None = None
    """Peak learning rate of the value embeddings, before scaling with the width."""
    head_lr: float | None = None
    """Peak learning rate of the head, before scaling with the width."""
    matrices: Literal["muon", "soap", "adamw", "sgd"] | None = None
    """Optimizer of the layers' matrices."""
    schedule: Literal["constant", "cosine", "wsd"] | None = None
    """Learning-rate schedule."""
    weight_decay: float | None = None
    """Decoupled decay of the layers' matrices."""


@dataclass(frozen=True)
class Choice:
    """One line of the printed plan."""

    name: str
    """What was chosen."""
    value: str
    """The value, for people."""
    why: str
    """The formula or measurement it follows from."""
    source: str
    """Who found that: a paper, our own experiment, or the user."""


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
    n_steps: int
    """Training steps."""
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
    """Bytes of training text used: whole documents, chosen by hash, of about so many bytes."""
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

    @property
    def tokens(self) -> int:
        """Tokens seen in training."""
        return self.n_steps * self.batch_size * self.seq_len

    @property
    def flops(self) -> int:
        """Model FLOPs of training."""
        return cost(self.model, seq_len=self.seq_len).flops_training(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("budget", "model", "choices")}
        return body | {"budget": str(self.budget), "model": to_dict(self.model), "rows": [to_dict(c) for c in self.choices]}


def bytes_per_token(vocab_size: int) -> float:
    """Predicted bytes a token of byte-level BPE: 2.1 at 512 and 0.49 more for each doubling, read off code and novels."""
    return max(1.0, BYTES_PER_TOKEN_512 + BYTES_PER_DOUBLING * math.log2(vocab_size / 512))


def choose_vocab_size(train_seconds_flops: float, n_bytes: int) -> int:
    """A power of two near 2048 * (FLOPs / 1e13)^0.15, between 512 and 65,536, with at least 1,000 bytes of text for each token.

    A larger vocabulary reads more text per FLOP but splits the evidence (Tao et al. 2024 find an exponent below one against parameters;
    ours is an assumption, not fitted yet).
    """
    by_compute = 2048 * (train_seconds_flops / 1e13) ** 0.15
    by_text = max(512.0, n_bytes / 1000)
    return int(2 ** round(math.log2(min(max(512.0, min(by_compute, by_text)), 65_536))))


def make_plan(
    budget: Budget,
    machine: Machine,
    n_bytes: int,
    *,
    overrides: Overrides | None = None,
    world_size: int = 1,
    seed: int = 0,
    law: LossLaw = SMALL_SCALE,
) -> Plan:
    """Decides the whole run. ``n_bytes`` is the training text.

    Raises UsageError when the budget is too small for a single step, or when overrides contradict each other.
    """
    o = overrides or Overrides()
    attainable = 1 / machine.seconds_per_flop
    seconds = budget.seconds_on(attainable_flops=attainable, usd_per_hour=machine.usd_per_hour)
    say = _Sayer(o)
    prior = _choose_prior(o, seconds, n_bytes, machine, say)
    text_bytes = _text_bytes(seconds, n_bytes, machine, prior, say)
    tokenizer_bytes = int(min(text_bytes, max(1_000_000, 0.05 * seconds * machine.tokenizer_bytes_per_s)))
    spare = _reserve(seconds, text_bytes, tokenizer_bytes, machine, prior)
    train_seconds = seconds - spare
    if train_seconds <= 0:
        raise UsageError(
            f"--budget {budget}: tokenizer, evaluation and the rest need about {format_seconds(spare)} on this machine; give more than "
            f"{format_seconds(1.5 * spare)}, or less text"
        )
    flops = train_seconds * attainable * world_size
    vocab = say("vocab_size", choose_vocab_size(flops, text_bytes), "2048 (C / 1e13)^0.15, at least 1,000 bytes of text a token", "assumed")
    seq_len = say(
        "seq_len", _power(256 * (flops / 1e13) ** 0.2, 256, 4096), "256 (C / 1e13)^0.2, at least 256: shorter lost", "docs/lab.md"
    )
    unique = text_bytes / bytes_per_token(vocab)
    tokens_per_step = _tokens_per_step(flops)
    config, why = _best_shape(o, machine, vocab, seq_len, train_seconds * world_size, unique, prior, law, tokens_per_step)
    layer = config.layers[0]
    say("d_model", config.d_model, why, law.name)
    say("n_layers", len(config.layers), why, law.name)
    say("head_dim", layer.mixer.head_dim, "two heads up to width 128, then 64, from 1024 on 128", "docs/lab.md; larger ones assumed")
    if config.hash_embedding:
        say(
            "hash_rows",
            config.hash_embedding.n_rows,
            "memory, but no matrix product; 131,072 rows gave nothing more",
            "docs/lab.md",
        )
    batch = say(
        "batch_size",
        max(1, round(tokens_per_step / seq_len / world_size)) * world_size,
        "2048 (C / 1.5e13)^0.33 tokens a step",
        "docs/lab.md; the exponent assumed",
    )
    if batch % world_size:
        raise UsageError(f"--batch-size {batch} must be a multiple of the {world_size} processes")
    micro = say(
        "micro_batch_size",
        max(1, min(batch // world_size, _micro_batch(machine, config, seq_len))),
        "activations of a micro-batch fit the cache (processor) or the memory (GPU)",
        "assumed",
    )
    step_seconds = machine.seconds_of_step(config, seq_len, batch * seq_len / world_size)
    n_steps = say(
        "steps",
        int(train_seconds / step_seconds),
        f"{format_seconds(train_seconds)} left for training at {step_seconds * 1e3:.0f} ms a step",
        "measured",
    )
    if n_steps < 1:
        raise UsageError(
            f"--budget {budget}: a step takes {format_seconds(step_seconds)} and {format_seconds(train_seconds)} are left: give more"
        )
    plan = Plan(
        budget=budget,
        seconds=seconds,
        model=config,
        seq_len=seq_len,
        batch_size=batch,
        micro_batch_size=micro,
        n_steps=n_steps,
        train_seconds=train_seconds,
        predicted_seconds=spare + n_steps * step_seconds,
        step_seconds=step_seconds,
        optimizer=_optimizer(o, config.d_model, say),
        schedule=_schedule(n_steps, say),
        clip_norm=1.0,
        text_bytes=text_bytes,
        tokenizer_bytes=tokenizer_bytes,
        seed=seed,
        look_tokens=20_000,
        test_tokens=None,
        choices=(),
    )
    return dataclasses.replace(plan, choices=(*say.choices, *_totals(plan, unique)))


def restate(plan: Plan, unique_tokens: float) -> tuple[Choice, ...]:
    """The plan's lines with the steps and totals that it has now."""
    totals = {choice.name: choice for choice in _totals(plan, unique_tokens)}
    steps = Choice("steps", f"{plan.n_steps:,}", f"what the time left holds at {plan.step_seconds * 1e3:.0f} ms a step", "measured")
    by_name = totals | {"steps": steps}
    out = []
    for choice in plan.choices:
        new = by_name.get(choice.name)
        keep = new is None or (choice.name == "steps" and choice.source == "you")
        out.append(choice if keep else new)
    return tuple(out)


def _totals(plan: Plan, unique_tokens: float) -> list[Choice]:
    parameters = cost(plan.model, seq_len=plan.seq_len).parameters
    return [
        Choice("parameters", format_count(parameters), "counted, without the counts' gate", "exact"),
        Choice("tokens", f"{format_count(plan.tokens)} ({plan.tokens / unique_tokens:.2f} epochs)", "steps x batch x length", "exact"),
        Choice("training FLOPs", format_flops(plan.flops), "6 a parameter in matrix products, plus attention's pairs", "exact"),
    ]


class _Sayer:
    """Takes each derived value or its override, and writes the line that explains it."""

    def __init__(self, overrides: Overrides):
        self.overrides, self.choices = overrides, []

    def __call__(self, name: str, derived: Any, why: str, source: str) -> Any:
        given = getattr(self.overrides, name, None)
        value = derived if given is None or name == "prior" else given
        self.add(
            name,
            f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value),
            *(("set by hand", "you") if given is not None and name != "prior" else (why, source)),
        )
        return value

    def add(self, name: str, value: str, why: str, source: str) -> None:
        self.choices.append(Choice(name, value, why, source))


def _power(x: float, low: int, high: int) -> int:
    return int(min(high, max(low, 2 ** round(math.log2(x)))))


def _choose_prior(o: Overrides, seconds: float, n_bytes: int, machine: Machine, say: _Sayer) -> bool:
    if o.arch != "groundup":
        if o.prior == "on":
            raise UsageError(f"--prior on and --arch {o.arch} contradict each other: counts cannot be exported; leave one of them out")
        say.add("prior", "off", f"--arch {o.arch} is for export, and counts cannot be exported", "you")
        return False
    fits = 80 * n_bytes < machine.memory_bytes  # tables, and the experts' word on every token, at three bytes a token
    if o.prior != "auto":
        say.add("prior", o.prior, "set by hand", "you")
        return o.prior == "on"
    why = "counts alone beat what this network learns in such a budget" if fits else "the tables of so much text do not fit the memory"
    say.add("prior", "on" if fits else "off", why, "docs/lab.md")
    return fits


def _seconds_per_byte(machine: Machine, prior: bool) -> float:
    return 1 / machine.tokenizer_bytes_per_s + (1 / COUNTS_BYTES_PER_S if prior else 0.0)


def _text_bytes(seconds: float, n_bytes: int, machine: Machine, prior: bool, say: _Sayer) -> int:
    """All of the text, or what tokenizer and counts can take in within their share of the budget."""
    most = int(TEXT_SHARE * seconds / _seconds_per_byte(machine, prior))
    used = min(n_bytes, most)
    why = "all of it" if used == n_bytes else f"what {TEXT_SHARE:.0%} of the budget can tokenize" + (" and count" if prior else "")
    say.add("text", f"{used / 1e6:.1f} of {n_bytes / 1e6:.1f} MB", why, "measured")
    return used


def _reserve(seconds: float, text_bytes: int, tokenizer_bytes: int, machine: Machine, prior: bool) -> float:
    """Seconds that are not training: tokenizer, encoding, counts, evaluations, samples, report."""
    return tokenizer_bytes / machine.tokenizer_bytes_per_s + text_bytes * _seconds_per_byte(machine, prior) + 2.0 + 0.08 * seconds


def _tokens_per_step(flops: float) -> int:
    return int(2048 * max(0.02, flops / 1.5e13) ** 0.33)


def _micro_batch(machine: Machine, config: ModelConfig, seq_len: int) -> int:
    if machine.device == "cpu":
        return max(1, 4096 // seq_len)
    widest = 40 * config.d_model * len(config.layers) * seq_len  # bytes of bf16 activations kept by one sequence, about
    return _power(max(1, 0.5 * machine.memory_bytes / widest), 1, 256)


def _schedule(n_steps: int, say: _Sayer) -> dict[str, Any]:
    """Fields of Schedule."""
    kind = say("schedule", "wsd", "constant, then linear to zero: the last half of the run decays", "Hägele et al. 2024")
    warmup = max(1, n_steps // 50)
    return {"kind": kind, "warmup_steps": warmup, "decay_fraction": 0.5 if kind == "wsd" else 0.2}


def _optimizer(o: Overrides, d_model: int, say: _Sayer) -> dict[str, Any]:
    """Fields of OptimizerConfig. Muon's rate does not move with the width; Adam's goes with d_model^-0.5 (nanochat's rule)."""
    scale = (d_model / 768) ** -0.5
    matrix = say("matrix_lr", 0.01, "Muon's update has spectral norm one whatever the width", "Jordan et al. 2024; docs/lab.md")
    table = say("table_lr", 0.03, "times (d_model / 768)^-0.5", "docs/lab.md")
    hashed = say("hash_lr", 0.1, "a row is seen rarely, so it must learn at once", "docs/lab.md")
    value = say("value_lr", 0.03, "times (d_model / 768)^-0.5", "docs/lab.md")
    head = say("head_lr", 0.004, "times (d_model / 768)^-0.5", "docs/lab.md")
    matrices = say("matrices", "muon", "orthogonalized momentum reaches a loss in fewer tokens than AdamW", "Jordan et al. 2024")
    decay = say("weight_decay", 0.0, "less than one epoch to a few: nothing to regularize", "assumed")
    say.add("betas", "0.8, 0.98", "of AdamW: short runs forget the first moment sooner", "docs/lab.md")
    return {
        "matrices": matrices,
        "weight_decay": decay,
        "adamw": {"beta1": 0.8, "beta2": 0.98},
        "matrix_lr": matrix,
        "embedding_lr": table * scale,
        "hash_embedding_lr": hashed,
        "value_embedding_lr": value * scale,
        "head_lr": head * scale,
        "gate_lr": 0.01,
        "vector_lr": 0.01 * scale,
    }


def _best_shape(
    o: Overrides,
    machine: Machine,
    vocab: int,
    seq_len: int,
    seconds: float,
    unique: float,
    prior: bool,
    law: LossLaw,
    tokens_per_step: int,
) -> tuple[ModelConfig, str]:
    """The candidate with the lowest predicted loss within the seconds."""
    best: tuple[float, ModelConfig, float, float] | None = None
    for config in _candidates(o, vocab, seq_len, prior, machine.device):
        counted = cost(config, seq_len=seq_len)
        head = vocab * config.d_model
        n = counted.parameters_non_embedding + head
        tokens = seconds / machine.seconds_of_step(config, seq_len, tokens_per_step) * tokens_per_step
        loss = law.loss(n, tokens, unique)
        if 16 * counted.parameters > 0.8 * machine.memory_bytes:
            continue
        if best is None or loss < best[0]:
            best = (loss, config, n, tokens)
    if best is None:
        raise UsageError("no model fits this machine's memory: set --d-model and --n-layers smaller, or --vocab-size")
    loss, config, n, tokens = best
    return config, f"lowest predicted loss of all shapes: N {format_count(n)}, D {format_count(tokens)}"


def _candidates(o: Overrides, vocab: int, seq_len: int, prior: bool, device: str) -> list[ModelConfig]:
    widths = [o.d_model] if o.d_model else [64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1280, 1536, 2048]
    out = []
    for width in widths:
        depths = [o.n_layers] if o.n_layers else [max(2, round(width / 48))] if width < 384 else [max(6, round(width / 64))]
        head_dim = o.head_dim or (width // 2 if width <= 128 else 64 if width < 1024 else 128)
        if width % head_dim:
            if o.d_model or o.head_dim:
                raise UsageError(f"--d-model {width} is not a multiple of --head-dim {head_dim}: set one of them so that it divides")
            continue
        rows = (o.hash_rows if o.hash_rows is not None else 65_536 if device == "cpu" else 1 << 20) if o.arch == "groundup" else 0
        if o.arch != "groundup" and o.hash_rows:
            raise UsageError(
                f"--hash-rows and --arch {o.arch} contradict each other: hashed n-grams cannot be exported; leave one of them out"
            )
        for depth in depths:
            out.append(
                architecture(
                    o.arch,
                    vocab_size=vocab,
                    d_model=width,
                    n_layers=depth,
                    head_dim=head_dim,
                    context_length=seq_len,
                    n_kv_heads=o.n_kv_heads,
                    hash_rows=rows,
                    prior=prior,
                )
            )
    return out
