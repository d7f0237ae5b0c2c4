"""A network as a language model: what it says in batches is what it says symbol by symbol, whatever the lengths."""

import numpy as np
import pytest
import torch

from groundup.account.shapes import architecture
from groundup.evaluate.protocol import LanguageModel, Predictor, Ranker
from groundup.history.bengio import Bengio
from groundup.history.decoders import ByteDecoder
from groundup.history.model import NetworkModel
from groundup.history.network import START, Network
from groundup.history.recurrent import LSTM, AttentiveLSTM, Elman
from groundup.history.transformer import GPT2, Transformer2017

SHAPE = {"vocab_size": 257, "d_model": 16, "n_layers": 1, "head_dim": 8, "context_length": 16}
NETWORKS = {
    "elman": lambda: Elman(8),
    "lstm": lambda: LSTM(8),
    "attention": lambda: AttentiveLSTM(8, reach=5),
    "bengio": lambda: Bengio(8, order=4, n_features=4),
    "2017": lambda: Transformer2017(16, context_length=16),
    "gpt2": lambda: GPT2(16, context_length=16),
    "llama": lambda: ByteDecoder(architecture("llama", **SHAPE)),
    "groundup": lambda: ByteDecoder(architecture("groundup", hash_rows=64, **SHAPE)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_and_steps_agree(name):
    network = NETWORKS[name]()
    assert isinstance(network, Network)
    for p in network.parameters():  # outputs that begin at zero would agree about nothing
        p.data.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model = NetworkModel(name, network)
    assert isinstance(model, LanguageModel) and isinstance(model, Predictor) and isinstance(model, Ranker)
    rng = np.random.default_rng(0)
    texts = [rng.integers(256, size=n) for n in (35, 1, 17)]
    contexts = [np.array([START]), np.array([START, 3, 4]), np.array([START])]
    batched = model.log_probs(contexts, texts)
    stepped = super(NetworkModel, model).log_probs(contexts, texts)
    for a, b in zip(batched, stepped, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_probabilities_sum_to_one_and_never_promise_a_start():
    cursor = NetworkModel("lstm", LSTM(8)).start()
    for token in (START, 104, 105):
        cursor.push(token)
        p = cursor.probabilities()
        assert p.shape == (257,) and p[START] == 0 and abs(p.sum() - 1) < 1e-9


def test_bytes_in_and_out():
    model = NetworkModel("elman", Elman(4))
    tokens = model.encode("héllo")
    assert model.decode(tokens) == "héllo".encode() and model.n_bytes(tokens).sum() == 6
    assert model.decode(np.array([START, 65])) == b"A" and model.n_bytes(np.array([START, 65])).tolist() == [0, 1]
    assert len(model.sample(["ab", ""], max_tokens=5, seed=1)) == 2
