"""Bits per byte: exact against a whole forward pass, every byte counted, and honest about what it does not know."""

import math

import numpy as np
import pytest
import torch

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm
from groundup.data import Document, TokenStore, write_shards
from groundup.errors import GroundupError
from groundup.evaluate.bits import evaluate
from groundup.evaluate.statistics import bootstrap
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize

V, WINDOW = 30, 16
BYTES = np.array([0, *([2] * (V - 1))])  # id 0 opens documents, all others stand for two bytes


def model(seed: int = 0) -> Decoder:
    layer = Layer(Attention(2, 2, 8, qk_norm=Norm(weight=False), key_offset=True), Dense(32, "relu2"))
    made = initialize(Decoder(ModelConfig(V, 16, WINDOW, (layer,))), seed, zero_outputs=False)
    torch.nn.init.normal_(made.head.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return made


def store_of(tmp_path, lengths, bytes_each: int = 2) -> TokenStore:
    rng = np.random.default_rng(0)
    documents = []
    for i, n in enumerate(lengths):
        documents.append((Document(str(i), b"x" * (bytes_each * n)), np.concatenate(([0], rng.integers(1, V, n)))))
    write_shards(documents, tmp_path / "s", vocab_size=V, tokenizer_hash="")
    return TokenStore.open(tmp_path / "s")


def test_documents_that_share_a_window_are_scored_as_by_one_forward_pass_each(tmp_path):
    store, network = store_of(tmp_path, [3, 15, 7, 1, 12]), model()
    score = evaluate(network, store, seq_len=4 * WINDOW, batch_size=3, token_bytes=BYTES)
    bits = []
    for begin, end in zip(store.document_starts[:-1], store.document_starts[1:], strict=True):
        ids = torch.from_numpy(store.slice(int(begin), int(end)))[None]
        log_p = torch.log_softmax(network(ids[:, :-1]).double(), dim=-1).gather(2, ids[:, 1:, None])
        bits.append(float(-log_p.detach().sum()) / math.log(2))
    np.testing.assert_allclose(score.document_bits, bits, rtol=1e-5)
    assert score.bits_per_byte == {"model": pytest.approx(sum(bits) / (2 * 38), rel=1e-6)}
    assert (score.n_bytes, score.n_tokens) == (76, 38)
    low, high = score.interval
    assert low <= score.bits_per_byte["model"] <= high


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(tmp_path):
    network = model()
    torch.nn.init.zeros_(network.head.weight)
    score = evaluate(network, store_of(tmp_path, [50, 40, 3]), seq_len=WINDOW, token_bytes=BYTES)
    assert score.bits_per_byte["model"] == pytest.approx(math.log2(V) / 2)


def test_more_context_changes_long_documents_only(tmp_path):
    store, network = store_of(tmp_path, [60, 5]), model()
    half, all_but_one = (evaluate(network, store, seq_len=WINDOW, stride=stride, token_bytes=BYTES) for stride in (8, 1))
    assert half.n_tokens == all_but_one.n_tokens == 65
    assert half.document_bits[0] != all_but_one.document_bits[0]
    assert half.document_bits[1] == pytest.approx(all_but_one.document_bits[1])


def test_a_quick_look_counts_the_bytes_of_what_it_scored(tmp_path):
    store = store_of(tmp_path, [60] * 30)
    score = evaluate(model(), store, seq_len=WINDOW, max_tokens=200, token_bytes=BYTES)
    assert score.n_bytes == 2 * score.n_tokens and 100 < score.n_tokens < 400 and score.interval is None
    whole = evaluate(model(), store, seq_len=WINDOW, token_bytes=BYTES)
    assert score.bits_per_byte["model"] == pytest.approx(whole.bits_per_byte["model"], rel=0.05)


def test_bytes_that_do_not_add_up_are_refused(tmp_path):
    with pytest.raises(GroundupError, match="counted 10 bytes of 15 read"):
        evaluate(model(), store_of(tmp_path, [5], bytes_each=3), seq_len=WINDOW, token_bytes=BYTES)


def test_nothing_to_score_and_weights_that_broke_are_no_number(tmp_path):
    broken = model()
    torch.nn.init.constant_(broken.head.weight, float("nan"))
    with pytest.raises(GroundupError, match="nothing to report"):
        evaluate(broken, store_of(tmp_path, [5, 6]), seq_len=WINDOW, token_bytes=BYTES)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(200):
        n_bytes = rng.integers(100, 1000, 80)
        bits = n_bytes * rng.normal(1.5, 0.4, 80)
        low, high = bootstrap(bits, n_bytes, seed=trial)
        hits += low <= 1.5 <= high
    assert 0.88 < hits / 200 < 0.99
    assert bootstrap(np.ones(2), np.ones(2)) is None
