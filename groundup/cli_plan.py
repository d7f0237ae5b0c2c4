"""``groundup plan``: what to train, in which layout, how long and for how much, and what can be served; before anything is spent."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from groundup.account import format_bytes, format_count, format_flops, format_seconds, format_usd, parse_budget
from groundup.account.answers import (
    BestModel,
    Capacity,
    Fit,
    Gain,
    Size,
    TrainedRun,
    best_model,
    how_to_train,
    largest_model,
    serve,
    worth,
)
from groundup.account.budget import parse_bytes, parse_percent, parse_tokens
from groundup.account.cluster import Cluster, Step
from groundup.account.inference import HELD_BYTES, HeldAs
from groundup.account.law import LossLaw, find_law
from groundup.account.published import BYTES_PER_TOKEN, PUBLISHED_RUNS
from groundup.account.rules import bytes_per_token, figures
from groundup.cli_flags import check_above_zero, check_counts, check_picture, check_share, refuse_without_part
from groundup.cli_layout import Pairs, Rows, memory_rows, memory_title, run_figures, show, step_figures, waiting_rows
from groundup.config import ModelConfig
from groundup.errors import UsageError
from groundup.model.shape import open_shape

ASKS = {
    "best": "finding the best model for a budget",
    "train": "how a model trains",
    "largest": "finding the largest model",
    "serve": "what a model serves",
}
USES = {
    "best": {"budget", "text", "law", "mfu", "gain", "plot"},
    "train": {"model", "budget", "tokens", "text", "law", "mfu", "seq_len", "batch_tokens", "gain", "plot"},
    "largest": {"largest", "law", "mfu", "seq_len", "gain"},
    "serve": {"model", "serve", "weights_in", "cache_in"},
}
"""Flags that have a part in each question."""
ANYWHERE = {"device", "devices", "usd_per_hour", "json", "debug"}
AGAIN = {"none": "nothing", "attention": "attention", "mlp": "MLP", "layers": "layers"}


@dataclass(frozen=True)
class PlanOf:
    """Answers before you spend: --budget finds the best model; MODEL its layout, time and price; --largest and --serve the limits."""

    model: Positional[str | None] = None
    """A run's folder or a Hugging Face one, its config.json alone, or a known name such as llama-3.1-8b."""
    budget: str | None = None
    """Time (3d), money (1000usd) or FLOPs (1e21flop): which model is best, or on how many tokens MODEL trains."""
    tokens: str | None = None
    """Tokens to train MODEL on, such as 15T (default: 20 for each parameter that works on a token, Hoffmann et al. 2022)."""
    text: str | None = None
    """Text that there is, such as 10GB (default: more than the budget reads)."""
    largest: bool = False
    """Find the largest model that trains on the devices."""
    serve: bool = False
    """Find the largest batch and the longest context that MODEL serves."""
    weights_in: HeldAs | None = None
    """Type that --serve holds weights in (default: the one that the device computes in)."""
    cache_in: HeldAs | None = None
    """Type that --serve holds keys and values in (default: the same)."""
    device: str = "h100"
    """A device such as a100, h100, b200 or rtx4090, or here for this machine as `groundup doctor` measured it."""
    devices: int = 1
    """How many of them."""
    usd_per_hour: float | None = None
    """Rent of one device (default: its assumed price)."""
    law: str = "epoch"
    """Law of the loss: epoch, chinchilla, data-constrained or small."""
    mfu: float | None = None
    """Share of the dense peak that training attains (default: predicted from the layout)."""
    seq_len: int | None = None
    """Tokens of a training sequence (default: the model's context, at most 4096)."""
    batch_tokens: str | None = None
    """Tokens of a training step, such as 4M (default: grows with the FLOPs, as for groundup train)."""
    gain: str | None = None
    """What a gain in efficiency such as 5% is worth, on this run and on famous ones."""
    plot: Path | None = None
    """Write a picture here (.png or .svg): how --budget was divided between parameters and tokens, or of MODEL the layouts tried."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Prints the answer to the question that the flags ask."""
        answers = {"best": self._best, "train": self._train, "largest": self._largest, "serve": self._serve}
        answer = answers[self._question()]
        cluster = Cluster.of(self.device, self.devices)
        if self.usd_per_hour is not None:
            rented = dataclasses.replace(cluster.device, usd_per_hour=self.usd_per_hour, price_source="given")
            cluster = dataclasses.replace(cluster, device=rented)
        cluster.check()
        found = answer(cluster)
        if self.json:
            print(json.dumps({"device": self.device, "devices": self.devices} | found))

    def _question(self) -> str:
        """Which question the flags ask; UsageError for none, for two at once, and for a flag that has no part in it."""
        if self.model is None and self.serve:
            raise UsageError("--serve needs a model: groundup plan llama-3.1-8b --serve")
        if self.model is None and not (self.budget or self.largest):
            raise UsageError("say what to plan: --budget 3d, a model such as llama-3.1-8b, or --largest")
        question = "largest" if self.largest else "serve" if self.serve else "best" if self.model is None else "train"
        refuse_without_part(self, USES[question] | ANYWHERE, ASKS[question])
        if self.budget and self.tokens:
            raise UsageError("--budget and --tokens both say how long to train: give one")
        check_share(self, "mfu")
        check_above_zero(self, "usd_per_hour", "a price")
        check_counts(self, ("seq_len", "devices"))
        check_picture(self.plot)
        for text, parse in ((self.budget, parse_budget), (self.tokens, parse_tokens), (self.text, parse_bytes), (self.gain, parse_percent)):
            if text is not None:
                parse(text)  # what is no amount is refused before anything is counted
        return question

    def _best(self, cluster: Cluster) -> dict[str, Any]:
        law, text = find_law(self.law), None if self.text is None else parse_bytes(self.text)
        best = best_model(parse_budget(str(self.budget)), cluster, law=law, text_bytes=text, mfu=self.mfu)
        if self.plot is not None:
            from groundup.report.accounts import save_choice

            save_choice(self.plot, best)
            print(f"wrote {self.plot}\n")
        show(best_pairs(best, self.mfu), f"{self.budget} on {cluster}")
        show(shape_rows(best), "\nOther shapes in the same time")
        show(law_rows(best), "\nWhat each law would take for these FLOPs, were text plenty")
        show(layout_rows(best.fit.steps, 6), "\nOther layouts")
        run = best.fit.training
        n = figures(best.plan.model, best.plan.seq_len).law_parameters
        gained = self._gain(run, n, law, bytes_per_token(best.plan.model.vocab_size), best.unique_tokens)
        shape = {"d_model": best.plan.model.d_model, "n_layers": len(best.plan.model.layers), "vocab_size": best.plan.model.vocab_size}
        return {"question": "best model", "law": law.name, "loss": best.loss} | shape | training_figures(best.fit) | gained

    def _train(self, cluster: Cluster) -> dict[str, Any]:
        config, law = open_shape(str(self.model)), find_law(self.law)
        fit = how_to_train(
            config,
            cluster,
            seq_len=self.seq_len or min(4096, config.context_length),
            tokens=None if self.tokens is None else parse_tokens(self.tokens),
            budget=None if self.budget is None else parse_budget(self.budget),
            batch_tokens=None if self.batch_tokens is None else parse_tokens(self.batch_tokens, "--batch-tokens"),
            mfu=self.mfu,
        )
        if self.plot is not None:
            from groundup.report.accounts import save_layouts

            save_layouts(self.plot, Path(str(self.model)).name, fit)
            print(f"wrote {self.plot}\n")
        each = min(BYTES_PER_TOKEN, bytes_per_token(config.vocab_size))
        unique = math.inf if self.text is None else parse_bytes(self.text) / each
        n, run = figures(config, fit.cost.seq_len).law_parameters, fit.training
        loss = law.loss(n, run.tokens, unique)
        idle = fit.cost.active_parameters < fit.cost.parameters
        of_experts = "; a law of dense models, N being what a token meets" if idle else ""
        show(
            [
                *training_pairs(fit, self.mfu),
                ("text", text_line(run.tokens, unique)),
                ("predicted loss", loss_line(law, loss, each) + of_experts),
                *law_pairs(law),
            ],
            f"{self.model} on {cluster}",
        )
        show(layout_rows(fit.steps), "\nLayouts, the best of each kind")
        show(waiting_rows(fit.steps[0]), f"\nTime of a step, {fit.steps[0].layout}")
        show(memory_rows(fit.steps[0]), f"\n{memory_title(fit.steps[0])}")
        gained = self._gain(run, n, law, each, unique)
        return {"question": "train", "law": law.name, "loss": loss} | training_figures(fit) | gained

    def _largest(self, cluster: Cluster) -> dict[str, Any]:
        law = find_law(self.law)
        sizes, fit = largest_model(cluster, seq_len=self.seq_len or 4096, mfu=self.mfu)
        show(training_pairs(fit, self.mfu), f"The largest model that trains on {cluster}")
        show(size_rows(sizes, fit.config), "\nSizes")
        show(layout_rows(fit.steps, 7), "\nLayouts")
        gained = self._gain(fit.training, figures(fit.config, fit.cost.seq_len).law_parameters, law, BYTES_PER_TOKEN, math.inf)
        return gained | {"question": "largest", "d_model": fit.config.d_model, "n_layers": len(fit.config.layers)} | training_figures(fit)

    def _serve(self, cluster: Cluster) -> dict[str, Any]:
        config = open_shape(str(self.model))
        weights_in, cache_in = (held or cluster.precision for held in (self.weights_in, self.cache_in))
        capacity = serve(config, cluster, weight_bytes=HELD_BYTES[weights_in], number_bytes=HELD_BYTES[cache_in])
        limit = cluster.devices * cluster.memory_limit
        show(
            [
                ("weights", f"{format_bytes(capacity.weights_bytes)} of {format_bytes(limit)}, in {weights_in}; the cache in {cache_in}"),
                ("longest context", context_line(capacity, config)),
            ],
            f"Serving {self.model} on {cluster}: the roofline's rates, which good kernels come near",
        )
        show(serving_rows(capacity), "\nLargest batch of sequences of so many tokens")
        batches = {str(s.requests.length): s.requests.batch_size for s in capacity.serving}
        return {"question": "serve", "longest_context": capacity.longest_context, "largest_batch": batches}

    def _gain(self, run: TrainedRun, parameters: float, law: LossLaw, each: float, unique: float) -> dict[str, Any]:
        if self.gain is None:
            return {}
        gain = parse_percent(self.gain)
        here = worth(gain, seconds=run.seconds, usd=run.usd, parameters=parameters, tokens=run.tokens, law=law, unique=unique)
        rows = [gain_row("this run", run.usd, run.seconds, here, law, each)]
        for other in PUBLISHED_RUNS.values():
            seconds, usd = 86_400 * other.days, other.usd
            there = worth(gain, seconds=seconds, usd=usd, parameters=other.parameters, tokens=other.tokens, law=law)
            rows.append(gain_row(other.name, usd, seconds, there, law, BYTES_PER_TOKEN))
        show(rows, f"\nWhat {self.gain} more efficiency is worth: time and money at the same result, or bits per byte at the same price")
        return {"gain": gain, "gain_usd": here.usd, "gain_seconds": here.seconds, "gain_bits_per_byte": law.bits_per_byte(here.loss, each)}


def training_pairs(fit: Fit, mfu: float | None) -> Pairs:
    """What a run takes, for people."""
    run, step, device = fit.training, fit.steps[0], fit.steps[0].cluster.device
    whence = f"{step.cluster.kernel_share:.1%} while computing by the roofline, less what the layout costs" if mfu is None else "given"
    a_parameter = "an active parameter" if fit.cost.active_parameters < fit.cost.parameters else "a parameter"
    return [
        ("model", model_line(fit)),
        ("tokens", f"{format_count(run.tokens)}, {run.tokens / fit.cost.active_parameters:.1f} {a_parameter}"),
        ("FLOPs", f"{format_flops(run.flops)}, {format_flops(fit.cost.flops_per_token_training)} a token"),
        ("layout", f"{step.layout}; micro-batch {step.workload.batch_size}, {AGAIN[step.spread.run.recompute]} recomputed"),
        ("memory", f"{format_bytes(step.n_bytes)} of {format_bytes(step.cluster.memory_limit)} a device"),
        ("step", f"{format_count(step.tokens)} tokens in {format_seconds(step.seconds)}"),
        ("utilization", f"{run.mfu:.1%} of the dense {step.cluster.precision} peak: {whence}"),
        ("time", format_seconds(run.seconds)),
        (
            "money",
            f"{format_usd(run.usd)} at {format_usd(device.usd_per_hour)} an hour and device, {device.price_source.partition(':')[0]}",
        ),
    ]


def best_pairs(best: BestModel, mfu: float | None) -> Pairs:
    """The chosen model and its run."""
    left = "" if best.plan.budget.unit == "flops" else "; the rest of the budget is for evaluation and checkpoints"
    if best.plan.n_steps == best.plan.most_steps:
        left = f"; the text is used up after {best.plan.max_epochs:g} epochs, and the rest of the budget is not spent"
    pairs = [(name, text + left if name == "time" else text) for name, text in training_pairs(best.fit, mfu)]
    each = bytes_per_token(best.plan.model.vocab_size)
    text = ("text", text_line(best.plan.tokens, best.unique_tokens))
    return [*pairs, text, ("predicted loss", loss_line(best.law, best.loss, each)), *law_pairs(best.law, best.plan.flops)]


def model_line(fit: Fit) -> str:
    """A model's shape in a line."""
    c, counted = fit.config, fit.cost
    active = f", {format_count(counted.active_parameters)} for a token" if counted.active_parameters < counted.parameters else ""
    shape = f"{len(c.layers)} layers of width {c.d_model:,}, vocabulary {c.vocab_size:,}"
    return f"{format_count(counted.parameters)} parameters{active}: {shape}"


def text_line(tokens: float, unique: float) -> str:
    """How often the text is read."""
    return "plenty: nothing is read twice" if math.isinf(unique) else f"{format_count(unique)} tokens, read {tokens / unique:.2f} times"


def loss_line(law: LossLaw, loss: float, each: float) -> str:
    """A loss in the law's unit and in bits a byte."""
    if law.unit == "bits a byte":
        return f"{loss:.3f} {law.unit}"
    return f"{loss:.3f} {law.unit}, {law.bits_per_byte(loss, each):.3f} bits a byte at {each:.2f} bytes a token"


def law_pairs(law: LossLaw, flops: float = 0.0) -> Pairs:
    """Which law was used, and how far it can be trusted."""
    beyond = f"; extrapolated beyond {law.known_to_flops:.1g} FLOPs" if flops > law.known_to_flops else ""
    return [("law", law.name + beyond), ("", law.equation), ("", law.certainty)]


def shape_rows(best: BestModel, each_side: int = 2) -> Rows:
    """The chosen shape among its neighbours."""
    chosen = next(i for i, s in enumerate(best.shapes) if s.config.d_model == best.plan.model.d_model)
    lowest = min(s.loss for s in best.shapes)
    rows = []
    for i, s in list(enumerate(best.shapes))[max(0, chosen - each_side) : chosen + each_side + 1]:
        verdict = f"loss {s.loss - best.shapes[chosen].loss:+.3f}" if i != chosen else "chosen: lowest loss"
        if i == chosen and s.loss > lowest:
            verdict = "chosen: smaller, and hardly worse"
        shape = {"width": f"{s.config.d_model:,}", "layers": len(s.config.layers), "N": format_count(s.parameters)}
        ratio = f"{s.tokens / s.parameters:.1f}"
        rows.append(shape | {"D": format_count(s.tokens), "D/N": ratio, "loss": f"{s.loss:.3f}", "": verdict})
    return rows


def law_rows(best: BestModel) -> Rows:
    """What each law would take."""
    return [
        {"law": name, "N": format_count(a.parameters), "D": format_count(a.tokens), "D/N": f"{a.tokens / a.parameters:.1f}"}
        for name, a in best.by_law.items()
    ]


def layout_rows(steps: Sequence[Step], most: int = 9) -> Rows:
    """Layouts with what they take and why they were or were not chosen; some that do not fit among them, if there are any."""
    rows = []
    fitting, others = [step for step in steps if step.fits], [step for step in steps if not step.fits]
    for i, step in enumerate(fitting[: most - 2] + others[:2]):
        slower = steps[0].tokens_per_s / step.tokens_per_s - 1
        verdict = "chosen: fastest" if i == 0 else "as fast" if slower < 0.005 else f"{slower:.0%} slower"
        if not step.fits:
            verdict = f"has {format_bytes(step.cluster.memory_limit)}"
        rows.append(
            {
                "layout": str(step.layout),
                "micro": step.workload.batch_size,
                "again": AGAIN[step.spread.run.recompute],
                "a device": format_bytes(step.n_bytes),
                "MFU": f"{step.mfu:.1%}" if step.fits else "",
                "": verdict,
            }
        )
    return rows


def size_rows(sizes: Sequence[Size], chosen: ModelConfig) -> Rows:
    """Sizes that were tried."""
    return [
        {
            "width": f"{size.config.d_model:,}",
            "layers": len(size.config.layers),
            "parameters": format_count(size.parameters),
            "": "chosen: largest that fits" if size.config == chosen else "fits" if size.fits else "fits in no layout",
        }
        for size in sizes
    ]


def serving_rows(capacity: Capacity) -> Rows:
    """Batches by context."""
    return [
        {
            "context": f"{s.requests.length:,}",
            "largest batch": f"{s.requests.batch_size:,}",
            "a token each": format_seconds(s.seconds_per_token(s.requests.length)),
            "tokens/s": f"{s.requests.batch_size / s.seconds_per_token(s.requests.length):,.0f}",
            "bound by": "compute" if s.requests.batch_size > s.compute_bound_batch else "reading",
        }
        for s in capacity.serving
    ]


def context_line(capacity: Capacity, config: ModelConfig) -> str:
    """The longest context of one sequence."""
    if capacity.longest_context is None:
        return f"{config.context_length:,} tokens, all that the model takes; its cache does not grow with more"
    if capacity.longest_context >= config.context_length:
        return f"{config.context_length:,} tokens, all that the model takes; memory for {capacity.longest_context:,}"
    return f"{capacity.longest_context:,} of the model's {config.context_length:,} tokens"


def gain_row(name: str, usd: float, seconds: float, gain: Gain, law: LossLaw, each: float) -> dict[str, Any]:
    """What a gain is worth on a run."""
    return {
        "run": name,
        "costs": format_usd(usd),
        "saves": format_usd(gain.usd),
        "takes": format_seconds(seconds),
        "saves ": format_seconds(gain.seconds),
        "or bits a byte": f"-{law.bits_per_byte(gain.loss, each):.4f}",
    }


def training_figures(fit: Fit) -> dict[str, Any]:
    """What a run takes, for machines."""
    return {"parameters": fit.cost.parameters} | run_figures(fit.training) | step_figures(fit.training.step)
