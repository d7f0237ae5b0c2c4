"""Shannon's measures against closed forms, and his game through plain text streams."""

import io

import numpy as np
import pytest

from groundup.errors import UsageError
from groundup.history.counts import count
from groundup.history.play import play
from groundup.history.shannon import ENGLISH_1951, LETTERS, bounds, bounds_of_shares, entropies, from_letters, to_letters
from groundup.history.smoothing import kneser_ney


def markov(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float, float]:
    """A chain of three symbols: a text of it, its transitions, its entropy, and that of a symbol alone, in bits."""
    rng = np.random.default_rng(seed)
    transitions = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.2, 0.4]])
    steady = np.linalg.matrix_power(transitions, 200)[0]
    text, at = np.empty(n, np.int64), 0
    for i, u in enumerate(rng.random(n)):
        at = text[i] = int((u > np.cumsum(transitions[at])).sum())
    return text, transitions, float(-(steady @ (transitions * np.log2(transitions)).sum(1))), float(-(steady @ np.log2(steady)))


def test_entropies_of_a_known_chain():
    text, _, entropy, alone = markov(60_000)
    np.testing.assert_allclose(entropies([text], n_symbols=3, longest=4), [np.log2(3), alone, entropy, entropy, entropy], atol=0.02)


def test_entropies_are_plug_in_estimates_within_documents():
    found = entropies([np.array([0, 1, 0, 1]), np.array([1, 1])], n_symbols=2, longest=2)
    two_thirds = -(2 / 3 * np.log2(2 / 3) + 1 / 3 * np.log2(1 / 3))  # four of six are 1; blocks 01 01 10 11
    np.testing.assert_allclose(found, [1, two_thirds, 2 / 4 * 0 + 2 / 4 * 1])
    np.testing.assert_allclose(entropies([np.arange(10)], n_symbols=10, longest=3)[2:], 0, atol=1e-12)  # every block once: biased to 0
    assert entropies([np.array([0])], n_symbols=27, longest=0)[0] == pytest.approx(ENGLISH_1951[0], abs=0.01)
    with pytest.raises(UsageError, match="no document has 3 symbols"):
        entropies([np.array([0, 1])], n_symbols=2, longest=3)
    with pytest.raises(UsageError, match="no tokens"):
        entropies([], n_symbols=2, longest=1)


def test_bounds_of_known_sources():
    for n in (1, 2, 27):
        assert bounds(np.arange(n)) == pytest.approx((np.log2(n), np.log2(n)))
    assert bounds_of_shares(np.array([0.5, 0.25, 0.25])) == pytest.approx((0.75 * np.log2(3), 1.5))
    text, transitions, entropy, _ = markov(20_000, seed=1)
    guesses = np.argsort(np.argsort(-transitions, axis=1, kind="stable"), axis=1)  # the ideal guesser's
    lower, upper = bounds(guesses[text[:-1], text[1:]])
    assert lower < entropy < upper
    with pytest.raises(UsageError, match="no symbol was guessed"):
        bounds(np.zeros(0, np.int64))


def test_bounds_from_a_models_ranks_hold_its_source():
    text, _, entropy, _ = markov(20_000, seed=2)
    model = kneser_ney(count([text[:10_000]], order=2, vocab_size=257, begin=256))
    lower, upper = bounds(model.ranks([np.array([256])], [text[10_000:]])[0])
    assert lower < entropy < upper


def test_letters():
    assert from_letters(to_letters("Élan, 3 cats -- AND\n\na dog")) == "elan cats and a dog"
    assert from_letters(to_letters(b"a\xff\xffb")) == "a b"
    assert len(to_letters("")) == 0
    assert len(LETTERS) == 27


def test_a_game_is_played():
    sink = io.StringIO()
    game = play(io.StringIO("x\n_\nC\n!\nab\nb\nb\na\n?\n.\n"), sink, "See a cat sit", given=5, rival=("unigram", np.arange(13)))
    np.testing.assert_array_equal(game.ranks, [1, 0, 1, 26])
    assert game.bounds == bounds(game.ranks)
    shown = sink.getvalue()
    for line in (
        "see_a> ",
        "see_a (not x)> ",
        "  _ in 2; unigram in 6\n",
        "  one letter of a-z or _, please\n",
        "  b was tried\n",
        "  t in 27; unigram in 9\n",
        "you: 25% at the first guess, entropy between",
        "unigram: 0% at the first guess",
        "between 0.6 and 1.3",
        "So few letters (4)",
    ):
        assert line in shown
    assert "sit" not in shown


def test_a_game_ends_by_itself_and_may_be_short():
    game = play(io.StringIO("s\ni\nt\n"), sink := io.StringIO(), "a cat sit", given=6, n_letters=50)
    np.testing.assert_array_equal(game.ranks, [0, 0, 0])
    assert "few" in sink.getvalue()
    nothing = play(io.StringIO(""), sink := io.StringIO(), "a cat sit", given=6)
    assert (len(nothing.ranks), nothing.bounds) == (0, None)
    assert "No letter was guessed" in sink.getvalue()
    with pytest.raises(UsageError, match="has 5 letters, and 40 of them"):
        play(io.StringIO(""), io.StringIO(), "a cat")
