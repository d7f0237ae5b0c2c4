"""Writes the numbers into the docs, so that none is typed by hand and none drifts from the code.

    python docs/write_numbers.py            write them
    python docs/write_numbers.py --check    only compare; exit status 1, naming each that is out of date

Between ``<!-- number: NAME -->`` and ``<!-- /number -->`` stands what ``NUMBERS[NAME]`` returns. All of them follow from the code and from
``benchmarks/results``, on any machine: what calibration decides is shown for the machine ``EXAMPLE``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from accounting_numbers import ACCOUNTING
from counting_numbers import COUNTING
from evaluation_numbers import EVALUATION
from history_numbers import HISTORY
from page import DOCS, load, table
from weights_numbers import WEIGHTS

from groundup.account import cost, format_bytes, format_count, format_flops, parse_budget
from groundup.account.law import SMALL_SCALE
from groundup.account.plan import COUNTS_BYTES_PER_S, TEXT_SHARE, Plan, make_plan
from groundup.account.rules import Machine, Overrides, bytes_per_token
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.data import BatchStream, Document, TokenStore, evaluation_windows, splits, write_shards
from groundup.data.near import JOINED_FROM
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.baselines import ByteTokenizer, character_tokenizer
from groundup.tokenizer.merging import learn
from groundup.tokenizer.patterns import splitter

MARKED = re.compile(r"(<!-- number: ([^ ]+) -->)(.*?)(<!-- /number -->)", re.DOTALL)
EXAMPLE = Machine("example", "cpu", 8e-12, 1e-7, 130e9, 2.5e6, 16 << 30, seconds_per_step=0.015)
EXAMPLE_BYTES = 11_000_000
"""Training text of the examples: about the standard library's."""


def rewrite(text: str, numbers: dict[str, Callable[[], str]], where: str) -> str:
    """The text with every marked number as it is now; SystemExit naming a marker that is unknown or not closed."""

    def current(match: re.Match[str]) -> str:
        opening, name, _, closing = match.groups()
        if name not in numbers:
            raise SystemExit(f"{where}: no number is called {name!r}; known: {', '.join(sorted(numbers))}")
        return opening + numbers[name]() + closing

    if len(MARKED.findall(text)) != text.count("<!-- number:"):
        raise SystemExit(f"{where}: a number is opened and not closed by <!-- /number -->")
    return MARKED.sub(current, text)


# ---- the path of the data ----


@cache
def toy_store() -> TokenStore:
    """Two documents of made-up ids, 0 standing for <|endoftext|>."""
    documents = [(Document("a", b"abcdefg"), np.arange(8)), (Document("b", b"hijk"), np.array([0, 8, 9, 10, 11]))]
    folder = Path(tempfile.mkdtemp()) / "tokens"
    write_shards(documents, folder, vocab_size=12, tokenizer_hash="none")
    return TokenStore.open(folder)


def ids(row: np.ndarray) -> str:
    """A row of ids, "." where nothing is scored."""
    return " ".join("." if i < 0 else str(i) for i in row.tolist())


def training_rows() -> str:
    """The first two steps of a stream over the toy store."""
    stream = BatchStream(toy_store(), batch_size=2, seq_len=4, seed=0)
    rows = []
    for step in range(2):
        batch = stream.batch(step)
        for i in range(2):
            rows.append((step, batch.positions[i], ids(batch.tokens[i]), ids(batch.targets[i]), ids(batch.documents[i])))
    return table(("step", "position", "tokens", "targets", "document"), rows)


# ---- how a budget becomes a model ----


@cache
def example_plan(budget: str, d_model: int | None = None) -> Plan:
    """The plan for a budget on the example machine."""
    return make_plan(parse_budget(budget), EXAMPLE, EXAMPLE_BYTES, overrides=Overrides(d_model=d_model))


def machine() -> str:
    """The example machine's fields."""
    rows = [
        ("`seconds_per_flop`", f"{EXAMPLE.seconds_per_flop:g}", f"products at {format_flops(1 / EXAMPLE.seconds_per_flop)}/s"),
        ("`seconds_per_activation`", f"{EXAMPLE.seconds_per_activation:g}", "everything between the products"),
        ("`seconds_per_step`", f"{EXAMPLE.seconds_per_step:g}", "what a step costs however few its tokens"),
        ("`tokenizer_bytes_per_s`", f"{EXAMPLE.tokenizer_bytes_per_s:g}", "training and applying the tokenizer"),
        ("`memory_bytes`", format_bytes(EXAMPLE.memory_bytes), ""),
    ]
    return table(("field", "value", "what it stands for"), rows)


def plans() -> str:
    """What the planner chooses as the budget grows."""
    rows = []
    for budget in ("10s", "30s", "3m", "20m", "2h"):
        p = example_plan(budget)
        rows.append(
            (
                budget,
                f"{p.text_bytes / 1e6:.1f} MB",
                f"{p.model.vocab_size:,}",
                p.seq_len,
                p.model.d_model,
                len(p.model.layers),
                p.batch_size * p.seq_len,
                f"{p.n_steps:,}",
                format_count(cost(p.model, Training(p.seq_len)).parameters),
                format_flops(p.flops),
            )
        )
    names = ("budget", "text", "vocab_size", "seq_len", "d_model", "layers", "tokens a step", "steps", "parameters", "FLOPs")
    return table(names, rows)


def printed_plan() -> str:
    """The plan for three minutes, as the command prints it."""
    rows = [(c.name, c.value, c.why, c.source) for c in example_plan("3m").choices]
    return table(("", "chosen", "why", "source"), rows)


def candidates() -> str:
    """Shapes for three minutes, and what the law expects of each."""
    rows = []
    for width in (64, 96, 128, 192, 256, 384):
        p = example_plan("3m", width)
        counted = cost(p.model, Training(p.seq_len))
        n = counted.parameters_non_embedding + p.model.vocab_size * width
        chosen = " (chosen)" if width == example_plan("3m").model.d_model else ""
        loss = SMALL_SCALE.loss(n, p.tokens, EXAMPLE_BYTES / bytes_per_token(p.model.vocab_size))
        tokens = p.batch_size * p.seq_len
        microseconds = 1e6 * EXAMPLE.seconds_of_step(p.model, p.seq_len, tokens) / tokens
        rows.append(
            (f"{width}{chosen}", len(p.model.layers), format_count(n), f"{microseconds:.0f} µs", format_count(p.tokens), f"{loss:.3f}")
        )
    return table(("d_model", "layers", "N", "time a token", "D", "predicted L"), rows)


def repeats() -> str:
    """What tokens are worth when the text is read again and again."""
    epochs = (1, 2, 4, 8, 16, 64)
    return table(("epochs", *epochs), [("worth, in fresh epochs", *(f"{SMALL_SCALE.effective_tokens(e, 1.0):.2f}" for e in epochs))])


def law() -> str:
    """The constants of the law for small scale."""
    fields = ("E", "A", "alpha", "B", "beta", "repeat_half_life")
    return table([f"`{name}`" for name in fields], [[f"{getattr(SMALL_SCALE, name):g}" for name in fields]])


def measured() -> str:
    """The tables of all result files."""
    sys.path.append(str(DOCS.parent))  # benchmarks are a part of the repository, not of the installed package
    from benchmarks.table import RESULTS, block

    return f"\n{block(RESULTS) or 'No result files yet.'}\n"


# ---- bits per byte ----


def tokenizers() -> str:
    """A guess without any knowledge, uniform over the vocabulary, on the same text cut by three tokenizers."""
    text = (DOCS.parent / "LICENSE").read_bytes()
    rows = []
    for vocab_size in (257, 512, 1024):
        tokenizer = Tokenizer.train([text], vocab_size, n_workers=1)
        n_tokens = len(tokenizer.encode_ordinary(text))
        bits = n_tokens * np.log2(vocab_size) / len(text)
        rows.append((f"{vocab_size:,}", f"{n_tokens:,}", f"{len(text) / n_tokens:.2f}", f"{vocab_size:,}", f"{bits:.2f}"))
    return table(("vocabulary", "tokens", "bytes a token", "perplexity", "bits per byte"), rows)


def ratios() -> tuple[float, float]:
    """Bits per byte of a long easy and a short hard document: of all bytes together, and as a mean of the two ratios."""
    bits, n_bytes = np.array([9_000.0, 500.0]), np.array([10_000, 100])
    return float(bits.sum() / n_bytes.sum()), float((bits / n_bytes).mean())


def windows() -> str:
    """The rows that score the toy store."""
    (batch,) = evaluation_windows(toy_store(), seq_len=4, stride=2, batch_size=6)
    rows = [(p, ids(x), ids(y)) for p, x, y in zip(batch.positions, batch.tokens, batch.targets, strict=True) if p >= 0]
    return table(("position", "tokens", "targets"), rows)


def resamples() -> str:
    """Resamples of the bootstrap."""
    from groundup.evaluate.statistics import RESAMPLES

    return f"{RESAMPLES:,}"


def rehearsal() -> str:
    """Share of the budget that the rehearsal's steps take, and the most that it takes."""
    from groundup.rehearsal import MOST_S, SHARE

    return f"{100 * SHARE:g} %, at most {MOST_S:g} seconds,"


# ---- tokens ----

GREETING = "Hello, 🌍! 你好!"


def greeting() -> str:
    """One greeting as bytes and as characters."""
    n_bytes, rows = len(GREETING.encode()), []
    for name, tokenizer in (("bytes", ByteTokenizer()), ("characters", character_tokenizer([GREETING]))):
        n = len(tokenizer.encode_ordinary(GREETING))
        rows.append((f"`{GREETING}`", name, n, f"{n_bytes / n:.2f}"))
    return table(("text", "tokens are", "tokens", "bytes a token"), rows)


def cat() -> str:
    """Three merges of a classic."""
    merges = learn({"the cat in the hat": 1}, 3, lambda done, total: None)
    token_bytes = [bytes([byte]) for byte in range(256)]
    rows = []
    for left, right in merges:
        token_bytes.append(token_bytes[left] + token_bytes[right])
        rows.append((len(token_bytes) - 1, *(f"`{token_bytes[i].decode()!r}`" for i in (left, right, -1))))
    return table(("id", "left", "right", "makes"), rows)


def pretokens() -> str:
    """How a sentence is cut before merging."""
    text = "I'll say supercalifragilisticexpialidocious!"
    cut = splitter("gpt2")(text)
    return table(("text", "pre-tokens", ""), [(f"`{text}`", len(cut), " ".join(f"`{piece!r}`" for piece in cut))])


def tokenizer_speeds() -> str:
    """Encoding and decoding beside native tokenizers, from the result file."""
    rows = []
    for text, result in load("tokenizer").get("texts", {}).items():
        warm, first, decode = (result["summary"][what] for what in ("warm", "first", "decode"))
        for name, found in warm.items():
            ratios = [f"{by[name]['over_gigatoken']:.2f}" if name in by else "" for by in (first, warm, decode)]
            rows.append((text, name, f"{found['per_second'] / 1e6:.0f}", *ratios))
    return table(("text", "tokenizer", "warm, MB/s", "first pass", "warm", "decoding"), rows)


def vocabulary_cost() -> str:
    """What one pass over a megabyte costs with vocabularies of several sizes."""
    rows = []
    for vocab_size in (512, 2048, 8192, 32_768, 131_072):
        each = bytes_per_token(vocab_size)
        seq_len = round(4096 / each)
        shape = {"d_model": 768, "n_layers": 12, "head_dim": 64, "context_length": seq_len}
        counted = cost(architecture("llama", vocab_size=vocab_size, **shape), Training(seq_len))
        share = next(row.share for row in counted.rows() if row.name == "head")
        flops = format_flops(counted.flops_per_token_training * 1e6 / each)
        rows.append((f"{vocab_size:,}", f"{each:.2f}", seq_len, flops, f"{share:.0%}"))
    return table(("vocabulary", "bytes a token", "tokens in 4,096 bytes", "FLOPs of a megabyte", "of it the head"), rows)


NUMBERS: dict[str, Callable[[], str]] = {
    **ACCOUNTING,
    **HISTORY,
    **WEIGHTS,
    **COUNTING,
    **EVALUATION,
    "batch-rows": training_rows,
    "candidates": candidates,
    "cat": cat,
    "counts-rate": lambda: f"{COUNTS_BYTES_PER_S / 1e6:g} MB",
    "example-text": lambda: f"{EXAMPLE_BYTES / 1e6:g} MB",
    "greeting": greeting,
    "held-out": lambda: f"{splits.HELD_OUT:.1%}",
    "joined-from": lambda: f"{JOINED_FROM:g}",
    "law": law,
    "machine": machine,
    "measured": measured,
    "min-bytes": lambda: f"{splits.MIN_BYTES:,}",
    "plans": plans,
    "pretokens": pretokens,
    "printed-plan": printed_plan,
    "ratio-mean": lambda: f"{ratios()[1]:.2f}",
    "ratio-sum": lambda: f"{ratios()[0]:.2f}",
    "repeats": repeats,
    "rehearsal": rehearsal,
    "resamples": resamples,
    "text-share": lambda: f"{TEXT_SHARE:.0%}",
    "tokenizer-speeds": tokenizer_speeds,
    "tokenizers": tokenizers,
    "vocabulary_cost": vocabulary_cost,
    "windows": windows,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites the chapters, or with --check only compares them; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files (default: every chapter in docs/)")
    given = parser.parse_args(arguments)
    stale = []
    for file in given.files or sorted(DOCS.glob("*.md")):
        text = file.read_text()
        new = rewrite(text, NUMBERS, file.name)
        if new != text and given.check:
            pairs = zip(MARKED.findall(text), MARKED.findall(new), strict=True)
            stale += [f"{file.name}: {name}" for (_, name, old, _), (_, _, now, _) in pairs if old != now]
        elif new != text:
            file.write_text(new)
            print(f"wrote {file.name}")
    for line in stale:
        print(f"out of date: {line}; run python docs/write_numbers.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
