"""The shape of a model that somebody names, without its weights; torch is imported only where another's configuration is translated."""

from __future__ import annotations

from typing import Any

from groundup.account.known import open_config
from groundup.config import ModelConfig


def open_shape(model: str) -> ModelConfig:
    """The configuration of a folder or a config.json, ours or a family's, or of a known name; UsageError where there is none."""
    return open_config(model, _translated)


def _translated(values: dict[str, Any], where: str) -> ModelConfig:
    from groundup.model.families import from_family

    return from_family(values, where)
