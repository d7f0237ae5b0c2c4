"""A configuration survives its JSON, and one that makes no sense is refused by name."""

import dataclasses
import json

import pytest

from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm, Prior, Rotary, check, from_dict, to_dict
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


def attention(**fields) -> ModelConfig:
    return ModelConfig(100, 32, 64, (Layer(Attention(**({"n_heads": 4, "n_kv_heads": 2, "head_dim": 8} | fields)), Dense(64)),))


def test_json_and_back_is_the_same():
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(WHOLE)))) == WHOLE
    assert check(WHOLE) is WHOLE


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
        ({"embedding_norm": {"kind": "batch"}}, "'batch' is not one of"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(change, what):
    with pytest.raises(UsageError, match=what):
        from_dict(ModelConfig, to_dict(WHOLE) | change)


def test_a_missing_key_is_named():
    values = to_dict(WHOLE)
    del values["d_model"]
    with pytest.raises(UsageError, match="missing key 'd_model'"):
        from_dict(ModelConfig, values)
