"""A tiny decoder with a byte-level tokenizer."""

from collections.abc import Iterator

import pytest
import torch
from protocol_models import TEXT, WINDOW

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm, Prior
from groundup.data import Document, TokenStore, write_shards
from groundup.evaluate.decoder_model import DecoderModel
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.model.prior import NgramPrior
from groundup.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models so small that a second thread only adds waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT.encode()], 300)


@pytest.fixture(scope="session")
def decoder_model(tokenizer, tmp_path_factory):
    """Builds it, with the counts of the text or without."""

    def build(prior: bool = False) -> DecoderModel:
        counts = None
        if prior:
            folder = tmp_path_factory.mktemp("prior") / "s"
            ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary(TEXT).tolist()]
            documents = [(Document(str(i), TEXT.encode()), torch.tensor(ids).numpy()) for i in range(3)]
            write_shards(documents, folder, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash)
            counts = NgramPrior.build(TokenStore.open(folder), tokenizer.vocab_size, Prior())
        layer = Layer(Attention(2, 2, 8, qk_norm=Norm(weight=False), key_offset=True), Dense(32, "relu2"))
        shape = (counts.n_experts, counts.n_features) if counts else None
        config = ModelConfig(tokenizer.vocab_size, 16, WINDOW, (layer, layer), prior=Prior() if prior else None)
        model = initialize(Decoder(config, prior_shape=shape), 0, zero_outputs=False)
        torch.nn.init.normal_(model.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
        if counts:
            counts.gate.start(model.gate)
        return DecoderModel(model, tokenizer, prior=counts, name="tiny")

    return build
