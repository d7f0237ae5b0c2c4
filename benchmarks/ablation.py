"""What each ingredient of the plain network is worth: the same training with one thing changed at a time.

    python -m benchmarks.ablation [--steps 600] [--seeds 1] [--data ...] [--out benchmarks/results/ablation.json]

Width 96, two layers, 2048 tokens a step, the planner's learning rates, no counts; every run sees equally many tokens in equally many steps
(where a variant changes the batch, equally many tokens), and is scored on the validation split. The last column is what a step
costs in processor time, so that an ingredient can be weighed: what helps a little and costs a lot is not worth having in a fixed time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, Text, provenance, run_module, save_result
from groundup.account.budget import parse_budget
from groundup.account.plan import make_plan
from groundup.account.rules import Machine, Overrides
from groundup.config import Dense, ModelConfig
from groundup.errors import GroundupError, UsageError

VOCAB, WIDTH, LAYERS, SEQ_LEN, BATCH = 2048, 96, 2, 256, 8
REFERENCE = Machine("reference", "cpu", 1e-11, 0.0, 1e11, 2.5e6, 16 << 30)
"""Only to have a plan: sizes and steps are set by hand."""
Change = Callable[[ModelConfig], ModelConfig]


def _same(config: ModelConfig) -> ModelConfig:
    return config


def _mixer(**changes: Any) -> Change:
    def change(config: ModelConfig) -> ModelConfig:
        layers = (replace(layer, mixer=replace(layer.mixer, **changes)) for layer in config.layers)
        return replace(config, layers=tuple(layers))

    return change


def _mlp(mlp: Dense) -> Change:
    return lambda config: replace(config, layers=tuple(replace(layer, mlp=mlp) for layer in config.layers))


@dataclass(frozen=True)
class Variant:
    """One change."""

    what: str
    """For the table."""
    change: Change = _same
    """Of the model."""
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    """Fields of OptimizerConfig that differ."""
    schedule: str | None = None
    """Another schedule."""
    batch_size: int = BATCH
    """Sequences a step."""
    seq_len: int = SEQ_LEN
    """Tokens of a sequence."""
    zero_outputs: bool = True
    """Whether layers begin as the identity."""


VARIANTS: dict[str, Variant] = {
    "planned": Variant("as planned"),
    "adamw": Variant("AdamW (3e-3) instead of Muon", optimizer={"matrices": "adamw", "matrix_lr": 0.003}),
    "no-offset": Variant("no offset keys", _mixer(key_offset=False)),
    "no-value": Variant("no value embeddings", _mixer(value_embedding=False)),
    "neither": Variant("neither offset keys nor value embeddings", _mixer(key_offset=False, value_embedding=False)),
    "no-hash": Variant("no hashed bigrams", lambda config: replace(config, hash_embedding=None)),
    "no-qk-norm": Variant("no QK-norm", _mixer(qk_norm=None)),
    "no-zero": Variant("outputs of layers not zero at first", zero_outputs=False),
    "heads-of-32": Variant("three heads of 32", _mixer(n_heads=3, n_kv_heads=3, head_dim=32)),
    "swiglu": Variant("SwiGLU, as many parameters", _mlp(Dense(WIDTH * 4 // 3, "swiglu"))),
    "constant": Variant("constant learning rate", schedule="constant"),
    "cosine": Variant("cosine schedule", schedule="cosine"),
    "half-batch": Variant("half the batch, twice the steps", batch_size=BATCH // 2),
    "double-batch": Variant("twice the batch, half the steps", batch_size=2 * BATCH),
    "short": Variant("sequences of 128", batch_size=2 * BATCH, seq_len=SEQ_LEN // 2),
    "long": Variant("sequences of 512", batch_size=BATCH // 2, seq_len=2 * SEQ_LEN),
}


def train_variant(name: str, tokens: Path, n_tokens: int, seed: int) -> dict[str, float]:
    """Validation bits per byte of a variant after so many tokens, and processor seconds for 1,000 of them."""
    import numpy as np
    import torch

    from groundup.config import from_dict
    from groundup.data import BatchStream, TokenStore
    from groundup.evaluate.bits import evaluate
    from groundup.kernels.memory import keep_freed_memory
    from groundup.model.decoder import Decoder
    from groundup.model.initialize import initialize
    from groundup.optim import OptimizerConfig, Schedule, build_optimizer
    from groundup.tokenizer import Tokenizer
    from groundup.train.feed import Feed
    from groundup.train.step import StepConfig, TrainState, train_step

    keep_freed_memory()
    v = VARIANTS[name]
    n_steps = n_tokens // (v.batch_size * v.seq_len)
    chosen = Overrides(
        prior="off", vocab_size=VOCAB, d_model=WIDTH, n_layers=LAYERS, seq_len=v.seq_len, batch_size=v.batch_size, steps=n_steps
    )
    store = TokenStore.open(tokens / "train")
    plan = make_plan(parse_budget("3m"), REFERENCE, store.n_bytes, overrides=chosen)
    tokenizer = Tokenizer.load(tokens)
    model = initialize(Decoder(v.change(replace(plan.model, vocab_size=tokenizer.vocab_size))), seed, zero_outputs=v.zero_outputs)
    optimizer = build_optimizer(model.named_parameters(), from_dict(OptimizerConfig, plan.optimizer | dict(v.optimizer)))
    schedule = Schedule(**plan.schedule | ({"kind": v.schedule} if v.schedule else {}))
    settings, state = StepConfig(n_steps, v.batch_size, schedule), TrainState(model, optimizer)
    feed = Feed(BatchStream(store, v.batch_size, v.seq_len, seed), torch.device("cpu"))
    began = time.process_time()
    for step in range(n_steps):
        state, _ = train_step(state, feed(step), settings)
    seconds = time.process_time() - began
    token_bytes = tokenizer.n_bytes(np.arange(tokenizer.vocab_size))
    score = evaluate(model, TokenStore.open(tokens / "validation"), seq_len=v.seq_len, token_bytes=token_bytes)
    return {"bits_per_byte": score.bits_per_byte["model"], "seconds_per_1000_tokens": 1000 * seconds / n_tokens}


def rows(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table for people."""
    base = summary["planned"]
    return [
        {
            "changed": row["what"],
            "bits per byte": f"{row['bits_per_byte']:.3f}",
            "worse by": f"{row['bits_per_byte'] - base['bits_per_byte']:+.3f}" if row is not base else "",
            "time of a token": f"{row['seconds_per_1000_tokens'] / base['seconds_per_1000_tokens']:.2f}" if row is not base else "1",
        }
        for row in summary.values()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains every variant in a fresh process, writes the result file, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="*", default=[], help="sources; none: the standard library")
    parser.add_argument("--steps", type=int, default=600, help="steps of 2048 tokens")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--variants", default=",".join(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--limit-bytes", type=int, default=12_000_000, help="take no more text than this")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation.json", help="result file")
    parser.add_argument("--work", nargs=4, metavar=("VARIANT", "TOKENS", "N", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        name, folder, n_tokens, seed = given.work
        print(json.dumps(train_variant(name, Path(folder), int(n_tokens), int(seed))))
        return
    names = list(dict.fromkeys(["planned", *given.variants.split(",")]))
    for name in names:
        if name not in VARIANTS:
            raise UsageError(f"--variants: {name!r} is not known; choose from {', '.join(VARIANTS)}")
    if given.steps < 2 or given.seeds < 1:
        raise UsageError("--steps must be at least 2 and --seeds at least 1")
    from groundup.terminal import show_rows

    n_tokens = given.steps * BATCH * SEQ_LEN
    with tempfile.TemporaryDirectory() as work:
        text = Text(given.data, given.limit_bytes, Path(work))
        tokens = text.tokens(VOCAB)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for seed in range(given.seeds):
            for name in names:
                runs[name].append(run_module("benchmarks.ablation", ["--work", name, str(tokens), str(n_tokens), str(seed)]))
                print(f"{name}, seed {seed}: {runs[name][-1]['bits_per_byte']:.4f}", file=sys.stderr)
        medians = {
            name: {"what": VARIANTS[name].what} | {key: statistics.median(run[key] for run in own) for key in own[0]}
            for name, own in runs.items()
        }
        settings = {"steps": given.steps, "seeds": given.seeds, "tokens": n_tokens, "width": WIDTH, "n_layers": LAYERS}
        result = {"benchmark": "ablation", **provenance(), "corpus": text.manifest(), "settings": settings}
    save_result(given.out, result | {"summary": medians, "runs": runs})
    show_rows(rows(medians), title=f"One thing changed at a time, {n_tokens:,} tokens of {text.name}, validation split")
    print(json.dumps({"benchmark": "ablation", "summary": medians}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"ablation: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
