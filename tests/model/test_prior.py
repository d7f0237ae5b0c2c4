"""The prior's experts against a dictionary, its sums, its cursor, its files."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from groundup.config import Prior
from groundup.errors import GroundupError
from groundup.kernels.ngram import LOG_ZERO
from groundup.model import prior as prior_module
from groundup.model.decoder import PriorGate
from groundup.model.prior import NgramPrior, pieces

VOCAB = 12
ORDERS = 4


class Store:
    """Documents in memory, as a token store shows them."""

    def __init__(self, documents: list[np.ndarray]):
        self.documents = documents
        self.document_starts = np.cumsum([0] + [len(d) for d in documents]).astype(np.int64)
        self.tokens = np.concatenate([*documents, np.zeros(0, np.int64)]).astype(np.int64)
        self.n_tokens = len(self.tokens)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.tokens[start:stop].copy()


def write_documents(n: int, seed: int, length: int = 60) -> list[np.ndarray]:
    """Documents that open with token VOCAB - 1 and repeat themselves and each other."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, VOCAB - 1, rng.integers(1, 7)) for _ in range(8)]
    out = []
    for _ in range(n):
        body = np.concatenate([phrases[i] for i in rng.choice(8, length // 3, p=rng.dirichlet(np.ones(8)))])
        noisy = np.where(rng.random(len(body)) < 0.1, rng.integers(0, VOCAB - 1, len(body)), body)
        out.append(np.concatenate(([VOCAB - 1], noisy)).astype(np.int64))
    return out


def count(documents: list[np.ndarray]) -> dict[tuple[int, ...], Counter]:
    """What followed each context of 0 .. ORDERS - 1 tokens, how often."""
    followers: dict[tuple[int, ...], Counter] = defaultdict(Counter)
    for document in documents:
        for t in range(1, len(document)):
            for k in range(min(ORDERS, t + 1)):
                followers[tuple(document[t - k : t].tolist())][int(document[t])] += 1
    return followers


def say(static: dict[tuple[int, ...], Counter], document: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The experts' distributions [K, V] over token t and the features, by the definition."""
    own = count([document[:t]])
    p, features = [np.full(VOCAB, 1 / VOCAB)], np.zeros((ORDERS - 1, 4))
    for column, source in enumerate((static, own)):
        current, total = p[0], 0
        for k in range(ORDERS):
            seen = source.get(tuple(document[t - k : t].tolist()), Counter()) if k <= t else Counter()
            if source is static and k >= 2 and total < 2:
                seen = Counter()
            total = seen.total()
            if total:
                current = np.array([seen[y] for y in range(VOCAB)]) / total
                if k:
                    scale = 3 if source is static else 2
                    features[k - 1, 2 * column : 2 * column + 2] = (
                        math.log((total + 0.2) / (len(seen) - 0.6)) / 2,
                        math.log1p(len(seen)) / scale,
                    )
            p.append(current)
    return np.stack(p), np.append(features.ravel(), math.log1p(t) / 8)


def expect(static: dict[tuple[int, ...], Counter], document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a document's predicted tokens, by the definition."""
    said = [say(static, document, t) for t in range(1, len(document))]
    p = np.stack([p[:, document[t]] for t, (p, _) in enumerate(said, 1)])
    return np.log(np.maximum(p, math.exp(LOG_ZERO))), np.stack([f for _, f in said])


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    return write_documents(6, seed=0)


@pytest.fixture(scope="module")
def prior(documents: list[np.ndarray]) -> NgramPrior:
    return NgramPrior.build(Store(documents), VOCAB, Prior(max_order=ORDERS))


def test_training_rows_are_those_of_tables_built_without_the_document(documents: list[np.ndarray], prior: NgramPrior) -> None:
    store = Store(documents)
    table = prior.training_features(store)
    for i, document in enumerate(documents):
        others = documents[:i] + documents[i + 1 :]
        rows = slice(store.document_starts[i] + 1, store.document_starts[i + 1])
        log_p, features = expect(count(others), document)
        np.testing.assert_allclose(table.log_p[rows], log_p, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(table.features[rows], features, rtol=1e-3, atol=1e-3)
        without = NgramPrior.build(Store(others), VOCAB, Prior(max_order=ORDERS)).features(Store([document]))
        np.testing.assert_array_equal(table.log_p[rows], without.log_p[1:])
        np.testing.assert_array_equal(table.features[rows], without.features[1:])


def test_held_out_rows_are_the_counts_of_all_documents(documents: list[np.ndarray], prior: NgramPrior) -> None:
    held_out = write_documents(3, seed=1)
    table, store = prior.features(Store(held_out)), Store(held_out)
    for i, document in enumerate(held_out):
        rows = slice(store.document_starts[i] + 1, store.document_starts[i + 1])
        log_p, features = expect(count(documents), document)
        np.testing.assert_allclose(table.log_p[rows], log_p, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(table.features[rows], features, rtol=1e-3, atol=1e-3)


def test_cursor_gives_whole_distributions_that_agree_with_the_table(prior: NgramPrior) -> None:
    document = np.concatenate([write_documents(1, seed=2, length=300)[0], np.arange(VOCAB), np.arange(VOCAB)[::-1]])
    table, cursor = prior.features(Store([document])), prior.start()
    for t, token in enumerate(document):
        p, features = cursor.distribution()
        assert p.shape == (prior.n_experts, VOCAB) and p.dtype == np.float32
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
        np.testing.assert_array_equal(features.astype(np.float16), table.features[t])
        np.testing.assert_allclose(np.log(p[:, token]), table.log_p[t], rtol=2e-3, atol=1e-3)
        cursor.push(int(token))


def test_a_prior_that_counted_nothing_still_predicts() -> None:
    prior = NgramPrior.build(Store([]), VOCAB, Prior(max_order=ORDERS))
    cursor = prior.start()
    cursor.push(VOCAB - 1)
    np.testing.assert_allclose(cursor.distribution()[0], 1 / VOCAB, rtol=1e-6)


def test_threads_change_nothing(documents: list[np.ndarray], prior: NgramPrior) -> None:
    store = Store(documents)
    one, three = (prior._scan(store, leave_out=True, n_threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one.log_p, three.log_p)
    np.testing.assert_array_equal(one.features, three.features)


def test_long_documents_are_cut(documents: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_module, "PIECE", 16)
    store = Store(documents)
    starts = pieces(store.document_starts)
    assert np.diff(starts).max() <= 16 and set(store.document_starts) <= set(starts)
    prior = NgramPrior.build(store, VOCAB, Prior(max_order=ORDERS))
    table, cursor = prior.features(Store(documents[:1])), prior.start()
    for t, token in enumerate(documents[0]):
        p, features = cursor.distribution()
        if t != 16 * (t // 16):  # there the table starts afresh, and the cursor does so with the next token
            np.testing.assert_array_equal(features.astype(np.float16), table.features[t])
            np.testing.assert_allclose(np.log(p[:, token]), table.log_p[t], rtol=2e-3, atol=1e-3)
        cursor.push(int(token))


def test_what_is_not_counted_is_not_left_out(documents: list[np.ndarray]) -> None:
    first = len(documents[0]) + len(documents[1])
    some = NgramPrior.build(Store(documents), VOCAB, Prior(max_order=ORDERS), max_tokens=first)
    assert some.n_counted == first
    table = some.training_features(Store(documents))
    held_out = some.features(Store(documents[2:]))
    np.testing.assert_array_equal(table.log_p[first:], held_out.log_p)


def test_saved_and_loaded(prior: NgramPrior, documents: list[np.ndarray], tmp_path) -> None:
    path = tmp_path / "prior.safetensors"
    prior.save(path)
    again, store = NgramPrior.load(path), Store(write_documents(2, seed=3))
    for a, b in ((prior.features(store), again.features(store)), (prior._scan(Store(documents), leave_out=True),) * 2):
        np.testing.assert_array_equal(a.log_p, b.log_p)
        np.testing.assert_array_equal(a.counts_nats, b.counts_nats)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GroundupError, match="restore the file"):
        NgramPrior.load(path)
    with pytest.raises(GroundupError, match="cannot be written"):
        prior.save(tmp_path / "none" / "prior.safetensors")


def test_the_counts_gate_learns_and_starts_a_networks_gate(prior: NgramPrior) -> None:
    table = prior.features(Store(write_documents(4, seed=0)))
    rows = np.arange(1, 40)
    uniform = -np.log(np.exp(table.log_p[rows].astype(np.float64)).mean(1))
    assert table.counts_nats[rows].mean() < uniform.mean()
    gate = PriorGate(8, prior.n_experts, prior.n_features)
    prior.gate.start(gate, network_logit=-math.inf)
    log_p, features = (torch.from_numpy(a[rows]).float() for a in (table.log_p, table.features))
    weights = torch.log_softmax(gate(torch.randn(len(rows), 8), features), dim=1)[:, 1:]
    nats = -torch.logsumexp(weights + log_p, dim=1)
    np.testing.assert_allclose(nats.detach().numpy(), table.counts_nats[rows], rtol=1e-4, atol=1e-6)
