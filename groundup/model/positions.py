"""Where a token stands: rotary tables under each scaling, and positions within documents."""

import math

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from groundup.config import LinearScaling, Llama3Scaling, Rotary, YarnScaling


def rotary_tables(positions: Int[Tensor, "*n"], head_dim: int, rotary: Rotary) -> tuple[Float[Tensor, "*n e2"], Float[Tensor, "*n e2"]]:
    """cos and sin of position * frequency for E/2 frequencies, in fp32; under YaRN times its attention factor."""
    dims = rotary.dims or head_dim
    frequencies = rotary_frequencies(rotary, dims, positions.device)
    factor = yarn_attention_factor(rotary.scaling) if isinstance(rotary.scaling, YarnScaling) else 1.0
    angles = positions.double()[..., None] * frequencies
    return (angles.cos() * factor).float(), (angles.sin() * factor).float()


def rotary_frequencies(rotary: Rotary, dims: int, device: torch.device | None = None) -> Float64[Tensor, " e2"]:
    """theta^(-2i / dims) for i < dims / 2 (Su et al. 2021), scaled as ``rotary.scaling`` says."""
    plain = rotary.theta ** (-torch.arange(0, dims, 2, dtype=torch.float64, device=device) / dims)
    match rotary.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / factor
        case Llama3Scaling():
            return _llama3(plain, rotary.scaling)
        case YarnScaling():
            return _yarn(plain, rotary.scaling, rotary.theta, dims)


def _llama3(plain: Tensor, s: Llama3Scaling) -> Tensor:
    """f (1 - w) / factor + f w, with w the place of the turns within the original context between low and high, 0 to 1 (Llama 3.1)."""
    turns = s.original_context_length * plain / (2 * math.pi)
    kept = ((turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor)).clamp(0, 1)
    return plain * (kept + (1 - kept) / s.factor)


def _yarn(plain: Tensor, s: YarnScaling, theta: float, dims: int) -> Tensor:
    """f (1 - w) / factor + f w, w falling from 1 to 0 between the dims that turn beta_fast and beta_slow times (Peng et al. 2023, 3.2)."""

    def dim_of(turns: float) -> float:
        return dims * math.log(s.original_context_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dim_of(s.beta_fast), dim_of(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = (torch.arange(len(plain), dtype=torch.float64, device=plain.device) - low) / (high - low if high != low else 0.001)
    interpolated = ramp.clamp(0, 1)
    return plain * (interpolated / s.factor + 1 - interpolated)


def yarn_mscale(factor: float, x: float) -> float:
    """m(x) = 0.1 x ln factor + 1: how much sharper attention becomes over a context factor times as long (Peng et al. 2023, 3.3)."""
    return 0.1 * x * math.log(factor) + 1 if factor > 1 else 1.0


def yarn_attention_factor(s: YarnScaling) -> float:
    """What cos and sin are multiplied by: see ``YarnScaling.attention_factor``."""
    if s.attention_factor is not None:
        return s.attention_factor
    if s.mscale and s.mscale_all_dim:
        return yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim)
    return yarn_mscale(s.factor, 1.0)


def document_positions(documents: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """Each token's place in its document, from 0."""
    index = torch.arange(documents.shape[1], device=documents.device)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values
