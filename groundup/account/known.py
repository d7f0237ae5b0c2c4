"""Open models that people know, as data: to ask what they cost, and to hold the count against what was published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundup.config import (
    Attention,
    Dense,
    Experts,
    LatentAttention,
    Layer,
    ModelConfig,
    Norm,
    Rotary,
    Router,
    YarnScaling,
    check,
    from_dict,
)
from groundup.errors import UsageError


def _llama(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    heads: tuple[int, int],
    d_ff: int,
    context_length: int,
    *,
    head_dim: int = 128,
    theta: float = 5e5,
    qk_norm: bool = False,
    tied: bool = False,
    bias: bool = False,
) -> ModelConfig:
    norm = Norm(eps=1e-5)
    mixer = Attention(*heads, head_dim, rotary=Rotary(theta), qk_norm=norm if qk_norm else None, bias=bias)
    return ModelConfig(vocab_size, d_model, context_length, (Layer(mixer, Dense(d_ff), norm),) * n_layers, final_norm=norm, tied=tied)


def _mixture(dense: ModelConfig, experts: Experts) -> ModelConfig:
    return replace(dense, layers=tuple(replace(layer, mlp=experts) for layer in dense.layers))


def _deepseek_v3() -> ModelConfig:
    """Without the module that predicts a second token, which only its training has."""
    turned = Rotary(1e4, YarnScaling(40.0, 4096, mscale=1.0, mscale_all_dim=1.0), interleaved=True)
    mixer = LatentAttention(128, 128, 64, 128, kv_rank=512, q_rank=1536, rotary=turned)
    router = Router("sigmoid", renormalize=True, scale=2.5, selection_bias=True, n_groups=8, n_active_groups=4, group_score="top2")
    experts = Experts(256, 8, 2048, router, shared=Dense(2048))
    layers = tuple(Layer(mixer, Dense(18_432) if i < 3 else experts) for i in range(61))
    return ModelConfig(129_280, 7168, 163_840, layers)


KNOWN: dict[str, ModelConfig] = {
    "smollm2-135m": _llama(49_152, 576, 30, (9, 3), 1536, 8192, head_dim=64, theta=1e5, tied=True),
    "smollm2-1.7b": _llama(49_152, 2048, 24, (32, 32), 8192, 8192, head_dim=64, theta=1.3e5, tied=True),
    "llama-2-7b": _llama(32_000, 4096, 32, (32, 32), 11_008, 4096, theta=1e4),
    "llama-2-13b": _llama(32_000, 5120, 40, (40, 40), 13_824, 4096, theta=1e4),
    "llama-3.1-8b": _llama(128_256, 4096, 32, (32, 8), 14_336, 131_072),
    "llama-3.1-70b": _llama(128_256, 8192, 80, (64, 8), 28_672, 131_072),
    "llama-3.1-405b": _llama(128_256, 16_384, 126, (128, 8), 53_248, 131_072),
    "qwen2.5-7b": _llama(152_064, 3584, 28, (28, 4), 18_944, 131_072, theta=1e6, bias=True),
    "qwen3-0.6b": _llama(151_936, 1024, 28, (16, 8), 3072, 40_960, theta=1e6, qk_norm=True, tied=True),
    "qwen3-8b": _llama(151_936, 4096, 36, (32, 8), 12_288, 40_960, theta=1e6, qk_norm=True),
    "qwen3-30b-a3b": _mixture(
        _llama(151_936, 2048, 48, (32, 4), 6144, 40_960, theta=1e6, qk_norm=True), Experts(128, 8, 768, Router(renormalize=True))
    ),
    "mixtral-8x7b": _mixture(
        _llama(32_000, 4096, 32, (32, 8), 14_336, 32_768, theta=1e6), Experts(8, 2, 14_336, Router("softmax_of_chosen"))
    ),
    "deepseek-v3": _deepseek_v3(),
}
"""By name; shapes from the config.json published with each."""


def known_model(name: str) -> ModelConfig:
    """The model of a name; UsageError naming those that are known."""
    if name.lower() not in KNOWN:
        raise UsageError(f"model {name!r} is not known: give a folder with a config.json, such a file, or one of {', '.join(KNOWN)}")
    return KNOWN[name.lower()]


def open_config(model: str, translate: Callable[[dict[str, Any], str], ModelConfig]) -> ModelConfig:
    """The ModelConfig of a folder, of a file, or of a known name; ``translate`` makes one of a file that says its ``model_type``.

    Raises UsageError for a file that holds none.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
        if model and not path.is_file():
            raise UsageError(f"{model}: a folder without a config.json; give one that has it, or a known model such as llama-3.1-8b")
    if not path.is_file():
        return known_model(model)
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: no configuration ({e}); give a config.json") from e
    if not isinstance(values, dict):
        raise UsageError(f"{path}: no configuration; give a config.json")
    return translate(values, str(path)) if "model_type" in values else check(from_dict(ModelConfig, values, str(path)))
