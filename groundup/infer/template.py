"""Chat templates: a conversation as the text that a model was tuned on, by its own Jinja template, in a sandbox.

The environment is the one that templates are written for (``apply_chat_template`` of Hugging Face ``transformers``): blocks trimmed,
``raise_exception``, ``strftime_now``, ``tojson``, ``break`` and ``continue``. A template comes from strangers: it can read what it is given
and no more, though it can waste time without writing.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from groundup.data.formats import require
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""A ``role`` (system, user, assistant, tool) and its ``content``; whatever else the template knows."""

MOST_CHARACTERS = 1 << 24
"""A template that writes more than this goes round in a circle: no model reads so much."""

_BEGIN, _END = "\ue000", "\ue001"  # private use: they mark a special token's text in what people wrote


class ChatTemplate:
    """A template and the texts of special tokens that it may name.

    Args:
        source: Jinja, as in ``chat_template.jinja`` or ``tokenizer.chat_template``.
        special: ``bos_token``, ``eos_token`` and others.

    Raises UsageError where jinja2 is missing or the source is no template.
    """

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        self.source, self.special = source, dict(special or {})
        try:
            self._template = _environment().from_string(source)
        except require("jinja2", "a chat template").TemplateError as error:
            raise UsageError(f"the chat template is broken ({error}): chat without it, or get the model again") from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation; with a generation prompt, up to where the assistant's next words begin.

        Raises UsageError for a conversation that the template refuses, GroundupError for a template that fails or leaves its sandbox.
        """
        jinja2, sandbox = require("jinja2", "a chat template"), require("jinja2.sandbox", "a chat template")
        given = {"messages": [*messages], "tools": tools and [*tools], "documents": None, "add_generation_prompt": add_generation_prompt}
        parts: list[str] = []
        room = MOST_CHARACTERS
        try:
            for part in self._template.generate(**self.special, **given, **variables):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    raise RuntimeError(f"it writes more than {MOST_CHARACTERS:,} characters")
            return "".join(parts)
        except sandbox.SecurityError as error:
            raise GroundupError(f"the chat template tries to leave its sandbox ({error}): do not trust this model's files") from error
        except jinja2.TemplateRuntimeError as error:
            raise GroundupError(f"the chat template fails ({error}): chat without it, or get the model again") from error
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template refuses this conversation: {error}") from error
        except Exception as error:  # whatever a stranger's program may raise
            raise GroundupError(
                f"the chat template fails ({type(error).__name__}: {error}): chat without it, or get the model again"
            ) from error

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> list[int]:
        """The ids of ``render``: special tokens that the template writes are tokens, those that people or tools wrote are ordinary text."""
        marked = _Marks(tokenizer)
        text = self.render(marked.of([*messages]), tools=marked.of(tools), **options)
        ids: list[int] = []
        for i, part in enumerate(marked.split(text)):
            if part:
                ids += (tokenizer.encode_ordinary(part) if i % 2 else tokenizer.encode(part, allowed_special="all")).tolist()
        return ids

    @cached_property
    def first_line(self) -> str:
        """The beginning of the source, to know it by."""
        return self.source.strip().partition("\n")[0][:80]


class _Marks:
    """Sets special tokens in what people wrote apart from those of the template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def of(self, value: Any) -> Any:
        """A message, or a part of one, with marks around them."""
        if isinstance(value, str):
            return self._special.sub(f"{_BEGIN}\\g<0>{_END}", value.replace(_BEGIN, "").replace(_END, ""))
        if isinstance(value, Mapping):
            return {key: self.of(entry) for key, entry in value.items()}
        return [self.of(entry) for entry in value] if isinstance(value, list | tuple) else value

    def split(self, text: str) -> list[str]:
        """A rendered text as parts: every second one is a special token's text that a person wrote. A mark alone only parts."""
        parts = re.split(f"{_BEGIN}({self._special.pattern}){_END}", text)
        return [part.replace(_BEGIN, "").replace(_END, "") for part in parts]


@lru_cache(maxsize=1)
def _environment():
    """The sandbox; made when first needed, as jinja2 is an extra."""
    jinja2, sandbox, extensions = (require(name, "a chat template") for name in ("jinja2", "jinja2.sandbox", "jinja2.ext"))

    class Generation(extensions.Extension):
        """``{% generation %}``, by which trainers find what the assistant said: here it is its body."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class Namespace(jinja2.utils.Namespace):
        """Variables that live on after a loop, none of which passes for something of Python's own."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise sandbox.SecurityError(f"{name!r} in a namespace is unsafe.")
            super().__setitem__(name, value)

    def namespace(*values, **named):
        made = Namespace()
        for name, value in dict(*values, **named).items():
            made[name] = value
        return made

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, extensions.loopcontrols]
    )
    functions = {"range": environment.globals["range"], "namespace": namespace, "dict": lambda *values, **named: dict(*values, **named)}
    environment.globals = functions | {"raise_exception": _refuse, "strftime_now": _now}
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(reason: str) -> None:
    raise require("jinja2", "a chat template").TemplateError(reason)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
