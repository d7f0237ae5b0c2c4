"""The one decoder: built from a ModelConfig, it turns tokens into hidden states, and hidden states into logits or a loss.

It knows nothing of the trainer, of parallelism, or of how a cache keeps its books.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.config import PRIOR_GATE_WIDTH, Attention, Dense, Layer, ModelConfig, Norm, check
from groundup.kernels import elementwise
from groundup.kernels.attention import BACKENDS, choose_backend
from groundup.kernels.cross_entropy import head_loss
from groundup.kernels.embedding import lookup, ngram_rows
from groundup.model import functional as F


@runtime_checkable
class Cache(Protocol):
    """What attention needs of a key-value cache: append this step's keys and values to a layer's and get all of them back."""

    length: int
    recent: Tensor  # [B, p] the last tokens before these: all that are there, or as many as the longest hashed n-gram looks back

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """[B, t, K, E] of new keys and values in; [B, s, K, E] of all of them out."""
        ...


class Weights(nn.Module):
    """A weight [out, in] or a gain [d], with an optional bias, and nothing else."""

    def __init__(self, *shape: int, bias: bool = False, n_bias: int | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.zeros(n_bias or shape[0])) if bias else None


class NormLayer(nn.Module):
    """Holds the gain and bias that a Norm asks for, and applies it."""

    def __init__(self, config: Norm, dim: int):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(dim)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(dim)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """norm(x) over the last dimension; on a CPU through the fused backward."""
        if self.config.kind == "rms" and x.device.type == "cpu":
            y = elementwise.rms_norm(x, self.config.eps)
            return y if self.weight is None else y * self.weight.to(x.dtype)
        return F.norm(x, self.config, self.weight, self.bias)


class AttentionLayer(nn.Module):
    """Holds the projections of grouped-query attention and applies them."""

    def __init__(self, config: Attention, d_model: int, vocab_size: int):
        super().__init__()
        self.config = config
        q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.query = Weights(q, d_model, bias=config.bias)
        self.key = Weights(kv, d_model, bias=config.bias)
        self.value = Weights(kv, d_model, bias=config.bias)
        self.output = Weights(d_model, q, bias=config.output_bias)
        if config.qk_norm is not None:
            self.query_norm = NormLayer(config.qk_norm, config.head_dim)
            self.key_norm = NormLayer(config.qk_norm, config.head_dim)
        if config.value_embedding:
            self.value_embedding = Weights(vocab_size, kv)
            self.value_gate = Weights(config.n_kv_heads, d_model)

    def joint(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t w"]:
        """[queries, keys, values] of all heads, side by side: one matrix product for all three."""
        parts = (self.query, self.key, self.value)
        bias = torch.cat([p.bias for p in parts]) if self.config.bias else None
        return F.linear(x, torch.cat([p.weight for p in parts]), bias)

    def extra_values(self, x: Float[Tensor, "b t d"], tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t k e"]:
        """What the value embedding adds: a vector of the token, times a gate in (0, 2) that is 1 at initialization (its weight is 0)."""
        gate = 2 * torch.sigmoid(F.linear(x, self.value_gate.weight))
        vectors = lookup(self.value_embedding.weight, tokens).to(x.dtype)
        return gate[..., None] * vectors.unflatten(-1, (self.config.n_kv_heads, self.config.head_dim))

    def project(self, x: Float[Tensor, "b t d"], tokens: Int[Tensor, "b t"], rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, E], keys and values [B, T, K, E]: product, then norm and rotation."""
        c = self.config
        heads = self.joint(x).unflatten(-1, (c.n_heads + 2 * c.n_kv_heads, c.head_dim))
        q, k, v = heads.split([c.n_heads, c.n_kv_heads, c.n_kv_heads], dim=2)
        if c.value_embedding:
            v = v + self.extra_values(x, tokens)
        if c.qk_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = F.rotate(q, *rotary), F.rotate(k, *rotary)
        return q, k, v

    def forward(self, x, tokens, rotary, documents, backend: str, cache: Cache | None, index: int) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        c = self.config
        if cache is None and backend == "blocked" and x.dtype == torch.float32 and self.fusible and not torch.compiler.is_compiling():
            attended = self.fused(x, tokens, rotary, documents)
        else:
            q, k, v = self.project(x, tokens, rotary)
            if cache is not None:
                k, v = cache.append(index, k, v)
            k = F.offset_keys(k, documents) if c.key_offset else k
            attended = BACKENDS[backend](q, k, v, documents, c.window) if cache is None else F.attention_reference(q, k, v, None, c.window)
        return F.linear(attended.flatten(2), self.output.weight, self.output.bias)

    @property
    def fusible(self) -> bool:
        """Whether ``kernels.fused.attention`` says all of it: RMSNorm without gain on queries and keys, and rotation."""
        norm = self.config.qk_norm
        return norm is not None and norm.kind == "rms" and not norm.weight and self.config.rotary is not None

    def fused(self, x, tokens, rotary, documents) -> Float[Tensor, "b t h e"]:
        """``project``, offset and attention in one function of the joint product, for fp32 on a CPU."""
        from groundup.kernels import fused

        c, joint = self.config, self.joint(x)
        if c.value_embedding:
            keep = (c.n_heads + c.n_kv_heads) * c.head_dim
            joint = torch.cat((joint[..., :keep], joint[..., keep:] + self.extra_values(x, tokens).flatten(2)), dim=-1)
        shape = {"n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads, "eps": c.qk_norm.eps}
        return fused.attention(joint, rotary, documents, window=c.window, offset_keys=c.key_offset, **shape)


class DenseLayer(nn.Module):
    """Holds the projections of an MLP and applies them."""

    def __init__(self, config: Dense, d_model: int):
        super().__init__()
        self.config = config
        if config.activation == "swiglu":
            self.gate = Weights(config.d_ff, d_model, bias=config.bias)
        self.up = Weights(config.d_ff, d_model, bias=config.bias)
        self.down = Weights(d_model, config.d_ff, bias=config.bias)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """down(act(up(x))), or down(silu(gate(x)) * up(x)) for SwiGLU."""
        inner = F.linear(x, self.up.weight, self.up.bias)
        if self.config.activation == "swiglu":
            inner = elementwise.swiglu(F.linear(x, self.gate.weight, self.gate.bias), inner)
        else:
            inner = F.gelu(inner) if self.config.activation == "gelu" else elementwise.relu2(inner)
        return F.linear(inner, self.down.weight, self.down.bias)


class DecoderLayer(nn.Module):
    """A mixer and an MLP on the residual stream, with the norms where the placement puts them."""

    def __init__(self, config: Layer, d_model: int, vocab_size: int):
        super().__init__()
        self.placement = config.placement
        self.mixer = AttentionLayer(config.mixer, d_model, vocab_size)
        self.mlp = DenseLayer(config.mlp, d_model)
        self.mixer_norm = NormLayer(config.norm, d_model)
        self.mlp_norm = NormLayer(config.norm, d_model)
        if config.placement == "sandwich":
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
        self, tokens: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None, previous: Int[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Token vectors, plus the vectors of the hashed n-grams that end here; ``previous`` holds the tokens before these."""
        x = lookup(self.embedding.weight, tokens)
        if self.hash_embedding is not None and self.config.hash_embedding is not None:
            table, spec = self.hash_embedding.weight, self.config.hash_embedding
            seen = tokens if previous is None else torch.cat((previous, tokens), dim=1)
            rows = torch.stack([ngram_rows(seen, documents, order, spec.n_rows) for order in spec.orders])[..., -tokens.shape[1] :]
            x = x + lookup(table, rows, sparse=spec.sparse).sum(0)
        x = x.to(self.compute_dtype)
        return x if self.embedding_norm is None else self.embedding_norm(x)

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
        tables = {}
        x = self.embed(tokens, documents, cache.recent if cache is not None else None)
        for index, (layer, config) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            rotary = config.mixer.rotary
            key = (config.mixer.head_dim, rotary.theta) if rotary else None
            if key is not None and key not in tables:
                tables[key] = F.rotary_tables(positions, *key)
            x = layer(x, tokens, tables.get(key), documents, backend, cache, index)
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
