"""The stops themselves, in the order of their years."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from groundup.account import format_count
from groundup.account.rules import Overrides, Sayer, optimizer_fields
from groundup.account.shapes import Architecture, architecture
from groundup.config import HashEmbedding, ModelConfig, from_dict
from groundup.history.bengio import Bengio
from groundup.history.counting import COUNTING, counted
from groundup.history.decoders import ByteDecoder
from groundup.history.mixture import Mixture, best_weight
from groundup.history.model import NetworkModel
from groundup.history.network import SYMBOLS
from groundup.history.recurrent import LSTM, AttentiveLSTM, Elman
from groundup.history.smoothing import kneser_ney
from groundup.history.study import Built, Stop, Tell, Text
from groundup.history.training import Recipe, Trained, train
from groundup.history.transformer import GPT2, Transformer2017
from groundup.optim import Optimizer, OptimizerConfig, build_optimizer

N_LAYERS = 2
"""Layers of every transformer: at the widths that minutes buy, two learn to look for what followed a symbol before, and more cost width."""
CONTEXT = 128
"""Bytes that a transformer sees, and that an LSTM's attention reaches back."""
SAMPLE_SHARE = 0.03
"""Of a stop's seconds, for its sample."""

TRIGRAM_SHARE = 0.15
"""Of the seconds of the mixture, for its trigram."""

RECURRENT = {"seq_len": 64}
RECIPES = {
    "elman": Recipe(Elman, lr=4e-3, **RECURRENT),
    "lstm": Recipe(LSTM, lr=6e-3, **RECURRENT),
    "bengio": Recipe(Bengio, lr=4e-3, widths=(64, 128, 256, 512, 1024)),
    "bengio-mix": Recipe(partial(Bengio, direct=False), lr=4e-3, widths=(64, 128, 256, 512, 1024)),
    "attention": Recipe(partial(AttentiveLSTM, reach=CONTEXT), lr=6e-3, **RECURRENT),
    "transformer": Recipe(partial(Transformer2017, n_layers=N_LAYERS, context_length=CONTEXT), lr=3e-3, warmup_steps=60),
    "gpt2": Recipe(partial(GPT2, n_layers=N_LAYERS, context_length=CONTEXT), lr=4e-3),
    "llama": Recipe(lambda width: ByteDecoder(byte_config("llama", width)), lr=4e-3),
    "groundup": Recipe(lambda width: ByteDecoder(byte_config("groundup", width)), optimizer=lambda network: muon(network)),
}


def byte_config(name: Architecture, width: int) -> ModelConfig:
    """An architecture over the 257 symbols; groundup's hashed n-grams are of 2 to 5 bytes, which is what two tokens span."""
    shape = {"d_model": width, "n_layers": N_LAYERS, "head_dim": min(64, width // 2), "context_length": CONTEXT}
    config = architecture(name, vocab_size=SYMBOLS + 1, hash_rows=1 << 16 if name == "groundup" else 0, **shape)
    return config if config.hash_embedding is None else replace(config, hash_embedding=HashEmbedding((2, 3, 4, 5), 1 << 16))


def muon(network: ByteDecoder) -> Optimizer:
    """The optimizer that ``groundup train`` plans for this width."""
    fields = optimizer_fields(network.width, Sayer(Overrides()))
    return build_optimizer(network.decoder.named_parameters(), from_dict(OptimizerConfig, fields))


def build_network(key: str, name: str, text: Text, seconds: float, tell: Tell) -> Built:
    """A network trained on the text."""

    def told(trained: Trained, progress: float) -> None:
        bits = trained.nats / np.log(2)
        tell(progress, f"width {trained.network.width}  {format_count(trained.symbols)}B read  {bits:.3f} bits/byte")

    left = (1 - SAMPLE_SHARE) * seconds
    trained = train(RECIPES[key], text.symbols, left, to_score=text.n_bytes["test"], tell=told)
    parameters = sum(p.numel() for p in trained.network.parameters())
    note = f"width {trained.network.width}, {trained.symbols / len(text.symbols):.2f} epochs, {trained.steps:,} steps"
    return Built(NetworkModel(name, trained.network), parameters, trained.flops, note)


def build_mixed(name: str, text: Text, seconds: float, tell: Tell) -> Built:
    """The network of 2003 without direct connections, which the paper found best in a mixture, and the trigram."""
    other = kneser_ney(counted(text, 3, TRIGRAM_SHARE * seconds)[0])
    built = build_network("bengio-mix", name, text, (1 - TRIGRAM_SHARE) * seconds, tell)
    prefix = np.array(built.model.prefix, np.int64)
    texts = [built.model.encode(piece) for piece in text.validation]
    first, second = (np.concatenate(model.log_probs([prefix] * len(texts), texts)) for model in (built.model, other))
    weight = best_weight(first, second)
    mixed = Mixture(name, built.model, other, weight)
    return replace(built, model=mixed, parameters=built.parameters + other.n_parameters, note=f"{built.note}, {weight:.0%} network")


def _network(key: str, name: str, year: int, paper: str, family: str = "neural") -> Stop:
    return Stop(key, name, year, paper, family, partial(build_network, key, name))


NETWORKS: tuple[Stop, ...] = (
    _network("elman", "Elman network", 1990, "Elman 1990, Finding structure in time"),
    _network("lstm", "LSTM", 2000, "Hochreiter & Schmidhuber 1997; forget gates: Gers, Schmidhuber & Cummins 2000"),
    _network("bengio", "Bengio's network", 2003, "Bengio, Ducharme, Vincent & Jauvin 2003, A neural probabilistic language model"),
    Stop("bengio-mix", "Bengio + trigram", 2003, "Bengio et al. 2003, section 4", "neural", partial(build_mixed, "Bengio + trigram")),
    _network("attention", "LSTM + attention", 2015, "Bahdanau, Cho & Bengio 2015; Luong, Pham & Manning 2015"),
    _network("transformer", "Transformer", 2017, "Vaswani et al. 2017, Attention is all you need"),
    _network("gpt2", "GPT-2", 2019, "Radford et al. 2019, Language models are unsupervised multitask learners"),
    _network("llama", "Llama", 2023, "Touvron et al. 2023, LLaMA"),
    _network("groundup", "groundup's network", 2026, "this project: docs/lab.md", "today"),
)

STOPS: tuple[Stop, ...] = tuple(sorted((*COUNTING, *NETWORKS), key=lambda stop: stop.year))
"""All of them, in the order of their years."""
