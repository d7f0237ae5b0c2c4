"""A real model that others trained, opened here and in transformers: the same words, the same probabilities, sooner and in less memory?

    python -m benchmarks.open_weights --data SmolLM2-135M-Instruct.Q4_1.gguf --text novel.txt
        [--tokens 512] [--rounds 3] [--out benchmarks/results/open_weights.json]

The GGUF file is opened as it is, and as the Hugging Face folder that groundup exports of it. On a page of prose both give the
log-probability of every token; from four places in it both write on, the likeliest token each time. Loading is timed in fresh processes
that take turns, both in fp32; medians. Where llama-cpp-python is installed, it is compared with too.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers.opening import CONTESTANTS
from benchmarks.resources import RESULTS, provenance, run_module, save_result
from groundup.errors import UsageError
from groundup.infer.generate import generate
from groundup.model.decoder import Decoder
from groundup.model.pretrained import Pretrained, open_pretrained
from groundup.model.weights.exporting import export_model
from groundup.terminal import show_pairs, show_rows

WRITTEN = 48
"""Tokens written on from each place."""
PLACES = 4
"""In the page."""
CONTEXT = 64
"""Tokens before each place."""
MEASURES = ("load_s", "first_logits_s", "peak_bytes", "above_imports_bytes")


def read_text(path: Path) -> str:
    """The text of a file, which may be gzipped."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.decode("utf-8", "replace")


class Ours:
    """What is compared, of our model."""

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.inference_mode()
    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Of every token but the first, given those before it."""
        logits = self.model(torch.tensor([ids[:-1]]))[0]
        return _picked(logits, ids)

    def greedy(self, prompt: Sequence[int]) -> list[int]:
        """The likeliest continuation."""
        return list(generate(self.model, prompt, max_tokens=WRITTEN, temperature=0))


class Transformers:
    """The same of transformers' GGUF loader."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)

    @torch.inference_mode()
    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Ours``."""
        return _picked(self.model(torch.tensor([ids[:-1]])).logits[0], ids)

    def greedy(self, prompt: Sequence[int]) -> list[int]:
        """See ``Ours``."""
        given = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "attention_mask": torch.ones_like(given)}
        return self.model.generate(given, **settings)[0, len(prompt) :].tolist()


class LlamaCpp:
    """The same of llama.cpp, which multiplies in few bits."""

    def __init__(self, path: Path) -> None:
        from llama_cpp import Llama

        self.model = Llama(str(path), n_ctx=2048, logits_all=True, verbose=False)

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """See ``Ours``."""
        self.model.reset()
        self.model.eval(list(ids[:-1]))
        return _picked(torch.from_numpy(np.array(self.model.scores[: len(ids) - 1])), ids)

    def greedy(self, prompt: Sequence[int]) -> list[int]:
        """See ``Ours``."""
        self.model.reset()
        found = []
        for token in self.model.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            found.append(token)
            if len(found) == WRITTEN:
                return found
        return found


def _picked(logits: torch.Tensor, ids: Sequence[int]) -> np.ndarray:
    return torch.log_softmax(logits.double(), -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def agreement(ours: Ours, peer: Transformers | LlamaCpp, ids: Sequence[int]) -> dict[str, Any]:
    """How far log-probabilities are apart on a page, in nats, and how far greedy texts go together."""
    mine, theirs = ours.log_probabilities(ids), peer.log_probabilities(ids)
    together = []
    step = (len(ids) - CONTEXT) // PLACES
    for place in range(PLACES):
        prompt = ids[place * step : place * step + CONTEXT]
        a, b = ours.greedy(prompt), peer.greedy(prompt)
        together.append(next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), WRITTEN))
    return {
        "largest_difference_nats": float(np.abs(mine - theirs).max()),
        "mean_difference_nats": float(np.abs(mine - theirs).mean()),
        "our_mean_nats": float(-mine.mean()),
        "their_mean_nats": float(-theirs.mean()),
        "equal_greedy_tokens": together,
        "of": WRITTEN,
    }


def loading(paths: Mapping[str, Path], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over fresh processes that take turns, by kind of files and contestant."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {kind: {name: [] for name in CONTESTANTS} for kind in paths}
    for _ in range(rounds):
        for kind, path in paths.items():
            for name in CONTESTANTS:
                found[kind][name].append(run_module("benchmarks.peers.opening", [name, str(path)]))
    return {
        kind: {name: {m: statistics.median(run[m] for run in runs) for m in MEASURES} for name, runs in rows.items()}
        for kind, rows in found.items()
    }


def rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The ratios of loading, for people."""
    lines = []
    for kind, found in result["loading"].items():
        us, them = (found[name] for name in CONTESTANTS)
        lines.append(
            {
                "files": kind,
                "times as fast": f"{them['load_s'] / us['load_s']:.1f}",
                "to first logits": f"{them['first_logits_s'] / us['first_logits_s']:.1f}",
                "peak memory, of theirs": f"{us['peak_bytes'] / them['peak_bytes']:.2f}",
                "ours": f"{us['load_s']:.2f} s, {us['peak_bytes'] / 1e6:,.0f} MB",
                "transformers": f"{them['load_s']:.2f} s, {them['peak_bytes'] / 1e6:,.0f} MB",
            }
        )
    return lines


def _versions() -> dict[str, str]:
    names = ("transformers", "gguf", "llama-cpp-python")
    return {
        name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name.replace("-python", "").replace("-", "_"))
    }


def _measured(opened: Pretrained, text: str, tokens: int, rounds: int) -> dict[str, Any]:
    path = opened.path
    ids = [opened.opening, *opened.tokenizer.encode_ordinary(text[: 20 * tokens])[: tokens - 1].tolist()]
    if len(ids) < tokens:
        raise UsageError(f"--text has {len(ids):,} tokens, and --tokens asks for {tokens:,}: give a longer text")
    model = opened.load()
    ours = Ours(model)
    agreements = {"transformers": agreement(ours, Transformers(path), ids)}
    if importlib.util.find_spec("llama_cpp"):
        agreements["llama.cpp"] = agreement(ours, LlamaCpp(path), ids)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "exported"
        export_model(model, exported, origin=opened)
        del model, ours
        times = loading({"GGUF": path, "exported folder, fp32": exported}, rounds)
    return {"tokens": len(ids), "rounds": rounds, "agreement": agreements, "loading": times}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a .gguf file")
    parser.add_argument("--text", type=Path, required=True, help="a page of prose, may be .gz")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "open_weights.json")
    asked = parser.parse_args(arguments)
    opened = open_pretrained(asked.data)
    measured = _measured(opened, read_text(asked.text), asked.tokens, asked.rounds)
    facts = {"model": asked.data.name, "stored_as": opened.stored_as, "text": asked.text.name, "versions": _versions()}
    result = {"benchmark": "open_weights", **provenance(), **facts, **measured}
    show_rows(rows(result), title=f"Loading {asked.data.name} in fp32, medians of {asked.rounds}")
    for name, found in result["agreement"].items():
        pairs = [(key.replace("_", " "), str(value)) for key, value in found.items()]
        show_pairs(pairs, title=f"\nAgreement with {name} over {measured['tokens']} tokens")
    save_result(asked.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
