"""The one decoder: built from a ModelConfig, it turns tokens into hidden states, and hidden states into logits or a loss.

It knows nothing of the trainer, of parallelism, or of how a cache keeps its books.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.config import PRIOR_GATE_WIDTH, Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, ModelConfig, check
from groundup.errors import UsageError
from groundup.kernels.attention import choose_backend
from groundup.kernels.cross_entropy import head_loss
from groundup.kernels.embedding import lookup, ngram_rows
from groundup.model import functional as F
from groundup.model.attention import AttentionLayer, Tables
from groundup.model.latent import LatentAttentionLayer
from groundup.model.linear_mixer import LinearMixerLayer
from groundup.model.mlp import DenseLayer, ExpertsLayer
from groundup.model.parts import Cache, NormLayer, Weights
from groundup.model.positions import document_positions, rotary_tables


def build_mixer(config: Attention | LatentAttention | LinearMixer, d_model: int, vocab_size: int) -> nn.Module:
    """The module of a mixer; all take the same inputs."""
    if isinstance(config, LatentAttention):
        return LatentAttentionLayer(config, d_model)
    if isinstance(config, LinearMixer):
        return LinearMixerLayer(config, d_model)
    return AttentionLayer(config, d_model, vocab_size)


def build_mlp(config: Dense | Experts, d_model: int) -> nn.Module:
    """The module of an MLP."""
    return ExpertsLayer(config, d_model) if isinstance(config, Experts) else DenseLayer(config, d_model)


class DecoderLayer(nn.Module):
    """A mixer and an MLP on the residual stream, with the norms where the placement puts them."""

    def __init__(self, config: Layer, d_model: int, vocab_size: int):
        super().__init__()
        self.placement = config.placement
        self.mixer = build_mixer(config.mixer, d_model, vocab_size)
        self.mlp = build_mlp(config.mlp, d_model)
        if config.placement != "after":
            self.mixer_norm = NormLayer(config.norm, d_model)
            self.mlp_norm = NormLayer(config.norm, d_model)
        if config.placement in ("sandwich", "after"):
            self.mixer_out_norm = NormLayer(config.norm, d_model)
            self.mlp_out_norm = NormLayer(config.norm, d_model)

    def forward(self, x: Tensor, *mixer_inputs) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if self.placement == "post":
            x = self.mixer_norm(x + self.mixer(x, *mixer_inputs))
            return self.mlp_norm(x + self.mlp(x))
        if self.placement == "sandwich":
            x = x + self.mixer_out_norm(self.mixer(self.mixer_norm(x), *mixer_inputs))
            return x + self.mlp_out_norm(self.mlp(self.mlp_norm(x)))
        if self.placement == "after":
            x = x + self.mixer_out_norm(self.mixer(x, *mixer_inputs))
            return x + self.mlp_out_norm(self.mlp(x))
        x = x + self.mixer(self.mixer_norm(x), *mixer_inputs)
        return x + self.mlp(self.mlp_norm(x))


class PriorGate(nn.Module):
    """Logits of who to believe, network first, from the hidden state and from what the counts know of the context.

    A tanh layer of n_hidden units over the features, plus a linear read of the hidden state: gate = W_h hidden + W_o tanh(W_f features).
    """

    def __init__(self, d_model: int, n_experts: int, n_features: int, n_hidden: int = PRIOR_GATE_WIDTH):
        super().__init__()
        self.hidden = Weights(n_experts + 1, d_model, bias=True)
        self.features = Weights(n_hidden, n_features, bias=True)
        self.mix = Weights(n_experts + 1, n_hidden)

    def forward(self, hidden: Float[Tensor, "n d"], features: Float[Tensor, "n c"]) -> Float[Tensor, "n k1"]:
        """Gate logits [N, experts + 1], column 0 the network's."""
        inner = torch.tanh(F.linear(features, self.features.weight, self.features.bias))
        return F.linear(hidden.float(), self.hidden.weight, self.hidden.bias) + F.linear(inner, self.mix.weight)


class Decoder(nn.Module):
    """Tokens in, hidden states out, and from those logits or a loss. Parameters are fp32 masters; the work runs in compute_dtype."""

    def __init__(self, config: ModelConfig, *, prior_shape: tuple[int, int] | None = None):
        """Builds the layers, parameters uninitialized (see ``model.initialize``); prior_shape is (experts, features) of the counts."""
        super().__init__()
        self.config = check(config)
        self.compute_dtype = torch.float32
        self.embedding = Weights(config.vocab_size, config.d_model)
        self.hash_embedding = Weights(config.hash_embedding.n_rows, config.d_model) if config.hash_embedding else None
        self.position_embedding = Weights(config.context_length, config.d_model) if config.learned_positions else None
        self.embedding_norm = NormLayer(config.embedding_norm, config.d_model) if config.embedding_norm else None
        self.layers = nn.ModuleList(DecoderLayer(layer, config.d_model, config.vocab_size) for layer in config.layers)
        self.final_norm = NormLayer(config.final_norm, config.d_model) if config.final_norm else None
        self.head = Weights(config.vocab_size, config.d_model) if not config.tied else None
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.gate = PriorGate(config.d_model, *prior_shape) if config.prior and prior_shape else None

    @property
    def head_weight(self) -> Tensor:
        """The matrix that makes logits: the head's, or the embedding when tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def embed(
        self,
        tokens: Int[Tensor, "b t"],
        documents: Int[Tensor, "b t"] | None,
        previous: Int[Tensor, "b p"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "b t d"]:
        """Token vectors, plus those of the hashed n-grams that end here and of the positions.

        ``previous`` holds the tokens before these, or the last of them, and ``start`` is how many there are.
        """
        x = lookup(self.embedding.weight, tokens)
        if self.hash_embedding is not None and self.config.hash_embedding is not None:
            table, spec = self.hash_embedding.weight, self.config.hash_embedding
            seen = tokens if previous is None else torch.cat((previous, tokens), dim=1)
            rows = torch.stack([ngram_rows(seen, documents, order, spec.n_rows) for order in spec.orders])[..., -tokens.shape[1] :]
            x = x + lookup(table, rows, sparse=spec.sparse).sum(0)
        x = x.to(self.compute_dtype)
        if self.config.embedding_scale != 1:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)  # rounded to the activations' type, as Gemma was trained
        if self.position_embedding is not None:
            x = x + lookup(self.position_embedding.weight, self.positions(tokens, documents, start)).to(x.dtype)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def positions(self, tokens: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None, start: int) -> Int[Tensor, "b t"]:
        """Each token's place in its document; UsageError for a text longer than the positions that were learned."""
        end = start + tokens.shape[1]
        if documents is None and end > self.config.context_length:
            raise UsageError(
                f"{end} tokens are more than the {self.config.context_length} positions that this model learned: shorten the text"
            )
        if documents is not None:
            return document_positions(documents)
        return torch.arange(start, end, device=tokens.device).expand_as(tokens)

    def hidden(
        self,
        tokens: Int[Tensor, "b t"],
        documents: Int[Tensor, "b t"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Final hidden states of every position: embedding, layers, final norm. With a cache, all tokens are one document."""
        start = cache.length if cache is not None else 0
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        backend = choose_backend(tokens.device)[0]
        tables: dict = {}
        x = self.embed(tokens, documents, cache.recent if cache is not None else None, start)
        for index, (layer, config) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            x = layer(x, tokens, _tables(config.mixer, positions, tables, x.dtype), documents, backend, cache, index)
        return x if self.final_norm is None else self.final_norm(x)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        """The network's logits in fp32, bias and softcap applied. For a few positions; training uses ``loss``, which never holds all."""
        logits = F.linear(hidden, self.head_weight, self.head_bias).float()
        return logits if self.config.logit_softcap is None else F.softcap(logits, self.config.logit_softcap)

    def forward(self, tokens: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None = None) -> Float[Tensor, "b t v"]:
        """Logits of every position."""
        return self.logits(self.hidden(tokens, documents))

    def loss(
        self,
        tokens: Int[Tensor, "b t"],
        targets: Int[Tensor, "b t"],
        documents: Int[Tensor, "b t"] | None = None,
        *,
        expert_log_p: Float[Tensor, "b t k"] | None = None,
        features: Float[Tensor, "b t c"] | None = None,
        scale: float = 1.0,
        network_share: float = 0.0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "2 b t"]]:
        """scale * summed nats of the targets, and the nats of each: row 0 by the network alone, row 1 by the mixture (equal without one).

        See ``kernels.cross_entropy.head_loss`` for the mixture and for ``network_share``.
        """
        hidden = self.hidden(tokens, documents).flatten(0, 1)
        gate_logits = None
        if self.gate is not None and expert_log_p is not None and features is not None:
            gate_logits, expert_log_p = self.gate(hidden, features.flatten(0, 1)), expert_log_p.flatten(0, 1)
        total, nats = head_loss(
            hidden,
            self.head_weight,
            targets.flatten(),
            bias=self.head_bias,
            gate_logits=gate_logits,
            expert_log_p=expert_log_p if gate_logits is not None else None,
            scale=scale,
            logit_softcap=self.config.logit_softcap,
            network_share=network_share,
        )
        return total, nats.view(2, *tokens.shape)


def _tables(
    mixer: Attention | LatentAttention | LinearMixer, positions: Int[Tensor, " t"], made: dict, dtype: torch.dtype
) -> Tables | None:
    """The rotary tables of a mixer, made once for all layers that share them; None where nothing turns."""
    rotary = None if isinstance(mixer, LinearMixer) else mixer.rotary
    if rotary is None:
        return None
    key = (mixer.rotary_dim if isinstance(mixer, LatentAttention) else mixer.head_dim, rotary)
    if key not in made:
        made[key] = tuple(table.to(dtype) for table in rotary_tables(positions, *key))
    return made[key]
