"""EleutherAI's lm-evaluation-harness and ours on the same model: it through the exported folder and transformers, we through our decoder.

    python -m benchmarks.lm_eval_agreement --data TASKS --tokenizer tokenizer.json [--items 100]

Needs ``lm-eval`` (0.4) and its ``datasets``, best in an environment of their own. The model is a small Llama of random weights, wide
enough that answers differ; two tasks from local files, COPA (multiple choice) and LAMBADA (last word), must give equal accuracies and,
item by item, equal log-likelihoods.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.account.shapes import architecture
from groundup.evaluate.core import CORE
from groundup.evaluate.decoder_model import DecoderModel
from groundup.evaluate.harness import pairs_of, run_task, split
from groundup.evaluate.tasks import Task
from groundup.model.decoder import Decoder
from groundup.model.families import export_model
from groundup.model.initialize import initialize
from groundup.terminal import show_rows
from groundup.tokenizer import Tokenizer

NAMES = ("copa", "lambada_openai")
TOLERANCE_NATS = 1e-3  # per answer: float32 in two orders of summation


def build(tokenizer: Tokenizer) -> Decoder:
    """A small Llama of random weights."""
    config = architecture("llama", vocab_size=tokenizer.vocab_size, d_model=64, n_layers=2, head_dim=16, context_length=512)
    model = initialize(Decoder(config), 0, zero_outputs=False).eval()
    torch.nn.init.normal_(model.head_weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def local_task(name: str, task: Task, folder: Path) -> dict[str, Any]:
    """The same items as a configuration of lm-eval, in a file of their own."""
    path = folder / f"{name}.jsonl"
    if name == "copa":
        rows = [{"query": i.contexts[0], "choices": [c[1:] for c in i.continuations], "gold": i.gold} for i in task.items]
        shape = {"output_type": "multiple_choice", "doc_to_text": "query", "doc_to_target": "gold", "doc_to_choice": "choices"}
    else:
        rows = [{"context": i.context, "words": i.words} for i in task.items]
        shape = {"output_type": "loglikelihood", "doc_to_text": "context", "doc_to_target": "words", "target_delimiter": ""}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test"}
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    return {"task": f"groundup_{name}", "num_fewshot": 0, "metric_list": metrics, **data, **shape}


def main() -> None:
    """Runs both, prints the table and writes the result file; exit status 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds copa.jsonl and lambada_openai.jsonl")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "lm_eval_agreement.json")
    asked = parser.parse_args()
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import lm_eval

    tokenizer = Tokenizer.load(asked.tokenizer)
    decoder = build(tokenizer)
    ours = DecoderModel(decoder, tokenizer, name="groundup", prefix=())
    rows = {}
    with tempfile.TemporaryDirectory() as work:
        export_model(decoder, decoder.config, Path(work) / "model", tokenizer=asked.tokenizer)
        os.environ["HF_DATASETS_CACHE"] = str(Path(work) / "cache")
        for name in NAMES:
            whole = CORE[name].load(name, asked.data)
            task = Task(name, whole.items[: asked.items], whole.baseline)
            result = run_task(ours, task)
            pairs = [split(ours, *request) for item in task.items for request in pairs_of(item) if request[0] != "Answer:"]
            own = np.array([x.sum() for x in ours.log_probs([c for c, _ in pairs], [t for _, t in pairs])])
            made = lm_eval.simple_evaluate(
                "hf",
                model_args={"pretrained": str(Path(work) / "model"), "dtype": "float32", "add_bos_token": False},
                tasks=[local_task(name, task, Path(work))],
                device="cpu",
                batch_size=8,
                bootstrap_iters=0,
            )
            samples = sorted(made["samples"][f"groundup_{name}"], key=lambda sample: sample["doc_id"])
            theirs = np.array([float(answer[0]) for sample in samples for answer in sample["filtered_resps"]])
            accuracy = made["results"][f"groundup_{name}"]["acc,none"]
            rows[name] = {
                "items": len(task.items),
                "accuracy": {"groundup": result.accuracy[result.main].mean, "lm-eval": float(accuracy)},
                "largest difference of a log-likelihood (nats)": float(np.abs(own - theirs).max()),
            }
    versions = {"lm_eval": lm_eval.__version__}
    show_rows([{"task": name, **{k: str(v) for k, v in row.items()}} for name, row in rows.items()])
    agree = all(
        row["accuracy"]["groundup"] == row["accuracy"]["lm-eval"] and row["largest difference of a log-likelihood (nats)"] < TOLERANCE_NATS
        for row in rows.values()
    )
    save_result(asked.out, {"agree": agree, "tasks": rows, "versions": versions, **provenance()})
    raise SystemExit(0 if agree else 1)


if __name__ == "__main__":
    main()
