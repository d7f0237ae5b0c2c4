"""A decoder's tree of components from its ModelConfig: parameters, FLOPs and work of every part, in training, prefill and decoding.

Conventions. A product [m, k] x [k, n] is 2mkn FLOPs; only matrix products count (and the triangular solves of a linear mixer), so norms,
activations, rotations, softmax and the loss are 0, and so is an embedding lookup (their bytes count: see ``account.work``). Backward is
twice forward (one product for the input's gradient, one for the weight's), once where the input needs no gradient. Attention counts the
query-key pairs that the mask lets through: *model* FLOPs. The pairs that a kernel computes and then masks, and products that backward
computes again to save memory, are in the *executed* FLOPs and nowhere else.

Symbols: T tokens of one sequence, D d_model, H heads, K kv heads, E head_dim, F d_ff, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from groundup.account import mixer_work, work
from groundup.account.attention_work import AttentionWork, key_blocks
from groundup.account.component import Component, HeldBy, Kind, Weight
from groundup.account.execution import IDEAL, Execution
from groundup.account.layout import Layout, crossings
from groundup.account.traffic import Traffic
from groundup.account.work import Pass, StepWork
from groundup.account.workload import Training
from groundup.config import (
    DELTA_CHUNK,
    GATED,
    PRIOR_GATE_WIDTH,
    Attention,
    Dense,
    Experts,
    LatentAttention,
    Layer,
    LinearMixer,
    ModelConfig,
    Norm,
)


def training_pass(config: ModelConfig, workload: Training) -> Component:
    """The tree of training on one sequence, with logits of all tokens and no cache."""
    t = workload.seq_len
    model = _model(config, _Sequence(t, workload.document_lengths or (t,), workload.run, t), workload.prior_shape)
    return model if workload.layout is None else _piped(model, config, workload.layout, t)


@lru_cache(maxsize=256)
def forward_pass(config: ModelConfig, tokens: int, cached: int = 0) -> Component:
    """The tree of reading so many tokens of a sequence after so many that a cache holds, into the cache, with logits of the last only."""
    return _model(config, _Sequence(tokens, (tokens,), None, 1, cached), None)


def _model(config: ModelConfig, seq: _Sequence, prior_shape: tuple[int, int] | None) -> Component:
    t, d = seq.length, config.d_model
    rows = Weight("embedding.weight", (config.vocab_size, d), "table")
    parts = [Component("embedding", (rows,), own_work=work.lookup(t, config.vocab_size, d), own_rows=Traffic(exchanged=t * d))]
    if config.hash_embedding is not None:
        table = Weight("hash_embedding.weight", (config.hash_embedding.n_rows, d), "table")
        parts.append(Component("hash_embedding", (table,), own_work=work.hashed_lookup(config.hash_embedding, t, d)))
    if config.learned_positions:
        table = Weight("position_embedding.weight", (config.context_length, d), "table")
        looked_up = work.lookup(t, config.context_length, d)
        parts.append(Component("position_embedding", (table,), own_work=looked_up, held_by="each"))
    if config.embedding_norm is not None:
        parts.append(_norm("embedding_norm", config.embedding_norm, d, seq))
    if config.layers:
        layers = (_layer(f"layers.{i}", layer, config, seq) for i, layer in enumerate(config.layers))
        parts.append(Component("layers", parts=tuple(layers)))
    if config.final_norm is not None:
        parts.append(_norm("final_norm", config.final_norm, d, seq))
    matrix = () if config.tied else (Weight("head.weight", (config.vocab_size, d), "head"),)
    bias = (Weight("head_bias", (config.vocab_size,), "vector"),) if config.head_bias else ()
    made = work.head(seq.logits, d, config.vocab_size, bias=config.head_bias, run=seq.executed_as)
    gathered = Traffic(exchanged=seq.logits * d)
    parts.append(Component("head", matrix + bias, 2 * seq.logits * d * config.vocab_size, own_work=made, own_rows=gathered))
    if config.prior is not None and prior_shape is not None:
        parts.append(prior_gate(d, *prior_shape, tokens=t))
    softcap = config.logit_softcap is not None
    parts.append(Component("loss", own_work=work.loss(seq.logits, config.vocab_size, softcap=softcap, run=seq.executed_as)))
    return Component("model", parts=tuple(parts))


def _piped(model: Component, config: ModelConfig, layout: Layout, t: int) -> Component:
    """The model with what the stages of a pipeline hand on, each by the layer at its end, and the last one's copy of a tied head."""
    d, times = config.d_model, crossings(len(config.layers), layout.pipeline, layout.interleave)
    parts = []
    for part in model.parts:
        if part.name == "layers":
            layers = (replace(x, own_rows=Traffic(handed=n * t * d)) for x, n in zip(part.parts, times, strict=True))
            parts.append(replace(part, parts=tuple(layers)))
        elif part.name == "head":
            parts.append(replace(part, own_rows=part.own_rows._replace(split=copied_head(config, layout.pipeline))))
        else:
            parts.append(part)
    return replace(model, parts=tuple(parts))


def copied_head(config: ModelConfig, pipeline: int) -> int:
    """Numbers of the embedding that the last of several stages holds once more, to make logits with."""
    return config.vocab_size * config.d_model if config.tied and pipeline > 1 else 0


def prior_gate(d_model: int, n_experts: int, n_features: int, *, tokens: int, n_hidden: int = PRIOR_GATE_WIDTH) -> Component:
    """The gate that mixes n_experts count models with the network: W_h hidden + b + W_o tanh(W_f features + b_f), n_experts + 1 logits.

    The features need no gradient, so their product has one backward product and not two.
    """
    outs = n_experts + 1
    hidden = (Weight("gate.hidden.weight", (outs, d_model), "gate"), Weight("gate.hidden.bias", (outs,), "gate"))
    features = (Weight("gate.features.weight", (n_hidden, n_features), "gate"), Weight("gate.features.bias", (n_hidden,), "gate"))
    mix = (Weight("gate.mix.weight", (outs, n_hidden), "gate"),)
    return Component(
        "gate",
        parts=(
            Component("gate.hidden", hidden, 2 * tokens * d_model * outs, own_work=work.linear(tokens, d_model, outs, bias=True)),
            Component(
                "gate.features",
                features,
                2 * tokens * n_features * n_hidden,
                backward_factor=1,
                own_work=work.linear(tokens, n_features, n_hidden, bias=True, input_gradient=False),
            ),
            Component("gate.mix", mix, 2 * tokens * n_hidden * outs, own_work=work.linear(tokens, n_hidden, outs, bias=False)),
        ),
    )


def prior_gate_parameters(d_model: int, n_experts: int, n_features: int, n_hidden: int = PRIOR_GATE_WIDTH) -> int:
    """Parameters of ``prior_gate``."""
    return prior_gate(d_model, n_experts, n_features, tokens=0, n_hidden=n_hidden).parameters


def causal_pairs(length: int, window: int | None = None) -> int:
    """Query-key pairs of one document under a causal mask: w(w+1)/2 + (T-w)w with w = min(T, window), so T(T+1)/2 without a window."""
    w = length if window is None else min(length, window)
    return w * (w + 1) // 2 + (length - w) * w


@lru_cache(maxsize=1024)
def executed_pairs(seq_len: int, window: int | None, block: int | None) -> int:
    """Query-key pairs that an attention computes, block by block (see ``attention_work.key_blocks``): T^2 without a block."""
    return sum(queries * keys for queries, keys in key_blocks(seq_len, window, block))


class _Sequence(NamedTuple):
    length: int
    documents: tuple[int, ...]
    run: Execution | None
    logits: int
    cached: int | None = None
    """Tokens that a cache holds before these; None where there is no cache."""

    @property
    def executed_as(self) -> Execution:
        return self.run or IDEAL

    @property
    def flash(self) -> bool:
        """Whether executed FLOPs are those of one kernel, which skips what the mask hides and computes the scores twice."""
        return self.run is not None and self.run.attention_block is None

    def pairs(self, window: int | None) -> int:
        if self.cached:
            return causal_pairs(self.cached + self.length, window) - causal_pairs(self.cached, window)
        return sum(causal_pairs(length, window) for length in self.documents)

    def executed_pairs(self, window: int | None) -> int:
        if self.flash or self.cached:
            return self.pairs(window)
        return executed_pairs(self.length, window, self.run.attention_block if self.run else None)

    def kept_keys(self, window: int | None) -> int:
        """Tokens whose keys and values a cache holds afterwards."""
        if self.cached is None:
            return 0
        return self.cached + self.length if window is None else min(self.cached + self.length, window)


_NORMS = {
    "pre": ("mixer_norm", "mlp_norm"),
    "post": ("mixer_norm", "mlp_norm"),
    "sandwich": ("mixer_norm", "mlp_norm", "mixer_out_norm", "mlp_out_norm"),
    "after": ("mixer_out_norm", "mlp_out_norm"),
}
"""Norms of a layer by their placement."""


def _layer(name: str, layer: Layer, config: ModelConfig, seq: _Sequence) -> Component:
    d, policy = config.d_model, seq.executed_as.recompute
    match layer.mixer:
        case LatentAttention():
            mixer = _latent(f"{name}.mixer", layer.mixer, d, seq)
        case LinearMixer():
            mixer = _linear_mixer(f"{name}.mixer", layer.mixer, d, seq)
        case Attention():
            mixer = _attention(f"{name}.mixer", layer.mixer, config, seq)
    match layer.mlp:
        case Experts():
            mlp, last = _experts(f"{name}.mlp", layer.mlp, d, seq), _last_of_experts(f"{name}.mlp", layer.mlp)
        case Dense():
            mlp, last = _dense(f"{name}.mlp", layer.mlp, d, seq), f"{name}.mlp.down"
    parts = (
        mixer.recomputed(f"{name}.mixer.output") if policy == "attention" else mixer,
        mlp.recomputed(last) if policy == "mlp" else mlp,
        *(_norm(f"{name}.{norm}", layer.norm, d, seq) for norm in _NORMS[layer.placement]),
        Component(f"{name}.residual", own_work=work.residual(seq.length, d)),
    )
    whole = Component(name, parts=parts)
    # a norm at the layer's end needs what the last product made
    return whole.recomputed(last if layer.placement == "pre" else None) if policy == "layers" else whole


def _last_of_experts(name: str, mlp: Experts) -> str | None:
    """The product whose result backward does not need: experts' results are multiplied by the router's weights, so it does theirs."""
    return None if mlp.shared is None or mlp.shared_gate else f"{name}.shared.down"


def _attention(name: str, a: Attention, config: ModelConfig, seq: _Sequence) -> Component:
    d, q, kv, t = config.d_model, a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, seq.length
    does = AttentionWork(a, t, seq.pairs(a.window), seq.executed_as, d)
    kept = 2 * kv * seq.kept_keys(a.window)
    parts = [
        _linear(f"{name}.query", q, d, t, a.bias),
        _linear(f"{name}.key", kv, d, t, a.bias),
        _linear(f"{name}.value", kv, d, t, a.bias),
    ]
    if a.qk_norm is not None:
        for leaf, heads in (("query_norm", a.n_heads), ("key_norm", a.n_kv_heads)):
            dim = a.head_dim if a.qk_norm_over == "head" else heads * a.head_dim
            parts.append(Component(f"{name}.{leaf}", _gains(f"{name}.{leaf}", a.qk_norm, dim), own_work=does.norm(a.qk_norm, heads)))
    if a.sinks:
        parts.append(Component(f"{name}.sinks", (Weight(f"{name}.sinks", (a.n_heads,), "vector"),)))
    parts.append(Component(f"{name}.heads", own_work=does.heads()))
    if a.value_embedding:
        table = Weight(f"{name}.value_embedding.weight", (config.vocab_size, kv), "table")
        parts.append(Component(f"{name}.value_embedding", (table,), own_work=does.value_embedding(config.vocab_size)))
        parts.append(_linear(f"{name}.value_gate", a.n_kv_heads, d, t, False, "gate"))
    model, executed = 2 * q * seq.pairs(a.window), 2 * q * seq.executed_pairs(a.window)  # one product of E numbers for each head
    parts.append(Component(f"{name}.scores", (), model, executed, own_recomputed=int(seq.flash), own_work=does.scores(), mixes=True))
    parts.append(Component(f"{name}.weighted_values", (), model, executed, own_work=does.weighted_values(), mixes=True))
    if a.output_gate:
        parts.append(_linear(f"{name}.output_gate", q, d, t, False))
    parts.append(_linear(f"{name}.output", d, q, t, a.output_bias))
    return Component(name, parts=tuple(parts), own_cached=kept, own_rows=Traffic(exchanged=2 * t * d))


def _latent(name: str, a: LatentAttention, d: int, seq: _Sequence) -> Component:
    """Latent attention in the form that runs: full, or absorbed where a cache holds earlier tokens.

    In full, keys and values of all heads are made from the latents, and a pair is 2 H (E + R) + 2 H V FLOPs. Absorbed, the heads' own
    matrices meet the query and what it read instead, which is as many FLOPs, and a pair is 2 H (C + R) + 2 H C: attention over latents,
    one key for all heads (DeepSeek-V2, 2024, section 2.1.2). Tensor parallel devices share the heads; each makes the latents of its part of
    the sequence, with the whole matrix, and gathers those instead of the stream.
    """
    t, pairs, executed = seq.length, seq.pairs(None), seq.executed_pairs(None)
    parts = []
    if a.q_rank is not None:
        parts.append(_linear(f"{name}.query_latent", a.q_rank, d, t, a.bias, held_by="each"))
        parts.append(_norm(f"{name}.query_norm", a.latent_norm, a.q_rank, seq))
    parts.append(_linear(f"{name}.query", a.n_heads * (a.head_dim + a.rotary_dim), a.q_rank or d, t, False))
    parts.append(_linear(f"{name}.latent", a.kv_rank + a.rotary_dim, d, t, a.bias, held_by="each"))
    parts.append(_norm(f"{name}.latent_norm", a.latent_norm, a.kv_rank, seq))
    parts.append(_linear(f"{name}.key_value", a.n_heads * (a.head_dim + a.value_dim), a.kv_rank, t, False))
    key_heads, key, value = (1, a.kv_rank, a.kv_rank) if seq.cached else (a.n_heads, a.head_dim, a.value_dim)
    of_keys, of_values = (
        AttentionWork(Attention(a.n_heads, key_heads, dim, rotary=None), t, pairs, seq.executed_as, d)
        for dim in (key + a.rotary_dim, value)
    )
    for leaf, dim, recomputed, does in (
        ("scores", key + a.rotary_dim, int(seq.flash), of_keys.scores()),
        ("weighted_values", value, 0, of_values.weighted_values()),
    ):
        flops = 2 * a.n_heads * dim
        parts.append(Component(f"{name}.{leaf}", (), flops * pairs, flops * executed, own_recomputed=recomputed, own_work=does, mixes=True))
    parts.append(_linear(f"{name}.output", d, a.n_heads * a.value_dim, t, a.bias))
    latent = a.kv_rank + a.rotary_dim
    rows = Traffic(exchanged=t * ((a.q_rank or d) + latent + d))
    return Component(name, parts=tuple(parts), own_cached=latent * seq.kept_keys(None), own_rows=rows)


def _linear_mixer(name: str, a: LinearMixer, d: int, seq: _Sequence) -> Component:
    """Projections and the short convolution, then the rule: in chunks, or token by token where decoding."""
    t, h = seq.length, a.n_heads
    keys, values = a.n_key_heads * a.key_dim, h * a.value_dim
    mixed = 2 * keys + values
    widths = {"query": keys, "key": keys, "value": values, "output_gate": values, "beta": h, "decay": h}
    parts = [_linear(f"{name}.{leaf}", width, d, t, False) for leaf, width in widths.items()]
    held = (Weight(f"{name}.convolution.weight", (mixed, a.conv_width), "vector"),)
    taps = a.conv_width * mixed * t
    convolved = StepWork((Pass(3 * taps, 2 * taps, calls=2 * a.conv_width),), (Pass(5 * taps, 3 * taps, calls=4 * a.conv_width),))
    if not seq.executed_as.compiled:
        convolved = mixer_work.convolution(a, t)
    parts.append(Component(f"{name}.convolution", held, own_work=convolved))
    parts.append(Component(f"{name}.rates", tuple(Weight(f"{name}.{leaf}", (h,), "vector") for leaf in ("log_rate", "decay_bias"))))
    parts += _delta_step(name, a) if t == 1 and seq.cached is not None else _delta_chunks(name, a, seq)
    normed = work.norm(a.norm, t * h, a.value_dim, seq.executed_as)
    parts.append(Component(f"{name}.norm", _gains(f"{name}.norm", a.norm, a.value_dim), own_work=normed))
    parts.append(_linear(f"{name}.output", d, values, t, False))
    kept = 0 if seq.cached is None else a.key_dim * values + (a.conv_width - 1) * mixed
    return Component(name, parts=tuple(parts), own_cached=kept, own_rows=Traffic(exchanged=2 * t * d))


def _delta_step(name: str, a: LinearMixer) -> list[Component]:
    """One token and the state: read for its key, corrected, and read for its query, 6 H E V FLOPs."""
    state, outside = a.n_heads * a.key_dim * a.value_dim, 2 * a.n_key_heads * a.key_dim + a.n_heads * a.value_dim
    does = StepWork((Pass(state + outside, state + a.n_heads * a.value_dim, flops=6 * state, calls=8),))
    return [Component(f"{name}.state", (), 6 * state, own_work=does, mixes=True)]


def _delta_chunks(name: str, a: LinearMixer, seq: _Sequence) -> list[Component]:
    """The form in chunks of c tokens. A triangular solve of c rows with n columns is c^2 n FLOPs, and going back a solve and a product.

    A first chunk without a cache behind it meets no state, and the last one's is made only where a cache keeps it.
    """
    t, h, e, v = seq.length, a.n_heads, a.key_dim, a.value_dim
    chunks = [min(DELTA_CHUNK, t - start) for start in range(0, t, DELTA_CHUNK)]
    met = chunks if seq.cached else chunks[1:]
    left = chunks[:-1] if seq.cached is None else chunks
    solved = (sum(c * c for c in chunks) * v + sum(c * c for c in met) * e) * h
    within = sum(c * c for c in chunks) * h * (4 * e + 2 * v)
    across = (2 * sum(met) + sum(left)) * 2 * e * v * h
    mixed, values = t * (2 * a.n_key_heads * e + h * v), t * h * v
    executed = {} if seq.executed_as.compiled else mixer_work.delta_products(a, chunks, met, left, seq.executed_as)
    found = []
    for leaf, flops, back in (("triangular_solve", solved, 3), ("within_chunks", within, 2), ("across_chunks", across, 2)):
        forward = Pass(mixed, values, flops=flops, calls=len(chunks))
        backward = Pass(mixed + values, mixed, flops=back * flops, calls=2 * len(chunks))
        does = executed.get(leaf, StepWork((forward,), (backward,)))
        found.append(Component(f"{name}.{leaf}", (), flops, backward_factor=back, own_work=does, mixes=True))
    return found


def _experts(name: str, mlp: Experts, d: int, seq: _Sequence) -> Component:
    """Each token's router logits and n_active MLPs; whichever experts these are, the products have the same sizes in all."""
    t, x, f, fused = seq.length, mlp.n_experts, mlp.d_ff, seq.executed_as.compiled
    rows = t * mlp.n_active

    def stacked(leaf: str, n_out: int, n_in: int) -> Component:
        weights = [Weight(f"{name}.{leaf}.weight", (x, n_out, n_in), "matrix")]
        if mlp.bias:
            weights.append(Weight(f"{name}.{leaf}.bias", (x, n_out), "vector"))
        does = work.linear(rows, n_in, n_out, bias=mlp.bias) if fused else mixer_work.expert_products(mlp, t, n_out, n_in)
        flops, active = 2 * rows * n_in * n_out, (mlp.n_active, x)
        return Component(f"{name}.{leaf}", tuple(weights), flops, own_active=active, own_work=does, held_by="expert")

    parts = [_linear(f"{name}.router", x, d, t, mlp.router.bias, held_by="each")]
    if not fused:
        parts.append(Component(f"{name}.rows", own_work=mixer_work.expert_rows(mlp, t, d)))
    parts += [stacked(leaf, f, d) for leaf in (("gate", "up") if mlp.activation in GATED else ("up",))]
    parts.append(Component(f"{name}.activation", own_work=work.activation(Dense(f, mlp.activation), rows, seq.executed_as)))
    parts.append(stacked("down", d, f))
    if mlp.shared is not None:
        parts.append(_dense(f"{name}.shared", mlp.shared, d, seq))
    if mlp.shared_gate:
        parts.append(_linear(f"{name}.shared_gate", 1, d, t, False, held_by="each"))
    # where experts are not spread, what a shared one has gathered serves them too
    return Component(name, parts=tuple(parts), own_rows=Traffic(unrouted=0 if mlp.shared else 2 * t * d, routed=2 * rows * d))


def _dense(name: str, mlp: Dense, d: int, seq: _Sequence) -> Component:
    inner = ("gate", "up") if mlp.activation in GATED else ("up",)
    parts = [_linear(f"{name}.{part}", mlp.d_ff, d, seq.length, mlp.bias) for part in inner]
    parts.append(Component(f"{name}.activation", own_work=work.activation(mlp, seq.length, seq.executed_as)))
    parts.append(_linear(f"{name}.down", d, mlp.d_ff, seq.length, mlp.bias))
    return Component(name, parts=tuple(parts), own_rows=Traffic(exchanged=2 * seq.length * d))


def _linear(name: str, n_out: int, n_in: int, t: int, bias: bool, kind: Kind = "matrix", held_by: HeldBy = "tensor") -> Component:
    weights = [Weight(f"{name}.weight", (n_out, n_in), kind)]
    if bias:
        weights.append(Weight(f"{name}.bias", (n_out,), "vector"))
    return Component(name, tuple(weights), 2 * t * n_in * n_out, own_work=work.linear(t, n_in, n_out, bias=bias), held_by=held_by)


def _norm(name: str, norm: Norm, dim: int, seq: _Sequence) -> Component:
    return Component(name, _gains(name, norm, dim), own_work=work.norm(norm, seq.length, dim, seq.executed_as))


def _gains(name: str, norm: Norm, dim: int) -> tuple[Weight, ...]:
    held = [leaf for leaf, wanted in (("weight", norm.weight), ("bias", norm.bias)) if wanted]
    return tuple(Weight(f"{name}.{leaf}", (dim,), "vector") for leaf in held)
