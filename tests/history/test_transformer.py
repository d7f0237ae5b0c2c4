"""The transformer of 2017 against PyTorch's post-norm layer."""

import math

import torch
from torch import nn

from groundup.history.transformer import PostNormLayer, Transformer2017, sinusoids


def test_a_layer_is_torchs_post_norm_layer():
    d, heads = 16, 4
    ours = PostNormLayer(d, heads, torch.Generator().manual_seed(0))
    theirs = nn.TransformerEncoderLayer(d, heads, 4 * d, dropout=0.0, activation="relu", norm_first=False, batch_first=True)
    generator = torch.Generator().manual_seed(1)
    for p in (ours.up_bias, ours.down_bias, ours.gains, ours.biases):
        p.data.copy_(torch.randn(p.shape, generator=generator))
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.joint)
        theirs.self_attn.out_proj.weight.copy_(ours.output)
        for name, weight in (("linear1", ours.up), ("linear2", ours.down)):
            getattr(theirs, name).weight.copy_(weight)
        theirs.linear1.bias.copy_(ours.up_bias)
        theirs.linear2.bias.copy_(ours.down_bias)
        for i, norm in enumerate((theirs.norm1, theirs.norm2)):
            norm.weight.copy_(ours.gains[i])
            norm.bias.copy_(ours.biases[i])
    x = torch.randn(2, 9, d, generator=generator)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    found, _, _ = ours(x, None)
    torch.testing.assert_close(found, theirs(x, src_mask=mask, is_causal=True), atol=1e-5, rtol=1e-5)


def test_positions_by_the_papers_formula():
    table = sinusoids(3, 8, 6)
    assert table.shape == (5, 6)
    for row, position in enumerate(range(3, 8)):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert math.isclose(table[row, 2 * i], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(table[row, 2 * i + 1], math.cos(angle), abs_tol=1e-5)


def test_a_text_may_be_read_in_pieces():
    network = Transformer2017(16, context_length=12)
    symbols = torch.randint(257, (2, 9), generator=torch.Generator().manual_seed(0))
    whole, _ = network.read(symbols, ())
    first, state = network.read(symbols[:, :4], ())
    second, _ = network.read(symbols[:, 4:5], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole[:, :5], atol=1e-5, rtol=1e-5)


def test_parameters_and_flops_by_hand():
    d, n_layers, t = 16, 2, 5
    network = Transformer2017(d, n_layers=n_layers)
    per_layer = 4 * d * d + 8 * d * d + 5 * d + 4 * d
    assert sum(p.numel() for p in network.parameters()) == 257 * d + 256 + n_layers * per_layer
    pairs = t * (t + 1) // 2
    assert network.forward_flops(3, t) == 3 * (t * (n_layers * 2 * 12 * d * d + 2 * 256 * d) + n_layers * 4 * d * pairs)
