"""How weights begin."""

import math

import pytest
import torch

from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm, Prior
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize

LAYER = Layer(Attention(4, 2, 16, bias=True, output_bias=True, value_embedding=True), Dense(256, bias=True), Norm("layer", bias=True))
CONFIG = ModelConfig(300, 64, 32, (LAYER,) * 2, head_bias=True, hash_embedding=HashEmbedding((2,), 50), prior=Prior())


def weights(**options) -> dict[str, torch.Tensor]:
    return dict(initialize(Decoder(CONFIG, prior_shape=(3, 12)), 0, **options).named_parameters())


def test_the_first_loss_is_that_of_a_uniform_guess():
    model = initialize(Decoder(CONFIG), 0)
    tokens = torch.randint(300, (4, 32), generator=torch.Generator().manual_seed(0))
    loss, _ = model.loss(tokens, tokens, scale=1 / tokens.numel())
    assert float(loss.detach()) == pytest.approx(math.log(300), abs=0.01)


def test_every_layer_begins_as_the_identity():
    bare = ModelConfig(300, 64, 32, (Layer(Attention(4, 4, 16), Dense(256)),) * 2)
    none = initialize(Decoder(ModelConfig(300, 64, 32, ())), 0)
    model = initialize(Decoder(bare), 0)
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        none.embedding.weight.copy_(model.embedding.weight)
        torch.testing.assert_close(model.hidden(tokens), none.hidden(tokens), atol=0, rtol=0)


def test_each_kind_of_parameter():
    w = weights()
    for name in ("layers.0.mixer.query.weight", "layers.1.mlp.gate.weight", "layers.0.mlp.up.weight", "gate.features.weight"):
        assert float(w[name].detach().std()) == pytest.approx(w[name].shape[1] ** -0.5, rel=0.1)
    assert float(w["embedding.weight"].detach().std()) == pytest.approx(1, rel=0.05)
    assert float(w["head.weight"].detach().std()) == pytest.approx(0.001, rel=0.05)
    zero = ("layers.0.mixer.output.weight", "layers.1.mlp.down.weight", "hash_embedding.weight", "layers.0.mixer.value_gate.weight")
    for name in (*zero, "gate.hidden.weight", "gate.mix.weight", "head_bias", *(n for n in w if n.endswith(".bias"))):
        assert not w[name].any(), name
    for name in ("layers.0.mixer_norm.weight", "final_norm.weight"):
        assert (w[name] == 1).all()


def test_outputs_may_begin_small_instead_of_zero():
    w = weights(zero_outputs=False)["layers.0.mlp.down.weight"]
    assert float(w.detach().std()) == pytest.approx(1 / math.sqrt(256 * 2 * 2), rel=0.1)


def test_a_tied_embedding_begins_small():
    model = initialize(Decoder(ModelConfig(300, 64, 32, (), tied=True)), 0)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    one = weights()
    torch.manual_seed(2)
    two = weights()
    other = initialize(Decoder(CONFIG, prior_shape=(3, 12)), 1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other.embedding.weight)
