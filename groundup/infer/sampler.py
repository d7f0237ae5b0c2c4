"""From logits to the next token, as pure functions: the one random number that a draw needs is an argument.

Shapes: B rows, V vocabulary.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.errors import GroundupError, UsageError

GREEDY_BELOW = 1e-5  # a temperature below this means 0: its reciprocal times a float32's rounding error would decide


def check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises UsageError naming the setting that makes no sense."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature is {temperature:g}: give 0, which takes the likeliest token, or more")
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k is {top_k}: give at least 1, or leave it out to draw from all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p:g}: give more than 0 and at most 1")


def keep_top_k(logits: Float[Tensor, "b v"], k: int) -> Float[Tensor, "b v"]:
    """The logits with -inf below the k-th largest of their row (Fan et al. 2018); what ties with it stays."""
    if k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[:, -1:], -math.inf)


def keep_top_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """The logits with -inf outside the smallest set of likeliest tokens that holds at least p (nucleus sampling, Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # what the likelier tokens hold; 0 for the first, which always stays
    return torch.empty_like(logits).scatter_(-1, order, ordered.masked_fill(before >= p, -math.inf))


def probabilities(
    logits: Float[Tensor, "b v"], *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "b v"]:
    """softmax(logits / temperature), first cut to the top k, then to the top p of what is left; all on the likeliest when greedy.

    Log-probabilities are logits too: a mixture's logarithm is sampled by the same function. Raises GroundupError for NaN and infinity.
    """
    peak = logits.amax(dim=-1, keepdim=True)
    if not bool(torch.isfinite(peak).all()):
        raise GroundupError("the model's logits are not finite, so its weights are damaged: use another checkpoint")
    if temperature < GREEDY_BELOW:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = (logits - peak) / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    return torch.softmax(logits, dim=-1)


def draw(probabilities: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The first token at which the cumulative probability exceeds ``uniform``, a float64 in [0, 1): inverse-transform sampling.

    A token of probability zero is never drawn.
    """
    cumulative = probabilities.double().cumsum(dim=-1)
    # dividing by the last makes it exactly 1, so that some token always exceeds
    return torch.searchsorted(cumulative / cumulative[:, -1:], uniform[:, None], right=True)[:, 0]
