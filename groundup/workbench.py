"""A model on the bench: tokenizer, tokens, counts and weights of a run or of open weights, ready to train, score or write."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from groundup.config import ModelConfig, from_dict
from groundup.data import SPLITS, TokenStore
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.bits import Score, evaluate
from groundup.infer.chat import Continuation, Conversation
from groundup.infer.template import ChatTemplate
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.model.pretrained import HUB, Pretrained, open_pretrained
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


EVALUATION_WINDOW = 1024
"""Tokens of a window when a model that was trained elsewhere is scored, if its context holds so many."""


@dataclass(frozen=True)
class Manners:
    """How a model is spoken to."""

    opening: int
    """The token that stands before every text."""
    stop_ids: frozenset[int]
    """Tokens that end what it writes."""
    template: ChatTemplate | None = None
    """How it is put a conversation; none for a model that only continues texts."""
    temperature: float = 0.8
    """As its makers draw from it."""
    top_k: int | None = None
    """Likewise."""
    top_p: float | None = None
    """Likewise."""

    def history(self, tokenizer: Tokenizer, system: str | None = None) -> Continuation | Conversation:
        """What a chat adds to: a conversation where there is a template, else a text. UsageError for a system's words without one."""
        if self.template is not None:
            return Conversation(tokenizer, self.template, system)
        if system is not None:
            raise UsageError("--system: this model has no chat template to say it by; type it as the beginning of a text")
        return Continuation(tokenizer, self.opening)


@dataclass
class Workbench:
    """What training and evaluation work with, read from the folder of a run, or from a model that was trained elsewhere."""

    tokenizer: Tokenizer
    stores: dict[str, TokenStore]
    prior: NgramPrior | None
    model: Decoder
    plan: dict[str, Any]
    manners: Manners
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @property
    def n_ids(self) -> int:
        """Ids that can be drawn: those that both the tokenizer and the model know."""
        return min(self.tokenizer.vocab_size, self.model.config.vocab_size)

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
    end = tokenizer.end_of_text
    return Workbench(tokenizer, {}, prior, model, plan, Manners(end, frozenset({end})))


def open_model(name: str, device: torch.device) -> Workbench:
    """Any model, ready to score or write: a run's folder, a Hugging Face folder, a ``.gguf`` file, or ``hub:owner/name``.

    Raises UsageError for what is none of them, or not supported; GroundupError for damaged files.
    """
    path = Path(name)
    if path.is_dir() and not (path / "manifest.json").exists() and not (path / "config.json").exists():
        raise UsageError(
            f"{path} is not a run (it has no manifest.json) and no model (no config.json): give a folder that `groundup train` made, "
            f"a Hugging Face folder, a .gguf file or {HUB}owner/name"
        )
    if (path / "manifest.json").exists():
        run = RunFolder.open(path)
        if not run.resumable:
            raise UsageError(f"{path} was stopped before training began: start again with `groundup train`")
        return open_trained(run, device)
    return _pretrained_bench(open_pretrained(name), device)


def _pretrained_bench(found: Pretrained, device: torch.device) -> Workbench:
    tokenizer, template = found.tokenizer, None if found.chat_template is None else ChatTemplate(found.chat_template, found.special)
    # a token that begins a text ends the one before, also where its makers name only the end of a turn
    manners = Manners(found.opening, found.stop_ids | {found.opening}, template, **found.drawing)
    model = found.load(device=device)
    model.compute_dtype = compute_dtype(device)
    plan = {"seq_len": min(EVALUATION_WINDOW, model.config.context_length)}
    return Workbench(tokenizer, {}, None, model, plan, manners)


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
