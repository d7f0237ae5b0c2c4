"""The laws that turn parameters and tokens into loss: explicit, replaceable, named wherever one is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from groundup.errors import UsageError

FLOPS_PER_PARAMETER_TOKEN = 6.0
"""k in C = k N D: two FLOPs a parameter forward, four backward (Kaplan et al. 2020, section 2.1)."""


class Interval(NamedTuple):
    """What a publication says of the uncertainty of one of its numbers."""

    name: str
    """Constant; a and b are the exponents of C in the best N and D."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    what: str
    """Kind of interval."""


class Allocation(NamedTuple):
    """How a budget of FLOPs is divided."""

    parameters: float
    """N."""
    tokens: float
    """D."""


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N'^alpha + B / D'^beta (Hoffmann et al. 2022, equation 2).

    N' and D' are N and D where text is plenty, and less where it is repeated (Muennighoff et al. 2023, equations 5 and 6).
    """

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
    excess_half_life: float = math.inf
    """R_N*: the same for parameters beyond those that the unique tokens deserve; infinite: such a parameter is worth as much as any."""
    unit: Literal["bits a byte", "nats a token"] = "bits a byte"
    """Of L and E."""
    intervals: tuple[Interval, ...] = ()
    """What its publication says of its certainty, if anything."""

    def effective_tokens(self, tokens: float, unique_tokens: float) -> float:
        """D' = U + U R* (1 - exp(-R / R*)), R = tokens / U - 1 repetitions; tokens themselves below one epoch."""
        return _saturating(tokens, unique_tokens, self.repeat_half_life)

    def effective_parameters(self, parameters: float, unique_tokens: float) -> float:
        """N' = U_N + U_N R_N* (1 - exp(-R_N / R_N*)), R_N = N / U_N - 1, with U_N the best N for the unique tokens; N below it."""
        if math.isinf(unique_tokens) or math.isinf(self.excess_half_life):
            return parameters
        return _saturating(parameters, self.best_parameters(unique_tokens), self.excess_half_life)

    def loss(self, parameters: float, tokens: float, unique_tokens: float = math.inf) -> float:
        """Predicted loss, in ``unit``, after training on so many tokens, drawn from ``unique_tokens``."""
        n, d = self.effective_parameters(parameters, unique_tokens), self.effective_tokens(tokens, unique_tokens)
        return self.E + self.A / n**self.alpha + self.B / d**self.beta

    def optimal(self, flops: float, flops_per_parameter_token: float = FLOPS_PER_PARAMETER_TOKEN) -> Allocation:
        """N and D of lowest loss for C = k N D FLOPs and fresh text (Hoffmann et al. 2022, equation 4).

        N = G (C/k)^a, D = (C/k)^b / G; a = beta / (alpha + beta), b = alpha / (alpha + beta), G = (alpha A / (beta B))^(1/(alpha + beta)).
        Raises UsageError for FLOPs that are not above zero.
        """
        if not 0 < flops < math.inf:
            raise UsageError(f"a law divides FLOPs above 0, not {flops:g}")
        both, products = self.alpha + self.beta, flops / flops_per_parameter_token
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        return Allocation(g * products ** (self.beta / both), products ** (self.alpha / both) / g)

    def best_parameters(self, tokens: float) -> float:
        """N to which so many fresh tokens are optimal: alpha A / N^alpha = beta B / D^beta, from the same derivative as ``optimal``."""
        return (self.alpha * self.A * tokens**self.beta / (self.beta * self.B)) ** (1 / self.alpha)

    def bits_per_byte(self, loss: float, bytes_per_token: float) -> float:
        """A loss, or a difference of two, in bits a byte: nats a token / (ln 2 x bytes a token), or as it is if that is its unit."""
        return loss if self.unit == "bits a byte" else loss / (math.log(2) * bytes_per_token)

    @property
    def equation(self) -> str:
        """The law with its numbers, for people."""
        return f"L = {self.E:g} + {self.A:g} / N^{self.alpha:g} + {self.B:g} / D^{self.beta:g} {self.unit}"

    @property
    def certainty(self) -> str:
        """Its published intervals, for people."""
        if not self.intervals:
            return "published without an interval"
        kinds = {interval.what: [i for i in self.intervals if i.what == interval.what] for interval in self.intervals}
        return "; ".join(f"{', '.join(f'{i.name} {i.low:g} to {i.high:g}' for i in found)} ({what})" for what, found in kinds.items())


def _saturating(amount: float, unique: float, half_life: float) -> float:
    """U + U R* (1 - exp(-R / R*)) with R = amount / U - 1; the amount itself up to U."""
    if amount <= unique:
        return amount
    return unique * (1 + half_life * (1 - math.exp(-(amount / unique - 1) / half_life)))


def _one_error(**values: tuple[float, float]) -> tuple[Interval, ...]:
    return tuple(Interval(name, round(v - e, 6), round(v + e, 6), "one standard error") for name, (v, e) in values.items())


SMALL_SCALE = LossLaw("own small-scale fit, docs/lab.md", 0.66, 103.0, 0.50, 84.0, 0.37, known_to_flops=1e14)
"""Bits a byte of source code or prose: fitted on runs of 0.6 to 1.5 M tokens, borne out by runs of three minutes on two cores."""

CHINCHILLA = LossLaw(
    "Chinchilla as published (Hoffmann et al. 2022, equation 10)",
    *(1.69, 406.4, 0.34, 410.7, 0.28),
    known_to_flops=6e23,  # Chinchilla itself: 70e9 parameters, 1.4e12 tokens
    excess_half_life=5.31,
    unit="nats a token",
    intervals=(Interval("a", 0.454, 0.455, "10th to 90th percentile, table 2: implausibly narrow, Besiroglu et al. 2024"),),
)
"""The exponents as the paper prints them; rounded from 0.3392 and 0.2849 of its source text, which alone moves the best N."""

EPOCH = LossLaw(
    "Chinchilla re-fitted by Epoch AI (Besiroglu et al. 2024)",
    *(1.8169, 482.0, 0.3478, 2085.4, 0.3659),
    known_to_flops=6e23,
    excess_half_life=5.31,
    unit="nats a token",
    intervals=_one_error(E=(1.8172, 0.03), A=(482.01, 124.58), alpha=(0.3478, 0.02), B=(2085.43, 1293.23), beta=(0.3658, 0.02)),
)
"""The same runs, read off the paper's figure and fitted to convergence; agrees with the paper's other two methods."""

DATA_CONSTRAINED = LossLaw(
    "data-constrained law (Muennighoff et al. 2023, appendix A)",
    *(1.87, 521.0, 0.353, 1488.0, 0.353),
    known_to_flops=1e22,  # 8.7e9 parameters on 178e9 tokens
    excess_half_life=5.31,
    unit="nats a token",
)
"""Fitted on C4 with much repeated text; R_D* and R_N* of the other laws are from here."""

LAWS: dict[str, LossLaw] = {"epoch": EPOCH, "chinchilla": CHINCHILLA, "data-constrained": DATA_CONSTRAINED, "small": SMALL_SCALE}
"""By the name that ``groundup plan --law`` takes."""


def find_law(name: str) -> LossLaw:
    """The law of a name; UsageError naming those that are known."""
    if name.lower() not in LAWS:
        raise UsageError(f"law {name!r} is not known; choose one of {', '.join(LAWS)}")
    return LAWS[name.lower()]
