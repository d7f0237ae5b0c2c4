"""The rules of the planner: each size or rate as a formula of the budget, with its source or marked assumed.

C is what the training time would hold at this machine's rate of matrix products, in FLOPs; a run attains about half of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from groundup.account.budget import format_bytes, format_count, format_flops
from groundup.account.cost import cost
from groundup.account.execution import CPU, GPU, Recompute
from groundup.account.law import LossLaw
from groundup.account.memory import training_memory
from groundup.account.shapes import Architecture, architecture
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.errors import UsageError

BYTES_PER_TOKEN_512, BYTES_PER_DOUBLING = 2.1, 0.49  # BPE on code and on novels, vocabularies of 512 to 4,096
MAX_EPOCHS = 1.5
"""Times that a text is trained on at most. Tables of embeddings learn it by heart soon: whatever the budget, what was held out gets worse
after one and a half to three times (docs/lab.md)."""

LEAST_STEPS = 300
"""Steps, about, that little text is spread over, by smaller batches: after fewer the network has hardly moved."""

NO_DIFFERENCE = 0.01
"""Bits a byte for which no time is spent where the text is used up: a model far too large for it would win by less."""

MEMORY_SHARE = 0.8
"""Part of a machine's memory that a run of ours may take, its tokens and counts beside it (a layout: ``cluster.USABLE_MEMORY``)."""

WIDTHS = (
    *(64, 96, 128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1280, 1536, 2048),
    *(2560, 3072, 4096, 5120, 6144, 7168, 8192, 10_240, 12_288, 16_384, 20_480, 24_576),
)
"""Widths that are tried."""


RISING = 4
"""Widths of rising loss in a row after which no wider one is tried."""


class Figures(NamedTuple):
    """What planning asks of a model again and again."""

    parameters: int
    """All of them."""
    law_parameters: int
    """N of the laws: without lookup tables, but with the head; of experts those that work on a token."""
    flops_per_token: float
    """Model FLOPs of training."""


@lru_cache(maxsize=1024)
def figures(config: ModelConfig, seq_len: int) -> Figures:
    """A model's figures by its exact cost, kept: one plan looks at the same shapes several times."""
    counted = cost(config, Training(seq_len))
    idle = counted.parameters - counted.active_parameters
    n = counted.parameters_non_embedding + config.vocab_size * config.d_model - idle
    return Figures(counted.parameters, n, counted.flops_per_token_training)


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
        flops = figures(config, seq_len).flops_per_token
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
    recompute: Literal["auto", "none", "attention", "mlp", "layers"] = "auto"
    """What backward computes again instead of keeping it; auto: nothing, unless memory forces it."""
    steps: int | None = None
    """Training steps (otherwise as many as the budget holds, and the text is good for)."""
    max_epochs: float | None = None
    """Most times that the text is trained on."""
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
    usd_per_hour: float | None = None
    """Price of this machine, or of each process's share of it, for budgets in dollars."""

    def check(self) -> None:
        """UsageError for a value that can never be."""
        least = {"vocab_size": 257, "hash_rows": 0, "weight_decay": 0.0}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, str):
                continue
            flag = f"--{field.name.replace('_', '-')} {value}"
            if field.name in least:
                if not least[field.name] <= value < math.inf:
                    raise UsageError(f"{flag}: give at least {least[field.name]}")
            elif not 0 < value < math.inf:
                raise UsageError(f"{flag}: give a number above 0")


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


class Sayer:
    """Takes each derived value or its override, and writes the line that explains it."""

    def __init__(self, overrides: Overrides):
        self.overrides: Overrides = overrides
        self.choices: list[Choice] = []

    def __call__(self, name: str, derived: Any, why: str, source: str) -> Any:
        """The value that stands; ``name`` is a field of Overrides or of what is said only."""
        given = getattr(self.overrides, name, None)
        value = derived if given is None else given
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
        self.add(name, shown, *((why, source) if given is None else ("set by hand", "you")))
        return value

    def add(self, name: str, value: str, why: str, source: str) -> None:
        """A line of the plan as it is."""
        self.choices.append(Choice(name, value, why, source))


def bytes_per_token(vocab_size: int) -> float:
    """Predicted bytes a token of byte-level BPE: 2.1 at 512 and 0.49 more for each doubling, read off code and novels."""
    return max(1.0, BYTES_PER_TOKEN_512 + BYTES_PER_DOUBLING * math.log2(vocab_size / 512))


def choose_vocab_size(flops: float, n_bytes: int) -> int:
    """A power of two near 2048 (C / 1e13)^0.15, between 512 and 65,536, with at least 1,000 bytes of text for each token.

    A larger vocabulary reads more text per FLOP but splits the evidence (Tao et al. 2024 find an exponent below one against parameters;
    ours is an assumption, not fitted yet).
    """
    by_compute = 2048 * (flops / 1e13) ** 0.15
    by_text = max(512.0, n_bytes / 1000)
    return int(2 ** round(math.log2(min(max(512.0, min(by_compute, by_text)), 65_536))))


def choose_seq_len(flops: float) -> int:
    """A power of two near 256 (C / 1e13)^0.2, from 256 to 4,096."""
    return power_of_two(256 * (flops / 1e13) ** 0.2, 256, 4096)


def choose_tokens_per_step(flops: float) -> int:
    """2048 (C / 1.5e13)^0.33, at least 560."""
    return int(2048 * max(0.02, flops / 1.5e13) ** 0.33)


def choose_head_dim(width: int) -> int:
    """Two heads up to width 128, then heads of 64, from width 1024 on of 128."""
    return width // 2 if width <= 128 else 64 if width < 1024 else 128


def choose_depth(width: int) -> int:
    """Layers for a width: one for each 48, at least 2; from width 384 on one for each 64, at least 6; beyond 2,048 one for each 128, at
    least 32, as GPT-3 and Llama 3 have them."""
    if width < 384:
        return max(2, round(width / 48))
    return max(6, round(width / 64)) if width <= 2048 else max(32, round(width / 128))


def choose_kv_heads(width: int) -> int | None:
    """From width 4,096 on 8 kv heads, as Llama 3: the cache would outgrow the weights; else as many as heads."""
    return 8 if width >= 4096 else None


def shape_of_width(width: int, *, vocab_size: int, context_length: int) -> ModelConfig:
    """The shape that these rules give a width, as a model of the llama architecture."""
    sizes = {"d_model": width, "n_layers": choose_depth(width), "head_dim": choose_head_dim(width), "n_kv_heads": choose_kv_heads(width)}
    return architecture("llama", vocab_size=vocab_size, context_length=context_length, **sizes)


def choose_micro_batch(machine: Machine, config: ModelConfig, seq_len: int) -> int:
    """Sequences whose activations fit the cache of a processor or half of the memory of a GPU."""
    if machine.device == "cpu":
        return max(1, 4096 // seq_len)
    widest = 40 * config.d_model * len(config.layers) * seq_len  # bytes of bf16 activations kept by one sequence, about
    return power_of_two(max(1, 0.5 * machine.memory_bytes / widest), 1, 256)


def choose_recompute(
    say: Sayer, machine: Machine, config: ModelConfig, seq_len: int, micro_batch: int, *, accumulating: bool
) -> tuple[Recompute, float]:
    """The policy that computes least again of those whose step fits the memory, and what it executes again over the model's own FLOPs."""

    def needs(policy: Recompute) -> int:
        run = replace(CPU if machine.device == "cpu" else GPU, recompute=policy)
        methods = {} if say.overrides.matrices is None else {"matrices": say.overrides.matrices}
        return training_memory(config, Training(seq_len, micro_batch, 1 + accumulating, run=run, **methods)).peak_bytes

    def more(policy: Recompute) -> float:
        tree = cost(config, Training(seq_len, run=replace(CPU, recompute=policy))).tree
        return tree.recomputed_flops / tree.training_flops

    asked, limit = say.overrides.recompute, MEMORY_SHARE * machine.memory_bytes
    if asked != "auto":
        say.add("recompute", asked, f"set by hand: {more(asked):.0%} more FLOPs, {format_bytes(needs(asked))} at the peak", "you")
        return asked, more(asked)
    plain = needs("none")
    if plain <= limit:
        say.add("recompute", "none", f"the predicted peak of {format_bytes(plain)} fits {MEMORY_SHARE:.0%} of the memory", "exact")
        return "none", 0.0
    policies: tuple[Recompute, ...] = ("attention", "mlp", "layers")
    policy = min((p for p in policies if needs(p) <= limit), key=more, default="layers")
    also = " not either" if needs(policy) > limit else ""
    why = f"memory forces it: {format_bytes(plain)} would not fit, {format_bytes(needs(policy))} do{also}"
    say.add("recompute", policy, f"{why}; {more(policy):.0%} more FLOPs", "exact")
    return policy, more(policy)


def most_steps(max_epochs: float, unique_tokens: float, tokens_per_step: int) -> int:
    """Steps after which the text has been seen as often as it is good for."""
    return max(1, math.ceil(max_epochs * unique_tokens / tokens_per_step))


def power_of_two(x: float, low: int, high: int) -> int:
    """The power of two nearest to x in logarithm, within bounds."""
    return int(min(high, max(low, 2 ** round(math.log2(x)))))


def schedule_fields(n_steps: int, say: Sayer) -> dict[str, Any]:
    """Fields of Schedule."""
    kind = say("schedule", "wsd", "constant, then linear to zero: the last half of the run decays", "Hägele et al. 2024")
    warmup = max(1, n_steps // 50)
    return {"kind": kind, "warmup_steps": warmup, "decay_fraction": 0.5 if kind == "wsd" else 0.2}


def optimizer_fields(d_model: int, say: Sayer) -> dict[str, Any]:
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


class Scored(NamedTuple):
    """A shape that the budget could train."""

    loss: float
    """What the law predicts of it."""
    parameters: float
    """N that the law takes: without lookup tables, but with the head."""
    tokens: float
    """D that the seconds hold, or that the text is good for."""
    config: ModelConfig
    """The shape."""


def score_shapes(
    overrides: Overrides,
    machine: Machine,
    vocab: int,
    seq_len: int,
    tokens_per_step: int,
    seconds: float,
    unique: float,
    prior: bool,
    law: LossLaw,
    max_epochs: float,
) -> list[Scored]:
    """Every candidate that fits the memory: costed exactly, timed by the machine's rates, scored by the law at as many tokens as the
    seconds hold, but at most ``max_epochs`` times the ``unique`` ones. Narrow ones first."""
    scored = []
    for config in _candidates(overrides, vocab, seq_len, prior, machine.device):
        counted = figures(config, seq_len)
        if 16 * counted.parameters > MEMORY_SHARE * machine.memory_bytes:
            break  # wider ones do not fit either
        n = counted.law_parameters
        tokens = min(seconds / machine.seconds_of_step(config, seq_len, tokens_per_step) * tokens_per_step, max_epochs * unique)
        scored.append(Scored(law.loss(n, tokens, unique), n, tokens, config))
        if len(scored) > RISING and all(later.loss > earlier.loss for earlier, later in itertools.pairwise(scored[-RISING - 1 :])):
            break  # the law has one valley
    if not scored:
        raise UsageError("no model fits this machine's memory: set --d-model and --n-layers smaller, or --vocab-size")
    return scored


def best_shape(say: Sayer, scored: Sequence[Scored], seq_len: int, most_tokens: float, law: LossLaw) -> ModelConfig:
    """The candidate with the lowest predicted loss within the seconds.

    Where the text is used up, after ``most_tokens``, time buys a larger model, as long as that makes a difference.
    """
    lowest, n, tokens, config = min(scored, key=lambda score: score.loss)
    why = "lowest predicted loss of all shapes"
    if tokens == most_tokens:
        equal = [score for score in scored if score.tokens == tokens and score.loss <= lowest + NO_DIFFERENCE]
        _, n, tokens, config = min(equal, key=lambda score: score.parameters)
        why = f"the smallest of those that read all of the text within {NO_DIFFERENCE} of the lowest predicted loss"
    why += f": N {format_count(n)}, D {format_count(tokens)}"
    beyond = tokens * figures(config, seq_len).flops_per_token > law.known_to_flops
    source = f"{law.name}; extrapolated beyond {format_flops(law.known_to_flops)}" if beyond else law.name
    say("d_model", config.d_model, why, source)
    say("n_layers", len(config.layers), why, source)
    say(
        "head_dim",
        config.layers[0].mixer.head_dim,
        "two heads up to width 128, then 64, from 1024 on 128",
        "docs/lab.md; larger ones assumed",
    )
    if config.hash_embedding:
        say("hash_rows", config.hash_embedding.n_rows, "memory, but no matrix product; 131,072 gave nothing more", "docs/lab.md")
    return config


def _candidates(o: Overrides, vocab: int, seq_len: int, prior: bool, device: str) -> Iterator[ModelConfig]:
    """Shapes that the rules allow, narrow ones first."""
    if o.arch != "groundup" and o.hash_rows:
        raise UsageError(f"--hash-rows and --arch {o.arch} contradict each other: hashed n-grams cannot be exported; leave one of them out")
    rows = 0 if o.arch != "groundup" else o.hash_rows if o.hash_rows is not None else 65_536 if device == "cpu" else 1 << 20
    for width in [o.d_model] if o.d_model else WIDTHS:
        head_dim = o.head_dim or choose_head_dim(width)
        if width % head_dim:
            if o.d_model or o.head_dim:
                raise UsageError(f"--d-model {width} is not a multiple of --head-dim {head_dim}: set one of them so that it divides")
            continue
        sizes = {
            "d_model": width,
            "n_layers": o.n_layers or choose_depth(width),
            "head_dim": head_dim,
            "n_kv_heads": o.n_kv_heads or choose_kv_heads(width),
        }
        yield architecture(o.arch, vocab_size=vocab, context_length=seq_len, hash_rows=rows, prior=prior, **sizes)
