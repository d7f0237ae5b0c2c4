"""Which parameter gets which method: rules over names and shapes, and the groups they make. Needs no torch: it reads names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.errors import UsageError
from groundup.optim.config import Method, OptimizerConfig


@dataclass(frozen=True)
class Rule:
    """One kind of parameter."""

    name: str
    """The group's name."""
    words: str
    """Which parameters it takes, for people."""
    matches: Callable[[str, int], bool]
    """Which parameters it takes: a function of the dotted name and the number of dims."""
    lr: str
    """The field of OptimizerConfig that holds its learning rate."""


@dataclass(frozen=True)
class Group:
    """Parameters that share a method, a learning rate and a decay."""

    name: str
    """What these parameters are."""
    rule: str
    """Which parameters were taken, in words."""
    method: Method
    """How they move."""
    lr: float
    """Peak learning rate; a step multiplies it by the schedule's scale."""
    weight_decay: float
    """Decoupled decay; a step shrinks the weights by lr * scale * weight_decay."""
    parameters: tuple[str, ...]
    """Dotted names."""
    n_parameters: int
    """Elements, all parameters together."""


def _module(name: str) -> str:
    """The module that holds a parameter: "value_gate" of "layers.0.mixer.value_gate.weight"."""
    return name.split(".")[-2] if "." in name else ""


def _is_gate(name: str) -> bool:
    return _module(name) == "value_gate" or name.startswith("gate.")


def _is_vector(name: str, ndim: int) -> bool:
    """Whether each number of a parameter works alone: experts' biases are stacked too, and a convolution has a few taps a channel."""
    return ndim < 2 or name.endswith(".bias") or _module(name) in ("convolution", *_TABLES)


_EMBEDDINGS = ("embedding", "position_embedding")
_TABLES = (*_EMBEDDINGS, "hash_embedding", "value_embedding")

RULES: tuple[Rule, ...] = (
    Rule(
        "matrices",
        "weights inside the layers of 2 dims, or 3 where experts are stacked, except tables, value gates and convolutions",
        lambda name, ndim: ndim in (2, 3) and name.startswith("layers.") and not _is_vector(name, ndim) and not _is_gate(name),
        "matrix_lr",
    ),
    Rule("embedding", "token and position embeddings", lambda name, _: _module(name) in _EMBEDDINGS, "embedding_lr"),
    Rule("hash_embedding", "the hashed n-gram embedding", lambda name, _: _module(name) == "hash_embedding", "hash_embedding_lr"),
    Rule("value_embedding", "the value embeddings", lambda name, _: _module(name) == "value_embedding", "value_embedding_lr"),
    Rule("head", "the head's matrix", lambda name, ndim: name == "head.weight" and ndim == 2, "head_lr"),
    Rule("gates", "value gates and the prior's gate, whatever their shape", lambda name, _: _is_gate(name), "gate_lr"),
    Rule(
        "vectors",
        "norm gains, biases and sinks, and the taps of convolutions",
        lambda name, ndim: _is_vector(name, ndim) and not _is_gate(name) and _module(name) not in _TABLES,
        "vector_lr",
    ),
)
"""The decoder's kinds of parameters. Together they take each of its parameters exactly once."""


def group_parameters(
    named_parameters: Iterable[tuple[str, Any]], config: OptimizerConfig, rules: Sequence[Rule] = RULES
) -> tuple[Group, ...]:
    """Sorts parameters into groups, one a rule that takes any; only the group "matrices" decays.

    A parameter is anything with a ``shape``. Raises UsageError naming the parameter that no rule takes, or more than one.
    """
    taken: dict[str, list[str]] = {rule.name: [] for rule in rules}
    counts: dict[str, int] = dict.fromkeys(taken, 0)
    for name, parameter in named_parameters:
        names = [rule.name for rule in rules if rule.matches(name, len(parameter.shape))]
        if len(names) != 1:
            found = "no rule takes it" if not names else f"the rules {' and '.join(names)} take it"
            raise UsageError(f"parameter {name} of shape {list(parameter.shape)}: {found}; give rules that take it exactly once")
        taken[names[0]].append(name)
        counts[names[0]] += math.prod(parameter.shape)
    groups = []
    for rule in rules:
        if not taken[rule.name]:
            continue
        matrices = rule.name == "matrices"
        groups.append(
            Group(
                name=rule.name,
                rule=rule.words,
                method=getattr(config, config.matrices if matrices else config.others),
                lr=getattr(config, rule.lr),
                weight_decay=config.weight_decay if matrices else 0.0,
                parameters=tuple(taken[rule.name]),
                n_parameters=counts[rule.name],
            )
        )
    return tuple(groups)


def describe(groups: Iterable[Group]) -> list[dict[str, str]]:
    """Returns one row a group for a printed table; the keys of a row are the columns."""
    return [
        {
            "group": group.name,
            "method": type(group.method).__name__,
            "learning rate": f"{group.lr:.3g}",
            "decay": f"{group.weight_decay:.3g}",
            "tensors": str(len(group.parameters)),
            "parameters": f"{group.n_parameters:,}",
            "rule": group.rule,
        }
        for group in groups
    ]
