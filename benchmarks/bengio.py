"""The order of Bengio et al. (2003, table 1) in their setting: a million words, a vocabulary by frequency, perplexity of the next word.

    python -m benchmarks.bengio --data novels.jsonl [--words 1000000] [--hidden 60] [--epochs 3] [--out benchmarks/results/bengio.json]

The paper's network (no direct connections, n = 5, m = 30), mixed with an interpolated trigram, should come below modified Kneser-Ney, and
that below the interpolated trigram: on the Brown corpus 252, 321 to 323, and 336. All count or train on the same words, and what is fitted
on held-out words (weights of the trigram and of the mixture, the order of Kneser-Ney) is fitted on the same 200,000; words seen three
times or less are one word, as in the paper. The network is trained by AdamW instead of plain gradient descent, its rate falling to zero.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.data import open_corpus
from groundup.errors import UsageError
from groundup.history.bengio import Bengio
from groundup.history.counts import count
from groundup.history.mixture import best_weight
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import jelinek_mercer, kneser_ney
from groundup.history.symbols import Words
from groundup.history.training import SymbolStream, Trainer, adamw
from groundup.kernels.cross_entropy import head_loss
from groundup.optim import Schedule, schedule

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
LEAST = 4
"""Times that a word of the vocabulary is seen in training."""
HELD_OUT_WORDS = 200_000
ORDER, N_FEATURES = 5, 30
ROWS, SEQ_LEN = 16, 32
ORDERS = (3, 4, 5)
PAPER = {"mixed": 252, "modified Kneser-Ney": 323, "interpolated trigram": 336}
"""Test perplexities on Brown (table 1): the best mixture without direct connections, back-off Kneser-Ney, the interpolated trigram."""


def read_words(sources: Sequence[str], n_words: int) -> tuple[Words, list[Int64[np.ndarray, " n"]]]:
    """A vocabulary by frequency, and the symbols of the training, validation and test words: evenly spread runs of the documents."""
    wanted, texts = (n_words, HELD_OUT_WORDS, HELD_OUT_WORDS), []
    words: list[str] = []
    for document in open_corpus(sources).documents():
        words += WORD.findall(document.text.decode("utf-8", "replace"))[: max(20_000, n_words // 20)]
        if len(words) >= sum(wanted):
            break
    if len(words) < sum(wanted):
        raise UsageError(f"--data: {len(words):,} words, and {sum(wanted):,} are needed: give more text, or --words less")
    at = 0
    for n in (wanted[0], wanted[1], wanted[2]):
        texts.append(words[at : at + n])
        at += n
    vocabulary = Words.of([" ".join(texts[0])], least=LEAST)
    return vocabulary, [np.array([vocabulary.number.get(word, 0) for word in text], np.int64) for text in texts]


def network_nats(network: Bengio, words: Int64[np.ndarray, " n"], begin: int, n_at_once: int = 4096) -> Float64[np.ndarray, " n"]:
    """-log p of each word given those before it."""
    text = torch.from_numpy(np.concatenate(([begin], words)))
    state, out = network.begin(1), []
    with torch.inference_mode():
        for start in range(0, len(words), n_at_once):
            part = text[None, start : start + n_at_once + 1]
            hidden, state = network.read(part[:, :-1], state)
            out.append(head_loss(hidden[0], network.head, part[0, 1:], bias=network.head_bias)[1][0].double().numpy())
    return np.concatenate(out)


def ngram_nats(model: NgramModel, words: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The same of an n-gram model."""
    return -model.log_probs([np.array(model.prefix)], [words])[0]


def train_network(
    vocabulary: Words, words: Int64[np.ndarray, " n"], hidden: int, epochs: float, lr: float, tell: Callable[[str], None]
) -> tuple[Bengio, dict[str, Any]]:
    """The paper's network, by the room's trainer."""
    network = Bengio(hidden, order=ORDER, n_features=N_FEATURES, direct=False, vocab_size=vocabulary.vocab_size)
    stream = SymbolStream(np.concatenate(([vocabulary.begin], words)).astype(np.int16), ROWS, SEQ_LEN, start=vocabulary.begin)
    trainer, began = Trainer(network, adamw(network, lr), stream), time.perf_counter()
    n_steps, mean = int(epochs * len(words) / (ROWS * SEQ_LEN)), 0.0
    plan = Schedule(warmup_steps=50, decay_fraction=0.7)
    for step in range(n_steps):
        mean += (trainer.step(schedule(plan, step, n_steps)) - mean) * max(0.01, 1 / (step + 1))
        if step % 200 == 199:
            tell(f"step {step + 1:,} of {n_steps:,}: training perplexity {math.exp(mean):.0f}, {time.perf_counter() - began:.0f} s")
    parameters = sum(p.numel() for p in network.parameters())
    return network, {"parameters": parameters, "training_flops": trainer.flops(), "seconds": time.perf_counter() - began}


def run(sources: Sequence[str], n_words: int, hidden: int, epochs: float, lr: float, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """All models on the same words; perplexities of the test words, and what was chosen on the validation words."""
    vocabulary, (train, validation, test) = read_words(sources, n_words)
    tell(f"{len(train):,} training words, vocabulary {vocabulary.vocab_size:,}, {np.mean(test == 0):.1%} of the test words unknown")
    shape = {"vocab_size": vocabulary.vocab_size, "begin": vocabulary.begin}
    counted = {order: count([train], order=order, **shape) for order in ORDERS}
    trigram = jelinek_mercer(counted[3], [validation], symbols=vocabulary)
    smoothed = {order: kneser_ney(counts, symbols=vocabulary) for order, counts in counted.items()}
    order = min(ORDERS, key=lambda order: ngram_nats(smoothed[order], validation).mean())
    network, trained = train_network(vocabulary, train, hidden, epochs, lr, tell)
    nats = {
        split: {
            "network": network_nats(network, words, vocabulary.begin),
            "interpolated trigram": ngram_nats(trigram, words),
            "modified Kneser-Ney": ngram_nats(smoothed[order], words),
        }
        for split, words in (("validation", validation), ("test", test))
    }
    weight = best_weight(-nats["validation"]["network"], -nats["validation"]["interpolated trigram"])
    for split in nats.values():
        for name, a in (("mixed, one half", 0.5), ("mixed", weight)):
            split[name] = -np.logaddexp(math.log(a) - split["network"], math.log1p(-a) - split["interpolated trigram"])
    found = {split: {name: float(np.exp(values.mean())) for name, values in models.items()} for split, models in nats.items()}
    test_found = found["test"]
    return {
        "setting": {"words": len(train), "vocab_size": vocabulary.vocab_size, "least": LEAST, "unknown": float(np.mean(test == 0))}
        | {"order": ORDER, "n_features": N_FEATURES, "hidden": hidden, "epochs": epochs, "lr": lr, "kneser_ney_order": order},
        "network": trained | {"weight": weight},
        "perplexity": found,
        "ratios": {
            "mixed / modified Kneser-Ney": test_found["mixed"] / test_found["modified Kneser-Ney"],
            "modified Kneser-Ney / interpolated trigram": test_found["modified Kneser-Ney"] / test_found["interpolated trigram"],
        },
        "order_holds": test_found["mixed"] < test_found["modified Kneser-Ney"] < test_found["interpolated trigram"],
        "paper": PAPER,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, prints ratios first, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--hidden", type=int, default=60)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=RESULTS / "bengio.json")
    given = parser.parse_args(arguments)
    result = run(given.data, given.words, given.hidden, given.epochs, given.lr)
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.3f}")
    print("the paper's order holds" if result["order_holds"] else "the paper's order does NOT hold")
    for name, perplexity in sorted(result["perplexity"]["test"].items(), key=lambda item: item[1]):
        print(f"{name:24} {perplexity:8.1f}")
    save_result(given.out, result | provenance())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
