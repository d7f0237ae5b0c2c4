"""``groundup inspect``: what a model is, and what it takes to run and to train it here; its weights are not read for that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tyro.conf import Positional

from groundup.account import CPU, Cost, cost, format_bytes, format_count, format_flops, total_memory_bytes, training_memory
from groundup.account.inference import cache_bytes
from groundup.account.workload import Training
from groundup.cli_account import Figure, tree_rows
from groundup.config import ModelConfig, from_dict
from groundup.errors import GroundupError, UsageError

if TYPE_CHECKING:
    from groundup.model.pretrained import Pretrained

Found = TypeVar("Found")

TRAINED_TOKENS = 1024
"""Of the one sequence of the training step whose memory is shown, where the context holds so many."""


@dataclass(frozen=True)
class Inspect:
    """What a model is: family, shape, parameters, tokenizer, chat template, licence, what it needs here, and what is not supported."""

    model: Positional[str]
    """A finished run, a Hugging Face folder, a .gguf file, or hub:owner/name."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Prints all that can be said, and then what is not supported."""
        from groundup.terminal import show_pairs, show_rows

        found = _of_run(Path(self.model)) if (Path(self.model) / "manifest.json").exists() else _of_pretrained(self.model)
        pairs = [(name.replace("_", " "), _said(value)) for name, value in found.facts.items()]
        show_pairs(pairs, title=self.model)
        needs: list[Figure] = []
        if found.config is not None:
            counted = cost(found.config, Training(min(TRAINED_TOKENS, found.config.context_length)))
            needs = _needs(counted)
            show_rows(tree_rows(counted), title=f"\n{counted.parameters:,} parameters; FLOPs of training on {counted.seq_len:,} tokens")
            show_pairs(
                [(line.label, line.show(line.value)) for line in needs],
                title=f"\nHere, in fp32, with {format_bytes(total_memory_bytes())} of memory",
            )
        for error in found.obstacles:
            print(f"\n{'not supported' if isinstance(error, UsageError) else 'broken'}: {error}")
        if self.json:
            facts = found.facts | {line.name: line.value for line in needs}
            print(json.dumps(facts | {"not_supported": [str(error) for error in found.obstacles]}))


@dataclass
class _Findings:
    """What was found out of a model."""

    facts: dict[str, Any] = field(default_factory=dict)
    config: ModelConfig | None = None
    obstacles: list[GroundupError] = field(default_factory=list)

    def ask(self, question: Callable[[], Found]) -> Found | None:
        """An answer; where there is none because something is not supported or broken, that is kept, and None the answer."""
        try:
            return question()
        except GroundupError as error:
            if str(error) not in map(str, self.obstacles):
                self.obstacles.append(error)
            return None


def _of_run(path: Path) -> _Findings:
    from groundup.model.families import family_of
    from groundup.runfolder import RunFolder
    from groundup.tokenizer import Tokenizer

    run = RunFolder.open(path)
    config = from_dict(ModelConfig, run.manifest["plan"]["model"]) if run.resumable else None
    found = _Findings(config=config)
    family, reason = family_of(config) if config else (None, "the run was stopped before its training began")
    found.facts = {"family": f"groundup's own ({reason})" if family is None else family.model_type} | _shape(config)
    tokenizer = found.ask(lambda: Tokenizer.load(path / "tokenizer.json"))
    found.facts |= {"tokenizer": tokenizer and _tokenizer(tokenizer), "chat_template": None, "licence": None}
    return found


def _of_pretrained(name: str) -> _Findings:
    from groundup.infer.template import ChatTemplate
    from groundup.model.pretrained import open_pretrained
    from groundup.model.weights.loading import check_weights

    opened = open_pretrained(name)
    found = _Findings()
    found.config = found.ask(lambda: opened.config)
    found.facts = {"family": opened.values.get("model_type")} | _shape(found.config)
    if opened.values.get("architectures"):
        found.facts["made_for"] = opened.values["architectures"]
    found.facts |= {"weights": _weights(opened)}
    config = found.config
    if config is not None:
        found.ask(lambda: check_weights(opened.source(), opened.family, config))
    tokenizer = found.ask(lambda: opened.tokenizer)
    found.facts["tokenizer"] = tokenizer and _tokenizer(tokenizer)
    found.facts["stop_tokens"] = tokenizer and [tokenizer.token_bytes[i].decode("utf-8", "replace") for i in sorted(opened.stop_ids)]
    source = opened.chat_template
    template = None if source is None else found.ask(lambda: ChatTemplate(source, opened.special))
    found.facts["chat_template"] = template and template.first_line
    found.facts["licence"] = opened.licence
    return found


def _weights(opened: Pretrained) -> str:
    files = [opened.path] if opened.gguf is not None else sorted(opened.path.glob("*.safetensors"))
    return f"{opened.stored_as}; {format_bytes(sum(file.stat().st_size for file in files))} in {len(files)} file{'s'[: len(files) != 1]}"


def _shape(config: ModelConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    kinds = {type(layer.mixer).__name__ for layer in config.layers} | {type(layer.mlp).__name__ for layer in config.layers}
    mixer = config.layers[0].mixer
    heads = f"{mixer.n_heads} query, {mixer.n_kv_heads} kv, of {mixer.head_dim}" if hasattr(mixer, "n_kv_heads") else None
    return {
        "layers": len(config.layers),
        "d_model": config.d_model,
        "made_of": sorted(kinds),
        "heads": heads,
        "vocabulary": config.vocab_size,
        "context_length": config.context_length,
        "tied": config.tied,
    }


def _tokenizer(tokenizer: Any) -> str:
    how = "characters with byte fallback" if tokenizer.pieces is not None else "byte-level BPE"
    pattern = "" if tokenizer.pieces is not None else f", pattern {tokenizer.pattern if isinstance(tokenizer.pattern, str) else 'its own'}"
    return f"{tokenizer.vocab_size:,} tokens, {how}{pattern}, {len(tokenizer.special_tokens)} special"


def _needs(counted: Cost) -> list[Figure]:
    """What it takes to run the model and to train it on this machine's processor, in fp32."""
    config, parameters, seq_len = counted.config, counted.parameters, counted.seq_len
    half = counted.decoding(max(1, config.context_length // 2)).forward_flops
    training = training_memory(config, Training(seq_len, run=CPU, matrices="adamw")).peak_bytes
    return [
        Figure("parameters", "parameters", parameters, format_count),
        Figure("weights_bytes", "weights", 4 * parameters, _fits),
        Figure("weights_16_bit_bytes", "weights in 16 bits", 2 * parameters, _fits),
        Figure("cache_bytes", "cache of a full context", cache_bytes(config, config.context_length, 4.0), _fits),
        Figure("decode_flops", "FLOPs of a token at half the context", half, format_flops),
        Figure("training_bytes", f"a training step of {seq_len:,} tokens with AdamW", training, _fits),
    ]


def _fits(n_bytes: float) -> str:
    here = total_memory_bytes()
    return f"{format_bytes(n_bytes)}{'' if n_bytes <= here else ': more than is here'}"


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)
