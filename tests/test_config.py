"""A configuration survives its JSON, and one that makes no sense is refused by name."""

import dataclasses
import json

import pytest

from groundup.config import (
    Attention,
    Dense,
    Experts,
    HashEmbedding,
    LatentAttention,
    Layer,
    LinearMixer,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Norm,
    Prior,
    Rotary,
    Router,
    YarnScaling,
    check,
    from_dict,
    to_dict,
)
from groundup.errors import UsageError

WHOLE = ModelConfig(
    100,
    32,
    64,
    (
        Layer(Attention(4, 2, 8, rotary=Rotary(500.0), qk_norm=Norm(weight=False), window=7, key_offset=True), Dense(64, "relu2")),
        Layer(Attention(2, 2, 16, rotary=None, value_embedding=True, bias=True), Dense(48), Norm("layer", bias=True), "sandwich"),
    ),
    final_norm=None,
    embedding_norm=Norm(),
    tied=True,
    logit_softcap=15.0,
    hash_embedding=HashEmbedding((2, 3), 10),
    prior=Prior(4),
)


FAMILIES = ModelConfig(
    100,
    32,
    64,
    (
        Layer(Attention(4, 2, 8, rotary=Rotary(1e4, LinearScaling(2.0)), softcap=5.0, sinks=True), Dense(64, "geglu"), placement="after"),
        Layer(Attention(4, 2, 8, rotary=Rotary(1e4, Llama3Scaling(8.0)), qk_norm=Norm(), qk_norm_over="projection"), Experts(4, 2, 16)),
        Layer(
            LatentAttention(4, 8, 4, 6, 10, rotary=Rotary(1e4, YarnScaling(4.0, 16, mscale=1.0), interleaved=True)),
            Experts(8, 2, 16, Router("sigmoid", selection_bias=True, n_groups=4, n_active_groups=2), shared=Dense(32)),
        ),
        Layer(LinearMixer(4, 2, 6, 8), Dense(64)),
    ),
    learned_positions=True,
    embedding_scale=2.0,
)


def mixer(kind: Attention | LatentAttention | LinearMixer, mlp: Dense | Experts = WHOLE.layers[0].mlp) -> ModelConfig:
    return ModelConfig(100, 32, 64, (Layer(kind, mlp),))


def experts(**fields) -> ModelConfig:
    return mixer(WHOLE.layers[0].mixer, Experts(**({"n_experts": 8, "n_active": 2, "d_ff": 16} | fields)))


def attention(**fields) -> ModelConfig:
    return ModelConfig(100, 32, 64, (Layer(Attention(**({"n_heads": 4, "n_kv_heads": 2, "head_dim": 8} | fields)), Dense(64)),))


def test_json_and_back_is_the_same():
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(WHOLE)))) == WHOLE
    assert check(WHOLE) is WHOLE
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(FAMILIES)))) == check(FAMILIES)


def test_a_file_from_before_there_were_other_kinds_is_read():
    values = {"mixer": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "rotary": {"theta": 500.0}, "window": 7}, "mlp": {"d_ff": 64}}
    assert from_dict(Layer, values) == Layer(Attention(4, 2, 8, rotary=Rotary(500.0), window=7), Dense(64))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"mixer": {"n_heads": 4, "kv_rank": 8}, "mlp": {"d_ff": 64}}, "config.mixer: missing key 'head_dim'"),
        (
            {"mixer": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "kv_rank": 8}, "mlp": {"d_ff": 64}},
            "config.mixer: unknown key 'kv_rank'",
        ),
        ({"mixer": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8}, "mlp": {"d_ff": 64, "n_experts": 4}}, "config.mlp: "),
    ],
)
def test_a_part_that_is_no_kind_is_read_as_the_nearest_and_refused(values, what):
    with pytest.raises(UsageError, match=what):
        from_dict(Layer, values)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (dataclasses.replace(WHOLE, vocab_size=1), "vocab_size"),
        (dataclasses.replace(WHOLE, d_model=0), "d_model"),
        (dataclasses.replace(WHOLE, final_norm=Norm("rms", bias=True)), "rms has no bias"),
        (attention(qk_norm=Norm("rms", bias=True)), "rms has no bias"),
        (attention(n_heads=3), "n_kv_heads 2"),
        (attention(head_dim=7), "even head_dim"),
        (attention(head_dim=6, key_offset=True), "multiple of 4"),
        (attention(window=0), "window"),
        (attention(n_kv_heads=0), "at least 1"),
        (dataclasses.replace(WHOLE, embedding_scale=0.0), "embedding_scale must be above 0"),
        (attention(softcap=0.0), "softcap must be above 0"),
        (attention(scale=-1.0), "scale must be above 0"),
        (attention(rotary=Rotary(dims=12)), "at most head_dim 8, not 12"),
        (attention(rotary=Rotary(scaling=LinearScaling(0.5))), "factor of a rotary scaling"),
        (attention(rotary=Rotary(scaling=Llama3Scaling(8.0, 4.0, 4.0))), "low_frequency_factor must be below"),
        (dataclasses.replace(WHOLE, final_norm=Norm(weight=False, plus_one=True)), "plus_one"),
        (mixer(LatentAttention(4, 8, 3, 6, 10)), "even head_dim, not 3"),
        (mixer(LatentAttention(4, 8, 4, 6, 0)), "kv_rank must be at least 1"),
        (mixer(LatentAttention(4, 8, 4, 6, 10, q_rank=0)), "q_rank must be at least 1"),
        (mixer(LinearMixer(4, 3, 6, 8)), "not a multiple of n_key_heads 3"),
        (mixer(LinearMixer(4, 2, 0, 8)), "key_dim must be at least 1"),
        (experts(n_active=9), "n_active 9 is more than the 8 experts"),
        (experts(n_active=0), "n_active must be at least 1"),
        (experts(router=Router(n_groups=3)), "n_experts 8 is not a multiple of n_groups 3"),
        (experts(router=Router(n_groups=2, n_active_groups=3)), "n_active_groups 3"),
        (experts(router=Router(n_groups=8, n_active_groups=2, group_score="top2")), "groups of at least 2"),
        (experts(router=Router("softmax_of_chosen", selection_bias=True)), "softmax_of_chosen"),
        (experts(shared_gate=True), "shared_gate needs"),
    ],
)
def test_nonsense_is_refused_by_name(config, what):
    with pytest.raises(UsageError, match=what):
        check(config)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"vocab_size": "many"}, "config.vocab_size: expected int"),
        ({"vocab_size": True}, "config.vocab_size"),
        ({"tied": 1}, "config.tied"),
        ({"width": 3}, "unknown key 'width'"),
        ({"layers": [{"mixer": 3}]}, "config.layers"),
        ({"layers": 5}, "config.layers: expected a list"),
        ({"embedding_norm": {"kind": "batch"}}, "'batch' is not one of"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(change, what):
    with pytest.raises(UsageError, match=what):
        from_dict(ModelConfig, to_dict(WHOLE) | change)


def test_a_pair_has_two_values_each_of_its_own_kind():
    @dataclasses.dataclass(frozen=True)
    class Named:
        pairs: tuple[tuple[str, float], ...]

    assert from_dict(Named, {"pairs": [["a", 1], ["b", 2.5]]}) == Named((("a", 1.0), ("b", 2.5)))
    with pytest.raises(UsageError, match=r"pairs\[0\]: expected 2 values"):
        from_dict(Named, {"pairs": [["a", 1.0, 2.0]]})


def test_a_missing_key_is_named():
    values = to_dict(WHOLE)
    del values["d_model"]
    with pytest.raises(UsageError, match="missing key 'd_model'"):
        from_dict(ModelConfig, values)
