"""A loop for the terminal: what you type, the model goes on with, or, where it was tuned for that and has a chat template, answers."""

from collections.abc import Collection, Iterator
from io import TextIOBase

from groundup.errors import UsageError
from groundup.infer.generate import CountsPrior, generate
from groundup.infer.sampler import check_settings
from groundup.infer.template import ChatTemplate, Message
from groundup.model.decoder import Decoder
from groundup.tokenizer import Tokenizer

CONTINUES = """\
This model continues texts, it does not answer: type the beginning of one, and it goes on from there.
A further line is added below what stands so far; an empty one lets the model go on.
/reset starts a new text, /temperature X sets how freely it draws (0: the likeliest), /quit or Ctrl-D leaves, Ctrl-C stops it midway.
A text that starts with a slash is typed with two.
"""

ANSWERS = """\
Type what you want to say; the model answers, and keeps in mind what was said so far.
/reset starts over, /temperature X sets how freely it draws (0: the likeliest), /quit or Ctrl-D leaves, Ctrl-C stops it midway.
A line that starts with a slash is typed with two.
"""


class Continuation:
    """One text, which the model goes on with."""

    welcome = CONTINUES

    def __init__(self, tokenizer: Tokenizer, opening: int) -> None:
        self._tokenizer, self._opening = tokenizer, opening
        self._text: list[int] = []

    def reset(self) -> str:
        """Forgets the text; says so."""
        self._text = []
        return "A new text.\n"

    def prompt(self, line: str) -> list[int]:
        """The text with a line below it."""
        if line or not self._text:
            self._text += self._tokenizer.encode_ordinary("\n" + line if self._text else line).tolist()
        return [self._opening, *self._text]

    def answered(self, new: list[int], ended: bool) -> str:
        """Takes what the model wrote and whether that ends the text; says so."""
        self._text += new
        if not ended:
            return ""
        self._text = []
        return "[the text ends here; the next line begins a new one]\n"


class Conversation:
    """Turns of a user and an assistant, put to the model by its chat template."""

    welcome = ANSWERS

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, system: str | None = None) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._messages: list[Message] = []

    def reset(self) -> str:
        """Forgets what was said, but for the system's words; says so."""
        self._messages = []
        return "A new conversation.\n"

    def prompt(self, line: str) -> list[int]:
        """All that was said with a line of the user's, up to where the answer begins; UsageError if the template refuses it."""
        asked = [*self._messages, {"role": "user", "content": line}]
        ids = self._template.encode(self._tokenizer, [*self._system, *asked])
        self._messages = asked
        return ids

    def answered(self, new: list[int], ended: bool) -> str:
        """Takes what the model said; says where that was cut short.

        Its answer is what stands behind the last control token: before it are thoughts, which gpt-oss' template refuses in a turn.
        """
        control = self._tokenizer.special_tokens.values()
        begin = max((i + 1 for i, token in enumerate(new) if token in control), default=0)
        text = self._tokenizer.decode(new[begin:])
        self._messages = [*self._messages, {"role": "assistant", "content": text}]
        return "" if ended else "[cut short: --max-tokens]\n"


def chat(
    model: Decoder,
    tokenizer: Tokenizer,
    source: TextIOBase,
    sink: TextIOBase,
    *,
    history: Continuation | Conversation | None = None,
    stop_ids: Collection[int] | None = None,
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    prior: CountsPrior | None = None,
) -> None:
    """Reads lines from ``source`` and streams what the model says to each to ``sink``, until /quit or the end of the input.

    Args:
        history: what a line is added to and how: a text (the default, which begins with <|endoftext|>), or a conversation.
        stop_ids: tokens that end what the model says; <|endoftext|> by default.
        max_tokens: most tokens that it says to one line.
        seed: the n-th line of a session draws from seed + n.

    The other settings are ``generate``'s. Raises UsageError for settings that make no sense.
    """
    check_settings(temperature, top_k, top_p)
    history = history or Continuation(tokenizer, tokenizer.end_of_text)
    stop_ids = (tokenizer.end_of_text,) if stop_ids is None else stop_ids
    turn = 0
    sink.write(history.welcome)
    while True:
        line = _ask(source, sink)
        if line is None or line.split() == ["/quit"]:
            return
        if line.startswith("/") and not line.startswith("//"):
            temperature = _obey(line, history, temperature, sink)
            continue
        try:
            prompt = history.prompt(line.removeprefix("/"))
        except UsageError as error:
            sink.write(f"{error}\n")
            continue
        if len(prompt) > (limit := model.config.context_length):
            sink.write(f"[{len(prompt):,} tokens by now, and the model sees {limit:,}: it has forgotten the beginning]\n")
        tokens = generate(
            model,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=None if seed is None else seed + turn,
            stop_ids=stop_ids,
            prior=prior,
            vocab_size=min(tokenizer.vocab_size, model.config.vocab_size),
        )
        turn += 1
        new, interrupted = _stream(tokens, tokenizer, sink)
        note = history.answered(new, ended=not interrupted and len(new) < max_tokens)
        sink.write("[stopped]\n" if interrupted else note)


def _obey(line: str, history: Continuation | Conversation, temperature: float, sink: TextIOBase) -> float:
    """Does what a line with a slash says; gives the temperature from then on."""
    match line.split():
        case ["/reset"]:
            sink.write(history.reset())
        case ["/temperature", value]:
            return _temperature(value, temperature, sink)
        case _:
            sink.write(f"{line!r} is no command: there are /reset, /temperature X and /quit.\n")
    return temperature


def _ask(source: TextIOBase, sink: TextIOBase) -> str | None:
    """The next line without its end; None when there are no more. Ctrl-C drops what was typed and asks again."""
    while True:
        sink.write("> ")
        sink.flush()
        try:
            line = source.readline()
        except KeyboardInterrupt:
            sink.write("\n(Ctrl-D leaves)\n")
            continue
        if not line:
            sink.write("\n")
            return None
        return line.removesuffix("\n").removesuffix("\r")


def _stream(tokens: Iterator[int], tokenizer: Tokenizer, sink: TextIOBase) -> tuple[list[int], bool]:
    """Writes the text of tokens as they come; gives those that came, and whether Ctrl-C stopped them."""
    new: list[int] = []
    decoder, interrupted = tokenizer.decoder(), False
    try:
        for token in tokens:
            new.append(token)
            sink.write(decoder.push(token))
            sink.flush()
    except KeyboardInterrupt:
        interrupted = True
    sink.write(decoder.finish() + "\n")
    sink.flush()
    return new, interrupted


def _temperature(value: str, current: float, sink: TextIOBase) -> float:
    """The temperature typed, or the current one where that makes no sense, which it says."""
    try:
        new = float(value)
        check_settings(new, None, None)
    except (ValueError, UsageError):
        sink.write(f"/temperature takes a number of at least 0, not {value!r}; it stays {current:g}.\n")
        return current
    sink.write(f"The temperature is {new:g}.\n")
    return new
