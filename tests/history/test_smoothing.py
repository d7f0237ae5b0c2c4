"""Smoothing against hand computation and plain recursions, and as models under evaluate's protocols."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import GroundupError, UsageError
from groundup.evaluate.compress import compress, decompress
from groundup.evaluate.protocol import FromPredictor, LanguageModel, Predictor, Ranker
from groundup.history.counts import count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import FALLBACK, additive, discounts_of, jelinek_mercer, kneser_ney, stupid_backoff
from groundup.history.symbols import Bytes

BEGIN, V = 3, 5  # symbol 4 is never seen
TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=5)


@dataclass(frozen=True)
class Few(Bytes):
    """Bytes below 5 alone, of which 3 is the begin symbol."""

    vocab_size: int = V
    begin: int = BEGIN


def counted(texts: list[list[int]], order: int):
    return count([np.array(text) for text in texts], order=order, vocab_size=V, begin=BEGIN)


def all_models(texts: list[list[int]], order: int) -> list[NgramModel]:
    counts = counted(texts, order)
    return [
        kneser_ney(counts, symbols=Few()),
        kneser_ney(counts, discounts="single", symbols=Few()),
        stupid_backoff(counts, symbols=Few()),
        additive(counts, delta=0.3, symbols=Few()),
        jelinek_mercer(counts, [np.array(texts[0])], symbols=Few()),
    ]


def after(model: NgramModel, context: list[int]) -> np.ndarray:
    cursor = model.start()
    for token in context:
        cursor.push(token)
    return cursor.probabilities()


def test_kneser_ney_by_hand():
    """Bigrams: <s> 0 three times, 0 1 twice, 0 2 once, so D = 1 / (1 + 2). Every single token follows one other: n_2 = 0, D = 1/2."""
    model = kneser_ney(
        count([np.array(t) for t in ([0, 1], [0, 1], [0, 2])], order=2, vocab_size=4, begin=3), symbols=Few(4, 3), discounts="single"
    )
    np.testing.assert_allclose(after(model, []), [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(after(model, [3, 0]), [2 / 27, 17 / 27, 8 / 27, 0], rtol=1e-6)
    np.testing.assert_allclose(after(model, [3]), [8 / 9 + 1 / 27, 1 / 27, 1 / 27, 0], rtol=1e-6)
    np.testing.assert_allclose(after(model, [3, 1]), [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    assert model.notes == (
        "1-grams: discounts 0.5, 1, 1.5: fallback, for n-grams seen 1, 2, 3, 4 times number 3, 0, 0, 0",
        "2-grams: discounts 0.3333, 0.3333, 0.3333",
    )


def test_discounts_follow_chen_and_goodman_and_never_fail():
    enough = np.repeat([1, 2, 3, 4, 9], [40, 20, 10, 5, 3])
    y = 40 / (40 + 2 * 20)
    assert discounts_of(enough).amounts == pytest.approx((0, 1 - 2 * y * 20 / 40, 2 - 3 * y * 10 / 20, 3 - 4 * y * 5 / 10))
    assert discounts_of(enough).kind == "modified"
    assert discounts_of(enough, modified=False).amounts == (0, y, y, y)
    no_threes = discounts_of(np.repeat([1, 2, 4], [4, 1, 2]))
    assert (no_threes.kind, no_threes.amounts[1], no_threes.n) == ("single", 4 / 6, (4, 1, 0, 2))
    out_of_range = discounts_of(np.repeat([1, 2, 3], [2, 2, 9]))  # D_2 = 2 - 3 (1/3) 9/2 < 0
    assert out_of_range.kind == "single"
    for lacking in ([7, 9], [1, 1, 3], [2, 2, 3]):
        assert (discounts_of(np.array(lacking)).kind, discounts_of(np.array(lacking)).amounts) == ("fallback", FALLBACK)


def plain_kneser_ney(texts: list[list[int]], order: int):
    """p(w, h) by recursion over dictionaries."""
    raw, before = Counter(), defaultdict(set)
    for text in texts:
        full = [BEGIN, *text]
        for end in range(1, len(full) + 1):
            for start in range(max(0, end - order - 1), end):
                gram = tuple(full[start:end])
                if len(gram) <= order:
                    raw[gram] += end - 1 > 0
                before[gram[1:]].add(gram[0])
    adjusted = {g: n if len(g) == order or g[0] == BEGIN else len(before[g]) for g, n in raw.items() if g != (BEGIN,)}
    amounts = {k: discounts_of(np.array([n for g, n in adjusted.items() if len(g) == k], np.int64)).amounts for k in range(1, order + 1)}
    followers = defaultdict(dict)
    for gram, n in adjusted.items():
        followers[gram[:-1]][gram[-1]] = n

    def p(w: int, h: tuple[int, ...]) -> float:
        shorter = p(w, h[1:]) if h else 1 / (V - 1)
        if not followers[h]:
            return shorter
        discount = amounts[len(h) + 1]
        total = sum(followers[h].values())
        taken = sum(discount[min(n, 3)] for n in followers[h].values())
        n = followers[h].get(w, 0)
        return (n - discount[min(n, 3)]) / total + taken / total * shorter

    return p


@settings(max_examples=40)
@given(TEXTS, st.integers(1, 4), st.lists(st.sampled_from([0, 1, 2, 4]), max_size=5), st.booleans())
def test_kneser_ney_is_the_recursion_of_the_paper(texts, order, context, from_start):
    context = [BEGIN] * from_start + context
    model, p = kneser_ney(counted(texts, order), symbols=Few()), plain_kneser_ney(texts, order)
    seen = tuple(context[max(0, len(context) - order + 1) :])
    np.testing.assert_allclose(after(model, context), [0 if w == BEGIN else p(w, seen) for w in range(V)], rtol=1e-5, atol=1e-8)


@settings(max_examples=40)
@given(TEXTS, st.integers(1, 4), st.lists(st.integers(0, V - 1), max_size=6))
def test_every_smoothing_sums_to_one_and_leaves_nothing_out(texts, order, context):
    for model in all_models(texts, order):
        p = after(model, context)
        assert p.sum() == pytest.approx(1, abs=1e-6), model.name
        assert p[BEGIN] == 0
        assert (np.delete(p, BEGIN) > 0).all(), model.name


@settings(max_examples=25)
@given(TEXTS, st.integers(1, 4), st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=8), st.integers(0, 8))
def test_scores_and_ranks_in_batches_are_those_of_the_cursor(texts, order, text, split):
    tokens = np.array([BEGIN, *text], np.int64)
    contexts, targets = [tokens[:1], tokens[: 1 + split], tokens[:0]], [tokens[1:], tokens[1 + split :], tokens[1:]]
    for model in all_models(texts, order):
        for got, wanted in zip(model.log_probs(contexts, targets), FromPredictor.log_probs(model, contexts, targets), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        for got, wanted in zip(model.ranks(contexts, targets), FromPredictor.ranks(model, contexts, targets), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_additive_and_stupid_backoff_are_their_formulas():
    texts = [[0, 1, 0, 1, 2], [1, 0, 0]]
    model = additive(counted(texts, 2), delta=0.5, symbols=Few())
    np.testing.assert_allclose(after(model, [0]), np.array([1.5, 2.5, 0.5, 0, 0.5]) / (3 + 0.5 * 4), rtol=1e-6)
    np.testing.assert_allclose(after(model, [4]), [0.25, 0.25, 0.25, 0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(after(model, [BEGIN]), np.array([1.5, 1.5, 0.5, 0, 0.5]) / (2 + 0.5 * 4), rtol=1e-6)
    model = stupid_backoff(counted(texts, 2), alpha=0.4, symbols=Few())
    single = np.array([5, 4, 2, 0, 1]) / 12
    np.testing.assert_allclose(after(model, []), single, rtol=1e-6)
    scores = np.array([1 / 3, 2 / 3, 0.4 * single[2], 0, 0.4 * single[4]])
    np.testing.assert_allclose(after(model, [0]), scores / scores.sum(), rtol=1e-6)
    np.testing.assert_allclose(after(model, [2]), single, rtol=1e-6)


def test_interpolation_weights_are_the_likeliest():
    rng = np.random.default_rng(0)
    train, held_out = [rng.choice(3, 200, p=[0.7, 0.2, 0.1])], [rng.choice([0, 1, 2, 4], 300, p=[0.5, 0.2, 0.1, 0.2])]
    model = jelinek_mercer(count(train, order=1, vocab_size=V, begin=BEGIN), held_out, symbols=Few(), rounds=300)
    frequencies, seen = np.bincount(train[0], minlength=V) / 200, np.bincount(held_out[0], minlength=V)
    weights = np.linspace(0.001, 0.999, 999)
    mixed = np.maximum(1e-12, weights[:, None] / 4 + (1 - weights[:, None]) * frequencies)
    best = weights[(np.log(mixed) @ seen + np.log(weights) + np.log(1 - weights)).argmax()]  # each side has one token more
    np.testing.assert_allclose(after(model, [])[4], best / 4, rtol=0.01)


def test_a_model_of_bytes_speaks_all_protocols_and_writes():
    text = b"the cat sat on the mat. " * 40
    model = kneser_ney(count([np.frombuffer(text, np.uint8)], order=5, vocab_size=257, begin=256))
    for protocol in (LanguageModel, Ranker, Predictor):
        assert isinstance(model, protocol)
    assert model.decode(model.encode("the cat")) == b"the cat"
    assert model.n_bytes(model.encode("Ärger")).sum() == 6
    assert model.sample(["the cat "], max_tokens=6, temperature=0) == [b"sat on"]
    many = [model.encode(text)] * 12  # enough for two threads
    first, *others = model.log_probs([np.array([256])] * 12, many)
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert -first.sum() / np.log(2) / len(text) < 0.6


def test_a_text_is_coded_in_what_the_score_promises_and_decoded_again():
    text = b"A cat, a hat; a mat? " * 12
    counts = count([np.frombuffer(b"the cat in the hat sat on the mat " * 9, np.uint8)], order=4, vocab_size=257, begin=256)
    for model in (kneser_ney(counts), stupid_backoff(counts), additive(counts, delta=0.1)):
        coded = compress(model, text)
        bits = -model.log_probs([np.array(model.prefix)], [model.encode(text)])[0].sum() / np.log(2)
        assert coded.promised_bits == pytest.approx(bits, rel=1e-9)
        assert 8 * coded.n_code_bytes == pytest.approx(bits, rel=1e-3, abs=16)
        assert decompress(model, coded.data) == text


def test_what_cannot_be_is_said():
    counts = counted([[0, 1, 2]], 2)
    model = kneser_ney(counts, symbols=Few())
    with pytest.raises(UsageError, match="token 5 is outside of its vocabulary of 5"):
        model.log_probs([np.array([BEGIN])], [np.array([5])])
    with pytest.raises(UsageError, match="token 9 is outside"):
        model.start().push(9)
    with pytest.raises(UsageError, match="the counts are of 5 symbols, Bytes has 257"):
        kneser_ney(counts)
    with pytest.raises(UsageError, match="delta 0 smooths nothing"):
        additive(counts, delta=0, symbols=Few())
    with pytest.raises(UsageError, match="there is none"):
        jelinek_mercer(counts, [], symbols=Few())
    broken = replace(model, prob=model.prob * np.float32(0.9), name="leaky")
    with pytest.raises(GroundupError, match="leaky: its probabilities"):
        broken.sample(["\1"], max_tokens=1)
