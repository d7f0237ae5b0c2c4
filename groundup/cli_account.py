"""``groundup cost``: what a model costs to train and to run, without running it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tyro.conf import Positional

from groundup.account import (
    CPU,
    GPU,
    Cost,
    Device,
    StepTime,
    cost,
    find_ceilings,
    find_device,
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
    format_usd,
    step_time,
    training_memory,
)
from groundup.account.answers import lay_out, train, usual_tokens
from groundup.account.budget import parse_tokens
from groundup.account.cluster import Cluster
from groundup.account.execution import Recompute
from groundup.account.inference import HELD_BYTES, HeldAs, Serving, cache_bytes
from groundup.account.layout import Layout, parse_layout
from groundup.account.workload import Inference, Training
from groundup.cli_flags import check_above_zero, check_counts, check_picture, check_share, refuse_without_part
from groundup.cli_layout import (
    Pairs,
    counted_in,
    memory_rows,
    memory_title,
    run_figures,
    run_pairs,
    sent_figures,
    sent_rows,
    sent_title,
    show,
    step_figures,
    waiting_rows,
)
from groundup.config import ModelConfig
from groundup.errors import UsageError
from groundup.model.shape import open_shape

SHOWN = {"cost": "what one device takes", "layout": "what many devices take", "conventions": "how others count"}
"""What each way of asking shows, in the words of a refusal."""
USES = {
    "cost": {
        *("batch_size", "matrices", "recompute", "tokens", "mfu", "prompt_tokens", "new_tokens", "serve_batch", "weights_in", "cache_in"),
        *("memory", "time", "plot"),
    },
    "layout": {
        *("layout", "batch_size", "micro_batches", "recompute", "tokens"),
        *("prompt_tokens", "new_tokens", "serve_batch", "weights_in", "cache_in"),
    },
    "conventions": {"conventions", "mfu", "tokens_per_s", "batch_size", "matrices", "recompute"},
}
"""Flags that have a part in what is shown."""
ANYWHERE = {"seq_len", "device", "devices", "json", "debug"}
"""Flags that have one in all of them."""


@dataclass(frozen=True)
class CostOf:
    """Parameters, FLOPs, memory, time and money of a model, counted from its shape alone."""

    model: Positional[str]
    """A run's folder or a Hugging Face one, its config.json alone, or a known name such as llama-3.1-8b."""
    seq_len: int | None = None
    """Tokens of a training sequence (default: the model's context, at most 4096)."""
    batch_size: int | None = None
    """Sequences of a training step's micro-batch (default: 8, or with --layout one of each replica)."""
    layout: str | None = None
    """What many devices send, hold and wait for: "data 8 zero 1 tensor 4 pipeline 2 expert 8", as `groundup plan` prints it, or dp8 tp4."""
    micro_batches: int | None = None
    """Micro-batches of a step with --layout (default: as many as the planner would take)."""
    matrices: Literal["muon", "adamw", "sgd", "soap"] = "adamw"
    """Optimizer of the layers' matrices."""
    recompute: Recompute = "none"
    """What backward computes again instead of keeping it: each layer's attention, its mlp, or the layers whole."""
    tokens: str | None = None
    """Tokens to train on, such as 15T (default: 20 for each parameter that works on a token, Hoffmann et al. 2022)."""
    device: str = "h100"
    """A device such as a100, h100, b200 or rtx4090, or here for this machine as `groundup doctor` measured it."""
    devices: int = 1
    """How many of them train."""
    mfu: float | None = None
    """Share of the dense peak that training attains (default: predicted by a roofline over the model's operations)."""
    prompt_tokens: int | None = None
    """Tokens of each prompt that is answered (default: 1000, or half of a short context)."""
    new_tokens: int = 200
    """Tokens of each answer."""
    serve_batch: int = 1
    """Sequences answered side by side, on one device, or with --layout on those that share matrices."""
    weights_in: HeldAs | None = None
    """Type that weights are held in while answering (default: the one that the device computes in)."""
    cache_in: HeldAs | None = None
    """Type that keys and values are held in (default: the same)."""
    memory: bool = False
    """Show where the memory of a training step goes, as bars."""
    time: bool = False
    """Show where the time of a training step goes, and what binds each part."""
    conventions: bool = False
    """Show the same run's FLOPs and utilization as others count them, and who does."""
    plot: Path | None = None
    """Write a picture here (.png or .svg): FLOP shares by model size, the memory of a step, and its parts under the roofline."""
    tokens_per_s: float | None = None
    """Measured speed of training for --conventions (default: what --mfu comes to, or the roofline predicts)."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Prints the tables."""
        self._check()
        config, device = open_shape(self.model), find_device(self.device)
        if self.layout is not None:
            self._show_layout(parse_layout(self.layout), config, device)
        elif self.conventions:
            self._show_conventions(config, device)
        else:
            self._show_cost(config, device)

    def _check(self) -> None:
        """UsageError for a number that cannot be, and for a flag that has no part in what is shown."""
        check_counts(self, ("seq_len", "batch_size", "micro_batches", "devices", "prompt_tokens", "new_tokens", "serve_batch"))
        check_share(self, "mfu")
        check_above_zero(self, "tokens_per_s", "a speed")
        check_picture(self.plot)
        asked = "layout" if self.layout is not None else "conventions" if self.conventions else "cost"
        refuse_without_part(self, USES[asked] | ANYWHERE, SHOWN[asked], {"tokens_per_s": "--conventions", "micro_batches": "--layout"})

    def _show_cost(self, config: ModelConfig, device: Device) -> None:
        seq_len = self._tokens_of_a_sequence(config)
        counted, step = cost(config, Training(seq_len)), self._step_time(config, seq_len)
        training, serving = self._training(config, counted, device, step), self._serving(config, Cluster.of(self.device))
        active = f", {counted.active_parameters:,} for a token" if counted.active_parameters < counted.parameters else ""
        show(
            tree_rows(counted),
            f"{self.model}: {counted.parameters:,} parameters{active}; FLOPs of training on sequences of {seq_len:,} tokens",
        )
        mfu, how = (step.mfu, "predicted") if self.mfu is None else (self.mfu, "given")
        alone = "; what they send each other is not counted, see --layout" if self.devices > 1 else ""
        title = f"\nTraining on {self.devices} x {device.name} at {mfu:.0%} of the {device.half_precision} peak, {how}{alone}"
        show(_pairs(training), title)
        if self.time:
            show(time_rows(step), f"\nTime of a step of {self._sequences} x {seq_len:,} tokens; {step.ceilings.source}")
        if self.memory:
            self._show_memory(config, seq_len)
        if self.plot is not None:
            self._plot(self.plot, config, counted, step)
        self._show_serving(serving, f"one {device.name}", device)
        if self.json:
            figures = {"model": self.model, "parameters": counted.parameters, "active_parameters": counted.active_parameters}
            figures |= {x.name: x.value for x in (*training, *serving)}
            parts = {"seconds_by_part": {row.name: row.seconds for row in step.rows()}} if self.time else {}
            print(json.dumps(figures | parts))

    def _show_layout(self, layout: Layout, config: ModelConfig, device: Device) -> None:
        if self.devices not in (1, layout.devices):
            raise UsageError(f"--devices {self.devices}: --layout {self.layout!r} is for {layout.devices}; leave --devices out")
        cluster = Cluster.of(self.device, layout.devices)
        step = lay_out(
            config,
            cluster,
            layout,
            seq_len=self._tokens_of_a_sequence(config),
            tokens=self._tokens,
            micro_batch=1 if self.batch_size is None else self.batch_size,
            micro_batches=self.micro_batches,
            recompute=self.recompute,
        )
        serving = self._serving(config, Cluster.of(self.device, layout.tensor))
        counted, run = counted_in(step), train(step, self._tokens or usual_tokens(step.spread.counted.cost))
        show(sent_rows(counted), f"{self.model}: {sent_title(counted, layout)}")
        show(run_pairs(run), f"\nTraining on {cluster}: {layout}")
        show(waiting_rows(step), "\nTime of a step, on the slowest stage")
        show(memory_rows(step), f"\n{memory_title(step)}")
        several = f"{layout.tensor} x {device.name}, which share matrices and are taken as one"
        self._show_serving(serving, several if layout.tensor > 1 else f"one {device.name}", device)
        if self.json:
            figures = {"model": self.model, "parameters": counted.parameters, "active_parameters": counted.active_parameters}
            figures |= run_figures(run) | step_figures(step) | sent_figures(counted, step)
            print(json.dumps(figures | {x.name: x.value for x in serving}))

    def _show_conventions(self, config: ModelConfig, device: Device) -> None:
        from groundup.account.conventions import conventions

        counted = cost(config, Training(self._tokens_of_a_sequence(config)))
        peak = device.peak(device.half_precision) * self.devices
        mfu = self._step_time(config, counted.seq_len).mfu if self.mfu is None else self.mfu
        speed = mfu * peak / counted.flops_per_token_training if self.tokens_per_s is None else self.tokens_per_s
        found = conventions(config, seq_len=counted.seq_len, tokens_per_s=speed, peak_flops=peak)
        rows = [
            {
                "convention": c.name,
                "FLOPs/token": format_flops(c.flops_per_token),
                "of exact": f"{c.flops_per_token / counted.flops_per_token_training:.3f}",
                "MFU": f"{c.utilization:.1%}",
                "used by": c.used_by,
            }
            for c in found
        ]
        show(rows, f"{self.model}, sequences of {counted.seq_len:,}: {speed:,.0f} tokens/s on {self.devices} x {device.name}")
        if self.json:
            lines = {c.name: {"flops_per_token": c.flops_per_token, "utilization": c.utilization} for c in found}
            print(json.dumps({"model": self.model, "tokens_per_s": speed, "peak_flops": peak, "conventions": lines}))

    def _workload(self, seq_len: int) -> Training:
        run = dataclasses.replace(GPU if find_ceilings(self.device).overlapped else CPU, recompute=self.recompute)
        return Training(seq_len, self._sequences, run=run, matrices=self.matrices)

    def _tokens_of_a_sequence(self, config: ModelConfig) -> int:
        return min(4096, config.context_length) if self.seq_len is None else self.seq_len

    @property
    def _tokens(self) -> float | None:
        """Tokens to train on, if they were given."""
        return None if self.tokens is None else parse_tokens(self.tokens)

    @property
    def _sequences(self) -> int:
        return 8 if self.batch_size is None else self.batch_size

    def _step_time(self, config: ModelConfig, seq_len: int) -> StepTime:
        return step_time(config, find_ceilings(self.device), self._workload(seq_len))

    def _training(self, config: ModelConfig, counted: Cost, device: Device, step: StepTime) -> list[Figure]:
        """Figures of training."""
        tokens = int(self._tokens or usual_tokens(counted))
        flops = counted.flops_training(tokens)
        seconds = flops / (device.peak(device.half_precision) * (self.mfu or step.mfu) * self.devices)
        usd = seconds / 3600 * device.usd_per_hour * self.devices
        held, limit = training_memory(config, self._workload(counted.seq_len)).peak_bytes, Cluster.of(self.device).memory_limit
        pairs = sum(row.share for row in counted.rows() if row.name.endswith(("scores", "weighted_values")))
        return [
            Figure("training_flops_per_token", "FLOPs a token", counted.flops_per_token_training, format_flops),
            Figure("attention_share", "of it attention's pairs", pairs, "{:.1%}".format),
            Figure("step_seconds", f"a step of {self._sequences} sequences on one device, predicted", step.seconds, format_seconds),
            Figure("training_tokens_per_s", "tokens/s on one device, predicted", step.tokens_per_s, "{:,.0f}".format),
            Figure("mfu", "model FLOPs utilization, predicted", step.mfu, "{:.1%}".format),
            Figure("hfu", "with what is computed again", step.hfu, "{:.1%}".format),
            Figure("training_tokens", "tokens", tokens, format_count),
            Figure("training_flops", "FLOPs", flops, format_flops),
            Figure("training_seconds", "time", seconds, format_seconds),
            Figure("training_usd", "money", usd, format_usd),
            Figure(
                "training_peak_bytes",
                f"peak memory of {self._sequences} sequences, one device",
                held,
                _fits(limit),
            ),
        ]

    def _plot(self, path: Path, config: ModelConfig, counted: Cost, timed: StepTime) -> None:
        from groundup.account.shares import shares_by_size, step_timeline
        from groundup.report.accounts import save_accounts

        sizes = shares_by_size(vocab_size=config.vocab_size, seq_len=counted.seq_len)
        moments = step_timeline(config, self._workload(counted.seq_len))
        step = f"{Path(self.model).name}, {self._sequences} x {counted.seq_len:,} tokens"
        save_accounts(path, Path(self.model).name, counted.parameters, sizes, moments, timed, step=step)
        print(f"\nwrote {path}")

    def _show_memory(self, config: ModelConfig, seq_len: int) -> None:
        from groundup.terminal import show_bars

        workload = self._workload(seq_len)
        found = training_memory(config, workload)
        precision = "all in fp32" if workload.run.precision == "fp32" else f"fp32 weights cast to {workload.run.precision}"
        show_bars(
            {row.category: (row.n_bytes, format_bytes(row.n_bytes)) for row in found.rows()},
            title=f"\nMemory of a step of {self._sequences} x {seq_len:,} tokens, {precision}, at its peak ({found.peak.name})",
        )

    def _show_serving(self, figures: list[Figure], where: str, device: Device) -> None:
        title = f"\nServing on {where}, {device.half_precision}: the roofline's seconds, which no kernel beats and good ones come near"
        show(_pairs(figures), title)

    def _serving(self, config: ModelConfig, cluster: Cluster) -> list[Figure]:
        """Figures of answering on devices that are taken as one."""
        prompt = min(1000, max(1, config.context_length // 2)) if self.prompt_tokens is None else self.prompt_tokens
        answer = min(self.new_tokens, max(1, config.context_length - prompt))
        weight_bytes, number_bytes = (HELD_BYTES[held or cluster.precision] for held in (self.weights_in, self.cache_in))
        requests = Inference(prompt, answer, self.serve_batch, weight_bytes, number_bytes)
        requests.check(config)
        serving = Serving(config, requests, cluster.as_one(), cluster.precision)
        first, two = (cache_bytes(config, tokens, number_bytes) for tokens in (1, 2))
        grown = two - first  # a linear mixer keeps as much after one token as after many
        cached = f"weights and {self.serve_batch} x {requests.length:,} tokens of cache"
        return [
            Figure("weights_bytes", "weights", serving.weights_bytes, format_bytes),
            Figure("cache_bytes_per_token", "cache of a token", grown, format_bytes),
            *([Figure("state_bytes", "state of a sequence, however long", first - grown, format_bytes)] if first > grown else []),
            Figure("serving_bytes", cached, serving.memory_bytes, _fits(serving.device.memory_bytes)),
            Figure("prefill_flops", "FLOPs of a prompt", serving.cost.tree.forward_flops, format_flops),
            Figure("decode_flops", "FLOPs of the last token", serving.cost.decoding(requests.length).forward_flops, format_flops),
            Figure("seconds_to_first_token", "time to first token", serving.seconds_to_first_token, format_seconds),
            Figure("seconds_per_output_token", "time per output token", serving.seconds_per_output_token, format_seconds),
            Figure("tokens_per_s", "tokens/s, all sequences", serving.tokens_per_s, "{:,.0f}".format),
            Figure("usd_per_million_tokens", "a million tokens decoded", serving.usd_per_million_tokens, format_usd),
            Figure("compute_bound_batch", "compute-bound from a batch of", serving.compute_bound_batch, "{:,.0f}".format),
            Figure("largest_batch", "largest batch that fits", serving.largest_batch, "{:,}".format),
        ]


class Figure(NamedTuple):
    """One figure, for people and for machines."""

    name: str
    """Key in the JSON line."""
    label: str
    """What it is called in the table."""
    value: float
    """The figure."""
    show: Callable[[float], str]
    """How it is written."""


def _pairs(figures: list[Figure]) -> Pairs:
    """Figures as they are shown."""
    return [(figure.label, figure.show(figure.value)) for figure in figures]


def _fits(limit: float) -> Callable[[float], str]:
    """Bytes for people, beside those that a device has to give."""
    return lambda n_bytes: f"{format_bytes(n_bytes)}: {'fits' if n_bytes <= limit else 'does not fit'} {format_bytes(limit)}"


def time_rows(step: StepTime) -> list[dict[str, str]]:
    """One line a role, for people: what takes less than a thousandth of the step is left out."""
    return [
        {
            "part": row.name,
            "time": format_seconds(row.seconds),
            "of all": f"{row.seconds / step.seconds:.1%}",
            "bound by": row.bound,
            "FLOPs": format_flops(row.flops),
            "moved": format_bytes(row.n_bytes),
        }
        for row in step.rows()
        if row.seconds >= 0.001 * step.seconds
    ]


def tree_rows(counted: Cost) -> list[dict[str, str]]:
    """One line a role, for people: what has neither parameters nor FLOPs is left out."""
    return [
        {
            "part": row.name,
            "parameters": format_count(row.parameters),
            "of all": f"{row.parameters / counted.parameters:.1%}",
            "FLOPs/token": format_flops(row.training_flops / counted.seq_len),
            "of all ": f"{row.share:.1%}",
        }
        for row in counted.rows()
        if row.parameters or row.training_flops
    ]
