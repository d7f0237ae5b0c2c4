"""Activation checkpointing (Chen et al. 2016): what a part of a layer would keep for backward is computed again when backward comes there.

It is applied to a decoder from outside, so that the model knows nothing of it. The same operations see the same inputs in the same order,
so that loss and gradients keep their bits. What it saves and costs is in ``account``: ``Execution.recompute``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from groundup.account.execution import Recompute
from groundup.model.decoder import Decoder


def apply_recompute(model: Decoder, policy: Recompute) -> Decoder:
    """Makes each layer, or its attention or MLP, keep only its input for backward; apply it once to a model, before it is compiled."""
    for layer in model.layers:
        for part in _parts(layer, policy):
            part.forward = partial(_computed_again, part.forward)
    return model


def _parts(layer: nn.Module, policy: Recompute) -> tuple[nn.Module, ...]:
    return {"none": (), "attention": (layer.mixer,), "mlp": (layer.mlp,), "layers": (layer,)}[policy]


def _computed_again(forward: Callable, *inputs: Any) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)  # no layer draws random numbers
