"""A model behind an OpenAI-compatible HTTP endpoint as evaluation sees it; its tokens here are bytes, which need no tokenizer.

Log-probabilities come from ``/v1/completions`` with ``echo`` and ``logprobs``, which vLLM, SGLang and llama.cpp's Python server offer
and OpenAI's own chat models do not.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from groundup.errors import GroundupError, UsageError
from groundup.evaluate.protocol import cut

AT_ONCE = 8  # requests in flight


class EndpointModel:
    """A ``LanguageModel`` and ``Ranker``.

    A token of the server gives its whole log-probability to its first byte and 0 to the others, so that sums are exact and single bytes
    mean nothing. A server's token that begins in the context and ends in the target counts as the target's.
    """

    vocab_size, context_length = 256, None

    def __init__(self, url: str, model: str, *, chat: bool = False, prefix: str = "", key: str = "", timeout: float = 120.0) -> None:
        """``url``: up to and with /v1; ``chat``: write through /chat/completions; ``prefix``: text that opens documents, such as a special
        token's, for servers that add none and so say nothing of a text's first token."""
        self.url, self.name, self.chat, self._key, self._timeout = url.rstrip("/"), model, chat, key, timeout
        self.prefix = tuple(prefix.encode())

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Bytes of UTF-8; UsageError for bytes that are none, which JSON cannot carry."""
        data = text.encode() if isinstance(text, str) else text
        _text(data)
        return np.frombuffer(data, np.uint8).astype(np.int64)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """Bytes."""
        return bytes(tokens.tolist())

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """One each."""
        return np.ones(len(tokens), np.int64)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; UsageError if the server echoes none."""
        return [nats for nats, _ in self._echoes(contexts, targets)]

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``, but 1 for any rank that is not 0: the server tells its likeliest token only."""
        return [ranks for _, ranks in self._echoes(contexts, targets)]

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``; a chat model gets the prompt as the user's turn."""

        def one(at: int) -> bytes:
            body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed + at}
            body |= {"stop": list(stop[:4])} if stop else {}  # four is the interface's limit; the rest are cut here
            if self.chat:
                answer = self._post("chat/completions", body | {"messages": [{"role": "user", "content": prompts[at]}]})
                text = answer["choices"][0]["message"]["content"] or ""
            else:
                text = self._post("completions", body | {"prompt": prompts[at]})["choices"][0]["text"]
            return cut(text.encode(), stop)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(len(prompts))))

    def _echoes(self, contexts: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._echo, contexts, targets))

    def _echo(self, context: np.ndarray, target: np.ndarray) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Log-probability and rank of each byte of the target."""
        data = bytes(context.tolist() + target.tolist())
        text = _text(data)
        body = {"prompt": text, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        found = self._post("completions", body)["choices"][0].get("logprobs")
        if not found or not found.get("token_logprobs"):
            raise UsageError(f"{self.url} gives no log-probabilities of a prompt (echo with logprobs): only tasks that write can be run")
        byte_at = np.concatenate(([0], np.cumsum([len(c.encode()) for c in text])))  # the server counts characters
        nats, ranks = np.zeros(len(data)), np.zeros(len(data), np.int64)
        starts = [int(byte_at[min(offset, len(text))]) for offset in found["text_offset"]]
        for start, end, log_p, top in zip(
            starts, [*starts[1:], len(data)], found["token_logprobs"], found.get("top_logprobs") or [None] * len(starts), strict=True
        ):
            if end <= len(context):
                continue
            at = max(start, len(context))
            if log_p is None:
                raise UsageError(f"{self.name} says nothing of the first token of a text: give a prefix that its texts open with")
            if at < len(data):
                nats[at] += log_p
                ranks[at] += int(bool(top) and max(top.values()) > log_p)
        return nats[len(context) :], ranks[len(context) :]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body | {"model": self.name}).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            raise GroundupError(f"{self.url}/{path} answered {error.code} {error.reason}: {said}") from error
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise GroundupError(f"{self.url}/{path} cannot be asked ({error}): is the server up, and the address right?") from error


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"an endpoint takes UTF-8 text only, and byte {error.start} of this text is none") from error
