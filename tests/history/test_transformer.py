"""The transformer of 2017 against PyTorch's post-norm layer."""

import math

import pytest
import torch
from torch import nn

from groundup.history.transformer import GPT2, PostNormLayer, PreNormLayer, Transformer2017, sinusoids


@pytest.mark.parametrize("kind", [PostNormLayer, PreNormLayer])
def test_a_layer_is_torchs(kind):
    d, heads, pre = 16, 4, kind is PreNormLayer
    ours = kind(d, heads, torch.Generator().manual_seed(0))
    activation = nn.GELU("tanh") if pre else "relu"
    theirs = nn.TransformerEncoderLayer(d, heads, 4 * d, dropout=0.0, activation=activation, norm_first=pre, batch_first=True)
    generator = torch.Generator().manual_seed(1)
    for p in ours.parameters():
        p.data.add_(torch.randn(p.shape, generator=generator) * 0.3)
    with torch.no_grad():
        attention = theirs.self_attn
        pairs = [(attention.in_proj_weight, ours.joint), (attention.out_proj.weight, ours.output)]
        pairs += [(attention.in_proj_bias, ours.joint_bias), (attention.out_proj.bias, ours.output_bias)] if pre else []
        pairs += [(theirs.linear1.weight, ours.up), (theirs.linear1.bias, ours.up_bias)]
        pairs += [(theirs.linear2.weight, ours.down), (theirs.linear2.bias, ours.down_bias)]
        for i, norm in enumerate((theirs.norm1, theirs.norm2)):
            pairs += [(norm.weight, ours.gains[i]), (norm.bias, ours.biases[i])]
        for to, of in pairs:
            to.copy_(of)
    x = torch.randn(2, 9, d, generator=generator)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    torch.testing.assert_close(ours(x)[0], theirs(x, src_mask=mask, is_causal=True), atol=1e-5, rtol=1e-5)


def test_positions_by_the_papers_formula():
    table = sinusoids(3, 8, 6)
    assert table.shape == (5, 6)
    for row, position in enumerate(range(3, 8)):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert math.isclose(table[row, 2 * i], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(table[row, 2 * i + 1], math.cos(angle), abs_tol=1e-5)


@pytest.mark.parametrize("kind", [Transformer2017, GPT2])
def test_a_text_may_be_read_in_pieces(kind):
    network = kind(16, context_length=12)
    symbols = torch.randint(257, (2, 9), generator=torch.Generator().manual_seed(0))
    whole, _ = network.read(symbols, ())
    first, state = network.read(symbols[:, :4], ())
    second, _ = network.read(symbols[:, 4:5], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole[:, :5], atol=1e-5, rtol=1e-5)


def test_parameters_and_flops_by_hand():
    d, n_layers, t = 16, 2, 5
    network = Transformer2017(d, n_layers=n_layers)
    per_layer = 4 * d * d + 8 * d * d + 5 * d + 4 * d
    assert sum(p.numel() for p in network.parameters()) == 257 * d + n_layers * per_layer
    pairs = t * (t + 1) // 2
    assert network.forward_flops(3, t) == 3 * (t * (n_layers * 2 * 12 * d * d + 2 * 256 * d) + n_layers * 4 * d * pairs)


def test_gpt2_has_what_gpt2_has():
    """OpenAI's 124,439,808 parameters, at its own vocabulary: ours has 257 symbols, and the rest is the same count."""
    d, n_layers, t = 768, 12, 1024
    per_layer = 12 * d * d + 13 * d
    assert 50_257 * d + t * d + n_layers * per_layer + 2 * d == 124_439_808
    small = GPT2(16, n_layers=3, context_length=8)
    assert sum(p.numel() for p in small.parameters()) == 257 * 16 + 8 * 16 + 3 * (12 * 16 * 16 + 13 * 16) + 2 * 16
