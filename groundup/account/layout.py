"""Who does what of a training step: data, tensor, pipeline and expert parallelism, and ZeRO, as data.

A layout is data x tensor x pipeline devices. Tensor parallelism splits every matrix (Shoeybi et al. 2019) and, as sequence parallelism,
everything between them (Korthikanti et al. 2022); the pipeline splits the layers, one micro-batch forward, one backward (Narayanan et
al. 2021); ZeRO splits what data parallel devices would otherwise all hold (Rajbhandari et al. 2020); expert parallelism splits the
experts over some of the data parallel devices, which send each other the rows of their tokens (Lepikhin et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from groundup.config import Attention, Experts, LatentAttention, Layer, LinearMixer, ModelConfig
from groundup.errors import UsageError

MOST_TENSOR = 64
"""Tensor parallel devices that a refusal proposes at most."""


@dataclass(frozen=True)
class Layout:
    """Who does what."""

    data: int = 1
    """d, replicas that see different sequences."""
    tensor: int = 1
    """t, devices that share every matrix, and the sequence between the matrices."""
    pipeline: int = 1
    """p, stages of consecutive layers."""
    zero: int = 0
    """ZeRO stage: over data parallel devices are split 1 the optimizer's state, 2 gradients as well, 3 weights as well."""
    interleave: int = 1
    """v, runs of consecutive layers that each stage has, so that its turn comes v times as often."""
    expert: int = 1
    """e, of the data parallel devices those that share the experts; the other d / e hold the same ones."""
    overlap: bool = False
    """Whether two micro-batches go through side by side, so that one computes while the rows of the other are on their way to experts and
    back (DeepSeek-AI 2024, section 3.2.1)."""

    @property
    def devices(self) -> int:
        """d x t x p."""
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        """For people: data 4 (ZeRO-1, expert 2) x tensor 2. ``parse_layout`` reads it."""
        within = [f"ZeRO-{self.zero}"] * (self.zero > 0) + [f"expert {self.expert}" + " overlapped" * self.overlap] * (self.expert > 1)
        parts = [f"data {self.data}" + (f" ({', '.join(within)})" if within else "")] if self.data > 1 else []
        parts += [f"{name} {n}" for name, n in (("tensor", self.tensor), ("pipeline", self.pipeline)) if n > 1]
        if self.interleave > 1:
            parts[-1] += f" (interleaved {self.interleave})"
        return " x ".join(parts) or "one device"

    def check(self, config: ModelConfig) -> None:
        """UsageError for a layout that cannot be, or into which the model does not divide."""
        for name in ("data", "tensor", "pipeline", "interleave", "expert"):
            if getattr(self, name) < 1:
                raise UsageError(f"a layout's {name} must be at least 1, not {getattr(self, name)}")
        if self.zero not in (0, 1, 2, 3):
            raise UsageError(f"ZeRO has stages 0 to 3, not {self.zero}")
        self._check_pipeline(len(config.layers))
        self._check_experts(config)
        for name, n in undivided(config, self.tensor):
            works = [t for t in range(1, min(n, MOST_TENSOR) + 1) if divides(config, t)]
            raise UsageError(f"tensor {self.tensor} does not divide the {name} {n}; choose {_listed(works)}")

    def _check_pipeline(self, n_layers: int) -> None:
        most = max(1, n_layers)
        if self.pipeline > most:
            raise UsageError(f"pipeline {self.pipeline} is more stages than the model's {n_layers} layers; choose at most {most}")
        if self.interleave > 1 and self.pipeline == 1:
            raise UsageError(f"interleave {self.interleave} needs stages to take turns; give a pipeline above 1, or leave it out")
        if self.interleave > 1 and n_layers % (self.pipeline * self.interleave):
            works = [v for v in range(1, n_layers // self.pipeline + 1) if n_layers % (self.pipeline * v) == 0]
            which = f"choose {_listed(works)}" if works else f"choose a pipeline that divides {n_layers}, or leave it out"
            raise UsageError(
                f"interleave {self.interleave} over pipeline {self.pipeline} does not divide the model's {n_layers} layers; {which}"
            )

    def _check_experts(self, config: ModelConfig) -> None:
        if self.overlap and self.expert == 1:
            raise UsageError("overlap hides what is sent to experts; give expert above 1, or leave it out")
        if self.expert == 1:
            return
        counts = {layer.mlp.n_experts for layer in config.layers if isinstance(layer.mlp, Experts)}
        if not counts:
            raise UsageError(f"expert {self.expert}: the model has no experts to spread; leave it out")
        works = [e for e in range(1, self.data + 1) if self.data % e == 0 and all(n % e == 0 for n in counts)]
        if self.data % self.expert:
            what = f"expert {self.expert} are some of the data parallel devices, and do not divide data {self.data}"
            raise UsageError(f"{what}; choose {_listed(works)}")
        for n in counts:
            if n % self.expert:
                raise UsageError(f"expert {self.expert} does not divide the n_experts {n}; choose {_listed(works)}")

    def bubble(self, micro_batches: int) -> float:
        """(p - 1) / (v m): idle time of a step over its working time (Narayanan et al. 2021, section 2.2)."""
        return (self.pipeline - 1) / (self.interleave * micro_batches)

    def in_flight(self, stage: int, micro_batches: int) -> float:
        """Micro-batches whose activations stage i keeps: at most m, and p - i, or with v > 1 runs p + (p - 1 - 2i) / v; with
        overlap one more.

        Of the first stage that is p (1 + (p - 1) / (p v)), Korthikanti et al. 2022, section 4.2.3.
        """
        p, v = self.pipeline, self.interleave
        return min(micro_batches, self.overlap + (p - stage if v == 1 else p + (p - 1 - 2 * stage) / v))


@lru_cache(maxsize=1024)
def runs(n_layers: int, pipeline: int, interleave: int) -> tuple[range, ...]:
    """The p v runs of consecutive layers, as even as can be, the first ones one more; run r is on stage r mod p."""
    each, more = divmod(n_layers, pipeline * interleave)
    starts = [r * each + min(r, more) for r in range(pipeline * interleave + 1)]
    return tuple(range(start, end) for start, end in pairwise(starts))


@lru_cache(maxsize=1024)
def crossings(n_layers: int, pipeline: int, interleave: int) -> tuple[int, ...]:
    """For each layer, how often its stage hands a micro-batch's rows to another: values at a run's end, gradients at its start."""
    found = [0] * n_layers
    for before, after in pairwise(runs(n_layers, pipeline, interleave)):
        found[before[-1]] += 1
        found[after[0]] += 1
    return tuple(found)


def divided(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """What tensor parallelism divides of each kind of layer, with its number."""
    for layer in dict.fromkeys(config.layers):
        yield from _divided(layer)


def _divided(layer: Layer) -> Iterator[tuple[str, int]]:
    match layer.mixer:
        case Attention():
            yield from (("query heads", layer.mixer.n_heads), ("kv heads", layer.mixer.n_kv_heads))
        case LatentAttention():
            yield "query heads", layer.mixer.n_heads
        case LinearMixer():
            yield from (("heads of a linear mixer", layer.mixer.n_heads), ("key heads of a linear mixer", layer.mixer.n_key_heads))
    yield "d_ff", layer.mlp.d_ff
    if isinstance(layer.mlp, Experts) and layer.mlp.shared is not None:
        yield "d_ff of the shared expert", layer.mlp.shared.d_ff


def undivided(config: ModelConfig, tensor: int) -> Iterator[tuple[str, int]]:
    """What so many tensor parallel devices cannot share; kv heads that are fewer than the devices are copied."""
    for name, n in divided(config):
        if n % tensor and not (name.endswith("kv heads") and tensor % n == 0):
            yield name, n


def divides(config: ModelConfig, tensor: int) -> bool:
    """Whether tensor parallelism over so many devices can be."""
    return not any(undivided(config, tensor))


_WORDS = {
    "dp": "data",
    "tp": "tensor",
    "pp": "pipeline",
    "ep": "expert",
    "vpp": "interleave",
    "experts": "expert",
    "interleaved": "interleave",
    "overlapped": "overlap",
}
"""What others call the fields."""


def parse_layout(text: str) -> Layout:
    """``data 8 zero 1 tensor 4 pipeline 2``, in any order, or as the planner prints it: data 8 (ZeRO-1) x tensor 4 x pipeline 2.

    Megatron's short names (dp, tp, pp, ep, vpp) are understood. Raises UsageError naming the word that is not.
    """
    if text.strip().lower() == "one device":
        return Layout()
    found: dict[str, int] = {}
    plain = re.sub(r"[(),]|\bx\b", " ", text.lower())
    plain = re.sub(r"\boverlap(ped)?\b(?!\s*[=:]?\s*\d)", "overlap 1", plain)
    words = re.sub(r"(?<=[a-z])[-:=]?(?=\d)", " ", plain).replace("=", " ").split()
    for name, number in zip(words[::2], [*words[1::2], ""], strict=False):
        field = _WORDS.get(name, name)
        if field not in Layout.__dataclass_fields__ or not number.isdigit():
            wrong = f"{name!r} is no part of a layout" if field not in Layout.__dataclass_fields__ else f"{name} needs a whole number"
            raise UsageError(f'--layout {text!r}: {wrong}; write it as "data 8 zero 1 expert 4 tensor 4 pipeline 2 interleave 2"')
        if field in found:
            raise UsageError(f"--layout {text!r} says {field} twice; give it once")
        found[field] = int(number)
    if not found:
        raise UsageError('--layout is empty; write it as "data 8 zero 1 tensor 4 pipeline 2"')
    return Layout(**found | {"overlap": bool(found.get("overlap"))})


def _listed(numbers: list[int]) -> str:
    """1, 2 or 4."""
    return ", ".join(map(str, numbers[:-1])) + " or " + str(numbers[-1]) if len(numbers) > 1 else str(numbers[0])
