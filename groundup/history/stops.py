"""The stops themselves, in the order of their years."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundup.account import format_count
from groundup.account.rules import Overrides, Sayer, optimizer_fields
from groundup.account.shapes import Architecture, architecture
from groundup.config import HashEmbedding, ModelConfig, from_dict
from groundup.errors import UsageError
from groundup.evaluate.decoder_model import DecoderModel
from groundup.history.bengio import Bengio
from groundup.history.counting import COUNTING, counted, trigram
from groundup.history.decoders import ByteDecoder
from groundup.history.mixture import Mixture, best_weight
from groundup.history.model import NetworkModel
from groundup.history.network import SYMBOLS
from groundup.history.recurrent import LSTM, AttentiveLSTM, Elman
from groundup.history.study import SAMPLE_BYTES, Built, Stop, Tell, Text
from groundup.history.training import Recipe, Trained, train
from groundup.history.transformer import GPT2, Transformer2017
from groundup.job import Job, start
from groundup.optim import Optimizer, OptimizerConfig, build_optimizer
from groundup.recorder import Listener
from groundup.train.loop import Interrupted
from groundup.workbench import open_trained

N_LAYERS = 2
"""Layers of every transformer: at the widths that minutes buy, two learn to look for what followed a symbol before, and more cost width."""
CONTEXT = 128
"""Bytes that a transformer sees, and that an LSTM's attention reaches back."""
LEAST_STEPS_SHOWN = 10
"""Steps below which a network is left out: it has not begun to learn."""
TRIAL_BYTES = 256
"""Of each held-out piece, to see how long scoring will take."""

RUN_SCORING, LOADING_S = 0.15, 0.5
"""Of the seconds of a whole run, for scoring it and a sample; and seconds for opening what it wrote."""
LEAST_RUN_S = 6.0
"""Fewer seconds hold no tokenizer, counts and network."""
TRIGRAM_SHARE = 0.15
"""Of the seconds of the mixture, for its trigram."""

RECURRENT = {"seq_len": 64}
RECIPES = {
    "elman": Recipe(Elman, lr=8e-3, **RECURRENT),
    "lstm": Recipe(LSTM, lr=1.2e-2, **RECURRENT),
    "bengio": Recipe(Bengio, lr=4e-3, widths=(64, 128, 256, 512, 1024)),
    "bengio-mix": Recipe(partial(Bengio, direct=False), lr=4e-3, widths=(64, 128, 256, 512, 1024)),
    "attention": Recipe(partial(AttentiveLSTM, reach=CONTEXT), lr=1.2e-2, **RECURRENT),
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


def seconds_to_score(network: Any, pieces: Sequence[bytes]) -> float:
    """Of scoring these pieces and of a sample, by scoring their beginnings and writing a little."""
    model = NetworkModel("trial", network)
    prefix, beginnings = np.array(model.prefix), [model.encode(piece[:TRIAL_BYTES]) for piece in pieces]
    began = time.perf_counter()
    model.log_probs([prefix] * len(pieces), beginnings)
    scored = time.perf_counter()
    model.sample([""], max_tokens=SAMPLE_BYTES // 16)
    written = 16 * (time.perf_counter() - scored)
    return written + (scored - began) * sum(map(len, pieces)) / sum(map(len, beginnings))


def build_network(key: str, name: str, text: Text, seconds: float, tell: Tell) -> Built:
    """A network trained on the text."""

    def told(trained: Trained, progress: float) -> None:
        bits = trained.nats / np.log(2)
        tell(progress, f"width {trained.network.width}  {format_count(trained.symbols)}B read  {bits:.3f} bits/byte")

    pieces = (*text.test, *text.validation) if key == "bengio-mix" else text.test
    trained = train(RECIPES[key], text.symbols, seconds, scoring=partial(seconds_to_score, pieces=pieces), tell=told)
    if trained.steps < LEAST_STEPS_SHOWN:
        raise UsageError(f"{trained.steps} steps fit its {seconds:.1f} s, which say nothing of it: give a larger --budget")
    parameters = sum(p.numel() for p in trained.network.parameters())
    note = f"width {trained.network.width}, {trained.symbols / len(text.symbols):.2f} epochs, {trained.steps:,} steps"
    return Built(NetworkModel(name, trained.network), parameters, trained.flops, note)


def build_mixed(name: str, text: Text, seconds: float, tell: Tell) -> Built:
    """The network of 2003 without direct connections, which the paper found best in a mixture, and the trigram."""
    other = trigram(counted(text, 3, TRIGRAM_SHARE * seconds)[0], text)
    built = build_network("bengio-mix", name, text, (1 - TRIGRAM_SHARE) * seconds, tell)
    prefix = np.array(built.model.prefix, np.int64)
    texts = [built.model.encode(piece) for piece in text.validation]
    first, second = (np.concatenate(model.log_probs([prefix] * len(texts), texts)) for model in (built.model, other))
    weight = best_weight(first, second)
    mixed = Mixture(name, built.model, other, weight)
    return replace(built, model=mixed, parameters=built.parameters + other.n_parameters, note=f"{built.note}, {weight:.0%} network")


def build_run(text: Text, seconds: float, tell: Tell) -> Built:
    """What ``groundup train`` makes of the seconds: a tokenizer, a network over tokens, and counts mixed in; the run itself is not kept.

    It reads the text once more, and ends with a look at its own test split; UsageError where the seconds are too few for all that.
    """
    budget = (1 - RUN_SCORING) * seconds - text.read_seconds - LOADING_S
    if budget < LEAST_RUN_S:
        raise UsageError(f"groundup train wants {LEAST_RUN_S:g} s after reading the text, and {max(0.0, budget):.1f} s would be left")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(text.sources, f"{budget:.2f}s", Path(folder) / "run", text.text_field)
        try:
            run = start(job, _Told(tell))
        except Interrupted:  # it names a folder to resume, which is about to go
            raise KeyboardInterrupt from None
        bench = open_trained(run, torch.device("cpu"))
        was, plan = run.manifest["measured"], run.manifest["plan"]
    model = DecoderModel(bench.model, bench.tokenizer, prior=bench.prior, name="groundup train", seq_len=plan["seq_len"])
    counts = len(bench.prior.nodes) if bench.prior is not None else 0
    note = f"width {bench.model.config.d_model}, vocabulary {bench.tokenizer.vocab_size:,}, {was['tokens'] / 1e3:,.0f}k tokens read"
    return Built(model, was["parameters"] + counts, was["flops"], note + (f", {format_count(counts)} n-grams counted" if counts else ""))


class _Told(Listener):
    """Passes on what a run tells."""

    def __init__(self, tell: Tell):
        self.say = tell

    def phase(self, name: str) -> None:
        """Its name."""
        self.say(0.0, name)

    def step(self, record: dict[str, Any], n_steps: int) -> None:
        """How far it is."""
        self.say(record["step"] / n_steps, f"step {record['step']:,}  {record['bits_per_byte']:.3f} bits/byte")


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

TODAY = Stop(
    "train", "groundup train", 2026, "this project: tokens, a network and counts; docs/how-a-budget-becomes-a-model.md", "today", build_run
)
STOPS: tuple[Stop, ...] = tuple(sorted((*COUNTING, *NETWORKS, TODAY), key=lambda stop: stop.year))
"""All of them, in the order of their years."""
