"""What ``groundup inspect``, ``generate``, ``eval`` and ``export`` say of a model that others made, and of what they cannot open."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM

from groundup import cli
from groundup.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    torch.manual_seed(0)
    ids = {"bos_token_id": 260, "eos_token_id": 299, "pad_token_id": None, "max_position_embeddings": 64}
    LlamaForCausalLM(LlamaConfig(**SHAPE, **ids)).save_pretrained(folder)
    Tokenizer.train([b"the cat sat on the mat " * 9], 262, special_tokens=("<s>", "</s>"), n_workers=1).save(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("groundup.train.calibrate.pick_device", lambda: torch.device("cpu"))
    return tmp_path


def inspected(capsys, *words: str) -> tuple[dict, str]:
    cli.main(["inspect", *words, "--json"])
    said = capsys.readouterr().out.strip()
    return json.loads(said.splitlines()[-1]), said


def test_all_that_is_known_is_said_and_is_right(folder, capsys):
    found, said = inspected(capsys, str(folder))
    parameters = AutoModelForCausalLM.from_pretrained(folder).num_parameters()
    assert found["parameters"] == parameters and f"{parameters:,} parameters" in said
    assert found["weights_bytes"] == 4 * parameters
    assert found["cache_bytes"] == 4 * 64 * 2 * 32  # 64 positions of keys and values, 2 heads of 16
    assert (found["family"], found["licence"], found["layers"], found["context_length"]) == ("llama", "mit", 1, 64)
    assert found["chat_template"] == TEMPLATE.split("\n")[0][:80]
    assert found["stop_tokens"] == ["</s>"] and found["tokenizer"].startswith("262 tokens, byte-level BPE, pattern gpt2")
    assert found["not_supported"] == []


def test_what_is_not_supported_is_named_and_the_rest_still_said(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}}))
    (folder / "chat_template.jinja").write_text("{% for %}")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    found, said = inspected(capsys, str(folder))
    assert [name in " ".join(found["not_supported"]) for name in ("spiral", "Unigram", "chat template is broken")] == [True] * 3
    assert said.count("not supported: ") == 3 and found["licence"] == "mit" and found["family"] == "llama"


def test_an_unknown_family_and_missing_weights_are_named(folder, capsys):
    (folder / "model.safetensors").unlink()
    assert "has neither model.safetensors" in inspected(capsys, str(folder))[0]["not_supported"][0]
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    found, _ = inspected(capsys, str(folder))
    assert "'rwkv' is not supported" in found["not_supported"][0] and found["family"] == "rwkv"


def test_a_mixture_of_experts_with_latent_attention_is_counted_whole(folder, capsys):
    shape = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "first_k_dense_replace": 1}
    dims = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 2}
    theirs = DeepseekV3Config(**shape, **heads, **dims, n_group=2, topk_group=1, max_position_embeddings=128, pad_token_id=None)
    DeepseekV3ForCausalLM(theirs).save_pretrained(folder)
    found, _ = inspected(capsys, str(folder))
    assert found["cache_bytes"] == 2 * 128 * (16 + 8) * 4  # a latent and a rotary key of each position and layer
    assert found["training_bytes"] > 4 * 4 * found["parameters"] and not found["not_supported"]


def test_it_is_written_with_scored_and_exported(folder, capsys, tmp_path):
    cli.main(["generate", str(folder), "--prompt", "the cat", "--max-tokens", "5", "--seed", "1"])
    assert capsys.readouterr().out.startswith("the cat")
    cli.main(["generate", str(folder), "--prompt", "the cat", "--chat", "--system", "be kind", "--max-tokens", "5", "--seed", "1"])
    assert not capsys.readouterr().out.startswith("the cat")
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 5)
    cli.main(["eval", str(folder), "--data", str(tmp_path / "text.txt"), "--json"])
    score = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert score["bytes"] == 120 and 1 < score["bits_per_byte"]["model"] < 20
    cli.main(["export", str(folder), str(tmp_path / "out")])
    theirs, ours = (AutoModelForCausalLM.from_pretrained(where) for where in (folder, tmp_path / "out"))
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, ours(tokens).logits)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("inspect nowhere", "nowhere is no model"),
        ("chat {} --completion --system x", "--system"),
        ("generate {} --system x", "--system goes with --chat"),
        ("generate {}/tokenizer_config.json", "is no model"),
    ],
)
def test_what_makes_no_sense_is_refused(folder, capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        cli.main(words.format(folder).split())
    assert ended.value.code == 2 and says in capsys.readouterr().err
