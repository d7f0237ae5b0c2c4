"""Every family, against ``transformers``: the same logits, alone and packed, greedy text from a cache, gradients, and the way back."""

import copy

import pytest
import torch
from family_rows import CONTEXT, ROWS, VOCAB, opened, reference
from torch.nn import functional as torch_f
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from groundup.account import cost
from groundup.config import ModelConfig, from_dict, to_dict
from groundup.infer.generate import generate
from groundup.kernels.attention import BLOCK
from groundup.model.decoder import Decoder
from groundup.model.families import FAMILIES
from groundup.model.weights.exporting import export_model

TOLERANCE = 1e-4
# torch's counter passes over this one
IN_PLACE = {torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1]}
rows = pytest.mark.parametrize("pair", ROWS, indirect=True)


@pytest.fixture(scope="module")
def pair(request, tmp_path_factory) -> tuple[PreTrainedModel, Decoder]:
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("row")
    theirs.save_pretrained(folder)
    return theirs, opened(folder)


def text(length: int, rows: int = 2, seed: int = 3) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


@rows
@torch.no_grad()
def test_logits_are_the_references(pair):
    theirs, ours = pair
    tokens = text(BLOCK + 20)
    expected = theirs(tokens).logits
    assert expected.std() > 0.1
    assert largest(ours(tokens) - expected) <= TOLERANCE


@rows
@torch.no_grad()
def test_documents_in_a_row_are_as_the_reference_reads_each(pair):
    theirs, ours = pair
    lengths = [21, 5, 40, 1]
    tokens, documents = text(sum(lengths), 1), torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None].int()
    expected = torch.cat([theirs(part).logits for part in tokens.split(lengths, dim=1)], dim=1)
    assert largest(ours(tokens, documents) - expected) <= TOLERANCE


@rows
@torch.no_grad()
def test_greedy_text_from_the_cache_is_the_references(pair):
    """256 tokens, each the likeliest by the reference's full forward pass over all before it."""
    theirs, ours = pair
    prompt = text(12, 1)[0].tolist()
    new = list(generate(ours, prompt, max_tokens=256, temperature=0))
    logits = theirs(torch.tensor([prompt + new])).logits[0, len(prompt) - 1 : -1]
    best = logits.max(dim=-1).values
    assert len(new) == 256 and len(set(new)) > 3
    assert largest(best - logits.gather(1, torch.tensor(new)[:, None])[:, 0]) <= TOLERANCE


@rows
def test_loss_and_gradients_are_the_references(pair, tmp_path):
    theirs, ours = copy.deepcopy(pair[0]), copy.deepcopy(pair[1])
    tokens, targets = text(40), text(40, seed=4)
    expected = torch_f.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten())
    expected.backward()
    loss, _ = ours.loss(tokens, targets, scale=1 / targets.numel())
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    with torch.no_grad():  # the mapping of tensors is linear: gradients saved as if they were weights come back under our names
        for p in theirs.parameters():
            p.copy_(p.grad)
    theirs.save_pretrained(tmp_path)
    gradients = dict(opened(tmp_path).named_parameters())
    for name, p in ours.named_parameters():
        difference, size = (p.grad - gradients[name]).norm(), gradients[name].norm()
        assert difference <= 1e-4 * size + 1e-8, name


@rows
@torch.no_grad()
def test_what_is_exported_opens_there_with_the_same_logits(pair, tmp_path):
    theirs, ours = pair
    export_model(ours, tmp_path / "out", family=FAMILIES[theirs.config.model_type])
    back, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager", output_loading_info=True)
    assert not any(loading.values())
    assert type(back) is type(theirs)
    tokens = text(30)
    assert largest(back(tokens).logits - theirs(tokens).logits) <= 1e-5


@rows
def test_the_account_counts_it_exactly(pair):
    theirs, ours = pair
    counted = cost(ours.config, seq_len=40, attention_block=BLOCK)
    assert {name: tuple(p.shape) for name, p in ours.named_parameters()} == {w.name: w.shape for w in counted.weights}
    assert counted.parameters == theirs.num_parameters() == sum(p.numel() for p in ours.parameters())
    tokens = text(40)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        ours.loss(tokens, tokens)[0].backward()
    ours.zero_grad()
    assert counter.get_total_flops() == 2 * counted.tree.executed_training_flops


@rows
def test_the_configuration_survives_its_json_and_its_familys(pair):
    theirs, ours = pair
    assert from_dict(ModelConfig, to_dict(ours.config)) == ours.config
    family = FAMILIES[theirs.config.model_type]
    assert family.read(family.write(ours.config)) == ours.config
    assert ours.config.context_length == CONTEXT
