"""A causal model of the ``transformers`` library as evaluation sees it; its tokens through our own tokenizer, which knows their bytes."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from groundup.data.formats import require
from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor, OfTokenizer, cut
from groundup.evaluate.ranks import ranks_of
from groundup.tokenizer import Tokenizer

TOKENS_AT_ONCE = 1 << 10  # of a batch: the logits of so many, times the vocabulary, are held
LEAST_SAVED = 4  # tokens, for which rows are joined
ROWS_AT_ONCE = 16  # texts written side by side


class TransformersModel(OfTokenizer, FromPredictor):
    """A ``LanguageModel``, ``Ranker`` and ``Predictor``.

    Texts that begin alike are read as one (``Pack``); what is read is sorted by length and padded on the right, where causal attention
    does not look.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, prefix: Sequence[int] | None = None) -> None:
        """``prefix``: tokens before every document; by default the tokenizer's beginning-of-text token, else its end-of-text token."""
        self.model, self.name = model.eval(), name
        self._theirs = tokenizer
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            tokenizer.backend_tokenizer.save(str(path))
            self.tokenizer = Tokenizer.load(path)
        self.vocab_size = int(model.config.vocab_size)
        opens = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.prefix = tuple(prefix) if prefix is not None else (opens,) if opens is not None else ()
        self.context_length = int(model.config.max_position_embeddings)
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._may_share = takes_positions and getattr(model.config, "sliding_window", None) is None  # one mask is given to all layers

    @classmethod
    def load(cls, path: str, *, gguf_file: str | None = None) -> TransformersModel:
        """A folder that ``from_pretrained`` opens, or a GGUF file in one; float32."""
        transformers = require("transformers", f"opening {path}")
        options = {"gguf_file": gguf_file} if gguf_file else {}
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: transformers cannot open it ({str(error).partition(chr(10))[0]})") from error
        return cls(model, tokenizer, name=gguf_file.removesuffix(".gguf") if gguf_file else Path(path).name)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``."""
        return self._read(contexts, targets, lambda logits, ids: (logits.gather(1, ids) - logits.logsumexp(1, keepdim=True))[:, 0].double())

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``."""
        return self._read(contexts, targets, ranks_of)

    def start(self) -> TransformersCursor:
        """As in ``Predictor``."""
        return TransformersCursor(self.model, self.context_length)

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``, by the library's own ``generate``, prompts padded on the left."""
        out = []
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            rows = [[*self.prefix, *self.encode(prompt).tolist()] for prompt in prompts[start : start + ROWS_AT_ONCE]]
            rows = [row[-max(1, self.context_length - max_tokens) :] for row in rows]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            settings: dict[str, Any] = {"stop_strings": list(stop), "tokenizer": self._theirs} if stop else {}
            if temperature > 1e-5:
                settings["logits_processor"] = [RowNoise(temperature, range(seed + start, seed + start + len(rows)))]
            made = self.model.generate(ids, attention_mask=mask, max_new_tokens=max_tokens, pad_token_id=0, do_sample=False, **settings)
            out += [cut(self._text(row), stop) for row in made[:, width:].tolist()]
        return out

    def _text(self, tokens: list[int]) -> bytes:
        """What comes before the token that ends a text."""
        ends = self.model.generation_config.eos_token_id
        ends = {*self.prefix, *(ends if isinstance(ends, list) else [ends])}
        n = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return self.decode(np.array(tokens[:n], np.int64))

    @torch.inference_mode()
    def _read(self, contexts: Sequence[np.ndarray], targets: Sequence[np.ndarray], read: Callable[[Tensor, Tensor], Tensor]) -> list:
        if any(not len(context) for context in contexts):
            raise UsageError(f"{self.name} predicts no token from nothing: begin contexts with its prefix, {list(self.prefix)}")
        rows = [np.concatenate((c, t))[:-1] for c, t in zip(contexts, targets, strict=True)]
        out: list[np.ndarray] = [np.zeros(0)] * len(rows)
        packs = pack(rows) if self._may_share else [Pack(0, [i]) for i in range(len(rows))]
        for batch in _batches(packs, [p.width(rows) for p in packs]):
            columns = [own for p in batch for own in p.columns(rows)]
            wanted = {i: own[len(contexts[i]) - 1 :] for i, own in columns}
            kept = np.unique(np.concatenate(list(wanted.values())))
            logits = self.model(**_inputs(batch, rows), use_cache=False, logits_to_keep=torch.from_numpy(kept)).logits
            for at, p in enumerate(batch):
                for i in p.members:
                    own: Float[Tensor, "n v"] = logits[at, torch.from_numpy(np.searchsorted(kept, wanted[i]))].float()
                    out[i] = read(own, torch.from_numpy(np.ascontiguousarray(targets[i]))[:, None]).numpy()
        return out


class RowNoise:
    """Makes the likeliest token a draw from softmax(logits / temperature), by Gumbel noise (Gumbel 1954), each row from its own seed.

    The library itself draws a whole batch from one stream, so that a row's text would depend on its neighbours.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self._temperature, self._generators = temperature, [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, ids: Tensor, logits: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """logits / temperature - log(x), x exponential."""
        drawn = [torch.empty(logits.shape[1], dtype=torch.float64).exponential_(generator=g) for g in self._generators]
        return logits.double() / self._temperature - torch.stack(drawn).log()


@dataclass
class Pack:
    """Rows that are read as one: the beginning that all share, then what is left of each, which sees the beginning and itself."""

    shared: int
    members: list[int]

    def width(self, rows: Sequence[np.ndarray]) -> int:
        """Tokens to read."""
        return self.shared + sum(len(rows[i]) - self.shared for i in self.members)

    def columns(self, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Each member with the columns of its tokens."""
        at = self.shared
        for i in self.members:
            own = len(rows[i]) - self.shared
            yield i, np.concatenate((np.arange(self.shared), np.arange(at, at + own)))
            at += own


def pack(rows: Sequence[Int64[np.ndarray, " _"]]) -> list[Pack]:
    """Joins neighbours in lexicographic order as long as that saves tokens: the answers to one question, the two of a minimal pair."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">u4").tobytes())
    packs: list[Pack] = []
    for last, i in zip([-1, *order], order, strict=False):
        if packs:
            n = min(len(rows[last]), len(rows[i]))
            differ = np.flatnonzero(rows[last][:n] != rows[i][:n])
            common = int(differ[0]) if len(differ) else n
            joined = Pack(min(packs[-1].shared if len(packs[-1].members) > 1 else common, common), [*packs[-1].members, i])
            width = joined.width(rows)
            if width <= TOKENS_AT_ONCE and width + LEAST_SAVED <= packs[-1].width(rows) + len(rows[i]):
                packs[-1] = joined
                continue
        packs.append(Pack(0, [i]))
    return packs


def _inputs(batch: Sequence[Pack], rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Tokens of a batch of packs; with their positions and mask, where anything is shared."""
    shape = len(batch), max(p.width(rows) for p in batch)
    ids, positions, owners = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    for at, p in enumerate(batch):
        for owner, (i, own) in enumerate(p.columns(rows), start=1):
            ids[at, own], positions[at, own], owners[at, own] = rows[i], np.arange(len(own)), owner
        owners[at, : p.shared] = 0
    if all(len(p.members) == 1 for p in batch):
        return {"input_ids": torch.from_numpy(ids)}
    sees = (owners[:, None] == 0) | (owners[:, None] == owners[:, :, None])
    sees &= np.tri(shape[1], dtype=bool)
    mask = torch.zeros(len(batch), 1, shape[1], shape[1]).masked_fill_(~torch.from_numpy(sees)[:, None], torch.finfo(torch.float32).min)
    return {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(positions), "attention_mask": mask}


def _batches(packs: Sequence[Pack], widths: Sequence[int]) -> Iterator[list[Pack]]:
    """Packs of like width, the widest first, at most TOKENS_AT_ONCE tokens with their padding."""
    order = sorted(range(len(packs)), key=lambda i: -widths[i])
    at = 0
    while at < len(order):
        n = max(1, TOKENS_AT_ONCE // max(1, widths[order[at]]))
        yield [packs[i] for i in order[at : at + n]]
        at += n


class TransformersCursor:
    """A ``Cursor`` with the library's key-value cache; when the context is full it starts over from its last half."""

    def __init__(self, model: Any, context_length: int) -> None:
        self._model, self._limit = model, context_length
        self._text: list[int] = []
        self._n_read, self._cache = 0, None
        self._cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self._p: np.ndarray | None = None

    def push(self, token: int) -> None:
        """The text goes on."""
        self._text.append(token)
        self._p = None

    @torch.inference_mode()
    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """softmax of the logits in float64."""
        if self._p is None:
            if not self._text:
                raise UsageError("the model predicts no token from nothing: push its prefix first")
            if len(self._text) > self._limit:
                self._text, self._n_read, self._cache = self._text[-max(1, self._limit // 2) :], 0, None
            ids = torch.tensor([self._text[self._n_read :]])
            out = self._model(ids, use_cache=True, logits_to_keep=1, **{self._cache_name: self._cache})
            self._cache, self._n_read = getattr(out, self._cache_name), len(self._text)
            self._p = torch.softmax(out.logits[0, -1].double(), dim=-1).numpy()
        return self._p
