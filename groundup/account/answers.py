"""What people ask before they spend: each question as a function from a cluster to an answer with its alternatives.

One planner: the best model for a budget is ``make_plan``'s, the planner of ``groundup train``, with its rules and shapes, on a machine that
is a whole cluster and by a law that was fitted at scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groundup.account.budget import Budget, format_bytes
from groundup.account.cluster import KERNEL_SHARE, Cluster, Step, fitting_steps, holds, possible_steps
from groundup.account.cost import Cost
from groundup.account.execution import Recompute
from groundup.account.inference import Serving, cache_bytes, longest_sequence
from groundup.account.law import LAWS, Allocation, LossLaw
from groundup.account.layout import Layout
from groundup.account.plan import Plan, make_plan
from groundup.account.rules import (
    WIDTHS,
    Machine,
    Overrides,
    Scored,
    bytes_per_token,
    choose_tokens_per_step,
    figures,
    score_shapes,
    shape_of_width,
)
from groundup.account.spread import Counted, Spread
from groundup.account.workload import Inference
from groundup.config import ModelConfig
from groundup.errors import UsageError

TOKENS_PER_PARAMETER = 20
"""Tokens for each parameter that works on a token, where no number is given (Hoffmann et al. 2022, whose models have no others)."""
FIRST_GUESS = KERNEL_SHARE
"""Utilization that is assumed until a layout is known."""
MOST_EPOCHS = 16.0
"""Times that text is repeated at most: after R_D* = 15 repetitions another is worth little (Muennighoff et al. 2023)."""
PLENTY_BYTES = 10**18
"""Text where no amount is given: more than any budget reads."""
READY_BYTES_PER_S = 1e30
"""The text is taken to be tokenized beforehand, on processors: at this rate even ``PLENTY_BYTES`` cost nothing."""
LARGEST_VOCAB = 65_536
"""Vocabulary of the largest model: that of the rules at its size."""


def usual_tokens(counted: Cost) -> int:
    """Tokens to train on where no number is given: ``TOKENS_PER_PARAMETER`` times the active parameters."""
    return TOKENS_PER_PARAMETER * counted.active_parameters


class TrainedRun(NamedTuple):
    """A model trained on tokens in a layout."""

    step: Step
    """How."""
    tokens: float
    """D."""
    flops: float
    """Model FLOPs."""
    mfu: float
    """Utilization, predicted or given."""
    seconds: float
    """Of training."""
    usd: float
    """Rent of all devices."""


def train(step: Step, tokens: float, *, mfu: float | None = None) -> TrainedRun:
    """Time and money: C / (MFU x peak) seconds, the MFU being the layout's where none is given."""
    flops = step.spread.counted.cost.flops_per_token_training * tokens
    reached = step.mfu if mfu is None else mfu
    seconds = flops / (reached * step.cluster.peak_flops)
    return TrainedRun(step, tokens, flops, reached, seconds, seconds / 3600 * step.cluster.usd_per_hour)


@dataclass(frozen=True)
class Fit:
    """How a given model trains: the layouts that were tried, best first, and what the run takes in the best."""

    config: ModelConfig
    """The model."""
    cost: Cost
    """Its cost tree, of training."""
    steps: Sequence[Step]
    """The best step of each kind of layout."""
    training: TrainedRun
    """The run, in the first of them."""
    sequences: int
    """Sequences that a step was asked to have; each layout takes as many as its whole micro-batches come nearest to."""

    def tried(self) -> Iterator[Step]:
        """All steps that ``steps`` are the best of."""
        return possible_steps(self.steps[0].spread.counted, self.steps[0].cluster, self.sequences)


def lay_out(
    config: ModelConfig,
    cluster: Cluster,
    layout: Layout,
    *,
    seq_len: int,
    tokens: float | None = None,
    micro_batch: int = 1,
    micro_batches: int | None = None,
    recompute: Recompute = "none",
) -> Step:
    """The step of a given model in a given layout, with as many micro-batches as given or as the planner's batch for so many tokens holds.

    Raises UsageError for a layout into which the model does not divide.
    """
    layout.check(config)
    cluster.check()
    once = Counted(config, seq_len)
    batch = micro_batch * layout.data * (micro_batches or 0) or _sequences(once, tokens)
    workload = cluster.workload(seq_len, layout, batch_size=batch, micro_batch=micro_batch, recompute=recompute)
    workload.check(config)
    return Step(cluster.for_model(once), Spread(once, workload))


def _sequences(once: Counted, tokens: float | None, batch_tokens: float | None = None) -> int:
    """Sequences of a step: of as many tokens as given, or as the rule for so many FLOPs says."""
    flops = once.cost.flops_per_token_training * (tokens or usual_tokens(once.cost))
    return max(1, round((batch_tokens or choose_tokens_per_step(flops)) / once.seq_len))


def how_to_train(
    config: ModelConfig,
    cluster: Cluster,
    *,
    seq_len: int,
    tokens: float | None = None,
    budget: Budget | None = None,
    batch_tokens: float | None = None,
    mfu: float | None = None,
) -> Fit:
    """Does it fit, in which layout, how long and how much; for ``tokens``, for those that a budget holds, or for the usual ones.

    Raises UsageError if no layout fits, saying how many devices would do, and for a budget too small for one step.
    """
    once = Counted(config, seq_len)
    counted = once.cost
    wanted = tokens or usual_tokens(counted)
    sequences = _sequences(once, wanted, batch_tokens)
    steps = fitting_steps(once, cluster.for_model(once), batch_size=sequences)
    if budget is not None:
        attained = (mfu or steps[0].mfu) * cluster.peak_flops
        seconds = budget.seconds_on(attainable_flops=attained, usd_per_hour=cluster.usd_per_hour)
        wanted = seconds * attained / counted.flops_per_token_training
        if wanted < steps[0].tokens:
            raise UsageError(f"--budget {budget} holds {wanted:,.0f} tokens, less than one step of {steps[0].tokens:,}: give more")
    return Fit(config, counted, steps, train(steps[0], wanted, mfu=mfu), sequences)


@dataclass(frozen=True)
class BestModel:
    """The model that a budget buys."""

    plan: Plan
    """The planner's whole decision."""
    fit: Fit
    """How the model trains."""
    law: LossLaw
    """By which it was chosen."""
    unique_tokens: float
    """Tokens of the text; infinite where it is plenty."""
    loss: float
    """What the law expects of it."""
    shapes: Sequence[Scored]
    """The shapes that were compared, narrow ones first."""
    by_law: dict[str, Allocation]
    """N and D that each law at scale would take for the same FLOPs, were any size to be had and text plenty."""


def best_model(
    budget: Budget,
    cluster: Cluster,
    *,
    law: LossLaw,
    text_bytes: float | None = None,
    mfu: float | None = None,
) -> BestModel:
    """The best model for time, dollars or FLOPs on this cluster with this much text.

    The utilization that the layout predicts is not known before the model is chosen: it is guessed, and planned again if it differs.
    Raises UsageError for a budget too small for a step, and for a model that no layout fits.
    """
    cluster.check()
    guess = mfu or FIRST_GUESS
    for last in (False, False, True):
        plan = _plan(budget, cluster, law, text_bytes, guess)
        step_tokens = plan.batch_size * plan.seq_len
        fit = how_to_train(plan.model, cluster, seq_len=plan.seq_len, tokens=plan.tokens, batch_tokens=step_tokens, mfu=mfu)
        if last or math.isclose(fit.training.mfu, guess, rel_tol=0.005):
            break
        guess = fit.training.mfu
    unique = math.inf if text_bytes is None else text_bytes / bytes_per_token(plan.model.vocab_size)
    arguments = (plan.model.vocab_size, plan.seq_len, step_tokens, plan.train_seconds, unique, False, law, MOST_EPOCHS)
    shapes = score_shapes(Overrides(arch="llama"), _machine(cluster, guess), *arguments)
    loss = law.loss(figures(plan.model, plan.seq_len).law_parameters, plan.tokens, unique)
    by_law = {name: other.optimal(plan.flops) for name, other in LAWS.items() if other.unit == "nats a token"}
    return BestModel(plan, fit, law, unique, loss, shapes, by_law)


def _machine(cluster: Cluster, mfu: float) -> Machine:
    """The cluster as the planner's one machine."""
    memory = int(cluster.devices * cluster.device.memory_bytes)
    return Machine(
        f"{cluster.devices} x {cluster.device.name}",
        "cuda",
        1 / (mfu * cluster.peak_flops),
        0.0,
        cluster.peak_flops,
        READY_BYTES_PER_S,
        memory,
        usd_per_hour=cluster.usd_per_hour,
    )


def _plan(budget: Budget, cluster: Cluster, law: LossLaw, text_bytes: float | None, mfu: float) -> Plan:
    overrides = Overrides(arch="llama", max_epochs=MOST_EPOCHS, recompute="none")  # that is the layout's affair
    n_bytes = PLENTY_BYTES if text_bytes is None else max(1, int(text_bytes))
    return make_plan(budget, _machine(cluster, mfu), n_bytes, overrides=overrides, law=law)


class Size(NamedTuple):
    """A size that was tried."""

    config: ModelConfig
    """The model."""
    parameters: int
    """P."""
    fits: bool
    """Whether some layout holds it."""


def largest_model(cluster: Cluster, *, seq_len: int, mfu: float | None = None) -> tuple[list[Size], Fit]:
    """The widest shape of the rules that trains in some layout, with its neighbours; and how it trains on the usual tokens.

    Raises UsageError if not even the narrowest does.
    """
    cluster.check()
    sizes: list[Size] = []
    for width in WIDTHS:
        config = shape_of_width(width, vocab_size=LARGEST_VOCAB, context_length=seq_len)
        once = Counted(config, seq_len)
        sizes.append(Size(config, once.cost.parameters, holds(once, cluster)))
        if len(sizes) > 3 and not any(size.fits for size in sizes[-3:]):
            break  # three in a row: some widths only do not divide by the devices
    fitting = [i for i, size in enumerate(sizes) if size.fits]
    if not fitting:
        raise UsageError(
            f"not even {sizes[0].parameters:,} parameters train on {cluster.devices} x {cluster.device.name} at {seq_len:,} tokens a "
            f"sequence: {format_bytes(cluster.memory_limit)} a device; give a shorter --seq-len"
        )
    best = fitting[-1]
    return sizes[max(0, best - 4) : best + 3], how_to_train(sizes[best].config, cluster, seq_len=seq_len, mfu=mfu)


@dataclass(frozen=True)
class Capacity:
    """What of a model can be served at once."""

    serving: Sequence[Serving]
    """For each context length the largest batch that fits."""
    longest_context: int | None
    """Tokens of a single sequence that fit, however long the model's own context; None where any number does."""
    weights_bytes: float
    """Bytes of the weights."""


def serve(config: ModelConfig, cluster: Cluster, *, weight_bytes: float = 2.0, number_bytes: float = 2.0) -> Capacity:
    """The largest batch for contexts of 1,024 tokens, 4,096 and so on to the model's own, and the longest context of one sequence.

    A number of the weights takes ``weight_bytes``, one of the cache ``number_bytes``. Devices are taken as one (``Cluster.as_one``).

    Raises UsageError if the weights do not fit, saying how many devices they would.
    """
    cluster.check()
    together = cluster.as_one()
    held = {"weight_bytes": weight_bytes, "cache_bytes": number_bytes}
    weights = Serving(config, Inference(1, 1, **held), together, cluster.precision).weights_bytes
    spare = together.memory_bytes - weights
    if spare < cache_bytes(config, 1, number_bytes):
        raise UsageError(
            f"the weights take {format_bytes(weights)} of {together.name} with {format_bytes(together.memory_bytes)} to give: use "
            f"--devices {math.ceil(weights / cluster.memory_limit)} or more"
        )
    lengths = [length for i in range(5, 12) if (length := 4**i) < config.context_length] + [config.context_length]
    found = []
    for length in lengths:
        one = Serving(config, Inference(max(1, length - 1), 1, **held), together, cluster.precision)
        if one.largest_batch:
            found.append(dataclasses.replace(one, requests=dataclasses.replace(one.requests, batch_size=one.largest_batch)))
    return Capacity(found, longest_sequence(config, spare, number_bytes), weights)


class Gain(NamedTuple):
    """What an efficiency gain is worth on one run."""

    usd: float
    """Rent saved at the same result."""
    seconds: float
    """Time saved at the same result."""
    loss: float
    """Or: how much lower the loss is for the same money, in the law's unit, the gain being spent on more tokens."""


def worth(gain: float, *, seconds: float, usd: float, parameters: float, tokens: float, law: LossLaw, unique: float = math.inf) -> Gain:
    """A gain g does (1 + g) times the useful FLOPs a second.

    The same run takes 1 / (1 + g) of its time and money; or the same time trains on (1 + g) D tokens, and saves L(N, D) - L(N, (1 + g) D).
    """
    saved = gain / (1 + gain)
    better = law.loss(parameters, tokens, unique) - law.loss(parameters, (1 + gain) * tokens, unique)
    return Gain(usd * saved, seconds * saved, better)
