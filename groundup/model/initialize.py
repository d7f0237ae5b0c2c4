"""How weights begin, and why."""

import math

import torch

from groundup.model.decoder import Decoder
from groundup.model.parts import NormLayer

EMBEDDING_STD = 1.0
HEAD_STD = 0.001


@torch.no_grad()
def initialize(model: Decoder, seed: int, *, zero_outputs: bool = True) -> Decoder:
    """Fills every parameter in place from one seed, in the order of their names, and returns the model.

    - Projections into a branch: uniform with standard deviation 1/sqrt(fan_in), so that unit-variance inputs stay unit-variance
      (LeCun 1998; uniform because its largest weight is bounded).
    - Projections out of a branch (``output``, ``down``): zero, so that every layer begins as the identity and the stream's scale does not
      grow with depth (Zhang et al. 2019, Fixup; nanoGPT-speedrun practice). With ``zero_outputs=False``, 1/sqrt(fan_in * 2 L) as in GPT-2.
    - Token embedding: normal with standard deviation 1: it feeds a norm, and Adam's step is absolute. Hashed n-grams and value embeddings
      start at zero and uniform like projections: they add to something that works without them. When tied, 0.02 as in GPT-2, since the
      head needs small logits.
    - Head: normal with standard deviation 0.001: the first loss is ln V and its gradient already points the right way.
    - Gains one (or zero where one is added to them), biases and sinks zero, gates zero: gates open at their neutral value.
    - A linear mixer's rates from 1 to 16 and steps from 0.001 to 0.1, evenly in logarithm: memories of many lengths (Gu & Dao 2023).
    - Learned positions: normal with standard deviation 0.02, as in GPT-2.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = len(model.layers)
    zero = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, NormLayer) and part.config.plus_one}
    for name, p in sorted(model.named_parameters()):
        parts = name.split(".")
        kind, leaf = parts[-2] if len(parts) > 1 else name, parts[-1]
        if leaf == "log_rate":
            p.copy_(torch.rand(p.shape, generator=generator) * math.log(16))
        elif leaf == "decay_bias":
            step = torch.exp(math.log(0.001) + torch.rand(p.shape, generator=generator) * math.log(100))
            p.copy_(step + torch.log(-torch.expm1(-step)))
        elif leaf in ("bias", "sinks") or name == "head_bias" or name in zero:
            p.zero_()
        elif p.dim() == 1:
            p.fill_(1.0)
        elif kind == "embedding":
            _normal(p, 0.02 if model.head is None else EMBEDDING_STD, generator)
        elif kind == "position_embedding":
            _normal(p, 0.02, generator)
        elif kind == "head":
            _normal(p, HEAD_STD, generator)
        elif kind in ("hash_embedding", "value_gate") or name.startswith(("gate.hidden", "gate.mix")):
            p.zero_()
        elif kind in ("output", "down"):
            _uniform(p, 0.0 if zero_outputs else 1 / math.sqrt(p.shape[-1] * 2 * depth), generator)
        elif kind == "value_embedding":
            _uniform(p, 1 / math.sqrt(model.config.d_model), generator)
        else:
            _uniform(p, 1 / math.sqrt(p.shape[-1]), generator)
    return model


def _normal(p: torch.Tensor, std: float, generator: torch.Generator) -> None:
    p.copy_(torch.randn(p.shape, generator=generator) * std)


def _uniform(p: torch.Tensor, std: float, generator: torch.Generator) -> None:
    bound = std * math.sqrt(3)
    p.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) * bound)
