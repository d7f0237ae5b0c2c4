"""The optimizer: groups of parameters, each moved by its method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from groundup.errors import GroundupError, UsageError
from groundup.optim.adamw import AdamWState
from groundup.optim.config import SGD, SOAP, AdamW, Muon, OptimizerConfig
from groundup.optim.groups import Group, group_parameters
from groundup.optim.muon import MuonState
from groundup.optim.sgd import SGDState
from groundup.optim.soap import SOAPState

_State = SGDState | AdamWState | MuonState | SOAPState
"""What a method keeps between steps, for one group."""


def _state(group: Group, parameters: dict[str, Tensor]) -> _State:
    method = group.method
    if isinstance(method, Muon | SOAP):
        for name, parameter in parameters.items():
            if parameter.ndim != 2 and not (parameter.ndim == 3 and isinstance(method, Muon)):
                found = f"{name} has shape {list(parameter.shape)}"
                raise UsageError(f"group {group.name}: {type(method).__name__} moves matrices, but {found}; use AdamW for it")
    match method:
        case SGD():
            return SGDState(method, parameters)
        case AdamW():
            return AdamWState(method, parameters)
        case Muon():
            return MuonState(method, parameters)
        case SOAP():
            return SOAPState(method, parameters)


class Optimizer:
    """Moves fp32 parameters, in place, by their gradients; the same start and gradients give the same bits on the same machine.

    Parameters trained in a lower precision are its callers' casts: what stands here is the master copy.
    """

    def __init__(self, groups: Sequence[Group], named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Raises UsageError unless each parameter is fp32 and in exactly one group, and each name in a group is a parameter."""
        parameters = dict(named_parameters)
        named = [name for group in groups for name in group.parameters]
        twice = {name for name in named if named.count(name) > 1}
        for name in sorted(twice | (set(named) ^ set(parameters))):
            found = "in two groups" if name in twice else "in no group" if name in parameters else "in a group but no parameter"
            raise UsageError(f"optimizer: {name} is {found}; each parameter must be in exactly one")
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise UsageError(f"optimizer: {name} is {parameter.dtype}; keep fp32 parameters and cast them where they are used")
        self.groups = tuple(groups)
        self.parameters = parameters
        self.steps = 0
        self._states = [_state(group, {name: parameters[name] for name in group.parameters}) for group in groups]

    @torch.no_grad()
    def step(self, lr_scale: float = 1.0) -> None:
        """Takes one step with every group's learning rate times ``lr_scale``, the schedule's value.

        Raises GroundupError, before anything has moved, if a parameter has no gradient or a sparse one that its method cannot take.
        """
        gradients = [[self._gradient(group, name) for name in group.parameters] for group in self.groups]
        self.steps += 1
        for group, state, of_group in zip(self.groups, self._states, gradients, strict=True):
            state.step(of_group, group.lr * lr_scale, group.weight_decay, self.steps)

    def _gradient(self, group: Group, name: str) -> Tensor:
        gradient = self.parameters[name].grad
        if gradient is None:
            raise GroundupError(f"parameter {name} has no gradient: run backward through it first, or leave it out of the groups")
        if gradient.is_sparse and not isinstance(group.method, AdamW):
            raise GroundupError(
                f"parameter {name} has a sparse gradient, which {type(group.method).__name__} cannot take: use AdamW for it"
            )
        return gradient

    def zero_grad(self) -> None:
        """Drops every gradient, so that the next backward writes instead of adding."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all that the next steps depend on besides weights and gradients: "steps", and "parameter/slot" in fp32.

        The tensors are live: write or copy them before the next step.
        """
        slots = {key: tensor for state in self._states for key, tensor in state.slots().items()}
        return {"steps": torch.tensor(self.steps), **slots}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over a ``state_dict``'s values; the steps that follow are bit for bit those that would have followed there.

        Raises GroundupError, before anything has changed, if a tensor is missing, unknown or of another shape or type.
        """
        live = self.state_dict()
        for key in sorted(set(live) ^ set(tensors)):
            raise GroundupError(f"optimizer state: {key} is {'missing' if key in live else 'unknown'}; it is of another model or method")
        for key, tensor in live.items():
            found = tensors[key]
            if found.shape != tensor.shape or found.dtype != tensor.dtype:
                wanted, got = (f"{t.dtype} {list(t.shape)}" for t in (tensor, found))
                raise GroundupError(f"optimizer state: {key} is {got} instead of {wanted}; it is of another model or method")
        for key, tensor in live.items():
            tensor.copy_(tensors[key])
        self.steps = int(live["steps"])


def build_optimizer(named_parameters: Iterable[tuple[str, Tensor]], config: OptimizerConfig) -> Optimizer:
    """Sorts parameters into groups by ``groups.RULES`` and returns their optimizer; see ``Optimizer.groups`` and ``describe``."""
    named = list(named_parameters)
    return Optimizer(group_parameters(named, config), named)
