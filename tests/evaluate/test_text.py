"""Bits per byte through the protocol: the same as the decoder's own path, exact in its bytes, and in the literature's units."""

import math

import numpy as np
import pytest
from protocol_models import TEXT, WINDOW, Bigram

from groundup.data import Document, TokenStore, write_shards
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.bits import evaluate
from groundup.evaluate.decoder_model import score_parts
from groundup.evaluate.protocol import LanguageModel, Predictor, Ranker, likeliest
from groundup.evaluate.text import score_documents, windows

DOCUMENTS = [
    Document("a.txt", TEXT[:700].encode()),
    Document("b.jsonl#1", b"the cat"),
    Document("b.jsonl#2", "the caf\u00e9 sat.\n".encode()),
]


def test_a_bigram_is_scored_exactly_and_every_unit_follows_from_its_bits():
    model = Bigram(TEXT.encode())
    score = score_documents(model, DOCUMENTS)
    tokens = [np.concatenate(([256], model.encode(d.text))) for d in DOCUMENTS]
    bits = [-np.log2(model.table[t[:-1], t[1:]]).sum() for t in tokens]
    np.testing.assert_allclose(score.bits, bits, rtol=1e-12)
    n_bytes, n_words = 700 + 7 + 15, len(TEXT[:700].split()) + 2 + 3
    assert (score.n_bytes, score.bits_per_byte) == (n_bytes, pytest.approx(sum(bits) / n_bytes))
    units = score.units()
    assert units["bits per character"] == pytest.approx(sum(bits) / (n_bytes - 1))
    assert units["word perplexity"] == pytest.approx(2 ** (sum(bits) / n_words))
    assert units["word perplexity with <eos>"] == pytest.approx(2 ** (sum(bits) / (n_words + 1)))
    assert units["token perplexity"] == pytest.approx(2**score.bits_per_byte)
    domains = score.by_domain()
    assert list(domains) == ["a.txt", "b.jsonl"] and domains["b.jsonl"].n_bytes == 22
    low, high = score.interval
    assert low <= score.bits_per_byte <= high


@pytest.mark.parametrize("prior", [False, True])
def test_the_protocol_agrees_with_the_decoders_own_path(decoder_model, tmp_path, prior):
    model = decoder_model(prior)
    assert isinstance(model, LanguageModel) and isinstance(model, Predictor) and isinstance(model, Ranker)
    with_ids = [(d, np.array([*model.prefix, *model.encode(d.text)])) for d in DOCUMENTS]
    write_shards(with_ids, tmp_path / "s", vocab_size=model.vocab_size, tokenizer_hash="")
    store = TokenStore.open(tmp_path / "s")
    table = model.prior.features(store) if prior else None
    own = evaluate(model.model, store, seq_len=WINDOW, table=table)
    score = score_documents(model, DOCUMENTS)
    np.testing.assert_allclose(score.bits, own.document_bits, rtol=1e-6)
    assert score.n_tokens.sum() == own.n_tokens and score.n_bytes == own.n_bytes
    by_store, parts = score_parts(model, DOCUMENTS)
    np.testing.assert_allclose(by_store.bits, own.document_bits)
    assert (by_store.documents, by_store.bits_per_byte) == (score.documents, parts["model"])
    assert list(by_store.n_tokens) == list(score.n_tokens) and len(parts) == (3 if prior else 1)


@pytest.mark.parametrize("prior", [False, True])
def test_a_cursor_says_what_log_probs_say(decoder_model, prior):
    model = decoder_model(prior)
    contexts = [np.array(model.prefix), np.array([*model.prefix, *model.encode("the cat")])]
    targets = [model.encode("the dog saw"), model.encode(" and the dog")]
    by_windows = model.log_probs(contexts, targets)
    by_cursor = super(type(model), model).log_probs(contexts, targets)
    for a, b in zip(by_windows, by_cursor, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3 if prior else 1e-5)  # the table of the counts is of half precision
    for a, b in zip(model.ranks(contexts, targets), super(type(model), model).ranks(contexts, targets), strict=True):
        np.testing.assert_array_equal(a, b)
    written = model.encode(model.sample(["the cat"], max_tokens=3, temperature=0)[0].decode("utf-8", "replace"))
    assert len(written) == 0 or likeliest(model, [contexts[1]], [written[:1]])[0]


def test_windows_make_each_token_a_target_once_and_never_read_more_than_they_may():
    for n, given, seq_len, stride in [(100, 1, 16, 8), (100, 3, 16, 16), (5, 1, 16, 8), (40, 0, 8, 1), (17, 1, 16, 4)]:
        seen = []
        for start, target, end in windows(n, given, seq_len, stride):
            assert end - 1 - start <= seq_len and (start == 0 or target - start >= seq_len - stride)
            seen += range(target, end)
        assert seen == list(range(given, n))


def test_a_model_that_miscounts_or_holds_the_text_impossible_is_named():
    model = Bigram(TEXT.encode(), name="broken")
    model.n_bytes = lambda tokens: np.full(len(tokens), 2)
    with pytest.raises(GroundupError, match=r"broken counted 1400 bytes in document a\.txt, which has 700"):
        score_documents(model, DOCUMENTS)
    certain = Bigram(TEXT.encode(), name="certain")
    certain.table = np.eye(257)
    with pytest.raises(GroundupError, match=r"certain gave document a\.txt inf nats"):
        score_documents(certain, DOCUMENTS)
    certain.table = np.full((257, 257), 1 / 200)
    with pytest.raises(GroundupError, match=r"sum to 1\.285"):
        score_documents(certain, DOCUMENTS)
    with pytest.raises(UsageError, match="no text"):
        score_documents(model, [])
    with pytest.raises(UsageError, match="stride 9 must be from 1 to seq_len 8"):
        score_documents(model, DOCUMENTS, seq_len=8, stride=9)
    model.context_length = 8
    with pytest.raises(UsageError, match="broken reads 8 tokens at once"):
        score_documents(model, DOCUMENTS, seq_len=9)


def test_a_window_costs_a_bigram_nothing():
    model = Bigram(TEXT.encode())
    whole, cut = score_documents(model, DOCUMENTS), score_documents(model, DOCUMENTS, seq_len=16)
    np.testing.assert_allclose(whole.bits, cut.bits)
    assert cut.context == "windows of 16 tokens, stride 8" and math.isfinite(cut.bits_per_byte)
