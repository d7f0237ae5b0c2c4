"""The comparison finds equal what is equal and apart what is not, and its table says the ratios."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.open_weights import CONTEXT, PLACES, WRITTEN, Ours, Transformers, agreement, rows
from groundup.model.pretrained import open_pretrained


def test_one_model_in_two_programs_agrees_and_another_does_not(tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    theirs = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=256, eos_token_id=None, pad_token_id=0, initializer_range=0.5))
    theirs.save_pretrained(tmp_path)
    peer = object.__new__(Transformers)
    peer.model = theirs.eval()
    model = open_pretrained(tmp_path).load()
    ids = [i * i % 90 for i in range(CONTEXT + 2 * PLACES)]
    found = agreement(Ours(model), peer, ids)
    assert found["largest_difference_nats"] < 1e-3 and found["equal_greedy_tokens"] == [WRITTEN] * PLACES
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight.flip(0))
    found = agreement(Ours(model), peer, ids)
    assert found["largest_difference_nats"] > 0.1 and max(found["equal_greedy_tokens"]) < WRITTEN


def test_the_table_says_ratios_first():
    def row(seconds: float, n_bytes: float) -> dict[str, float]:
        return {"load_s": seconds, "first_logits_s": 2 * seconds, "peak_bytes": n_bytes, "above_imports_bytes": n_bytes}

    (line,) = rows({"loading": {"GGUF": {"groundup": row(2.0, 5e6), "transformers": row(8.0, 10e6)}}})
    assert (line["times as fast"], line["to first logits"], line["peak memory, of theirs"]) == ("4.0", "4.0", "0.50")
