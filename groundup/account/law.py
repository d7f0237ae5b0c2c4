"""The law that turns parameters and tokens into loss: explicit, replaceable, named wherever it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022), with tokens worth less when repeated (Muennighoff et al. 2023)."""

    name: str
    """Where the constants come from."""
    E: float
    """Loss that no model removes."""
    A: float
    """Weight of the parameters' term."""
    alpha: float
    """Exponent of the parameters' term."""
    B: float
    """Weight of the data's term."""
    beta: float
    """Exponent of the data's term."""
    repeat_half_life: float = 15.39
    """R_D*: repetitions after which a repeated token is worth 1/e of a fresh one (Muennighoff et al. 2023, section 5)."""
    known_to_flops: float = math.inf
    """Training FLOPs up to which runs have borne the law out."""

    def effective_tokens(self, tokens: float, unique_tokens: float) -> float:
        """U + U R* (1 - exp(-R / R*)), R = tokens / U - 1 repetitions; tokens themselves below one epoch."""
        if tokens <= unique_tokens:
            return tokens
        repeats = tokens / unique_tokens - 1
        return unique_tokens * (1 + self.repeat_half_life * (1 - math.exp(-repeats / self.repeat_half_life)))

    def loss(self, parameters: float, tokens: float, unique_tokens: float = math.inf) -> float:
        """Predicted loss, in the unit of E."""
        d = self.effective_tokens(tokens, unique_tokens)
        return self.E + self.A / parameters**self.alpha + self.B / d**self.beta
