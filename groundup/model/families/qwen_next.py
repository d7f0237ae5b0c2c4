"""Qwen3-Next (2025): three layers of a gated delta rule to one of gated attention, experts with a gated shared one, gains of 1 + w.

The file keeps queries, keys, values and the output's gate of a linear layer in one matrix, a key head's rows together, and so its two
gates a head; and the queries of an attention layer with their output's gate, a head's rows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from groundup.config import Attention, Dense, Experts, Layer, LinearMixer, ModelConfig, Norm, Router
from groundup.errors import UsageError
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Tensors, Values

LINEAR = "linear_attention"
NAMES = {**common.NAMES, "shared": "shared_expert", "shared_gate": "shared_expert_gate"}
_LINEAR_PARTS = {"norm.weight": "norm.weight", "output.weight": "out_proj.weight", "log_rate": "A_log", "decay_bias": "dt_bias"}
PARTIAL = 0.25


def _mixers(values: Values) -> tuple[Attention, LinearMixer]:
    values.must("hidden_act", "silu")
    eps = values.number("rms_norm_eps", 1e-6)
    heads = common.read_heads(values, n_kv_heads=2, head_dim=256)
    rope = values.table("rope_parameters")
    part = Values(rope, values.where).number("partial_rotary_factor", values.number("partial_rotary_factor", PARTIAL))
    whole = {**values.values, "rope_parameters": {**rope, "partial_rotary_factor": 1.0}, "partial_rotary_factor": 1.0}
    rotary = replace(common.read_rotary(Values(whole, values.where)), dims=int(heads["head_dim"] * part))
    bias = values.flag("attention_bias")
    norm = Norm(eps=eps, plus_one=True, wide_gain=True)
    full = Attention(**heads, rotary=rotary, qk_norm=norm, bias=bias, output_bias=bias, output_gate=True)
    linear = LinearMixer(
        n_heads=values.whole("linear_num_value_heads", 32),
        n_key_heads=values.whole("linear_num_key_heads", 16),
        key_dim=values.whole("linear_key_head_dim", 128),
        value_dim=values.whole("linear_value_head_dim", 128),
        conv_width=values.whole("linear_conv_kernel_dim", 4),
        norm=Norm(eps=eps),
    )
    return full, linear


def _config(values: Values) -> ModelConfig:
    full, linear = _mixers(values)
    n_layers = values.whole("num_hidden_layers")
    step, every = values.whole("decoder_sparse_step", 1), values.whole("full_attention_interval", 4)
    kinds = values.entries("layer_types", [LINEAR if (i + 1) % every else common.FULL for i in range(n_layers)])
    if len(kinds) != n_layers or any(kind not in (LINEAR, common.FULL) for kind in kinds):
        raise UsageError(f"{values.where}: layer_types must name {LINEAR!r} or {common.FULL!r} for each of {n_layers} layers")
    mlp = Experts(
        n_experts=values.whole("num_experts", values.get("num_local_experts", 512)),
        n_active=values.whole("num_experts_per_tok", 10),
        d_ff=values.whole("moe_intermediate_size", 512),
        router=Router(renormalize=values.flag("norm_topk_prob", True)),
        shared=Dense(values.whole("shared_expert_intermediate_size", 512)),
        shared_gate=True,
    )
    sparse = [i not in values.entries("mlp_only_layers") and (i + 1) % step == 0 for i in range(n_layers)]
    dense, norm = Dense(values.whole("intermediate_size", 5632)), full.qk_norm or Norm()
    layers = [Layer(linear if kind == LINEAR else full, mlp if one else dense, norm) for kind, one in zip(kinds, sparse, strict=True)]
    return common.assemble(values, layers, norm, context=32_768)


def _one(config: ModelConfig, kind: type) -> Any:
    found = next((layer.mixer for layer in config.layers if isinstance(layer.mixer, kind)), None)
    if found is None:
        raise UsageError(f"no layer has a mixer of kind {kind.__name__}")
    return found


def _values(config: ModelConfig) -> dict[str, Any]:
    full, linear, mlp = _one(config, Attention), _one(config, LinearMixer), common.experts(config)
    if full.rotary is None or mlp.shared is None:
        raise UsageError("an attention without rotary, or experts without a shared one, are not Qwen3-Next's")
    part = (full.head_dim if full.rotary.dims is None else full.rotary.dims) / full.head_dim
    return {
        **common.base_values(config),
        "num_attention_heads": full.n_heads,
        "num_key_value_heads": full.n_kv_heads,
        "head_dim": full.head_dim,
        "attention_bias": full.bias,
        "rope_theta": full.rotary.theta,
        "partial_rotary_factor": part,
        "rope_parameters": {**common.rotary_values(full.rotary), "partial_rotary_factor": part},
        "layer_types": [LINEAR if isinstance(layer.mixer, LinearMixer) else common.FULL for layer in config.layers],
        "linear_num_value_heads": linear.n_heads,
        "linear_num_key_heads": linear.n_key_heads,
        "linear_key_head_dim": linear.key_dim,
        "linear_value_head_dim": linear.value_dim,
        "linear_conv_kernel_dim": linear.conv_width,
        "num_experts": mlp.n_experts,
        "num_experts_per_tok": mlp.n_active,
        "moe_intermediate_size": mlp.d_ff,
        "norm_topk_prob": mlp.router.renormalize,
        "shared_expert_intermediate_size": mlp.shared.d_ff,
        "mlp_only_layers": [i for i, layer in enumerate(config.layers) if isinstance(layer.mlp, Dense)],
        "decoder_sparse_step": 1,
    }


def _interleaved(n_heads: int, widths: Sequence[int]) -> tuple[Callable[[Tensors], Tensors], Callable[[Tensors], Tensors]]:
    """For a matrix that holds several side by side, the rows of each of n_heads together, ``widths`` of them: how to part and to join."""

    def part(theirs: Tensors) -> Tensors:
        return tuple(one.flatten(0, 1) for one in theirs[0].unflatten(0, (n_heads, sum(widths))).split(list(widths), dim=1))

    def join(ours: Tensors) -> Tensors:
        return (torch.cat([one.unflatten(0, (n_heads, width)) for one, width in zip(ours, widths, strict=True)], dim=1).flatten(0, 1),)

    return part, join


def _squeeze(theirs: Tensors) -> Tensors:
    return (theirs[0].squeeze(1),)


def _unsqueeze(ours: Tensors) -> Tensors:
    return (ours[0].unsqueeze(1),)


def _mixer_tensors(i: int, mixer: Attention | LinearMixer) -> Iterator[TensorMap]:
    ours, theirs = f"layers.{i}.mixer", f"model.layers.{i}.linear_attn"
    if isinstance(mixer, Attention):
        parts = (f"{ours}.query.weight", f"{ours}.output_gate.weight")
        yield TensorMap(parts, (f"model.layers.{i}.self_attn.q_proj.weight",), *_interleaved(mixer.n_heads, [mixer.head_dim] * 2))
        return
    groups = mixer.n_heads // mixer.n_key_heads
    joint = {
        "in_proj_qkvz": (("query", "key", "value", "output_gate"), [mixer.key_dim] * 2 + [groups * mixer.value_dim] * 2),
        "in_proj_ba": (("beta", "decay"), [groups] * 2),
    }
    for name, (parts, widths) in joint.items():
        held = tuple(f"{ours}.{part}.weight" for part in parts)
        yield TensorMap(held, (f"{theirs}.{name}.weight",), *_interleaved(mixer.n_key_heads, widths))
    yield TensorMap((f"{ours}.convolution.weight",), (f"{theirs}.conv1d.weight",), _squeeze, _unsqueeze)
    for mine, other in _LINEAR_PARTS.items():
        yield TensorMap((f"{ours}.{mine}",), (f"{theirs}.{other}",))


def _tensors(config: ModelConfig) -> Iterator[TensorMap]:
    special = {name for i, layer in enumerate(config.layers) for one in _mixer_tensors(i, layer.mixer) for name in one.ours}
    experts = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    for one in common.expert_tensors(config, NAMES, experts):
        if one.ours[0] not in special:
            yield one
    for i, layer in enumerate(config.layers):
        yield from _mixer_tensors(i, layer.mixer)


QWEN3_NEXT = Family(
    "qwen3_next", "Qwen3NextForCausalLM", _config, _values, _tensors, ignored=r"lm_head\.weight|mtp\..*|.*rotary_emb\.inv_freq"
)
