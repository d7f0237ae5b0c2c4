"""A model small enough to train in a test, and batches of made-up tokens."""

from collections.abc import Callable

import pytest
import torch

from groundup.config import SPARSE_ROWS, Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.train.step import TrainBatch, TrainState

VOCAB_SIZE = 50


def tiny_config(**fields) -> ModelConfig:
    norm = Norm(weight=False)
    layer = Layer(Attention(2, 2, 16, qk_norm=norm), Dense(64, "relu2"), norm)
    return ModelConfig(VOCAB_SIZE, 32, 64, (layer,) * 2, final_norm=norm, embedding_norm=norm, **fields)


@pytest.fixture
def new_state() -> Callable[..., TrainState]:
    """Makes the same fresh state each time; with ``sparse``, one with row-sparse gradients."""

    def make(sparse: bool = False) -> TrainState:
        config = tiny_config(hash_embedding=HashEmbedding((2,), SPARSE_ROWS) if sparse else None)
        model = initialize(Decoder(config), 0)
        rates = {"matrix_lr": 0.02, "embedding_lr": 0.05, "hash_embedding_lr": 0.02, "head_lr": 0.02, "vector_lr": 0.05}
        return TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig(**rates)))

    return make


@pytest.fixture
def new_batch() -> Callable[..., TrainBatch]:
    """Makes the batch of a step: random tokens, two documents in each row, some targets not scored."""

    def make(step: int = 0, rows: int = 4, t: int = 16) -> TrainBatch:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(VOCAB_SIZE, (rows, t + 1), generator=generator)
        cuts = torch.randint(1, t, (rows, 1), generator=generator)
        documents = (torch.arange(t + 1) >= cuts).int()
        targets = ids[:, 1:].masked_fill(documents[:, 1:] != documents[:, :-1], -1)
        return TrainBatch(ids[:, :-1], targets, documents[:, :-1])

    return make
