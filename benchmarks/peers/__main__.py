"""Trains and scores one peer in a fresh process: ``python -m benchmarks.peers REQUEST.json``; the last line printed is the result.

The request names the peer, its settings, the seconds, the seed, the folder of the tokens and the splits to score.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import load_peer
from benchmarks.peers.scoring import bits_per_byte
from groundup.data import TokenStore
from groundup.tokenizer import Tokenizer


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Bits per byte of each split asked for (None: diverged) and what it took; reading tokens and scoring stand outside the seconds."""
    peer = load_peer(request["peer"])
    settings = peer.Settings(**request["settings"])
    folder = Path(request["tokens"])
    tokenizer = Tokenizer.load(folder)
    store = TokenStore.open(folder / "train")
    train_tokens = store.slice(0, store.n_tokens)
    started = time.monotonic()
    trained = peer.train_for(request["seconds"], train_tokens, tokenizer.vocab_size, seed=request["seed"], settings=settings)
    seconds = time.monotonic() - started
    token_bytes = tokenizer.n_bytes(np.arange(tokenizer.vocab_size))
    scores = {}
    for split in request["splits"]:
        bits = bits_per_byte(trained, TokenStore.open(folder / split), settings.seq_len, token_bytes)
        scores[split] = bits if math.isfinite(bits) else None  # JSON has no infinity
    return {"bits_per_byte": scores, "seconds": seconds, "steps": trained.steps, "parameters": trained.parameters}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
