"""Models so small that a second thread only adds waiting."""

from collections.abc import Callable, Iterator

import pytest
import torch

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm, Prior
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Decoder]:
    """A model of two layers with random weights, its logits spread enough to tell tokens apart."""

    def build(seed: int = 0, *, prior_shape: tuple[int, int] | None = None, layers: tuple[Layer, ...] | None = None, **fields) -> Decoder:
        plain = Layer(Attention(4, 2, 8, qk_norm=Norm()), Dense(48))
        config = ModelConfig(
            **{"vocab_size": 40, "d_model": 32, "context_length": 64, "prior": Prior() if prior_shape else None, **fields},
            layers=layers or (plain, plain),
        )
        model = initialize(Decoder(config, prior_shape=prior_shape), seed, zero_outputs=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if not p.any() or name.startswith("head"):  # what begins at or near zero, so that a test would see it missing
                    p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
        return model

    return build
