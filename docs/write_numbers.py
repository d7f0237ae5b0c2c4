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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from groundup.account import cost, find_ceilings, find_device, format_bytes, format_count, format_flops, format_usd, parse_budget
from groundup.account.answers import worth
from groundup.account.cluster import Cluster, best_steps, network_of
from groundup.account.conventions import conventions
from groundup.account.inference import Requests, Serving, cache_bytes
from groundup.account.known import known_model
from groundup.account.law import EPOCH, LAWS, SMALL_SCALE
from groundup.account.layouts import Counted, Graph, layer_activation_bytes, state_bytes
from groundup.account.plan import COUNTS_BYTES_PER_S, TEXT_SHARE, Plan, make_plan
from groundup.account.published import BYTES_PER_TOKEN, OPT_SHAPES, PUBLISHED_RUNS, opt_counted, opt_printed
from groundup.account.rules import Machine, Overrides, bytes_per_token
from groundup.account.shapes import architecture
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm
from groundup.data import BatchStream, Document, TokenStore, evaluation_windows, splits, write_shards
from groundup.data.near import JOINED_FROM
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.baselines import ByteTokenizer, character_tokenizer
from groundup.tokenizer.merging import learn
from groundup.tokenizer.patterns import splitter

DOCS = Path(__file__).resolve().parent
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


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table on lines of its own."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n" + "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


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
                format_count(cost(p.model, seq_len=p.seq_len).parameters),
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
        counted = cost(p.model, seq_len=p.seq_len)
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
    from groundup.evaluate.bits import RESAMPLES

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
    from benchmarks.resources import RESULTS, load_result

    rows = []
    for text, result in load_result(RESULTS / "tokenizer.json").get("texts", {}).items():
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
        counted = cost(architecture("llama", vocab_size=vocab_size, **shape), seq_len=seq_len)
        share = next(row.share for row in counted.rows() if row.name == "head")
        flops = format_flops(counted.flops_per_token_training * 1e6 / each)
        rows.append((f"{vocab_size:,}", f"{each:.2f}", seq_len, flops, f"{share:.0%}"))
    return table(("vocabulary", "bytes a token", "tokens in 4,096 bytes", "FLOPs of a megabyte", "of it the head"), rows)


# ---- what a run costs ----


def share(x: float) -> str:
    """A share in percent."""
    return f"{x:.1%}"


def convention_table() -> str:
    """One run of an 8B model as everyone counts it."""
    config, peak = known_model("llama-3.1-8b"), find_device("h100").peak("bf16")
    speed = 0.4 * peak / cost(config, seq_len=8192).flops_per_token_training
    found = conventions(config, seq_len=8192, tokens_per_s=speed, peak_flops=peak)
    rows = [(c.name, f"`{c.formula}`", format_flops(c.flops_per_token), share(c.utilization), c.used_by) for c in found]
    return table(("convention", "FLOPs of a token", "which is", "utilization", "used by"), rows)


@cache
def gpt2() -> ModelConfig:
    """GPT-2's smallest, without biases; its positions are a table beside it."""
    layer = Layer(Attention(12, 12, 64, rotary=None), Dense(3072, "gelu"), Norm("layer"))
    return ModelConfig(50_257, 768, 1024, (layer,) * 12, final_norm=Norm("layer"), tied=True)


def known_answers() -> str:
    """Numbers that the field knows, as ours come out."""
    small, h100, runs = cost(gpt2(), seq_len=1024), find_device("h100"), PUBLISHED_RUNS
    a100 = find_device("a100").peak("bf16")
    found = {c.name: c.utilization for c in conventions(gpt2(), seq_len=1024, tokens_per_s=102_400 / 0.755, peak_flops=a100)}
    days = 6 * 70e9 * 15e12 / (0.5 * 1024 * h100.peak("bf16")) / 86_400
    deepseek = runs["deepseek-v3"]
    pcie, sxm = find_device("h100-pcie").peak("fp8"), h100.peak("fp8")
    rows = [
        ("GPT-2, no biases, parameters with 1,024 x 768 positions", f"{small.parameters + 1024 * 768:,}"),
        ("its forward FLOPs of 1,024 tokens, every query meeting every key", f"{small.tree.executed_forward_flops:,}"),
        ("the same, causal pairs only", f"{small.tree.forward_flops:,}"),
        ("100 such sequences trained in 755 ms on an A100: PaLM's MFU", share(found["6N + 12LHET"])),
        ("the same run, causal-exact", share(found["exact, causal pairs"])),
        ("70B parameters, 15T tokens, 1,024 H100 at half of the peak", f"{days:.1f} days"),
        ("8 x 80 GB at 16 bytes a parameter", f"{8 * 80e9 / sum(state_bytes(1).values()) / 1e9:g}B parameters"),
        ("GPT-3, 6 N D", f"{runs['gpt-3'].flops:.3g} FLOPs"),
        ("a feed-forward matrix of GPT-3 in fp32", f"{4 * 12_288 * 49_152 / (1 << 20):,.0f} MiB"),
        ("DeepSeek-V3, 6 N D of its active parameters", f"{deepseek.flops:.3g} FLOPs"),
        ("over its device hours at the fp8 peak of a PCIe card", share(deepseek.utilization(pcie))),
        ("over the same hours at the fp8 peak of the SXM module that it ran on", share(deepseek.utilization(sxm))),
    ]
    return table(("question", "answer"), rows)


def opt_table() -> str:
    """The famous table as it is printed, and as it should be."""
    rows = []
    for shape in OPT_SHAPES:
        printed, counted = opt_printed(shape), opt_counted(shape)
        cells = [f"{printed.flops:.1e}", *(f"{x:.0%}" for x in (printed.projections, printed.mlp)), share(printed.attention)]
        cells += [f"{counted.flops:.1e}", *(f"{x:.0%}" for x in (counted.projections, counted.mlp)), share(counted.attention)]
        rows.append((shape.name, *cells))
    names = ("FLOPs an update", "projections", "MLP", "attention")
    return table(("", *(f"printed: {name}" for name in names), *(f"counted: {name}" for name in names)), rows)


def law_table() -> str:
    """The laws and what they take for one budget."""
    rows = []
    for key, law in LAWS.items():
        constants = [f"{getattr(law, name):g}" for name in ("E", "A", "alpha", "B", "beta")]
        n, d = law.optimal(1e24)
        best = (format_count(n), format_count(d), f"{d / n:.0f}") if law.unit == "nats a token" else ("", "", "")
        rows.append((f"`{key}`", law.name, law.unit, *constants, *best))
    return table(("`--law`", "source", "unit", "E", "A", "alpha", "B", "beta", "N at 1e24 FLOPs", "D", "D/N"), rows)


def law_certainty() -> str:
    """What publications say of their own constants."""
    return table(("law", "interval"), [(f"`{key}`", law.certainty) for key, law in LAWS.items()])


def zero_table() -> str:
    """The first figure of the ZeRO paper."""
    rows = []
    for zero in range(4):
        found = state_bytes(7.5e9, zero=zero, data=64)
        rows.append((zero, *(f"{n / 1e9:.2f}" for n in found.values()), f"{sum(found.values()) / 1e9:.1f} GB"))
    return table(("ZeRO stage", *state_bytes(1), "together"), rows)


def activation_table() -> str:
    """A layer of GPT-3 under each policy, one sequence."""
    d, h, t = 12_288, 96, 2048
    layer = Layer(Attention(h, h, 128, rotary=None), Dense(4 * d, "gelu"), Norm("layer"))
    paper = Graph(fused_attention=False, dropout=True)
    rows = []
    for name, options in (
        ("one device, nothing recomputed", {}),
        ("8 devices, tensor parallel only", {"tensor": 8, "sequence_parallel": False}),
        ("8 devices, the sequence split too", {"tensor": 8}),
        ("and attention recomputed", {"tensor": 8, "recompute": "selective"}),
        ("and everything recomputed", {"tensor": 8, "recompute": "full"}),
    ):
        found = layer_activation_bytes(layer, d, seq_len=t, graph=paper, **options)
        rows.append((name, f"{found / (t * d):.2f} T D", format_bytes(found)))
    return table(("layer of GPT-3, one sequence", "bytes", "which is"), rows)


def layout_table() -> str:
    """Layouts of a 70B model on 64 devices."""
    h100, counted = find_device("h100"), Counted(known_model("llama-3.1-70b"), 4096)
    cluster = Cluster(h100, 64, network_of("h100", h100), ceilings=find_ceilings("h100")).for_model(counted)
    steps = best_steps(counted, cluster, batch_size=1024)
    rows = []
    for step in [x for x in steps if x.fits][:5] + [x for x in steps if not x.fits][:3]:
        speed = (share(step.mfu), f"{step.tokens_per_s:,.0f}") if step.fits else ("does not fit", "")
        rows.append((step.layout, step.layout.micro_batch, step.layout.recompute, format_bytes(step.n_bytes), *speed))
    return table(("layout", "micro-batch", "recomputed", "a device", "utilization", "tokens/s"), rows)


def serving_table() -> str:
    """Llama-2-13B at 1,024 tokens, with its own and with fewer kv heads."""
    rows = []
    for n_kv_heads in (40, 8):
        config = known_model("llama-2-13b")
        layers = tuple(replace(x, mixer=replace(x.mixer, n_kv_heads=n_kv_heads)) for x in config.layers)
        config = replace(config, layers=layers)
        for batch in (1, 64, 256):
            s = Serving(config, Requests(1023, 1, batch), find_device("h100"))
            fits = "" if s.memory_bytes < s.device.memory_bytes else " (does not fit)"
            seconds = s.seconds_per_token(1024)
            each = f"{cache_bytes(config, 1):,.0f}"
            rows.append(
                (n_kv_heads, each, batch, format_bytes(s.memory_bytes) + fits, f"{1e3 * seconds:.2f} ms", f"{batch / seconds:,.0f}")
            )
    return table(("kv heads", "cache of a token, bytes", "batch", "weights and cache", "a token, at least", "tokens/s, at most"), rows)


def gain_table() -> str:
    """What five percent is worth on runs whose bill is public."""
    rows = []
    for run in PUBLISHED_RUNS.values():
        found = worth(0.05, seconds=86_400 * run.days, usd=run.usd, parameters=run.parameters, tokens=run.tokens, law=EPOCH)
        bits = EPOCH.bits_per_byte(found.loss, BYTES_PER_TOKEN)
        saved = (format_usd(run.usd), format_usd(found.usd), f"{run.days:.1f}", f"{found.seconds / 86_400:.1f}", f"{bits:.5f}")
        rows.append((run.name, *saved, run.source))
    return table(("run", "rent", "5 % saves", "days", "5 % saves", "or bits per byte", "source"), rows)


NUMBERS: dict[str, Callable[[], str]] = {
    "activations": activation_table,
    "batch-rows": training_rows,
    "candidates": candidates,
    "cat": cat,
    "conventions": convention_table,
    "counts-rate": lambda: f"{COUNTS_BYTES_PER_S / 1e6:g} MB",
    "example-text": lambda: f"{EXAMPLE_BYTES / 1e6:g} MB",
    "gains": gain_table,
    "greeting": greeting,
    "held-out": lambda: f"{splits.HELD_OUT:.1%}",
    "joined-from": lambda: f"{JOINED_FROM:g}",
    "known-answers": known_answers,
    "law": law,
    "law-certainty": law_certainty,
    "laws": law_table,
    "layouts": layout_table,
    "machine": machine,
    "measured": measured,
    "min-bytes": lambda: f"{splits.MIN_BYTES:,}",
    "opt": opt_table,
    "plans": plans,
    "pretokens": pretokens,
    "printed-plan": printed_plan,
    "ratio-mean": lambda: f"{ratios()[1]:.2f}",
    "ratio-sum": lambda: f"{ratios()[0]:.2f}",
    "repeats": repeats,
    "rehearsal": rehearsal,
    "resamples": resamples,
    "serving": serving_table,
    "text-share": lambda: f"{TEXT_SHARE:.0%}",
    "tokenizer-speeds": tokenizer_speeds,
    "tokenizers": tokenizers,
    "vocabulary_cost": vocabulary_cost,
    "windows": windows,
    "zero": zero_table,
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
