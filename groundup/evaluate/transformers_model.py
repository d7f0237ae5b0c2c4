"""A causal model of the ``transformers`` library as evaluation sees it; its tokens through our own tokenizer, which knows their bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from groundup.data.formats import require
from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor, cut
from groundup.tokenizer import Tokenizer

TOKENS_AT_ONCE = 1 << 10  # of a batch: the logits of so many, times the vocabulary, are held
ROWS_AT_ONCE = 16  # texts written side by side


class TransformersModel(FromPredictor):
    """A ``LanguageModel``, ``Ranker`` and ``Predictor``.

    Pairs are sorted by length and padded on the right, where causal attention does not look; pairs with one long context share its
    reading.
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

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Ids; texts of special tokens are text like any other."""
        return self.tokenizer.encode_ordinary(text).astype(np.int64)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """Bytes, exactly."""
        return self.tokenizer.decode_bytes(tokens)

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes of each token."""
        return self.tokenizer.n_bytes(tokens)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``."""
        return self._read(contexts, targets, lambda logits, ids: (logits.gather(1, ids) - logits.logsumexp(1, keepdim=True))[:, 0].double())

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``."""
        return self._read(contexts, targets, lambda logits, ids: (logits > logits.gather(1, ids)).sum(1))

    def start(self) -> TransformersCursor:
        """As in ``Predictor``."""
        return TransformersCursor(self.model, self.context_length)

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``, by the library's own ``generate``, prompts padded on the left; a batch is one stream of numbers."""
        out = []
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            rows = [[*self.prefix, *self.encode(prompt).tolist()] for prompt in prompts[start : start + ROWS_AT_ONCE]]
            rows = [row[-max(1, self.context_length - max_tokens) :] for row in rows]
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            torch.manual_seed(seed + start)
            settings = (
                {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 1e-5 else {"do_sample": False}
            )
            stops = {"stop_strings": list(stop), "tokenizer": self._theirs} if stop else {}
            made = self.model.generate(ids, attention_mask=mask, max_new_tokens=max_tokens, pad_token_id=0, **settings, **stops)
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
        for batch in _batches([len(row) for row in rows]):
            width = len(rows[batch[0]])
            first = min(len(contexts[i]) for i in batch) - 1
            ids = torch.zeros(len(batch), width, dtype=torch.int64)
            for at, i in enumerate(batch):
                ids[at, : len(rows[i])] = torch.from_numpy(rows[i])
            logits = self.model(ids, use_cache=False, logits_to_keep=torch.arange(first, width)).logits
            for at, i in enumerate(batch):
                begin = len(contexts[i]) - 1 - first
                own: Float[Tensor, "n v"] = logits[at, begin : begin + len(targets[i])].float()
                out[i] = read(own, torch.from_numpy(np.ascontiguousarray(targets[i]))[:, None]).numpy()
        return out


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of like length, the longest first, at most TOKENS_AT_ONCE with their padding."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        n = max(1, TOKENS_AT_ONCE // max(1, lengths[order[at]]))
        yield order[at : at + n]
        at += n


class TransformersCursor:
    """A ``Cursor`` with the library's key-value cache; when the context is full it starts over from its last half."""

    def __init__(self, model: Any, context_length: int) -> None:
        self._model, self._limit = model, context_length
        self._text: list[int] = []
        self._n_read, self._cache = 0, None
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
            out = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache, self._n_read = out.past_key_values, len(self._text)
            self._p = torch.softmax(out.logits[0, -1].double(), dim=-1).numpy()
        return self._p
