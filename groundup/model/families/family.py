"""What a family is: a mapping between a Hugging Face folder's ``config.json`` and tensors and ours, both ways. No weights are read here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from groundup.account import cost
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.errors import UsageError

Tensors = tuple[Tensor, ...]


def same(tensors: Tensors) -> Tensors:
    """Tensors that both sides store alike."""
    return tensors


class TensorMap(NamedTuple):
    """Parameters of ours that some tensors of theirs hold between them; most often one and one, stored alike.

    ``load`` of their tensors, in the order of ``theirs``, gives ours, in the order of ``ours``; ``save`` goes back. Both take any precision
    and the meta device, so that ``save`` of empty tensors of our shapes gives the shapes that their file must have.
    """

    ours: tuple[str, ...]
    """Names in the decoder's ``state_dict()``: parameters, and the buffers of routers."""
    theirs: tuple[str, ...]
    """Names in their weight file."""
    load: Callable[[Tensors], Tensors] = same
    """Theirs to ours."""
    save: Callable[[Tensors], Tensors] = same
    """Ours to theirs."""


@dataclass(frozen=True)
class Family:
    """One ``model_type`` of theirs."""

    model_type: str
    """What ``config.json`` calls it."""
    architecture: str
    """The class in ``transformers`` that opens it."""
    config: Callable[[Values], ModelConfig]
    """Their ``config.json`` -> ours, absent keys by the defaults of that family's configuration class; UsageError for what we do not do."""
    values: Callable[[ModelConfig], dict[str, Any]]
    """Ours -> their ``config.json``. Only meant for a configuration that this family can say: see ``difference``."""
    tensors: Callable[[ModelConfig], Iterable[TensorMap]]
    """The tensors of a configuration, each of ours once; a tied head is not among them."""
    prefix: str = "model."
    """What their names begin with; files of the model without its head may leave it out."""
    ignored: str = r"lm_head\.weight|.*rotary_emb\.inv_freq"
    """A regular expression over whole names: see ``ignores``. A tied head may be stored again, and old files store rotary frequencies."""
    extra_layers: bool = False
    """Whether files may hold layers after the last one, for the prediction of further tokens."""

    def ignores(self, name: str, config: ModelConfig) -> bool:
        """Whether a file may hold a tensor of this name that is none of ``tensors`` and changes nothing."""
        layer = re.match(re.escape(self.prefix) + r"layers\.(\d+)\.", name)
        extra = self.extra_layers and layer is not None and int(layer[1]) >= len(config.layers)
        return extra or re.fullmatch(self.ignored, name) is not None

    def read(self, values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """``config`` of a ``config.json``; UsageError naming the key that is missing, or asks for what the decoder does not do."""
        try:
            return self.config(Values(values, where))
        except UsageError as error:  # of ``config.check``, which knows no file
            if str(error).startswith(where):
                raise
            raise UsageError(f"{where}: {error}") from error

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """``values`` with the names of family and class, token ids null; UsageError naming the field that this family cannot say."""
        if reason := self.difference(config):
            raise UsageError(f"this model is no {self.model_type}: {reason}")
        named = {"architectures": [self.architecture], "model_type": self.model_type}
        ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # not the family's defaults, which another vocabulary has
        return {**named, **self.values(config), **ids, "torch_dtype": "float32"}

    def difference(self, config: ModelConfig) -> str | None:
        """None where this family's ``config.json`` can say all of a configuration, else the first field that it cannot, as a clause."""
        try:
            nearest = self.read(self.values(config), "this configuration")
        except UsageError as error:
            return str(error)
        return _difference(config, nearest, "", self.model_type)


class Values:
    """A ``config.json`` read key by key; each question names the key in its error."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.values, self.where = values, where

    def get(self, key: str, default: Any = None) -> Any:
        """The value; the default where the key is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{self.where}: {key} must be a whole number of at least {least}, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UsageError(f"{self.where}: {key} must be a number, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise UsageError(f"{self.where}: {key} must be true or false, not {value!r}")
        return value

    def word(self, key: str, default: str, known: Mapping[str, Any]) -> Any:
        """What ``known`` says of a word."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in known:
            raise UsageError(f"{self.where}: {key} {value!r} is not supported, only {' and '.join(map(repr, known))}")
        return known[value]

    def entries(self, key: str, default: Iterable[Any] = ()) -> list[Any]:
        """A list."""
        value = self.get(key, list(default))
        if not isinstance(value, list):
            raise UsageError(f"{self.where}: {key} must be a list, not {value!r}")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object; empty where the key is absent or null."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise UsageError(f"{self.where}: {key} must be an object, not {value!r}")
        return value

    def must(self, key: str, supported: Any) -> None:
        """UsageError unless the key has the one value that the decoder does, or is absent or null."""
        value = self.get(key, supported)
        if value != supported:
            raise UsageError(f"{self.where}: {key} {value!r} is not supported, only {supported!r} is")


def renamed(config: ModelConfig, names: Mapping[str, str], skip: Callable[[str], bool] = lambda name: False) -> Iterator[TensorMap]:
    """A map for every parameter of a configuration, but those to skip, whole words between dots translated and the tensor as it is."""
    for weight in cost(config, Training(1)).weights:
        if not skip(weight.name):
            yield TensorMap((weight.name,), (translated(weight.name, names),))


def translated(name: str, names: Mapping[str, str]) -> str:
    """A dotted name with its words replaced by those of the table."""
    return ".".join(names.get(word, word) for word in name.split("."))


def _difference(found: Any, wanted: Any, where: str, who: str) -> str | None:
    """The first field in which two trees of dataclasses differ, as a clause."""
    if found == wanted:
        return None
    if isinstance(found, tuple) and isinstance(wanted, tuple) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return next(filter(None, (_difference(a, b, f"{where}[{i}]", who) for i, (a, b) in pairs)), None)
    if dataclasses.is_dataclass(found) and type(found) is type(wanted):
        names = [f.name for f in dataclasses.fields(found)]
        parts = ((getattr(found, n), getattr(wanted, n), f"{where}.{n}".lstrip("."), who) for n in names)
        return next(filter(None, (_difference(*part) for part in parts)), None)
    return f"{where} is {found!r}, where a {who} has {wanted!r}"
