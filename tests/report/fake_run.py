"""A run folder as a training job writes it, made up: a power law with noise, a prior, eight phases, one skipped step."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

PROMPTS = ("def fibonacci(n):\n", "import os\n\nclass ", "The ")


def fake_run(
    folder: Path, *, steps: int = 400, seconds: float = 180.0, prior: bool = True, finished: bool = True, seed: int = 0, budget: str = "3m",
    created: str = "2026-03-01T12:00:00+00:00", level: float = 1.2,
) -> Path:  # fmt: skip
    """Writes the folder and returns it."""
    folder.mkdir(parents=True)
    done = steps if finished else steps * 2 // 3
    metrics, last = _metrics(steps, done, seconds, prior, random.Random(seed), level)
    if finished:
        metrics += [_phase("train", seconds * 0.72), _phase("evaluate", seconds * 0.06), _phase("samples", seconds * 0.02)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _samples(done, seconds)))
    layer = {"mixer": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 64}, "mlp": {"d_ff": 1024, "activation": "swiglu"}}
    config = {"vocab_size": 4096, "d_model": 256, "context_length": 512, "layers": [layer] * 6, "tied": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps(_manifest(last, finished, budget, created, seconds)))
    return folder


def _phase(name: str, seconds: float) -> dict[str, Any]:
    return {"kind": "phase", "name": name, "seconds": seconds}


def _metrics(
    steps: int, done: int, seconds: float, prior: bool, rng: random.Random, level: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    shares = {"read": 0.01, "tokenizer": 0.06, "encode": 0.02, "calibrate": 0.02, "counts": 0.09 if prior else 0.0}
    records = [_phase(name, share * seconds) for name, share in shares.items() if share]
    start = sum(shares.values()) * seconds
    last: dict[str, Any] = {}
    for step in range(1, done + 1):
        share = step / steps
        bits = level + 0.35 * (step / steps) ** -0.32 - 0.35 + 1.2 * math.exp(-step / 12)
        last = {"step": step, "tokens": step * 16384, "flops": step * 16384 * 31_457_280, "seconds": start + share * 0.78 * seconds}
        noisy = bits + rng.gauss(0, 0.04)
        rate = 45_000 * (1 + rng.gauss(0, 0.03)) * (0.4 if step < 4 else 1)
        records.append({
            "kind": "train", **last, "loss": noisy * 2.35, "bits_per_byte": noisy,
            "lr_scale": min(1.0, step / 20, max(0.0, (1 - share) / 0.4)),
            "grad_norm": 0.4 * math.exp(rng.gauss(0, 0.25)) * (1 + 8 * math.exp(-step / 10)) * (40 if step == 137 else 1),
            "tokens_per_s": rate, "mfu": rate * 31_457_280 / 2.2e12,
        })  # fmt: skip
        if step == 137:
            records.append({"kind": "event", "what": "skipped step", "step": step, "text": "gradient norm 16.2 is above 20 x its median"})
        if step % max(steps // 10, 1) == 0:
            records.append(_evaluation(last, bits + 0.02, "validation", prior, level))
    if done == steps:
        records.append(_evaluation(last, bits + 0.031, "test", prior, level))
    return records, last


def _evaluation(at: dict[str, Any], bits: float, split: str, prior: bool, level: float) -> dict[str, Any]:
    values = {"model": bits} | ({"network": bits + 0.24 + 0.4 * (1e6 / at["tokens"]), "counts": level + 0.28} if prior else {})
    n_bytes = 610_000
    return {"kind": "evaluation", **at, "split": split, "bits_per_byte": values, "bytes": n_bytes,
            "tokens_scored": 179_412, "interval": [bits - 0.012, bits + 0.012]}  # fmt: skip


def _samples(done: int, seconds: float) -> list[dict[str, Any]]:
    texts = {
        0.02: ["e  self\n   t)\n  = ,r", "os\n\nclass  the n\n:", "The  e to of ,, in\n"],
        0.3: [
            "def fibonacci(n):\n    self.n = n\n    return self(n\n",
            "import os\n\nclass Error(Exc:\n    pass\n",
            "The function is the name of the",
        ],
        1.0: [
            "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1)\n",
            'import os\n\nclass PathError(OSError):\n    """Raised when a path cannot be resolved to a file in the directory tree."""\n',
            "The module defines the following classes and functions for reading.",
        ],
    }
    records: list[dict[str, Any]] = []
    for share, written in texts.items():
        at = {"step": max(1, round(share * done)), "seconds": 0.2 * seconds + share * 0.78 * seconds}
        for i, text in enumerate(written):
            records.append({**at, "prompt": PROMPTS[i], "text": text.removeprefix(PROMPTS[i]), "parses": share == 1.0 if i < 2 else None})
        records.append({**at, "parse_rate": {0.02: 0.0, 0.3: 0.125, 1.0: 0.40625}[share], "n": 64})
    return records


def _manifest(last: dict[str, Any], finished: bool, budget: str, created: str, seconds: float) -> dict[str, Any]:
    predicted = {"parameters": 5_242_880, "tokens": 6_553_600, "flops": 206_158_430_208_000, "seconds": seconds,
                 "peak_memory_bytes": 1_310_720_000, "bits_per_byte": 1.26}  # fmt: skip
    rows = [
        ("d_model", 256, "", "the largest width at which the steps that the data needs still fit", "Hoffmann et al. 2022, section 3.3"),
        ("batch size", 32, "sequences", "near the critical batch of the loss reached", "McCandlish et al. 2018"),
        ("learning rate", 0.02, "", "Muon on matrices, scaled by the root of their shape", "Jordan et al. 2024"),
        ("prior", True, "", "counts beat a network below about ten minutes of this machine", "docs/lab.md"),
    ]
    manifest: dict[str, Any] = {
        "groundup_version": "0.1.0",
        "command": {
            "data": [],
            "budget": budget,
            "seed": 1,
            "overrides": {"arch": "groundup", "prior": "auto", "d_model": 256, "steps": None},
        },
        "created": created,
        "finished": "2026-03-01T12:03:04+00:00" if finished else None,
        "status": "finished" if finished else "interrupted",
        "seed": 1,
        "corpus": {
            "name": "Python standard library",
            "n_documents": 1183,
            "n_bytes": 12_345_678,
            "splits": {"bytes": {"train": 11_100_000, "validation": 610_000, "test": 635_678}},
            "documents": [{"id": f"lib/{i}.py", "blake2b": f"{i:032x}"} for i in range(300)],
        },
        "environment": {"python": "3.11.7", "torch": "2.13.0", "cpu": "a processor with a rather long name", "cores": 2, "gpu": None},
        "code": {"git": "0123abcd", "diff_hash": None},
        "plan": {
            "budget": budget,
            "predicted": predicted,
            "rows": [dict(zip(("name", "value", "unit", "why", "source"), row, strict=True)) for row in rows],
        },
    }
    if finished:
        manifest["measured"] = {**predicted, "seconds": seconds * 1.022, "peak_memory_bytes": 1_502_000_000, "bits_per_byte": 1.2345678}
    return manifest
