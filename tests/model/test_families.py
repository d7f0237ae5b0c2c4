"""Exported folders open in transformers with the same logits and ids, and come back as they went."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from groundup.account import cost
from groundup.account.layout import Layout
from groundup.account.memory import training_memory
from groundup.account.workload import Training
from groundup.config import Attention, Dense, HashEmbedding, LatentAttention, Layer, LinearScaling, ModelConfig, Norm, Prior, Rotary
from groundup.errors import GroundupError, UsageError
from groundup.model.decoder import Decoder
from groundup.model.families import family_of, from_family, to_family
from groundup.model.initialize import initialize
from groundup.model.pretrained import open_pretrained
from groundup.model.weights.exporting import export_model
from groundup.tokenizer import Tokenizer


def export(model: Decoder, folder, **options) -> None:
    export_model(model, folder, **options)


def import_model(folder) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    model = open_pretrained(folder).load(dtype=None)
    return model.config, model.state_dict()


def shape(family: str, *, tied: bool = False, theta: float = 5000.0, eps: float = 1e-5) -> ModelConfig:
    norm = Norm(eps=eps)
    mixer = Attention(4, 2, 16, rotary=Rotary(theta), qk_norm=norm if family == "qwen3" else None)
    return ModelConfig(300, 48, 64, (Layer(mixer, Dense(80), norm),) * 3, final_norm=norm, tied=tied)


def random_model(config: ModelConfig) -> Decoder:
    model = initialize(Decoder(config), 0, zero_outputs=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 or name.startswith("head"):  # gains that are not one, logits that differ
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train([b"the cat sat on the mat and the rat sat on the cat\n" * 5], 290, n_workers=1).save(path)
    return path


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_gives_the_same_logits(family, tied, tmp_path):
    model = random_model(shape(family, tied=tied))
    export(model, tmp_path / "out")
    theirs, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True, output_loading_info=True)
    assert theirs.config.model_type == family
    assert not any(loading.values())
    tokens = torch.randint(0, 300, (2, 60), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)


def test_transformers_gives_the_same_ids_and_knows_the_end_of_text(tokenizer_file, tmp_path):
    export(random_model(shape("qwen3")), tmp_path / "out", tokenizer=tokenizer_file)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == tokenizer_file.read_bytes()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    ours = Tokenizer.load(tokenizer_file)
    for text in ("the cat sat", " é€ \n\n  def f(x): return x\t", "日本"):
        assert theirs.encode(text) == ours.encode(text).tolist()
        assert theirs.decode(ours.encode(text)) == text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text
    assert theirs.model_max_length == 64
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == ours.end_of_text


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_round_trip_gives_the_same_model(family, tied, tmp_path):
    model = random_model(shape(family, tied=tied))
    export(model, tmp_path / "out")
    config, tensors = import_model(tmp_path / "out")
    assert config == model.config
    back = Decoder(config)
    back.load_state_dict(tensors)
    for name, p in model.named_parameters():
        assert torch.equal(p, back.get_parameter(name)), name


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_what_transformers_saves_can_be_read(family, tmp_path):
    model = random_model(shape(family))
    export(model, tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", local_files_only=True)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40kB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    config, tensors = import_model(tmp_path / "theirs")
    assert config == model.config
    assert all(torch.equal(p, tensors[name]) for name, p in model.named_parameters())


def test_configurations_as_their_makers_publish_them():
    llama = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 2}
    config = from_family({**llama, "vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": None})
    assert config.layers[0].mixer == Attention(32, 32, 128, rotary=Rotary(10_000.0))
    assert family_of(config)[0].model_type == "llama"
    qwen = {**llama, "model_type": "qwen3", "num_key_value_heads": 8, "rope_theta": 1_000_000, "tie_word_embeddings": True}
    config = from_family({**qwen, "vocab_size": 151936, "max_position_embeddings": 40960, "sliding_window": None})
    assert config.layers[0].mixer == Attention(32, 8, 128, rotary=Rotary(1_000_000.0), qk_norm=Norm(eps=1e-6))
    assert config.tied
    assert to_family(config)["rope_theta"] == 1_000_000


def changed(**fields) -> ModelConfig:
    return dataclasses.replace(shape("qwen3"), **fields)


def changed_layer(index: int = 0, **fields) -> ModelConfig:
    config = shape("qwen3")
    layers = list(config.layers)
    layers[index] = dataclasses.replace(layers[index], **fields)
    return dataclasses.replace(config, layers=tuple(layers))


NORM = Norm(eps=1e-5)
HEADS = {"qk_norm": NORM, "rotary": Rotary(5000.0)}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (changed(hash_embedding=HashEmbedding()), "hash_embedding"),
        (changed(prior=Prior()), "prior"),
        (changed(logit_softcap=15.0), "logit_softcap"),
        (changed(embedding_norm=NORM), "embedding_norm"),
        (changed(head_bias=True), "head_bias"),
        (changed(final_norm=None), "final_norm"),
        (changed(final_norm=Norm(eps=1e-3)), "final_norm.eps"),
        (changed(layers=()), "layers"),
        (changed_layer(mlp=Dense(80, "relu2")), "layers[0].mlp.activation"),
        (changed_layer(2, mlp=Dense(96)), "layers[2].mlp.d_ff"),
        (changed_layer(norm=Norm(eps=1e-5, weight=False)), "layers[0]"),
        (changed_layer(placement="sandwich"), "layers[0].placement"),
        (changed_layer(1, mixer=Attention(4, 2, 16, rotary=Rotary(5000.0))), "layers[1].mixer.qk_norm"),
        (changed_layer(1, mixer=Attention(4, 2, 16, key_offset=True, **HEADS)), "layers[1].mixer.key_offset"),
        (changed_layer(1, mixer=LatentAttention(4, 16, 8, 16, 32)), "layers[1].mixer"),
        (changed_layer(1, mixer=Attention(4, 2, 16, rotary=Rotary(5000.0, LinearScaling(2.0)), qk_norm=NORM)), "layers[1].mixer.rotary"),
        (changed_layer(mixer=Attention(4, 2, 16, value_embedding=True, **HEADS)), "layers[0].mixer.value_embedding"),
        (changed_layer(mixer=Attention(4, 2, 16, rotary=None, qk_norm=NORM)), "layers[0].mixer.rotary"),
    ],
)
def test_what_no_family_can_say_is_named_and_nothing_is_written(config, field, tmp_path):
    family, reason = family_of(config)
    assert family is None
    assert reason.startswith(field)
    with pytest.raises(UsageError, match="cannot be exported"):
        export(Decoder(config), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "bloom"}, "'bloom' is not supported; supported are llama"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"use_sliding_window": True, "layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types has 1 entries for 3"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "factor must be a number, not None"),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope", "factor": 2}}, "rope_type 'longrope'"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": "linear"}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_theta": 0.0}}, "config.json: layer 0: theta, the base of the rotary wavelengths, must be above 1"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps must be a number"),
        ({"use_sliding_window": True, "layer_types": 3}, "layer_types must be a list"),
        ({"model_type": ["qwen3"]}, "is not supported; supported are"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": "long"}}, "must be a whole number"),
    ],
)
def test_a_config_that_asks_for_more_is_refused_by_name(change, says):
    with pytest.raises(UsageError, match=says):
        from_family({**to_family(shape("qwen3")), **change})


def test_rotary_parameters_as_they_were_published_before_transformers_5():
    """A scaling beside the base, which of families with windows is that of the full layers."""
    yarn = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2}
    olmo = published("olmo3", 100, 64, 80, 4, 4, 4, rope_theta=5e5, rope_scaling=yarn)
    assert [layer.mixer.rotary.scaling is not None for layer in olmo.layers] == [False, False, False, True]
    assert {layer.mixer.rotary.theta for layer in olmo.layers} == {5e5}
    linear = {"rope_type": "linear", "factor": 8.0}
    gemma = published("gemma3_text", 100, 64, 80, 6, 4, 4, rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=linear)
    assert [layer.mixer.rotary for layer in gemma.layers] == [Rotary(1e4)] * 5 + [Rotary(1e6, LinearScaling(8.0))]
    assert [layer.mixer.window for layer in gemma.layers] == [4096] * 5 + [None]


def published(model_type: str, vocab_size: int, d: int, d_ff: int, n_layers: int, n_heads: int, n_kv_heads: int, **more) -> ModelConfig:
    sizes = {"hidden_size": d, "intermediate_size": d_ff, "num_hidden_layers": n_layers, "max_position_embeddings": 4096}
    heads = {"num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads}
    return from_family({"model_type": model_type, "vocab_size": vocab_size, **sizes, **heads, **more})


LITE = {"q_lora_rank": None, "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (from_family({"model_type": "gpt2"}), 124_439_808),
        (published("llama", 128_256, 4096, 14_336, 32, 32, 8), 8_030_261_248),  # Llama 3.1 8B
        (published("llama", 128_256, 2048, 8192, 16, 32, 8, tie_word_embeddings=True), 1_235_814_400),  # Llama 3.2 1B
        (published("qwen2", 151_936, 896, 4864, 24, 14, 2, tie_word_embeddings=True), 494_032_768),  # Qwen2.5 0.5B
        (published("mistral", 32_000, 4096, 14_336, 32, 32, 8), 7_241_732_096),  # Mistral 7B v0.1
        (published("gemma2", 256_000, 2304, 9216, 26, 8, 4), 2_614_341_888),  # Gemma 2 2B
        (published("gemma3_text", 262_144, 1152, 6912, 26, 4, 1), 999_885_952),  # Gemma 3 1B
        (published("deepseek_v3", 129_280, 7168, 18_432, 61, 128, 128), 671_026_419_200 - 58 * 256),  # without the selection biases
    ],
)
def test_published_models_have_their_published_parameters(config, parameters):
    assert cost(config, Training(1)).parameters == parameters


@pytest.mark.parametrize(
    ("config", "billions", "active", "with_embedding"),
    [
        (published("mixtral", 32_000, 4096, 14_336, 32, 32, 8), 46.7, 12.9, True),  # Jiang et al. 2024: 47B and 13B
        (published("gpt_oss", 201_088, 2880, 2880, 24, 64, 8, num_local_experts=32), 20.9, 3.6, False),  # gpt-oss-20b's card
        (published("deepseek_v2", 102_400, 2048, 10_944, 27, 16, 16, **LITE), 15.7, 2.5, False),  # V2-Lite: 15.7B and 2.4B
        (published("deepseek_v3", 129_280, 7168, 18_432, 61, 128, 128), 671.0, 36.6, False),  # V3: 671B and 37B
        (published("qwen3_moe", 151_936, 2048, 6144, 48, 32, 4, head_dim=128), 30.5, 3.4, True),  # Qwen3-30B-A3B: 30.5B and 3.3B
    ],
)
def test_active_parameters_are_those_of_the_chosen_experts(config, billions, active, with_embedding):
    counted = cost(config, Training(1))
    table = 0 if with_embedding else config.vocab_size * config.d_model
    assert (round(counted.parameters / 1e9, 1), round((counted.active_parameters - table) / 1e9, 1)) == (billions, active)


def test_memory_and_layouts_are_predicted_of_every_family():
    Layout(data=4, tensor=2, expert=4).check(published("mixtral", 100, 64, 80, 2, 4, 4))
    assert training_memory(from_family({"model_type": "gpt2"}), Training(8)).peak_bytes > 16 * 124e6


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_embd": 50}, "not a multiple of n_head"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gpt_oss", {"swiglu_limit": 9.0}, "swiglu_limit 9.0"),
        ("mixtral", {"num_experts_per_tok": 9}, "n_active 9"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method 'noaux_tc'"),
        ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq 2"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ("qwen3_next", {"layer_types": ["mamba", "full_attention"]}, "layer_types"),
    ],
)
def test_what_a_family_may_ask_for_and_we_do_not_do_is_refused_by_name(family, change, says):
    sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 4, "num_hidden_layers": 2}
    if family == "gpt2":
        sizes = {"n_embd": 48}
    sizes |= {"num_key_value_heads": 4, "num_experts_per_tok": 2}
    from_family({"model_type": family, **sizes})
    with pytest.raises(UsageError, match=says):
        from_family({"model_type": family, **sizes, **change})


def test_a_folder_in_use_and_a_tokenizer_too_large_are_refused(tokenizer_file, tmp_path):
    model = random_model(shape("qwen3"))
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="there already"):
        export(model, tmp_path)
    with pytest.raises(UsageError, match=r"\d+ tokens, the model 260"):
        export(Decoder(changed(vocab_size=260)), tmp_path / "out", tokenizer=tokenizer_file)
    with pytest.raises(UsageError, match="cannot be read"):
        export(model, tmp_path / "out", tokenizer=tmp_path / "none.json")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]


def test_a_disk_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GroundupError, match="cannot be written"):
        export(random_model(shape("qwen3")), tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_broken_weights_are_named(tmp_path):
    folder = tmp_path / "out"
    export(random_model(shape("qwen3")), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for broken, says in (
        ({k: v for k, v in tensors.items() if k != name}, f"no {name}"),
        ({**tensors, name: tensors[name][:5].clone()}, rf"\[5, 48\] as its {name}"),
        ({**tensors, "model.extra": torch.zeros(2)}, "model.extra"),
    ):
        save_file(broken, folder / "model.safetensors")
        with pytest.raises(GroundupError, match=says):
            import_model(folder)
    (folder / "model.safetensors").write_bytes(np.arange(99).tobytes())
    with pytest.raises(GroundupError, match="broken"):
        import_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="has neither"):
        import_model(folder)
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(GroundupError, match="no object"):
        import_model(folder)
