"""Decoding with a cache is the full forward pass, whatever the model and whatever the steps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.account.inference import cache_bytes
from groundup.config import Attention, Dense, Experts, HashEmbedding, LatentAttention, Layer, LinearMixer, Norm
from groundup.infer.cache import KVCache
from groundup.kernels.attention import BLOCK

MODELS = {
    "grouped, qk-norm": {},
    "window": {"layers": (Layer(Attention(2, 2, 8, window=3), Dense(32)), Layer(Attention(2, 1, 16), Dense(32)))},
    "key offset": {"layers": (Layer(Attention(2, 1, 8, key_offset=True, qk_norm=Norm(weight=False)), Dense(32, "relu2")),) * 2},
    "value embedding": {"layers": (Layer(Attention(2, 2, 8, value_embedding=True), Dense(32, "relu2")),) * 2},
    "post-norm, biases, no positions": {
        "layers": (
            Layer(Attention(2, 2, 8, rotary=None, bias=True, output_bias=True), Dense(32, "gelu", bias=True), Norm("layer"), "post"),
        )
    },
    "latent attention": {"layers": (Layer(LatentAttention(2, 4, 4, 6, 10, q_rank=12), Dense(32)),) * 2},
    "linear mixer": {"layers": (Layer(LinearMixer(4, 2, 6, 8), Dense(32)), Layer(Attention(2, 1, 8, sinks=True), Dense(32)))},
    "experts, learned positions": {
        "layers": (Layer(Attention(2, 2, 8, rotary=None, softcap=2.0), Experts(4, 2, 16), placement="after"),),
        "learned_positions": True,
        "context_length": 128,
    },
    "hashed n-grams": {"hash_embedding": HashEmbedding((2, 4), 512), "embedding_norm": Norm()},
}


def cached(model, tokens, sizes):
    """Hidden states of tokens read in steps of the given sizes."""
    cache = KVCache(model.config, tokens.shape[0], torch.float32, tokens.device)
    parts = []
    for part in tokens.split(sizes, dim=1):
        parts.append(model.hidden(part, cache=cache))
        cache.advance(part)
    assert cache.length == tokens.shape[1]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), seed=st.integers(0, 2**31))
def test_steps_of_any_size_equal_the_full_forward(tiny, name, sizes, seed):
    model = tiny(**MODELS[name])
    tokens = torch.randint(0, 40, (2, sum(sizes)), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(cached(model, tokens, sizes), model.hidden(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["grouped, qk-norm", "window", "key offset", "latent attention", "linear mixer"])
def test_a_step_longer_than_a_block_of_queries_is_read_block_by_block(tiny, name):
    model = tiny(context_length=512, **MODELS[name])
    tokens = torch.randint(0, 40, (1, BLOCK + 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(cached(model, tokens, [5, BLOCK + 30, 5]), model.hidden(tokens), atol=1e-5, rtol=1e-5)


def test_growing_past_the_first_capacity_keeps_what_was_there(tiny):
    model = tiny(context_length=512)
    tokens = torch.randint(0, 40, (1, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(cached(model, tokens, [1] * 200), model.hidden(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key_offset", [False, True])
def test_a_window_bounds_what_a_layer_keeps(tiny, key_offset):
    model = tiny(layers=(Layer(Attention(2, 1, 8, window=5, key_offset=key_offset), Dense(32)),), context_length=512)
    tokens = torch.randint(0, 40, (1, 300), generator=torch.Generator().manual_seed(1))
    cache = KVCache(model.config, 1, torch.float32, tokens.device)
    with torch.no_grad():
        expected = model.hidden(tokens)
        for part, wanted in zip(tokens.split(7, dim=1), expected.split(7, dim=1), strict=True):
            torch.testing.assert_close(model.hidden(part, cache=cache), wanted, atol=1e-5, rtol=1e-5)
            cache.advance(part)
        assert cache._keys[0].shape[1] <= 64
        cache.clear()
        for part, wanted in zip(tokens.split([290, 10], dim=1), expected.split([290, 10], dim=1), strict=True):
            torch.testing.assert_close(model.hidden(part, cache=cache), wanted, atol=1e-5, rtol=1e-5)
            cache.advance(part)
    assert cache._keys[0].shape[1] <= 64, "a long pass leaves no more than what the next ones see"


def test_what_a_layer_leaves_is_what_the_account_counts(tiny):
    """Numbers that a pass of t tokens adds to each layer's cache."""
    for name in ("latent attention", "linear mixer", "window"):
        model, tokens = tiny(**MODELS[name]), torch.zeros(1, 50, dtype=torch.int64)
        cache = KVCache(model.config, 1, torch.float32, tokens.device)
        sizes = []
        append, keep = cache.append, cache.keep_state

        def appended(layer, k, v, append=append, sizes=sizes, model=model):
            window = getattr(model.config.layers[layer].mixer, "window", None) or 50
            sizes.append((k[0, 0].numel() + v[0, 0].numel()) * min(50, window))
            return append(layer, k, v)

        def kept(layer, state, keep=keep, sizes=sizes):
            sizes.append(sum(part.numel() for part in state))
            keep(layer, state)

        cache.append, cache.keep_state = appended, kept
        with torch.no_grad():
            model.hidden(tokens, cache=cache)
        assert sum(sizes) == cache_bytes(model.config, 50, 1)


def test_a_cleared_cache_is_as_new(tiny):
    model = tiny(hash_embedding=HashEmbedding((2, 3), 512))
    cache = KVCache(model.config, 1, torch.float32, torch.device("cpu"))
    first, second = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8]])
    with torch.no_grad():
        model.hidden(first, cache=cache)
        cache.advance(first)
        cache.clear()
        torch.testing.assert_close(model.hidden(second, cache=cache), model.hidden(second), atol=1e-5, rtol=1e-5)


def test_the_hashed_ngrams_of_a_single_token_need_the_tokens_before_it(tiny):
    model = tiny(hash_embedding=HashEmbedding((3,), 512))
    last = torch.tensor([[9]])
    with torch.no_grad():
        alone, known = model.embed(last, None), model.embed(last, None, torch.tensor([[7, 8]]))
        torch.testing.assert_close(known, model.embed(torch.tensor([[7, 8, 9]]), None)[:, -1:])
    assert not torch.allclose(alone, known)
