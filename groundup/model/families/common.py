"""What most families share: the names of their tensors, their rotary parameters, and the sizes that their ``config.json`` states alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from groundup.config import (
    Attention,
    Dense,
    Experts,
    Layer,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Norm,
    Rotary,
    YarnScaling,
    check,
)
from groundup.errors import UsageError
from groundup.model.families.family import TensorMap, Tensors, Values, renamed, translated

NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "mixer_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mixer": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "router": "gate",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
"""Word of our names -> words of theirs, as Llama has them."""

SLIDING, FULL = "sliding_attention", "full_attention"
"""Their words for layers with and without a window."""

ATTENTION_FACTORS = ("attention_factor", "mscale", "mscale_all_dim")


def llama_tensors(config: ModelConfig) -> Iterable[TensorMap]:
    """Every parameter under its Llama name."""
    return renamed(config, NAMES)


def read_rotary(values: Values, default_theta: float = 10_000.0, *, kind: str | None = None) -> Rotary:
    """The rotary parameters, of all layers or of those of one kind; UsageError for a scaling that is not here.

    transformers 5 keeps them in rope_parameters, where some families have them by kind of layer; 4 kept the base beside a rope_scaling,
    which was of the full layers.
    """
    scaling, parameters = values.table("rope_scaling"), values.table("rope_parameters")
    if SLIDING in parameters or FULL in parameters:
        parameters = Values(parameters, f"{values.where}: rope_parameters").table(kind or FULL)
    elif kind == SLIDING:
        parameters = {name: value for name, value in parameters.items() if name == "rope_theta"}
    scaling = scaling if kind != SLIDING else {}
    said = scaling or parameters
    rope = Values({**parameters, **scaling}, f"{values.where}: rope_parameters")
    theta = rope.number("rope_theta", values.number("rope_theta", default_theta))
    if rope.number("partial_rotary_factor", values.number("partial_rotary_factor", 1.0)) != 1:
        raise UsageError(f"{values.where}: partial_rotary_factor is not supported for this family, only 1 is")
    found = said.get("rope_type") or said.get("type") or "default"
    if found in ("llama3", "yarn"):
        context = values.get("original_max_position_embeddings", values.get("max_position_embeddings"))
        original = rope.whole("original_max_position_embeddings", context)
    match found:
        case "default":
            return Rotary(theta)
        case "linear":
            return Rotary(theta, LinearScaling(rope.number("factor")))
        case "llama3":
            factors = (rope.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
            return Rotary(theta, Llama3Scaling(*factors, original))
        case "yarn":
            factor = rope.number("factor", values.whole("max_position_embeddings", original) / original)
            settings = {key: rope.number(key, 0) for key in ("mscale", "mscale_all_dim")}
            if rope.get("attention_factor") is not None:
                settings["attention_factor"] = rope.number("attention_factor")
            ends = {key: rope.number(key, default) for key, default in (("beta_fast", 32), ("beta_slow", 1))}
            return Rotary(theta, YarnScaling(factor, original, **ends, truncate=rope.flag("truncate", True), **settings))
    raise UsageError(f"{values.where}: rope_type {found!r} is not supported, only 'default', 'linear', 'llama3' and 'yarn' are")


def rotary_values(rotary: Rotary) -> dict[str, Any]:
    """The content of their rope_parameters."""
    theta, scaling = {"rope_theta": rotary.theta}, rotary.scaling
    match scaling:
        case None:
            return {"rope_type": "default", **theta}
        case LinearScaling(factor):
            return {"rope_type": "linear", **theta, "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            ends = {"low_freq_factor": low, "high_freq_factor": high}
            return {"rope_type": "llama3", **theta, "factor": factor, **ends, "original_max_position_embeddings": original}
        case YarnScaling():
            settings = {key: getattr(scaling, key) for key in ATTENTION_FACTORS if getattr(scaling, key)}
            ends = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
            size = {"factor": scaling.factor, "original_max_position_embeddings": scaling.original_context_length}
            return {"rope_type": "yarn", **theta, **size, **ends, **settings}


def read_heads(values: Values, *, n_kv_heads: int | None = None, head_dim: int | None = None) -> dict[str, int]:
    """Heads as Attention takes them; without a default of the family there are as many kv heads as heads, and heads share out d_model."""
    n_heads = values.whole("num_attention_heads")
    return {
        "n_heads": n_heads,
        "n_kv_heads": values.whole("num_key_value_heads", n_kv_heads or n_heads),
        "head_dim": values.whole("head_dim", head_dim or values.whole("hidden_size") // n_heads),
    }


def read_windows(values: Values, default: Sequence[bool], default_window: int | None = 4096) -> list[int | None]:
    """The window of each layer: sliding_window where layer_types, or else the family's pattern, says that the layer slides."""
    kinds = values.entries("layer_types", [SLIDING if slides else FULL for slides in default])
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise UsageError(f"{values.where}: layer_types {kind!r} is not supported, only {SLIDING!r} and {FULL!r} are")
    slides = [kind == SLIDING for kind in kinds]
    if len(slides) != values.whole("num_hidden_layers"):
        raise UsageError(f"{values.where}: layer_types has {len(slides)} entries for {values.whole('num_hidden_layers')} layers")
    window = read_window(values, default_window) if any(slides) else None
    return [window if one else None for one in slides]


def read_window(values: Values, default: int | None) -> int | None:
    """sliding_window, where null means none and absent the default."""
    found = values.values.get("sliding_window", default)
    return None if found is None else values.whole("sliding_window", default)


def window_values(config: ModelConfig) -> dict[str, Any]:
    """layer_types and sliding_window."""
    windows = [mixer.window for mixer in attentions(config)]
    return {
        "layer_types": [FULL if window is None else SLIDING for window in windows],
        "sliding_window": next((window for window in windows if window is not None), None),
    }


def assemble(values: Values, layers: Iterable[Layer], norm: Norm, *, tied: bool = False, context: int = 2048, **more) -> ModelConfig:
    """The configuration with these layers; ``tied`` and ``context`` are the family's defaults."""
    return check(
        ModelConfig(
            vocab_size=values.whole("vocab_size"),
            d_model=values.whole("hidden_size"),
            context_length=values.whole("max_position_embeddings", context),
            layers=tuple(layers),
            final_norm=norm,
            tied=values.flag("tie_word_embeddings", tied),
            **more,
        )
    )


def first_layer(config: ModelConfig) -> Layer:
    """The first layer; UsageError where there is none."""
    if not config.layers:
        raise UsageError("layers is empty")
    return config.layers[0]


def attentions(config: ModelConfig) -> list[Attention]:
    """The mixers of all layers, at least one; UsageError for one that is no Attention."""
    first_layer(config)
    found = []
    for i, layer in enumerate(config.layers):
        if not isinstance(layer.mixer, Attention):
            raise UsageError(f"layers[{i}].mixer is of kind {type(layer.mixer).__name__}, and this family has Attention")
        found.append(layer.mixer)
    return found


def base_values(config: ModelConfig) -> dict[str, Any]:
    """What every family but GPT-2 says of its sizes."""
    layer = first_layer(config)
    dense = next((one.mlp for one in config.layers if isinstance(one.mlp, Dense)), None)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": layer.mixer.n_heads,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": layer.norm.eps,
        "tie_word_embeddings": config.tied,
        **({"intermediate_size": dense.d_ff} if dense else {}),
    }


def attention_values(config: ModelConfig) -> dict[str, Any]:
    """Heads, and the rotary parameters that all layers share; ``rope_theta`` is where transformers 4 looks."""
    mixers = attentions(config)
    rotary = next((mixer.rotary for mixer in mixers if mixer.rotary is not None), Rotary())
    return {
        "num_key_value_heads": mixers[0].n_kv_heads,
        "head_dim": mixers[0].head_dim,
        "rope_theta": rotary.theta,
        "rope_parameters": rotary_values(rotary),
    }


def nested_rotary_values(config: ModelConfig) -> dict[str, Any]:
    """The rotary parameters of families whose sliding layers have their own."""
    mixers = attentions(config)
    by_kind = {
        kind: next((m.rotary for m in mixers if (m.window is None) == (kind == FULL) and m.rotary is not None), None)
        for kind in (FULL, SLIDING)
    }
    known = {kind: rotary_values(rotary) for kind, rotary in by_kind.items() if rotary is not None}
    return {"rope_parameters": {FULL: known.get(FULL, {"rope_type": "default"}), SLIDING: known.get(SLIDING, {"rope_type": "default"})}}


def experts(config: ModelConfig) -> Experts:
    """The first mixture of experts; UsageError where there is none."""
    found = next((layer.mlp for layer in config.layers if isinstance(layer.mlp, Experts)), None)
    if found is None:
        raise UsageError("no layer has an mlp of kind Experts")
    return found


def expert_tensors(config: ModelConfig, names: dict[str, str], of_expert: dict[str, str]) -> Iterator[TensorMap]:
    """Every parameter, where their file has a matrix for each expert and ours one tensor for all: ``of_expert`` names those of one."""

    def stacked(name: str) -> bool:
        words = name.split(".")
        return (
            words[0] == "layers" and words[2] == "mlp" and words[3] in of_expert and isinstance(config.layers[int(words[1])].mlp, Experts)
        )

    yield from renamed(config, names, skip=stacked)
    for i, layer in enumerate(config.layers):
        if isinstance(layer.mlp, Experts):
            for ours, theirs in of_expert.items():
                each = tuple(translated(f"layers.{i}.mlp.experts", names) + f".{j}.{theirs}.weight" for j in range(layer.mlp.n_experts))
                yield TensorMap((f"layers.{i}.mlp.{ours}.weight",), each, _stack, _unstack)


def _stack(theirs: Tensors) -> Tensors:
    return (torch.stack(theirs),)


def _unstack(ours: Tensors) -> Tensors:
    return ours[0].unbind()
