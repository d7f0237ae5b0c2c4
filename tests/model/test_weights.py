"""Weights come out of files as their makers' own loaders have them, and what is broken is named before anything is loaded."""

import json
import pickle
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from groundup.errors import GroundupError, UsageError
from groundup.gguf_file import GGUFFile
from groundup.model.pretrained import open_pretrained
from groundup.model.weights.exporting import export_model
from groundup.model.weights.gguf_source import GGUFSource, config_values, llama3_factors
from groundup.model.weights.sources import Dequantized, SafetensorsFolder

SHAPE = {"vocab_size": 300, "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3}
SHAPE |= {"num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "head_dim": 32, "pad_token_id": None}
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
}
Q4_0 = gguf.GGMLQuantizationType.Q4_0


def theirs(kind: str) -> torch.nn.Module:
    config, model, extra = MODELS[kind]
    torch.manual_seed(0)
    made = model(config(**SHAPE, **extra)).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.dim() == 1 else p.shape[-1] ** -0.5) + (1 if "norm" in name else 0))
    return made


def write_gguf(path: Path, kind: str, made: torch.nn.Module, *, with_rope_table: bool = False) -> Path:
    """The file that llama.cpp's converter would write: matrices in few bits, a Llama's query and key rows in its order."""
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}[kind]
    names = gguf.get_tensor_name_map(architecture, SHAPE["num_hidden_layers"])
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_key_length(SHAPE["head_dim"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_string("general.license", "apache-2.0")
    if with_rope_table:
        writer.add_tensor("rope_freqs.weight", llama3_factors(32, 10_000.0, 8.0).astype(np.float32))
    for name, p in made.state_dict().items():
        if name == "lm_head.weight" and made.config.tie_word_embeddings:
            continue
        values = p.detach().numpy().copy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = SHAPE["num_attention_heads"] if "q_proj" in name else SHAPE["num_key_value_heads"]
            halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        stem, _, end = name.rpartition(".")
        stored = gguf.quantize(values, Q4_0) if values.ndim == 2 else values
        writer.add_tensor(f"{names.get_name(stem)}.{end}", stored, raw_dtype=Q4_0 if values.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_a_gguf_file_is_the_model_whose_numbers_were_rounded(kind, tmp_path):
    made = theirs(kind)
    opened = open_pretrained(write_gguf(tmp_path / "model.gguf", kind, made))
    assert opened.licence == "apache-2.0" and opened.stored_as.startswith("Q4_0")
    with torch.no_grad():
        for p in made.parameters():  # what the file holds of it
            if p.dim() == 2:
                p.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(p.numpy(), Q4_0), Q4_0)))
        tokens = torch.randint(0, 300, (2, 40))
        torch.testing.assert_close(opened.load()(tokens), made(tokens).logits, atol=1e-4, rtol=1e-4)


def test_the_header_is_what_the_reference_reader_reads(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "llama", theirs("llama"))
    found, wanted = GGUFFile(path), gguf.GGUFReader(str(path))
    assert found.metadata == {key: field.contents() for key, field in wanted.fields.items() if not key.startswith("GGUF.")}
    for tensor in wanted.tensors:
        mine = found.tensors[tensor.name]
        assert (mine.kind, mine.shape, mine.offset) == (tensor.tensor_type.name, tuple(tensor.shape[::-1].tolist()), tensor.data_offset)
        assert found.blocks(tensor.name).tobytes() == tensor.data.tobytes()


def test_llama_3s_rotary_scaling_is_known_by_its_table(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "llama", theirs("llama"), with_rope_table=True)
    scaling = config_values(GGUFFile(path))["rope_scaling"]
    assert scaling == {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | {
        "original_max_position_embeddings": 8192
    }
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**SHAPE, rope_parameters=scaling | {"rope_theta": 10_000.0}), "cpu")
    np.testing.assert_allclose(10_000.0 ** -(np.arange(0, 32, 2) / 32) / llama3_factors(32, 10_000.0, 8.0), wanted.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
    ],
)
def test_a_factor_alone_is_linear_scaling_as_in_llama_cpp(changes, scaling, tmp_path):
    file = GGUFFile(write_gguf(tmp_path / "model.gguf", "llama", theirs("llama")))
    file.metadata |= changes
    assert config_values(file).get("rope_scaling") == scaling


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("llama.embedding_length", "wide", "llama.embedding_length in its header is 'wide', which is no int"),
        ("llama.rope.freq_base", [1], "llama.rope.freq_base in its header is .*, which is no float"),
        ("llama.block_count", 10**18, "has 1,000,000,000,000,000,000 layers and"),
        ("llama.rope.dimension_count", 16, "rope.dimension_count must be the width of a head, 32"),
        ("llama.feed_forward_length", 10**18, "asks for a tensor that no memory holds"),
        ("tokenizer.chat_template", 5, "tokenizer.chat_template in its header is 5, which is no str"),
    ],
)
def test_a_header_that_makes_no_sense_is_named(key, value, says, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", "llama", theirs("llama"))
    file = GGUFFile(path)
    file.metadata[key] = value
    monkeypatch.setattr("groundup.model.pretrained.GGUFFile", lambda path: file)
    with pytest.raises(GroundupError, match=rf"model\.gguf.*{says}"):
        open_pretrained(path).load()


def test_any_cut_of_a_gguf_file_is_named_and_any_byte_is_read_or_refused(tmp_path):
    data = write_gguf(tmp_path / "model.gguf", "llama", theirs("llama")).read_bytes()
    path = tmp_path / "broken.gguf"
    header = data.index(b"output_norm.weight")
    for length in (5, 20, header // 2, header, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(GroundupError, match=r"broken\.gguf (is cut off|is broken)"):
            open_pretrained(path)
    path.write_bytes(b"PK" + data[2:])
    with pytest.raises(UsageError, match="is no GGUF file"):
        open_pretrained(path)
    generator = np.random.default_rng(0)
    for at in generator.integers(4, header, 150):
        path.write_bytes(data[:at] + bytes([generator.integers(256)]) + data[at + 1 :])
        try:
            open_pretrained(path).load()
        except GroundupError as error:
            assert "broken.gguf" in str(error)


def test_an_unknown_architecture_and_kind_of_numbers_are_named(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", "qwen2", theirs("qwen2"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"qwen2", b"qwen9"))
    with pytest.raises(UsageError, match="'qwen9' is not supported as GGUF"):
        open_pretrained(path).load()
    path.write_bytes(data)
    file = GGUFFile(path)
    file.tensors["output.weight"] = gguf_tensor = file.tensors["output.weight"].__class__("output.weight", "Q5_K", (300, 96), 0)
    with pytest.raises(UsageError, match=r"output\.weight is stored as Q5_K, which is not supported"):
        file.blocks(gguf_tensor.name)
    with pytest.raises(UsageError, match=r"output\.weight is stored as Q5_K"):
        GGUFSource(file)  # and not only when that tensor's turn comes
    file.tensors["blk.0.ssm_in.weight"] = gguf_tensor
    with pytest.raises(GroundupError, match=r"blk\.0\.ssm_in\.weight belongs to no model"):
        GGUFSource(file)


@pytest.fixture
def sharded(tmp_path):
    made = theirs("llama")
    made.save_pretrained(tmp_path / "model", max_shard_size="100kB")
    return tmp_path / "model", made


def test_a_sharded_folder_is_loaded_and_exported_in_shards_with_equal_logits(sharded, tmp_path):
    folder, made = sharded
    opened = open_pretrained(folder)
    model = opened.load()
    export_model(model, tmp_path / "out", origin=opened, shard_bytes=100_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    back, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True, output_loading_info=True)
    assert not any(loading.values())
    tokens = torch.randint(0, 300, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), made(tokens).logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(back(tokens).logits, made(tokens).logits)


def test_precision_is_kept_where_it_is_asked_for(sharded):
    folder, made = sharded
    made.bfloat16().save_pretrained(folder)
    opened = open_pretrained(folder)
    assert {p.dtype for p in opened.load(dtype=None).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in opened.load().parameters()} == {torch.float32}


def test_a_missing_shard_a_cut_one_and_a_wrong_index_are_named(sharded):
    folder, _ = sharded
    shards = sorted(folder.glob("*.safetensors"))
    kept = shards[1].read_bytes()
    shards[1].write_bytes(kept[:-10])
    with pytest.raises(GroundupError, match=rf"{shards[1].name} is cut off or broken"):
        open_pretrained(folder).load()
    shards[1].unlink()
    with pytest.raises(GroundupError, match=rf"{shards[1].name} is missing"):
        open_pretrained(folder).load()
    shards[1].write_bytes(kept)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    said["weight_map"]["model.extra"] = shards[0].name
    index.write_text(json.dumps(said))
    with pytest.raises(GroundupError, match=rf"{shards[0].name} lacks model\.extra"):
        open_pretrained(folder).load()
    said["weight_map"]["model.extra"] = "../elsewhere.safetensors"
    index.write_text(json.dumps(said))
    with pytest.raises(GroundupError, match="does not name files beside it"):
        open_pretrained(folder).load()


def test_nothing_is_read_before_every_shape_is_checked(sharded, monkeypatch):
    folder, _ = sharded
    shard = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]["model.norm.weight"]
    save_file(load_file(shard) | {"model.norm.weight": torch.zeros(5)}, shard)
    monkeypatch.setattr(SafetensorsFolder, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(GroundupError, match=r"\[5\] as its model\.norm\.weight, where the configuration asks for \[96\]"):
        open_pretrained(folder).load()


def test_a_pickle_is_refused_with_the_reason(sharded):
    folder, _ = sharded
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(UsageError, match=r"pytorch_model\.bin is a pickle, which may run any code"):
        open_pretrained(folder).load()


def test_fp8_and_mxfp4_appear_whole_and_what_does_not_fit_is_named(tmp_path):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 130, generator=generator).to(torch.float8_e4m3fn)
    stored = {
        "a.weight": weight,
        "a.weight_scale_inv": torch.tensor([[1.0, 2.0], [4.0, 0.5]]),
        "b_blocks": torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8, generator=generator),
        "b_scales": torch.full((2, 6, 3), 127, dtype=torch.uint8),
        "c": torch.ones(3),
    }
    save_file(stored, tmp_path / "model.safetensors")
    source = Dequantized(SafetensorsFolder(tmp_path))
    assert sorted(source.names()) == ["a.weight", "b", "c"]
    assert [source.shape(name) for name in ("a.weight", "b", "c")] == [(200, 130), (2, 96, 6), (3,)]
    found = source.read("a.weight")
    assert torch.equal(found[:128, 128:], 2 * weight[:128, 128:].float()) and torch.equal(found[128:, :128], 4 * weight[128:, :128].float())
    assert source.read("b").shape == (2, 96, 6) and torch.equal(source.read("c"), torch.ones(3))
    save_file(stored | {"a.weight_scale_inv": torch.ones(1, 2), "b_scales": stored["b_scales"][:1]}, tmp_path / "model.safetensors")
    source = Dequantized(SafetensorsFolder(tmp_path))
    for name in ("a.weight", "b"):
        with pytest.raises(GroundupError, match="does not fit"):
            source.read(name)


def test_other_quantizations_and_what_is_no_model_are_refused(sharded, tmp_path):
    folder, _ = sharded
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UsageError, match="quant_method 'gptq' is not supported"):
        open_pretrained(folder).load()
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 128]}})
    )
    with pytest.raises(UsageError, match=r"weight_block_size \[1, 128\] is not supported, only square blocks are"):
        open_pretrained(folder).load()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "rwkv"}))
    with pytest.raises(UsageError, match="model_type 'rwkv' is not supported"):
        open_pretrained(folder).load()
    with pytest.raises(UsageError, match="is no model"):
        open_pretrained(tmp_path / "nothing")


def test_an_absent_head_means_tied_where_nothing_is_said_of_it(sharded):
    folder, made = sharded
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]  # true in the model
    (folder / "config.json").write_text(json.dumps(config))
    tokens = torch.randint(0, 300, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(open_pretrained(folder).load()(tokens), made(tokens).logits, atol=1e-4, rtol=1e-4)
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(GroundupError, match=r"have no lm_head\.weight"):
        open_pretrained(folder).load()


def test_how_its_makers_draw_and_what_older_folders_name_elsewhere(sharded):
    folder, _ = sharded
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    for said, found in (({"top_k": 0, "temperature": 1}, {"temperature": 1.0}), ({"top_k": 5, "top_p": None}, {"top_k": 5}), ({}, {})):
        (folder / "generation_config.json").write_text(json.dumps(said))
        assert open_pretrained(folder).drawing == found
    assert open_pretrained(folder).special == {"bos_token": "<s>", "eos_token": "<|end|>"}
    (folder / "generation_config.json").write_text(json.dumps({"temperature": "hot"}))
    with pytest.raises(UsageError, match=r"generation_config\.json: temperature must be a number, not 'hot'"):
        open_pretrained(folder).drawing  # noqa: B018
    (folder / "chat_template.jinja").write_bytes(b"\xe9")
    with pytest.raises(GroundupError, match=r"chat_template\.jinja cannot be read"):
        open_pretrained(folder)


def test_the_hub_is_asked_for_safe_files_alone_and_a_missing_network_is_said(sharded, monkeypatch):
    folder, _ = sharded
    asked = []

    def download(repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns, ignore_patterns))
        if repository == "owner/away":
            raise ConnectionError("no route to host")
        return shutil.copytree(folder, folder.with_name("cache"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_pretrained("hub:owner/name").config.d_model == 96
    repository, wanted, unwanted = asked[0]
    files = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja"]
    others = ["original/model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "onnx/config.json"]
    assert repository == "owner/name"
    assert list(filter_repo_objects(files + others, allow_patterns=wanted, ignore_patterns=unwanted)) == files
    with pytest.raises(UsageError, match=r"hub:owner/away: the download failed \(no route to host\): check the network"):
        open_pretrained("hub:owner/away")
