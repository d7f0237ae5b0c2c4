"""The counts: equal to their equations written with dictionaries, blind to the document they predict, proper, and safe on disk."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.config import Prior
from groundup.data import Document, TokenStore, write_shards
from groundup.errors import GroundupError
from groundup.model.prior import NgramPrior

V = 12
END = V - 1


def make_documents(n: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[END, *(rng.integers(0, END, rng.integers(1, 40)) // rng.integers(1, 4)).tolist()] for _ in range(n)]


def store(documents: list[list[int]], folder) -> TokenStore:
    rows = [(Document(str(i), b"x"), np.array(ids, np.uint32)) for i, ids in enumerate(documents)]
    write_shards(rows, folder, vocab_size=V, tokenizer_hash="0" * 32)
    return TokenStore.open(folder)


def continuations(documents: list[list[int]], n_orders: int) -> list[dict[tuple[int, ...], Counter]]:
    """For each context length, what follows each context, and how often; nothing follows before the first token."""
    out: list[dict[tuple[int, ...], Counter]] = [defaultdict(Counter) for _ in range(n_orders)]
    for ids in documents:
        for t in range(1, len(ids)):
            for k in range(min(n_orders, t + 1)):
                out[k][tuple(ids[t - k : t])][ids[t]] += 1
    return out


def experts_by_hand(others, ids: list[int], t: int, discounts, w: float) -> np.ndarray:
    """log p of ids[t] under static, joint and own, by the three recursions."""
    past = continuations([ids[:t]], len(discounts))
    static = joint = 1 / V
    nothing: Counter = Counter()
    y, levels = ids[t], [(k, tuple(ids[t - k : t])) for k in range(min(len(discounts), t + 1))]
    for k, h in levels:
        c, c_own, d = others[k].get(h, nothing), past[k].get(h, nothing), discounts[k]
        if c.total():
            static = (max(c[y] - d, 0) + d * len(c) * static) / c.total()
        if c.total() + c_own.total():
            top = max(c[y] - d, 0) + w * max(c_own[y] - d, 0) + d * (len(c) + w * len(c_own)) * joint
            joint = top / (c.total() + w * c_own.total())
    own = joint
    for k, h in levels[1:]:
        c_own = past[k].get(h, nothing)
        if c_own.total():
            own = (max(c_own[y] - 0.5, 0) + 0.5 * len(c_own) * own) / c_own.total()
    return np.log([static, joint, own])


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior")
    documents, held_out = make_documents(9, 0), make_documents(5, 1)
    train, rest = store(documents, folder / "train"), store(held_out, folder / "rest")
    return documents, held_out, train, rest, NgramPrior.build(train, V, Prior())


def test_discounts_are_neys(counted):
    documents, *_, prior = counted
    for k, contexts in enumerate(continuations(documents, 5)):
        found = Counter(n for following in contexts.values() for n in following.values())
        assert prior.discounts[k] == pytest.approx(min(max(found[1] / max(1, found[1] + 2 * found[2]), 0.1), 0.95))


def test_held_out_tokens_have_the_probabilities_of_the_equations(counted):
    documents, held_out, _, rest, prior = counted
    others, table = continuations(documents, 5), prior.features(rest)
    for begin, ids in zip(rest.document_starts, held_out, strict=False):
        for t in range(1, len(ids)):
            expected = experts_by_hand(others, ids, t, prior.discounts, 4.0)
            np.testing.assert_allclose(table.log_p[begin + t], expected, atol=1e-5)


def test_training_tokens_see_the_counts_of_other_documents_only(counted):
    documents, _, train, _, prior = counted
    table = prior.training_features(train)
    for i, ids in enumerate(documents):
        others = continuations(documents[:i] + documents[i + 1 :], 5)
        for t in range(1, len(ids)):
            expected = experts_by_hand(others, ids, t, prior.discounts, 4.0)
            np.testing.assert_allclose(table.log_p[train.document_starts[i] + t], expected, atol=1e-5)


def test_leaving_a_document_out_is_counting_without_it(counted, tmp_path):
    documents, _, train, _, prior = counted
    table = prior.training_features(train)
    for i in (0, 3, 8):
        without = NgramPrior.build(store(documents[:i] + documents[i + 1 :], tmp_path / f"without{i}"), V, Prior())
        without.discounts = prior.discounts
        alone = without.features(store([documents[i]], tmp_path / f"only{i}"))
        a, b = train.document_starts[i : i + 2]
        np.testing.assert_allclose(alone.log_p, table.log_p[a:b], atol=1e-6)
        np.testing.assert_allclose(alone.features, table.features[a:b], atol=1e-6)


def test_the_cursor_gives_whole_distributions_that_hold_the_tables_numbers(counted):
    *_, held_out, _, rest, prior = counted
    table = prior.features(rest)
    for begin, ids in zip(rest.document_starts, held_out, strict=False):
        cursor = prior.start()
        cursor.push(ids[0])
        for t in range(1, len(ids)):
            p, features = cursor.distribution()
            np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
            np.testing.assert_allclose(np.log(p[:, ids[t]]), table.log_p[begin + t], atol=1e-5)
            np.testing.assert_allclose(features, table.features[begin + t], atol=1e-6)
            cursor.push(ids[t])


def test_the_counts_alone_are_a_mixture_of_the_experts(counted):
    *_, rest, prior = counted
    table = prior.features(rest)
    assert prior.weights.min() >= 0
    np.testing.assert_allclose(prior.weights.sum(1), 1, atol=1e-5)
    scored = table.log_p[:, 0] != 0
    best, worst = -table.log_p[scored].max(1), -table.log_p[scored].min(1)
    assert ((table.counts_nats[scored] >= best - 1e-5) & (table.counts_nats[scored] <= worst + 1e-5)).all()


documents_strategy = st.lists(st.lists(st.integers(0, 3), max_size=6).map(lambda ids: [END, *ids]), min_size=1, max_size=5)


@given(documents=documents_strategy, held_out=documents_strategy, orders=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_documents_of_any_length_are_counted(documents, held_out, orders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    train, rest = store(documents, folder / "train"), store(held_out, folder / "rest")
    prior = NgramPrior.build(train, V, Prior(max_order=orders))
    others, table = continuations(documents, orders), prior.features(rest)
    assert np.isfinite(prior.training_features(train).log_p).all()
    for begin, ids in zip(rest.document_starts, held_out, strict=False):
        for t in range(1, len(ids)):
            np.testing.assert_allclose(table.log_p[begin + t], experts_by_hand(others, ids, t, prior.discounts, 4.0), atol=1e-5)


def test_what_is_saved_is_what_is_loaded(counted, tmp_path):
    *_, train, rest, prior = counted
    prior.save(tmp_path / "prior.safetensors")
    again = NgramPrior.load(tmp_path / "prior.safetensors")
    for a, b in ((prior.features(rest), again.features(rest)), (prior.training_features(train), again.training_features(train))):
        assert (a.log_p == b.log_p).all() and (a.features == b.features).all() and (a.counts_nats == b.counts_nats).all()
    assert [p.name for p in tmp_path.iterdir()] == ["prior.safetensors"]
    assert prior.n_bytes == again.n_bytes > 0


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "of another kind"])
def test_a_damaged_file_is_named(counted, tmp_path, damage):
    path = tmp_path / "prior.safetensors"
    counted[-1].save(path)
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "of another kind": b"\x08\0\0\0\0\0\0\0{}      "}[damage])
    with pytest.raises(GroundupError, match=r"prior\.safetensors: .* restore the file"):
        NgramPrior.load(path)


def test_a_folder_that_cannot_be_written_is_named(counted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GroundupError, match="cannot be written"):
        counted[-1].save(tmp_path / "file" / "prior.safetensors")


def test_counts_of_other_tokens_are_refused(counted):
    *_, rest, prior = counted
    fresh = NgramPrior(prior.vocab_size, prior.document_weight, prior.keys, prior.counts, prior.totals, prior.weights)
    with pytest.raises(GroundupError, match="other tokens"):
        fresh.training_features(rest)


def test_repetition_is_learned_from_the_document_itself(counted, tmp_path):
    prior = counted[-1]
    ids = [END, *([3, 5, 7, 9] * 8)]
    table = prior.features(store([ids], tmp_path / "repeats"))
    assert -table.log_p[-1, 2] < 0.05 < math.log(V) / 4 < -table.log_p[2, 2]
