"""The suffix array against sorting, the longest match against looking everywhere, and the unbounded n-gram as a distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor, LanguageModel, Predictor
from groundup.history.suffix import Memory, fit_weights, kinds, unbounded
from groundup.kernels.suffix_array import longest_match, suffix_array

BEGIN = 256


@settings(max_examples=80)
@given(st.lists(st.integers(0, 2), max_size=40), st.sampled_from([np.int32, np.int64]))
def test_suffixes_are_sorted(text, dtype):
    order = suffix_array(np.array(text, dtype), 3)
    assert order.tolist() == sorted(range(len(text)), key=lambda i: text[i:])


@pytest.mark.parametrize("text", [[0] * 500, [0, 1] * 300, [5, 4, 3, 2, 1, 0], [1, 0, 2] * 50 + [1, 0]])
def test_suffixes_of_repeats_are_sorted(text):
    assert suffix_array(np.array(text, np.int32), 6).tolist() == sorted(range(len(text)), key=lambda i: text[i:])


@settings(max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=15), min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=8))
def test_the_longest_match_is_that_of_a_search_of_everything(documents, context):
    memory = Memory.of([np.array(d) for d in documents], 5, 4)
    text = [t for d in documents for t in (4, *d)]
    tokens = np.array(context, np.uint32)
    length, low, high = longest_match(memory.stored, memory.order, tokens, 0, len(tokens))

    def followers(n: int) -> list[int]:
        ends = [e for e in range(n, len(text) + 1) if text[e - n : e] == context[len(context) - n :]]
        return sorted(text[e] if e < len(text) else 4 for e in ends if e > 0)

    assert length == max(n for n in range(len(context) + 1) if n == 0 or followers(n))
    if length:
        assert sorted(memory.followers[low:high].tolist()) == followers(length)


def model_of(text: bytes):
    return unbounded([np.frombuffer(text, np.uint8)], order=3, vocab_size=257, begin=BEGIN)


def test_the_mixture_is_a_distribution_and_remembers():
    rng = np.random.default_rng(0)
    song = bytes(rng.integers(97, 101, 150, dtype=np.uint8))
    model = model_of(bytes(rng.integers(97, 101, 400, dtype=np.uint8)) + song * 6)
    assert isinstance(model, LanguageModel)
    assert isinstance(model, Predictor)
    tokens = model.encode(song + b"never said before" + song)
    pairs = [np.array([BEGIN])] * 2, [tokens, tokens[:40]]
    for got, wanted in zip(model.log_probs(*pairs), FromPredictor.log_probs(model, *pairs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)  # the cursor checks that each distribution sums to one
    base, mixed = (m.log_probs(*pairs)[0][20:140].mean() / np.log(2) for m in (model.base, model))
    assert mixed > -0.3
    assert base < -1
    long = [np.resize(tokens, 1200)]  # the cursor forgets the oldest of more tokens than it looks at
    np.testing.assert_allclose(model.log_probs(pairs[0][:1], long)[0], FromPredictor.log_probs(model, pairs[0][:1], long)[0], rtol=1e-9)


def test_weights_are_the_likeliest_of_each_kind():
    match = np.array([[3, 1, 1, 1]] * 30 + [[3, 1, 0, 1]] * 10 + [[40, 20, 5, 0]] * 5 + [[0, 0, 0, 0]] * 9, np.int64)
    weights = fit_weights(match, np.log(np.full(len(match), 0.25)), 3, rounds=500)
    grid = np.linspace(0.001, 0.999, 999)
    first = 30 * np.log(grid + (1 - grid) / 4) + 10 * np.log((1 - grid) / 4) + np.log(grid) + np.log(1 - grid)
    assert weights[kinds(match, 3)[0]] == pytest.approx(grid[first.argmax()], abs=2e-3)
    assert weights[kinds(match, 3)[40]] == pytest.approx(0.5)  # what says the same as the base has no reason to move
    assert len({*kinds(match[:45], 3).tolist()}) == 2


def test_too_little_text_is_said():
    with pytest.raises(UsageError, match="needs 100 tokens"):
        model_of(b"short")
