"""nanochat (Karpathy 2025; as of July 2026): its base model and recipe, written anew after the public repository's.

Model: rotary positions (theta 100,000) and then QK-norm with a factor of 1.2, RMSNorm without gains, one after the embedding, ReLU squared,
untied head, logits capped at 15, output projections from zero; value embeddings with gates in every other layer, a learned factor on the
residual stream and on the first embedding before each layer, the previous token's embedding smeared in, the middle layer's stream backed
out before the head. Recipe: Muon for all matrices of the layers (``muon.py``), AdamW for the rest with rates times (d / 768)^-0.5, forty
steps of warm-up, the last 65 % of the time linear to 5 %, no clipping.

What differs, in its favour in a budget this small: windows from random places (its loader would begin each at a document's start, and
drop the rest of long documents); schedules that follow the clock; full attention, as it recommends where no sliding kernel exists.
Its rule for batches, rates times sqrt(tokens / 2^19), is a guess so far below 2^19: ``rate_scale`` is swept instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.common import TrainedNetwork, cross_entropy, random_windows, train_within
from benchmarks.peers.muon import Muon

LADDERS = {
    "rate_scale": (0.06, 0.125, 0.25, 0.5, 1.0),
    "width": (64, 96, 128, 192, 256),
    "n_layers": (2, 3, 4, 6),
    "batch_size": (2, 4, 8, 16, 32),
    "seq_len": (128, 256, 512),
    "vocab_size": (1024, 2048, 4096),
}
SOFTCAP = 15.0
SMEAR_CHANNELS, VALUE_GATE_CHANNELS = 24, 12
WARMUP_STEPS, WARMDOWN, FINAL = 40, 0.65, 0.05
DECAY = 0.28 * 0.02 * 2520
"""Weight decay x learning rate x steps of its 12-layer reference: by its rule the product is the same for every run (Wang et al. 2024)."""


@dataclass(frozen=True)
class Settings:
    """The recipe; what a small budget changes most is what a sweep tries."""

    n_layers: int = 4
    """Layers."""
    width: int = 128
    """Residual stream."""
    head_dim: int = 32
    """Width of a head (nanochat: 128); the widths swept are multiples of it."""
    seq_len: int = 256
    """Training window."""
    batch_size: int = 8
    """Windows a step."""
    rate_scale: float = 0.25
    """Factor on all learning rates."""
    matrix_rate: float = 0.02
    """Muon's, for the layers' matrices."""
    embedding_rate: float = 0.3
    """AdamW's, for the embedding; half of it for value embeddings."""
    head_rate: float = 0.008
    """AdamW's, for the head."""
    scalar_rate: float = 0.5
    """AdamW's, for the factors on the first embedding; a hundredth of it for those on the residual stream."""
    vocab_size: int = 2048
    """Tokens of the tokenizer that it is given."""
    compile: bool = False
    """Whether torch.compile compiles model and Muon, as nanochat does, within the time."""


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a gain."""
    return F.rms_norm(x, (x.shape[-1],))


def rotary(seq_len: int, head_dim: int, theta: float = 100_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [T, 1, E / 2] each."""
    angles = torch.outer(torch.arange(seq_len).float(), theta ** (-torch.arange(0, head_dim, 2).float() / head_dim))
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + E / 2) of [B, T, H, E]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, s: Settings, value_embedding: bool):
        super().__init__()
        self.head_dim = s.head_dim
        self.q, self.k, self.v, self.attention_out = (nn.Linear(s.width, s.width, bias=False) for _ in range(4))
        self.value_gate = nn.Linear(VALUE_GATE_CHANNELS, s.width // s.head_dim, bias=False) if value_embedding else None
        self.up = nn.Linear(s.width, 4 * s.width, bias=False)
        self.mlp_out = nn.Linear(4 * s.width, s.width, bias=False)

    def forward(self, x: Tensor, values: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; ``values`` [B, T, D] is added to the values under a gate in (0, 3) for each head."""
        inner = norm(x)
        q, k, v = (layer(inner).unflatten(-1, (-1, self.head_dim)) for layer in (self.q, self.k, self.v))
        if self.value_gate is not None and values is not None:
            gate = 3 * torch.sigmoid(self.value_gate(inner[..., :VALUE_GATE_CHANNELS]))
            v = v + gate[..., None] * values.unflatten(-1, (-1, self.head_dim))
        q, k = (1.2 * norm(rotate(a, cos, sin)) for a in (q, k))
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.relu(self.up(norm(x))).square())


class NanoChat(nn.Module):
    """Tokens [B, T] to logits [B, T, V]."""

    def __init__(self, s: Settings, vocab_size: int):
        super().__init__()
        layers = range(s.n_layers)
        self.vocab_size = vocab_size
        padded = -(-vocab_size // 64) * 64
        self.tokens, self.head = nn.Embedding(padded, s.width), nn.Linear(s.width, padded, bias=False)
        has_values = [i % 2 == (s.n_layers - 1) % 2 for i in layers]  # every other layer, the last one among them
        self.values = nn.ModuleDict({str(i): nn.Embedding(padded, s.width) for i in layers if has_values[i]})
        self.blocks = nn.ModuleList(Block(s, has_values[i]) for i in layers)
        depth = torch.linspace(0, 1, s.n_layers)  # 0 at the first layer, 1 at the last
        self.stream_factor = nn.Parameter(1.15 - 0.10 * depth)
        self.first_factor = nn.Parameter(0.20 - 0.15 * depth)
        self.smear_gate = nn.Linear(SMEAR_CHANNELS, 1, bias=False)
        self.smear_factor = nn.Parameter(torch.zeros(1))
        self.backout_factor = nn.Parameter(torch.full((1,), 0.2))
        for name, table in zip(("cos", "sin"), rotary(s.seq_len, s.head_dim), strict=True):
            self.register_buffer(name, table, persistent=False)
        self._initialize(s.width)

    def _initialize(self, width: int) -> None:
        bound = (3 / width) ** 0.5  # of a uniform distribution with variance 1 / width
        nn.init.normal_(self.tokens.weight, std=0.8)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.uniform_(self.smear_gate.weight, 0.0, 0.02)
        for table in self.values.values():
            nn.init.uniform_(table.weight, -bound, bound)
        for block in self.blocks:
            for layer, size in ((block.q, bound), (block.k, bound), (block.v, bound), (block.up, 0.4 * bound)):
                nn.init.uniform_(layer.weight, -size, size)
            nn.init.zeros_(block.attention_out.weight)
            nn.init.zeros_(block.mlp_out.weight)
            if block.value_gate is not None:
                nn.init.uniform_(block.value_gate.weight, 0.0, 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position; at most seq_len of them, at least two."""
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        x = norm(self.tokens(tokens))
        gate = self.smear_factor * torch.sigmoid(self.smear_gate(x[:, 1:, :SMEAR_CHANNELS]))
        first = x = torch.cat([x[:, :1], x[:, 1:] + gate * x[:, :-1]], dim=1)
        middle = x
        for i, block in enumerate(self.blocks):
            x = self.stream_factor[i] * x + self.first_factor[i] * first
            x = block(x, self.values[str(i)](tokens) if str(i) in self.values else None, cos, sin)
            if i == len(self.blocks) // 2:
                middle = x
        logits = self.head(norm(x - self.backout_factor * middle))[..., : self.vocab_size]
        return SOFTCAP * torch.tanh(logits.float() / SOFTCAP)


def build_adamw(model: NanoChat, s: Settings) -> torch.optim.Optimizer:
    """AdamW of all that is outside the layers, with rates for a width of 768 scaled by (d / 768)^-0.5 where it does so."""
    wide = (s.width / 768) ** -0.5
    smear = [model.smear_gate.weight, model.smear_factor, model.backout_factor]
    groups = [
        (model.head.parameters(), s.head_rate * wide, (0.8, 0.96), 0.01),
        (model.tokens.parameters(), s.embedding_rate * wide, (0.8, 0.995), 0.001),
        (model.values.parameters(), s.embedding_rate * wide / 2, (0.8, 0.995), 0.01),
        ([model.stream_factor], s.scalar_rate / 100, (0.8, 0.95), 0.05),
        ([model.first_factor], s.scalar_rate, (0.96, 0.95), 0.0),
    ]
    named = [
        {"params": list(params), "rate": s.rate_scale * rate, "betas": betas, "weight_decay": decay}
        for params, rate, betas, decay in groups
    ]
    named.append({"params": smear, "rate": 0.2, "betas": (0.8, 0.95), "weight_decay": 0.0})  # which no rule of its scales
    return torch.optim.AdamW(named, lr=1.0, eps=1e-10, fused=True)


def rate_factor(progress: float, step: int) -> float:
    """Forty steps up, level, then linear to a twentieth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    left = min(1.0, (1 - progress) / WARMDOWN)
    return max(0.0, left) * (1 - FINAL) + FINAL


def momentum(progress: float, step: int) -> float:
    """Muon's: 0.85 to 0.97 over 400 steps, to 0.90 while the rate comes down."""
    if step < 400:
        return 0.85 + 0.12 * step / 400
    down = max(0.0, (progress - (1 - WARMDOWN)) / WARMDOWN)
    return 0.97 - 0.07 * min(1.0, down)


def train_for(seconds: float, train_tokens: np.ndarray, vocab_size: int, *, seed: int, settings: Settings) -> TrainedNetwork:
    """Builds and trains a model on a stream of ids [N] for so many seconds, compilation counted."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = NanoChat(settings, vocab_size)
    adamw, muon = build_adamw(model, settings), Muon(model.blocks.parameters(), compiled=settings.compile)
    forward = torch.compile(model, dynamic=False) if settings.compile else model
    peak = settings.rate_scale * settings.matrix_rate

    def step(progress: float, i: int) -> None:
        x, y = random_windows(train_tokens, settings.batch_size, settings.seq_len, random)
        cross_entropy(forward(x), y).backward()
        factor = rate_factor(progress, i)
        for group in adamw.param_groups:
            group["lr"] = group["rate"] * factor
        adamw.step()
        decay = DECAY / peak * progress / max(i, 1)  # i / progress steps are what the whole run will have
        muon.step(peak * factor, momentum(progress, i), decay * 0.5 * (1 + math.cos(math.pi * progress)))
        model.zero_grad(set_to_none=True)

    return TrainedNetwork(model, train_within(seconds, step))
