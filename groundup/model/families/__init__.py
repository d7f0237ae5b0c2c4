"""The open-weight families that the decoder can be: one mapping each, by the ``model_type`` of their ``config.json``."""

from collections.abc import Mapping
from typing import Any

from groundup.config import ModelConfig
from groundup.errors import UsageError
from groundup.model.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from groundup.model.families.family import Family, TensorMap
from groundup.model.families.gemma import GEMMA2, GEMMA3
from groundup.model.families.gpt2 import GPT2
from groundup.model.families.gpt_oss import GPT_OSS
from groundup.model.families.llama import LLAMA, SMOLLM3
from groundup.model.families.mistral import MISTRAL, MIXTRAL
from groundup.model.families.olmo import OLMO2, OLMO3
from groundup.model.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from groundup.model.families.qwen_next import QWEN3_NEXT

__all__ = ["FAMILIES", "Family", "TensorMap", "family_named", "family_of", "from_family", "to_family"]

_ALL = (
    *(LLAMA, QWEN3, QWEN2, MISTRAL, SMOLLM3, QWEN3_MOE, MIXTRAL),
    *(OLMO2, OLMO3, GEMMA2, GEMMA3, GPT_OSS, DEEPSEEK_V2, DEEPSEEK_V3, QWEN3_NEXT, GPT2),
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
"""By ``model_type``; where several can say a configuration, the first of them is its family."""


def family_named(values: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family of a ``config.json``'s content; UsageError for one that is not here."""
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UsageError(f"{where}: model_type {name!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def from_family(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """The configuration that a ``config.json`` describes; UsageError as ``Family.read`` has it."""
    return family_named(values, where).read(values, where)


def family_of(config: ModelConfig) -> tuple[Family | None, str]:
    """The first family whose ``config.json`` can say all of a configuration; or None with the first field that stands in the way.

    Where none can, the field is what Qwen3 cannot say of a model that norms its queries and keys, and Llama of any other.
    """
    for family in FAMILIES.values():
        if family.difference(config) is None:
            return family, f"it is a {family.model_type}"
    nearest = QWEN3 if config.layers and getattr(config.layers[0].mixer, "qk_norm", None) is not None else LLAMA
    return None, nearest.difference(config) or ""


def to_family(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a configuration, without token ids; raises UsageError naming the field that no family can say."""
    family, reason = family_of(config)
    if family is None:
        raise UsageError(f"this model cannot be exported: {reason}; train one with --arch qwen3 or --arch llama")
    return family.write(config)
