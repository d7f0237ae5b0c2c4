"""nanoGPT (Karpathy 2022): GPT-2's model (Radford et al. 2019) and its recipe, written anew after the public repository's.

Model: learned positions, LayerNorm before each part, fused query-key-value projection, PyTorch's fused causal attention, GELU, no biases,
head tied to the embedding; weights from N(0, 0.02), those that write to the residual stream from N(0, 0.02 / sqrt(2 L)).
Recipe: AdamW with betas 0.9 and 0.99 (its value for small batches), decay 0.1 on everything with two dims, linear warm-up, cosine to a
tenth, gradient norm clipped at 1, windows from random places. In its favour here: AdamW's fused kernel, and schedules that follow the
clock, so that the rate has always come down when the time is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.peers.common import TrainedNetwork, cross_entropy, random_windows, train_within

LADDERS = {
    "learning_rate": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "width": (64, 96, 128, 192, 256),
    "n_layers": (2, 3, 4, 6),
    "batch_size": (2, 4, 8, 16, 32),
    "seq_len": (128, 256, 512),
    "vocab_size": (1024, 2048, 4096),
}


@dataclass(frozen=True)
class Settings:
    """The recipe; what a small budget changes most is what a sweep tries."""

    n_layers: int = 4
    """Layers."""
    width: int = 128
    """Residual stream."""
    head_dim: int = 32
    """Width of a head (nanoGPT: 64); the widths swept are multiples of it."""
    seq_len: int = 256
    """Training window, as in its configuration for small text."""
    batch_size: int = 8
    """Windows a step."""
    learning_rate: float = 4e-3
    """Peak; its own 1e-3 is for a model nine times as wide as ours are here."""
    warmup: float = 0.02
    """Share of the time: its small configuration warms up for 100 of 5,000 steps."""
    final: float = 0.1
    """Last learning rate, as a share of the peak."""
    beta2: float = 0.99
    """AdamW's second beta; 0.95 in its large configurations."""
    weight_decay: float = 0.1
    """Decoupled decay."""
    vocab_size: int = 2048
    """Tokens of the tokenizer that it is given."""
    compile: bool = False
    """Whether torch.compile compiles the model, within the time."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, s: Settings):
        super().__init__()
        self.head_dim = s.head_dim
        self.attention_norm = nn.LayerNorm(s.width, bias=False)
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.attention_out = nn.Linear(s.width, s.width, bias=False)
        self.mlp_norm = nn.LayerNorm(s.width, bias=False)
        self.up = nn.Linear(s.width, 4 * s.width, bias=False)
        self.mlp_out = nn.Linear(4 * s.width, s.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = (a.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for a in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.up(self.mlp_norm(x))))


class NanoGPT(nn.Module):
    """Tokens [B, T] to logits [B, T, V]."""

    def __init__(self, s: Settings, vocab_size: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, s.width)
        self.positions = nn.Embedding(s.seq_len, s.width)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.n_layers))
        self.norm = nn.LayerNorm(s.width, bias=False)
        self.head = nn.Linear(s.width, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * s.n_layers) if name.endswith("_out.weight") else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every position; at most seq_len of them."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build_optimizer(model: nn.Module, s: Settings) -> torch.optim.Optimizer:
    """AdamW; matrices and embeddings decay, gains do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": s.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=s.learning_rate, betas=(0.9, s.beta2), fused=True)


def learning_rate(progress: float, s: Settings) -> float:
    """Linear warm-up, then half a cosine from the peak to ``final`` of it."""
    if progress < s.warmup:
        return s.learning_rate * max(progress / s.warmup, 0.01)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - s.warmup) / (1 - s.warmup))))
    return s.learning_rate * (s.final + (1 - s.final) * cosine)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One step of training at the optimizer's present learning rate."""
    cross_entropy(model(x), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train_for(seconds: float, train_tokens: np.ndarray, vocab_size: int, *, seed: int, settings: Settings) -> TrainedNetwork:
    """Builds and trains a model on a stream of ids [N] for so many seconds, compilation counted."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = NanoGPT(settings, vocab_size)
    optimizer = build_optimizer(model, settings)
    forward = torch.compile(model) if settings.compile else model

    def step(progress: float, _: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, settings)
        update(forward, optimizer, *random_windows(train_tokens, settings.batch_size, settings.seq_len, random))

    return TrainedNetwork(model, train_within(seconds, step))
