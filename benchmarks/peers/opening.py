"""One process that opens a model's files, in groundup or in transformers, and says how long that took and how much memory.

    python -m benchmarks.peers.opening groundup model.gguf
    python -m benchmarks.peers.opening transformers folder

Imports are done before the clock starts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from groundup.account import peak_process_memory_bytes, process_memory_bytes

CONTESTANTS = ("groundup", "transformers")
PROBE = tuple(range(100, 132))


def in_groundup(path: Path):
    """A function that loads the model, and one that gives the logits behind some tokens."""
    import torch

    import groundup.kernels.native  # noqa: F401 (numba, which the first pass would import)
    from groundup.model.pretrained import open_pretrained

    def logits(model):
        with torch.inference_mode():
            return model.logits(model.hidden(torch.tensor([PROBE]))[:, -1])[0]

    return lambda: open_pretrained(path).load(), logits


def in_transformers(path: Path):
    """The same of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    where = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path

    def logits(model):
        with torch.inference_mode():
            return model(torch.tensor([PROBE]), logits_to_keep=1).logits[0, -1]

    return lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where), logits


def main() -> None:
    """Loads once, runs once, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("path", type=Path)
    asked = parser.parse_args()
    load, logits = {"groundup": in_groundup, "transformers": in_transformers}[asked.contestant](asked.path)
    before = process_memory_bytes()
    start = time.perf_counter()
    model = load()
    loaded = time.perf_counter()
    likeliest = int(logits(model).argmax())
    used = time.perf_counter()
    print(
        json.dumps(
            {
                "load_s": loaded - start,
                "first_logits_s": used - start,
                "peak_bytes": peak_process_memory_bytes(),
                "above_imports_bytes": peak_process_memory_bytes() - before,
                "likeliest": likeliest,
            }
        )
    )


if __name__ == "__main__":
    main()
