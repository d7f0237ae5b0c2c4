"""Training batches depend on the step alone and show every window once an epoch; evaluation scores every token once."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data import Batch, BatchStream, Document, TokenStore, evaluation_windows, write_shards
from groundup.errors import UsageError

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) >= 2)


def store_of(lengths, shard_tokens=37) -> TokenStore:
    """A store whose token i is i, so that a batch shows where its tokens come from."""
    ends = np.cumsum([0, *lengths])
    documents = [(Document(str(i), b"x" * int(b - a)), np.arange(a, b)) for i, (a, b) in enumerate(pairwise(ends))]
    with tempfile.TemporaryDirectory() as name:
        write_shards(documents, Path(name) / "s", vocab_size=int(ends[-1]), tokenizer_hash="", shard_tokens=shard_tokens)
        return TokenStore.open(Path(name) / "s")  # the maps outlive the names


def owners(store: TokenStore, tokens: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.document_starts, tokens, side="right")


def assert_equal(one: Batch, other: Batch) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 150), st.integers(0, 99), st.integers(0, 1000))
def test_a_batch_is_windows_of_the_ring_with_the_next_token_of_the_same_document_as_target(lengths, batch_size, seq_len, seed, step):
    store = store_of(lengths)
    batch = BatchStream(store, batch_size, seq_len, seed).batch(step)
    assert [a.dtype for a in batch] == [np.int64, np.int64, np.int32, np.int64]
    assert all(a.shape == (batch_size, seq_len) for a in batch[:3])
    ring = (batch.positions[:, None] + np.arange(seq_len + 1)) % store.n_tokens
    np.testing.assert_array_equal(batch.tokens, ring[:, :-1])
    opens = np.isin(ring, store.document_starts[:-1])
    np.testing.assert_array_equal(batch.targets, np.where(opens[:, 1:], -1, ring[:, 1:]))
    np.testing.assert_array_equal(batch.documents, np.cumsum(opens[:, :-1], axis=1) - opens[:, :1])


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 80), st.integers(0, 99))
def test_an_epoch_shows_every_window_once_and_no_input_twice(lengths, batch_size, seq_len, seed):
    store = store_of(lengths)
    stream = BatchStream(store, batch_size, seq_len, seed)
    assert stream.n_windows == max(1, store.n_tokens // seq_len)
    n_steps = -(-3 * stream.n_windows // batch_size)
    rows = np.concatenate([stream.batch(step).tokens for step in range(n_steps)])
    for epoch in range(3):
        inputs = rows[epoch * stream.n_windows : (epoch + 1) * stream.n_windows]
        if store.n_tokens >= seq_len:
            assert len(np.unique(inputs)) == inputs.size > store.n_tokens - seq_len


def test_epochs_and_seeds_differ_in_order_and_phase():
    store = store_of([1000])
    epochs = [BatchStream(store, 62, 16, seed).batch(step).positions for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(positions) for positions in epochs}) == 4
    assert len({positions[0] % 16 for positions in epochs}) > 1


@settings(max_examples=40)
@given(LENGTHS, st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 40), st.integers(0, 50))
def test_the_ranks_share_the_same_global_batch(lengths, world_size, seq_len, step):
    store = store_of(lengths)
    whole = BatchStream(store, 12, seq_len, 5).batch(step)
    for rank in range(world_size):
        part = BatchStream(store, 12, seq_len, 5, rank, world_size).batch(step)
        assert_equal(part, Batch(*(a[rank::world_size] for a in whole)))


def test_a_batch_depends_on_nothing_but_the_step():
    store = store_of([500, 3, 900])
    one, other = BatchStream(store, 8, 16, 1), BatchStream(store, 8, 16, 1)
    steps = list(range(60))
    forward = [one.batch(step) for step in steps]
    for step in reversed(steps):
        assert_equal(other.batch(step), forward[step])


def test_the_shuffle_is_pinned():
    """A run that is resumed with another version of numpy must see the same batches: if this fails, resuming is broken."""
    stream = BatchStream(store_of([100, 900]), 4, 16, seed=7)
    assert [stream.batch(step).positions.tolist() for step in (0, 1, 100)] == [
        [509, 917, 885, 805],
        [869, 741, 901, 653],
        [251, 203, 299, 867],
    ]


def test_streams_that_make_no_sense_are_refused():
    store = store_of([10])
    for arguments in ((0, 4, 0), (4, 0, 0), (4, 4, -1), (4, 4, 0, 2, 2), (4, 4, 0, -1, 2), (5, 4, 0, 0, 2)):
        with pytest.raises(UsageError, match="batch_size"):
            BatchStream(store, *arguments)
    with pytest.raises(UsageError, match="one token"):
        BatchStream(store_of([1]), 4, 4, 0)


@settings(max_examples=150)
@given(LENGTHS, st.integers(1, 40), st.data())
def test_evaluation_scores_every_token_once_with_its_context(lengths, seq_len, data):
    store = store_of(lengths)
    stride, batch_size = data.draw(st.integers(1, seq_len)), data.draw(st.integers(1, 5))
    batches = list(evaluation_windows(store, seq_len, stride, batch_size))
    scored = []
    for batch in batches:
        assert all(a.shape == (batch_size, seq_len) for a in batch[:3])
        for tokens, targets, documents, position in zip(*batch, strict=True):
            real = documents >= 0
            n = int(real.sum())
            assert real[:n].all()
            assert (tokens[n:] == 0).all()
            assert (targets[n:] == -1).all()
            if n == 0:
                assert position == -1
                continue
            np.testing.assert_array_equal(tokens[:n], position + np.arange(n))
            owner = owners(store, tokens[:n])
            np.testing.assert_array_equal(documents[:n], owner - owner[0])
            for i in np.flatnonzero(targets >= 0):
                target = targets[i]
                assert target == tokens[i] + 1
                assert owners(store, target) == owner[i]
                context = int((owner[: i + 1] == owner[i]).sum())
                place = target - store.document_starts[owner[i] - 1]
                assert context >= min(place, seq_len - stride + 1)
                scored.append(target)
    expected = np.setdiff1d(np.arange(store.n_tokens), store.document_starts[:-1])
    np.testing.assert_array_equal(scored, expected)


def test_evaluation_packs_short_documents_and_overlaps_long_ones():
    assert len(list(evaluation_windows(store_of([10] * 100), 50, 25, 5))) == 4
    assert len(list(evaluation_windows(store_of([1000]), 100, 50, 1))) == 19


def test_documents_without_text_score_nothing():
    assert list(evaluation_windows(store_of([1]), 8, 4, 2)) == []
    batches = list(evaluation_windows(store_of([1, 1, 1]), 8, 4, 2))
    assert all((batch.targets == -1).all() for batch in batches)


def test_evaluation_that_makes_no_sense_is_refused():
    for seq_len, stride, batch_size in ((8, 0, 1), (8, 9, 1), (8, 4, 0)):
        with pytest.raises(UsageError, match="stride"):
            list(evaluation_windows(store_of([10]), seq_len, stride, batch_size))
