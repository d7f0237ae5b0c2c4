"""Runs and tables that others have published, as data with their sources: to hold our count against, and to value a gain on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from groundup.account.cost import Cost, cost
from groundup.account.law import FLOPS_PER_PARAMETER_TOKEN
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm


@dataclass(frozen=True)
class PublishedRun:
    """A training run whose size and bill are public."""

    name: str
    """Model."""
    parameters: float
    """N that a token meets: of a mixture of experts the active ones."""
    tokens: float
    """D."""
    device: str
    """What it ran on."""
    devices: int
    """How many."""
    device_hours: float
    """Hours of all devices together."""
    usd_per_hour: float
    """Rent of a device."""
    source: str
    """Where the figures are from."""

    @property
    def flops(self) -> float:
        """C = 6 N D (Kaplan et al. 2020), the convention of headlines."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens

    @property
    def days(self) -> float:
        """Days on the clock, were all devices always at work."""
        return self.device_hours / self.devices / 24

    @property
    def usd(self) -> float:
        """Rent of all device hours."""
        return self.device_hours * self.usd_per_hour

    def utilization(self, peak_flops: float) -> float:
        """6 N D over the FLOPs that its devices could have done at ``peak_flops`` each."""
        return self.flops / (self.device_hours * 3600 * peak_flops)


PUBLISHED_RUNS: dict[str, PublishedRun] = {
    "gpt-3": PublishedRun(
        *("GPT-3 175B", 175e9, 300e9, "V100", 10_000, 14.8 * 24 * 10_000, 0.40),
        "Brown et al. 2020, table 2.1; devices and days Patterson et al. 2021, table 4; today's rent of a V100",
    ),
    "llama-3.1-405b": PublishedRun(
        *("Llama 3.1 405B", 405e9, 15.6e12, "H100", 16_384, 30.84e6, 2.95),
        "Llama Team 2024, section 3.3; hours by its model card; rent assumed",
    ),
    "deepseek-v3": PublishedRun(
        *("DeepSeek-V3", 37e9, 14.8e12, "H800", 2048, 2.788e6, 2.00),
        "DeepSeek-AI 2024, table 1, all stages; rent by the same table",
    ),
}
"""By name."""


BYTES_PER_TOKEN = 4.0
"""Bytes of English text that one of their tokens stands for, about: Llama Team 2024, section 3.2, find 3.94 characters for their own."""


class OptShape(NamedTuple):
    """One row of the table that lectures show under the name of OPT."""

    name: str
    """Nominal size."""
    n_layers: int
    """L."""
    d_model: int
    """D."""
    n_heads: int
    """H."""
    tokens_per_update: int
    """Tokens of a batch."""


M = 1 << 20
OPT_SEQ_LEN = 2048
OPT_VOCAB = 51_200
"""OPT's 50,272 tokens padded to a multiple of 128 x 8, as Megatron-LM splits the embedding over 8 devices."""
OPT_SHAPES: tuple[OptShape, ...] = (
    OptShape("760M", 24, 1536, 16, M // 2),  # of GPT-3's table 2.1; OPT has no such size
    OptShape("1.3B", 24, 2048, 32, M),
    OptShape("2.7B", 32, 2560, 32, M),
    OptShape("6.7B", 32, 4096, 32, 2 * M),
    OptShape("13B", 40, 5120, 40, 4 * M),
    OptShape("30B", 48, 7168, 56, 4 * M),
    OptShape("66B", 64, 9216, 72, 2 * M),
    OptShape("175B", 96, 12_288, 96, 2 * M),
)
"""Zhang et al. 2022, table 1; MLPs are 4 D wide."""


class Shares(NamedTuple):
    """Where the FLOPs of an update go, each part as a share of ``flops``."""

    flops: float
    """FLOPs of an update, layers recomputed once."""
    projections: float
    """Query, key, value and output."""
    mlp: float
    """Feed-forward layers."""
    attention: float
    """Scores and weighted values, all T x T pairs."""
    head: float
    """Logits."""


def opt_printed(shape: OptShape) -> Shares:
    """The shares by the accounting that yields the printed table.

    Forward FLOPs a token and layer: projections 2 D^2 + 8 T D, MLP 16 D^2, attention 4 T D; logits 2 D V. Layers count four times
    (forward, backward, and forward again), logits three times. The true projections are four D x D matrices, 8 D^2: what the printed
    ones lack in D^2 they have, by mistake, in T D.
    """
    n, d, t = shape.n_layers, shape.d_model, OPT_SEQ_LEN
    return _shares(shape, n * (2 * d * d + 8 * t * d), n * 16 * d * d, n * 4 * t * d, 2 * d * OPT_VOCAB)


def opt_counted(shape: OptShape) -> Shares:
    """The same shares and the same recomputation by the cost tree of a model of that shape."""
    counted = cost(opt_config(shape), Training(OPT_SEQ_LEN))
    forward = {row: executed_forward(counted, row) / OPT_SEQ_LEN for row in ("mixer", "mlp", "scores", "weighted_values", "head")}
    attention = forward["scores"] + forward["weighted_values"]
    return _shares(shape, forward["mixer"] - attention, forward["mlp"], attention, forward["head"])


def opt_config(shape: OptShape) -> ModelConfig:
    """A decoder of the shape: its products are OPT's; positions and biases take none."""
    attention = Attention(shape.n_heads, shape.n_heads, shape.d_model // shape.n_heads, rotary=None)
    layer = Layer(attention, Dense(4 * shape.d_model, "gelu"), Norm("layer"))
    return ModelConfig(OPT_VOCAB, shape.d_model, OPT_SEQ_LEN, (layer,) * shape.n_layers, final_norm=Norm("layer"), tied=True)


def executed_forward(counted: Cost, part: str) -> int:
    """Executed FLOPs of one forward pass in all components whose path ends in ``part``."""
    return sum(c.executed_forward_flops for _, c in counted.tree.walk() if c.name.split(".")[-1] == part)


def _shares(shape: OptShape, projections: float, mlp: float, attention: float, head: float) -> Shares:
    """From forward FLOPs a token, all layers together."""
    parts = 4 * projections, 4 * mlp, 4 * attention, 3 * head
    total = sum(parts)
    return Shares(total * shape.tokens_per_update, *(part / total for part in parts))
