"""The peers that we measure ourselves against, written anew from what their authors publish: each is its model and its recipe.

A peer is a module with a frozen dataclass ``Settings`` and ``train_for(seconds, train_tokens, vocab_size, *, seed, settings)``, which
trains for so long and returns what ``common.Trained`` describes, so that one evaluator scores them all. ``LADDERS`` are the values that a
sweep may try, from small to large.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from groundup.errors import UsageError

PEERS = ("counts", "nanochat", "nanogpt")


def load_peer(name: str) -> ModuleType:
    """The module of a peer; UsageError naming the known ones otherwise."""
    if name not in PEERS:
        raise UsageError(f"peer {name!r} is not known; choose one of {', '.join(PEERS)}")
    return importlib.import_module(f"benchmarks.peers.{name}")
