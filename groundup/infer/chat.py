"""A completion loop for the terminal: what you type, the model goes on with. It is no assistant; it continues texts."""

from collections.abc import Iterator
from io import TextIOBase

from groundup.errors import UsageError
from groundup.infer.generate import CountsPrior, generate
from groundup.infer.sampler import check_settings
from groundup.model.decoder import Decoder
from groundup.tokenizer import Tokenizer

WELCOME = """\
This model continues texts, it does not answer: type the beginning of one, and it goes on from there.
A further line is added below what stands so far; an empty one lets the model go on.
/reset starts a new text, /temperature X sets how freely it draws (0: the likeliest), /quit or Ctrl-D leaves, Ctrl-C stops it midway.
A text that starts with a slash is typed with two.
"""


def chat(
    model: Decoder,
    tokenizer: Tokenizer,
    source: TextIOBase,
    sink: TextIOBase,
    *,
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    prior: CountsPrior | None = None,
) -> None:
    """Reads lines from ``source`` and streams each one's continuation to ``sink``, until /quit or the end of the input.

    The text so far is kept across lines, until /reset or until the model ends it. ``max_tokens`` bounds one continuation; with a seed
    the n-th line of a session draws from seed + n. The other settings are ``generate``'s. Raises UsageError for settings that make no
    sense.
    """
    check_settings(temperature, top_k, top_p)
    text: list[int] = []
    turn = 0
    sink.write(WELCOME)
    while True:
        line = _ask(source, sink)
        if line is None or line.split() == ["/quit"]:
            return
        if line.startswith("/") and not line.startswith("//"):
            match line.split():
                case ["/reset"]:
                    text = []
                    sink.write("A new text.\n")
                case ["/temperature", value]:
                    temperature = _temperature(value, temperature, sink)
                case _:
                    sink.write(f"{line!r} is no command: there are /reset, /temperature X and /quit.\n")
            continue
        line = line.removeprefix("/")
        if line or not text:
            text += tokenizer.encode_ordinary("\n" + line if text else line).tolist()
        tokens = generate(
            model,
            [tokenizer.end_of_text, *text],
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=None if seed is None else seed + turn,
            stop_ids=(tokenizer.end_of_text,),
            prior=prior,
            vocab_size=tokenizer.vocab_size,
        )
        turn += 1
        new, interrupted = _stream(tokens, tokenizer, sink)
        text += new
        if interrupted:
            sink.write("[stopped]\n")
        elif len(new) < max_tokens:
            text = []
            sink.write("[the text ends here; the next line begins a new one]\n")


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
