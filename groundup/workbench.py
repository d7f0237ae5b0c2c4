"""A run on the bench: its tokenizer, tokens, counts and model, read from the folder, ready to train, score or write."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from groundup.config import ModelConfig, from_dict
from groundup.data import SPLITS, TokenStore, open_corpus, write_shards
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.bits import Score, evaluate
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.model.prior import NgramPrior, Table
from groundup.runfolder import RunFolder
from groundup.tokenizer import Tokenizer
from groundup.train.recompute import apply_recompute


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it fast, else fp32; parameters are fp32 in both."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def compiled_loss(model: Decoder) -> Callable:
    """``model.loss`` through torch.compile."""
    return torch.compile(model.loss)


@dataclass
class Workbench:
    """What training and evaluation work with, all of it read from the run folder."""

    tokenizer: Tokenizer
    stores: dict[str, TokenStore]
    prior: NgramPrior | None
    model: Decoder
    plan: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def prior_shape(self) -> tuple[int, int] | None:
        """The counts' experts and features, which size the gate; None without counts."""
        return None if self.prior is None else (self.prior.n_experts, self.prior.n_features)

    def restart(self) -> Workbench:
        """Sets the model to what training begins with: initial weights, and the gate as the counts alone have learned it."""
        initialize(self.model, self.plan["seed"])
        if self.prior is not None and self.model.gate is not None:
            self.prior.gate.start(self.model.gate)
        return self

    def table(self, split: str) -> Table | None:
        """What the counts say of every token of a split; None without counts."""
        if self.prior is not None and split not in self.tables:
            store = self.stores[split]
            self.tables[split] = self.prior.training_features(store) if split == "train" else self.prior.features(store)
        return self.tables.get(split)

    def evaluate(self, split: str, max_tokens: int | None = None) -> Score:
        """Bits per byte of a split under the model as it is."""
        table = self.table(split)
        return evaluate(
            self.model,
            self.stores[split],
            seq_len=self.plan["seq_len"],
            table=table,
            counts_nats=table.counts_nats if table is not None else None,
            max_tokens=max_tokens,
            token_bytes=self.tokenizer.n_bytes(np.arange(self.tokenizer.vocab_size)),
        )


def open_workbench(run: RunFolder, device: torch.device, *, prior: NgramPrior | None = None) -> Workbench:
    """Reads tokenizer, tokens, counts (unless given) and model of a run, ready to train."""
    stores = {split: TokenStore.open(run.path / "tokens" / split) for split in SPLITS}
    bench = _bench(run, device, prior)
    apply_recompute(bench.model, bench.plan.get("recompute", "none"))
    for split, store in stores.items():
        if store.tokenizer_hash != bench.tokenizer.hash:
            raise GroundupError(f"{run.path}: tokens/{split} is not of its tokenizer.json; restore both from one copy of the run")
    return dataclasses.replace(bench, stores=stores).restart()


def open_trained(run: RunFolder, device: torch.device) -> Workbench:
    """Reads tokenizer, counts and trained model of a run, ready to score or write; its tokens stay on the disk."""
    file = run.path / "model.safetensors"
    if not file.is_file():
        raise UsageError(f"{run.path} has no trained weights yet: go on with `groundup train --resume {run.path}`")
    bench = _bench(run, device, None)
    try:
        bench.model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError) as e:  # RuntimeError: names or shapes of another model
        reason = str(e).partition("\n")[0]
        raise GroundupError(f"{file}: damaged or of another model ({reason}); restore it from a copy of the run") from e
    return bench


def _bench(run: RunFolder, device: torch.device, prior: NgramPrior | None) -> Workbench:
    plan = run.manifest["plan"]
    config = from_dict(ModelConfig, plan["model"])
    tokenizer = Tokenizer.load(run.path / "tokenizer.json")
    if config.prior is not None and prior is None:
        prior = NgramPrior.load(run.path / "prior.safetensors")
    shape = (prior.n_experts, prior.n_features) if prior is not None else None
    model = Decoder(config, prior_shape=shape).to(device)
    model.compute_dtype = compute_dtype(device)
    return Workbench(tokenizer, {}, prior, model, plan)


def encoded(tokenizer: Tokenizer, documents: Iterator) -> Iterator:
    """Documents with their ids, ``<|endoftext|>`` first, encoded many at a time."""
    end = np.array([tokenizer.end_of_text], np.uint32)
    group: list = []
    for document in chain(documents, [None]):
        if document is not None:
            group.append(document)
        if group and (document is None or sum(len(d.text) for d in group) > 16 << 20):
            for d, ids in zip(group, tokenizer.encode_ordinary_batch([d.text for d in group]), strict=True):
                yield d, np.concatenate((end, ids))
            group = []


def score_text(bench: Workbench, data: Sequence[str], text_field: str) -> tuple[str, Score]:
    """Bits per byte of any text under a trained run, every document and byte of it."""
    if not data:
        raise UsageError("--data: name the text to score")
    corpus = open_corpus(data, text_field=text_field, keep_all=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        write_shards(
            encoded(bench.tokenizer, corpus.documents()), path, vocab_size=bench.tokenizer.vocab_size, tokenizer_hash=bench.tokenizer.hash
        )
        scored = dataclasses.replace(bench, tables={}, stores={"text": TokenStore.open(path)})
        return corpus.name, scored.evaluate("text")
