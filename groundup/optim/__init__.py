"""How weights move: SGD, AdamW, Muon and SOAP, which parameter gets which, clipping and learning-rate schedules.

``config``, ``groups`` and ``schedules`` are plain data and plain arithmetic; torch is loaded when ``build_optimizer``, ``Optimizer`` or
``clip_by_global_norm`` is first asked for, so that a command line can show its flags without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.optim.config import SGD, SOAP, AdamW, Muon, OptimizerConfig
from groundup.optim.groups import RULES, Group, Rule, describe, group_parameters
from groundup.optim.schedules import Schedule, scale, schedule

if TYPE_CHECKING:
    from groundup.optim.clip import clip_by_global_norm
    from groundup.optim.optimizer import Optimizer, build_optimizer

__all__ = [
    "RULES",
    "SGD",
    "SOAP",
    "AdamW",
    "Group",
    "Muon",
    "Optimizer",
    "OptimizerConfig",
    "Rule",
    "Schedule",
    "build_optimizer",
    "clip_by_global_norm",
    "describe",
    "group_parameters",
    "scale",
    "schedule",
]


def __getattr__(name: str) -> Any:
    if name in ("Optimizer", "build_optimizer"):
        from groundup.optim import optimizer

        return getattr(optimizer, name)
    if name == "clip_by_global_norm":
        from groundup.optim.clip import clip_by_global_norm

        return clip_by_global_norm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
