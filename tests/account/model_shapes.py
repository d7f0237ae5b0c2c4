"""Models to count: published ones, and random small ones."""

from hypothesis import strategies as st

from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm


def uniform(vocab_size: int, d_model: int, n_layers: int, heads: tuple[int, int, int], d_ff: int, *, tied: bool = False, **attention):
    """A config with equal SwiGLU layers; heads is (query heads, kv heads, head_dim)."""
    layer = Layer(Attention(*heads, **attention), Dense(d_ff))
    return ModelConfig(vocab_size, d_model, 8192, (layer,) * n_layers, tied=tied)


LLAMA_3_8B = uniform(128_256, 4096, 32, (32, 8, 128), 14_336)
QWEN3_600M = uniform(151_936, 1024, 28, (16, 8, 128), 3072, tied=True, qk_norm=Norm())
SMOLLM2_135M = uniform(49_152, 576, 30, (9, 3, 64), 1536, tied=True)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any small decoder that the config can say."""
    norms = st.builds(Norm, st.just("rms"), weight=st.booleans()) | st.builds(
        Norm, st.just("layer"), weight=st.booleans(), bias=st.booleans()
    )
    kv = draw(st.integers(1, 3))
    layer = st.builds(
        Layer,
        mixer=st.builds(
            Attention,
            n_heads=st.integers(1, 3).map(lambda groups: groups * kv),
            n_kv_heads=st.just(kv),
            head_dim=st.sampled_from([2, 4, 6]),
            qk_norm=st.none() | norms,
            window=st.none() | st.integers(1, 20),
            bias=st.booleans(),
            output_bias=st.booleans(),
            value_embedding=st.booleans(),
        ),
        mlp=st.builds(Dense, d_ff=st.integers(1, 9), activation=st.sampled_from(["swiglu", "gelu", "relu2"]), bias=st.booleans()),
        norm=norms,
        placement=st.sampled_from(["pre", "post", "sandwich"]),
    )
    return ModelConfig(
        vocab_size=draw(st.integers(2, 30)),
        d_model=draw(st.integers(1, 12)),
        context_length=64,
        layers=tuple(draw(st.lists(layer, max_size=3))),
        final_norm=draw(st.none() | norms),
        embedding_norm=draw(st.none() | norms),
        tied=draw(st.booleans()),
        head_bias=draw(st.booleans()),
        hash_embedding=draw(st.none() | st.builds(HashEmbedding, n_rows=st.integers(1, 40))),
    )
