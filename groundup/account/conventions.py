"""Why two tools disagree: the FLOPs and the utilization of one run under each convention that people use.

Symbols: N parameters, T tokens of a sequence, L layers, H heads, E head_dim (Q in the PaLM paper), D d_model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from groundup.account.cost import Cost, cost
from groundup.account.law import FLOPS_PER_PARAMETER_TOKEN
from groundup.account.workload import Training
from groundup.config import Attention, LatentAttention, LinearMixer, ModelConfig
from groundup.errors import UsageError

SPARSE_OVER_DENSE = 2.0
"""A brochure's peak "with sparsity" over the dense one: two of four numbers are zero and skipped (NVIDIA A100 whitepaper, 2020)."""


@dataclass(frozen=True)
class Convention:
    """One way to count a run."""

    name: str
    """What is counted."""
    formula: str
    """FLOPs of training on a token."""
    flops_per_token: float
    """Its value for this model and length."""
    utilization: float
    """Those FLOPs times tokens a second, over the peak that the convention takes."""
    used_by: str
    """Who counts so."""


def active_parameters(counted: Cost) -> int:
    """Parameters that take part in one token's pass: of lookup tables a row, of experts those chosen, and a tied head's matrix.

    Of a table of n-grams it is one row too, however many orders share it.
    """
    tables = [w for w in counted.weights if w.kind == "table"]
    head = 0 if any(w.kind == "head" for w in counted.weights) else next(w.numbers for w in tables if w.name == "embedding.weight")
    rows = sum(w.shape[-1] for w in tables)
    return counted.active_parameters - sum(w.numbers for w in tables) + rows + head


def attention_square(config: ModelConfig, seq_len: int) -> int:
    """12 L H E T: FLOPs a token of scores and weighted values, forward and backward, as if every query met every key.

    Of latent attention 6 H (E + R + V) T a layer, since its keys and values differ in width; a linear mixer has no such square.
    """
    return sum(6 * _width(layer.mixer) * layer.mixer.n_heads * seq_len for layer in config.layers)


def _width(mixer: Attention | LatentAttention | LinearMixer) -> int:
    """Of a head's keys and values, together."""
    match mixer:
        case LatentAttention():
            return mixer.head_dim + mixer.rotary_dim + mixer.value_dim
        case LinearMixer():
            return 0
        case Attention():
            return 2 * mixer.head_dim


def attention_forward(counted: Cost, *, executed: bool = False) -> float:
    """FLOPs a token of scores and weighted values in one forward pass; ``executed`` counts the masked pairs too."""
    parts = (part for _, part in counted.tree.walk() if part.name.endswith((".scores", ".weighted_values")))
    return sum(part.executed_forward_flops if executed else part.forward_flops for part in parts) / counted.seq_len


def conventions(config: ModelConfig, *, seq_len: int, tokens_per_s: float, peak_flops: float) -> list[Convention]:
    """The same run, counted by everyone: ``tokens_per_s`` on devices of together ``peak_flops`` dense FLOP/s.

    Sources: Korthikanti et al. 2022, equation 7 (all pairs); Hoffmann et al. 2022, appendix F (6N); Kaplan et al. 2020, section 2.1;
    Chowdhery et al. 2022, appendix B (PaLM); Narayanan et al. 2021, equation 3 (layers again); Dao et al. 2022 (attention again).
    Raises UsageError for a rate or a peak that is not above zero.
    """
    if tokens_per_s <= 0 or peak_flops <= 0:
        raise UsageError(f"utilization needs tokens a second and a peak above 0, not {tokens_per_s:g} and {peak_flops:g}")
    counted, k = cost(config, Training(seq_len)), FLOPS_PER_PARAMETER_TOKEN
    exact, square = counted.flops_per_token_training, counted.executed_flops_per_token_training
    palm = k * counted.parameters + attention_square(config, seq_len)
    again = attention_forward(counted, executed=True)
    layers = sum(part.executed_forward_flops for part in counted.tree.parts if part.name == "layers") / seq_len
    listed = (
        ("exact, causal pairs", "3 x forward of every product", exact, 1.0, "groundup, FlashAttention"),
        ("exact, T x T pairs", "the same, masked pairs too", square, 1.0, "Megatron-LM"),
        ("6N", "6 N", k * counted.parameters, 1.0, "Chinchilla, most headlines"),
        ("6N, no embeddings", "6 (N - tables - head)", k * counted.parameters_non_embedding, 1.0, "Kaplan et al. 2020"),
        ("6N, active only", "6 (N that a token meets)", k * active_parameters(counted), 1.0, "DeepSeek, Mixtral"),
        ("6N + 12LHET", "6 N + 12 L H E T", palm, 1.0, "PaLM, nanoGPT, llm-foundry"),
        ("6(N-table) + 12LHET", "6 (N - tables) + 12 L H E T", palm - k * _tables(counted), 1.0, "torchtitan, nanochat"),
        ("HFU, flash", "T x T pairs, attention forward again", square + again, 1.0, "selective recomputation"),
        ("HFU, layers again", "T x T pairs, layers forward again", square + layers, 1.0, "Megatron-LM of 2021"),
        ("exact, sparse peak", "causal, over 2 x the dense peak", exact, SPARSE_OVER_DENSE, "readers of brochures"),
    )
    return [Convention(name, formula, f, f * tokens_per_s / (peak_flops * over), by) for name, formula, f, over, by in listed]


def _tables(counted: Cost) -> int:
    """Numbers in tables that are only looked up: a tied embedding is the head's matrix too, and counts."""
    tied = not any(w.kind == "head" for w in counted.weights)
    return sum(w.numbers for w in counted.weights if w.kind == "table" and not (tied and w.name == "embedding.weight"))
