"""Coding: the same bytes back, at the size that the score promises, and no file decoded by what did not write it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_models import TEXT, Bigram

from groundup.data import Document
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.arithmetic_coder import Decoder, Encoder, cumulative_counts
from groundup.evaluate.compress import compress, decompress
from groundup.evaluate.text import score_documents


def test_a_bigram_codes_a_text_at_what_its_score_promises():
    text = (TEXT * 5)[:4_000].encode()
    model = Bigram(TEXT.encode())
    coded = compress(model, text)
    assert decompress(model, coded.data) == text
    promised = score_documents(model, [Document("t", text)]).bits[0]
    assert coded.promised_bits == pytest.approx(promised, rel=1e-9)
    assert abs(8 * coded.n_code_bytes - promised) < 10 and len(coded.data) - coded.n_code_bytes < 25


@pytest.mark.parametrize("prior", [False, True])
def test_a_decoder_codes_past_its_context(decoder_model, prior):
    model, text = decoder_model(prior), TEXT[:150].encode() + bytes(range(0, 256, 9))
    coded = compress(model, text)
    assert decompress(model, coded.data) == text and abs(8 * coded.n_code_bytes - coded.promised_bits) < 9


ADVERSARIAL = [
    np.array([1.0, 0.0]),
    np.array([0.5 - 2**-53, 0.5 + 2**-53]),
    np.full(50_000, 1 / 50_000),
    np.concatenate(([1 - 1e-12], np.full(9_999, 1e-12 / 9_999))),
    np.array([1e-300, 1 - 1e-16, 0.0]),
]


@pytest.mark.parametrize("p", ADVERSARIAL)
def test_any_distribution_codes_any_symbol(p):
    symbols = np.random.default_rng(0).integers(0, len(p), 300).tolist() + [0] * 300 + [len(p) - 1] * 300
    cumulative, encoder = cumulative_counts(p), Encoder()
    for symbol in symbols:
        encoder.encode(cumulative, symbol)
    code = encoder.finish()
    decoder = Decoder(code)
    assert [decoder.decode(cumulative) for _ in symbols] == symbols
    counts = np.diff(cumulative)
    ideal = sum(math.log2(cumulative[-1] / counts[symbol]) for symbol in symbols)
    assert 8 * len(code) <= ideal * (1 + 1e-5) + 10


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 5)), max_size=40))
def test_distributions_that_change_with_every_symbol(steps):
    tables = [(cumulative_counts(np.array(w) / max(sum(w), 1)), symbol % len(w)) for w, symbol in steps]
    encoder = Encoder()
    for cumulative, symbol in tables:
        encoder.encode(cumulative, symbol)
    decoder = Decoder(encoder.finish())
    assert all(decoder.decode(cumulative) == symbol for cumulative, symbol in tables)


def test_what_should_not_decode_does_not():
    model, other = Bigram(TEXT.encode()), Bigram(b"something else", name="other")
    data = compress(model, b"the cat sat").data
    for bad, message in [
        (b"PK" + data, "no file of `groundup compress`"),
        (data[:-1], "truncated"),
        (data[:17], "truncated"),
        (data[:10], "truncated inside its header"),
        (data + b"x", "longer than it says"),
        (data[:-1] + bytes([data[-1] ^ 0x80]), "checksum"),
    ]:
        with pytest.raises(GroundupError, match=message):
            decompress(model, bad)
    with pytest.raises(GroundupError, match="not written by other"):
        decompress(other, data)
    assert decompress(model, compress(model, b"").data) == b""


def test_a_model_that_is_no_distribution_is_named_and_so_is_one_that_loses_bytes():
    model = Bigram(TEXT.encode(), name="leaky")
    model.table = model.table * 0.99
    with pytest.raises(GroundupError, match=r"leaky: its probabilities of the next token sum to 0\.99"):
        compress(model, b"the")
    lossy = Bigram(TEXT.encode(), name="lossy")
    lossy.decode = lambda tokens: bytes(tokens.tolist()).lower()
    with pytest.raises(UsageError, match="lossy: the tokens of this text do not give its bytes back"):
        compress(lossy, b"The")
