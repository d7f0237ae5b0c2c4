"""Every family, against ``transformers``: the same logits, alone and packed, greedy text from a cache, gradients, and the way back."""

import copy
import math

import pytest
import torch
from family_rows import CONTEXT, ROWS, VOCAB, opened, reference
from torch.nn import functional as torch_f
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from groundup.account import CPU, cost
from groundup.account.memory import optimizer_numbers
from groundup.account.workload import Training
from groundup.config import ModelConfig, from_dict, to_dict
from groundup.infer.cache import KVCache
from groundup.infer.generate import generate
from groundup.kernels.attention import BLOCK
from groundup.model.decoder import Decoder
from groundup.model.families import FAMILIES
from groundup.model.weights.exporting import export_model
from groundup.optim import OptimizerConfig, build_optimizer

TOLERANCE = 1e-4
# torch's counter passes over these
COUNTED = {
    torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.linalg_solve_triangular: lambda a, b, **_: math.prod(a) * b[-1],
}
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
def test_decoding_with_a_cache_gives_the_references_logits_and_greedy_text(pair, unchecked):
    """A text read in steps, then text written on, each token the likeliest by the reference's full forward pass over all before it."""
    theirs, ours = pair
    tokens, steps = text(60, 1), [25, 7, *[1] * 6, 22]
    expected, cache = theirs(tokens).logits, KVCache(ours.config, 1, torch.float32, tokens.device)
    for part, wanted in zip(tokens.split(steps, dim=1), expected.split(steps, dim=1), strict=True):
        assert largest(ours.logits(ours.hidden(part, cache=cache)) - wanted) <= TOLERANCE
        cache.advance(part)
    new = list(generate(ours, tokens[0].tolist(), max_tokens=256, temperature=0))
    logits = theirs(torch.tensor([tokens[0].tolist() + new])).logits[0, tokens.shape[1] - 1 : -1]
    best = logits.max(dim=-1).values
    assert len(new) == 256
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
    nothing = 1e-7 * max(p.norm() for p in gradients.values())  # a key's bias, which the softmax does not see, has only rounding
    for name, p in ours.named_parameters():
        difference, size = (p.grad - gradients[name]).norm(), gradients[name].norm()
        assert difference <= 1e-4 * size + nothing, name


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
    counted = cost(ours.config, Training(40, run=CPU))
    assert {name: tuple(p.shape) for name, p in ours.named_parameters()} == {w.name: w.shape for w in counted.weights}
    assert counted.parameters == theirs.num_parameters() == sum(p.numel() for p in ours.parameters())
    tokens = text(40)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        ours.loss(tokens, tokens)[0].backward()
    optimizer = build_optimizer(ours.named_parameters(), OptimizerConfig())
    held = sum(t.numel() for name, t in optimizer.state_dict().items() if "/" in name)
    assert held == optimizer_numbers(counted.weights, "muon", "adamw")
    ours.zero_grad()
    assert counter.get_total_flops() == 2 * counted.tree.executed_training_flops


@rows
def test_the_configuration_survives_its_json_and_its_familys(pair):
    theirs, ours = pair
    assert from_dict(ModelConfig, to_dict(ours.config)) == ours.config
    family = FAMILIES[theirs.config.model_type]
    assert family.read(family.write(ours.config)) == ours.config
    assert ours.config.context_length == CONTEXT
