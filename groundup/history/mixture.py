"""Two models as one: p(w) = a p_1(w) + (1 - a) p_2(w), as Bengio et al. (2003, section 4) mix their network with a trigram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from groundup.evaluate.protocol import Cursor, FromPredictor, LanguageModel, Predictor

EM_ROUNDS = 200


class Mixture(FromPredictor):
    """Two models over the same symbols; ``weight`` is the first one's share, 0.5 in the paper."""

    def __init__(self, name: str, first: LanguageModel, second: LanguageModel, weight: float = 0.5):
        self.name, self.first, self.second, self.weight = name, first, second, weight
        self.vocab_size, self.prefix = first.vocab_size, first.prefix
        self.encode, self.decode, self.n_bytes = first.encode, first.decode, first.n_bytes

    def start(self) -> MixtureCursor:
        """A cursor before a text, of two models that both have one."""
        assert isinstance(self.first, Predictor) and isinstance(self.second, Predictor)
        return MixtureCursor(self.first.start(), self.second.start(), self.weight)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``: each model's, mixed."""
        pairs = zip(self.first.log_probs(contexts, targets), self.second.log_probs(contexts, targets), strict=True)
        with np.errstate(divide="ignore"):
            a, b = np.log(self.weight), np.log1p(-self.weight)
        return [np.logaddexp(a + first, b + second) for first, second in pairs]


class MixtureCursor:
    """Both models' places in one text."""

    def __init__(self, first: Cursor, second: Cursor, weight: float):
        self.first, self.second, self.weight = first, second, weight

    def push(self, token: int) -> None:
        """Both read it."""
        self.first.push(token)
        self.second.push(token)

    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """The mixture's."""
        return self.weight * self.first.probabilities() + (1 - self.weight) * self.second.probabilities()


def best_weight(first: Float64[np.ndarray, " n"], second: Float64[np.ndarray, " n"]) -> float:
    """The share of the first model under which tokens of held-out text are likeliest, given both models' nats; by EM (Dempster 1977)."""
    a = 0.5
    for _ in range(EM_ROUNDS):
        share = 1 / (1 + np.exp(np.clip(second - first, -50, 50)) * (1 - a) / a)
        a = float(np.clip(share.mean(), 1e-6, 1 - 1e-6))
    return a
