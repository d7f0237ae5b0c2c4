"""Groups, state and clipping: what a training loop relies on."""

import dataclasses
import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.config import from_dict, to_dict
from groundup.errors import GroundupError, UsageError
from groundup.optim import (
    RULES,
    Optimizer,
    OptimizerConfig,
    Rule,
    build_optimizer,
    clip_by_global_norm,
    describe,
    group_parameters,
)

NAMES = {
    "embedding.weight": ((40, 8), "embedding"),
    "hash_embedding.weight": ((64, 8), "hash_embedding"),
    "head.weight": ((40, 8), "head"),
    "head.bias": ((40,), "vectors"),
    "final_norm.weight": ((8,), "vectors"),
    "embedding_norm.weight": ((8,), "vectors"),
    "gate.weight": ((6, 8), "gates"),
    "gate.bias": ((6,), "gates"),
}
for i in range(2):
    NAMES |= {
        f"layers.{i}.mixer.query.weight": ((8, 8), "matrices"),
        f"layers.{i}.mixer.key.weight": ((4, 8), "matrices"),
        f"layers.{i}.mixer.value.weight": ((4, 8), "matrices"),
        f"layers.{i}.mixer.value.bias": ((4,), "vectors"),
        f"layers.{i}.mixer.output.weight": ((8, 8), "matrices"),
        f"layers.{i}.mixer.query_norm.weight": ((4,), "vectors"),
        f"layers.{i}.mixer.value_embedding.weight": ((40, 4), "value_embedding"),
        f"layers.{i}.mixer.value_gate.weight": ((1, 8), "gates"),
        f"layers.{i}.mlp.gate.weight": ((16, 8), "matrices"),
        f"layers.{i}.mlp.up.weight": ((16, 8), "matrices"),
        f"layers.{i}.mlp.down.weight": ((8, 16), "matrices"),
        f"layers.{i}.mixer_norm.weight": ((8,), "vectors"),
    }


def decoder(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, (shape, _) in NAMES.items()}


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(step)
    for name, parameter in parameters.items():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if name == "hash_embedding.weight":
            rows = torch.randint(0, 64, (1, 10), generator=generator)
            parameter.grad = torch.sparse_coo_tensor(rows, parameter.grad[rows[0]], parameter.shape, check_invariants=True)


CONFIGS = [OptimizerConfig(matrices=matrices) for matrices in ("muon", "soap", "adamw", "sgd")]


def test_every_parameter_of_a_decoder_is_in_the_group_of_its_kind():
    groups = group_parameters(decoder().items(), OptimizerConfig())
    found = {name: group.name for group in groups for name in group.parameters}
    assert found == {name: kind for name, (_, kind) in NAMES.items()}
    assert sum(group.n_parameters for group in groups) == sum(p.numel() for p in decoder().values())


@pytest.mark.parametrize("config", CONFIGS)
def test_only_the_layers_matrices_decay_and_each_kind_has_its_own_learning_rate(config):
    config = dataclasses.replace(config, **{rule.lr: 0.1 + i for i, rule in enumerate(RULES)})
    groups = {group.name: group for group in group_parameters(decoder().items(), config)}
    assert [groups[rule.name].lr for rule in RULES] == [0.1 + i for i in range(len(RULES))]
    assert {name for name, group in groups.items() if group.weight_decay} == {"matrices"}
    assert groups["matrices"].method == getattr(config, config.matrices)
    assert all(group.method == config.adamw for name, group in groups.items() if name != "matrices")


def test_a_parameter_no_rule_or_two_rules_take_is_an_error():
    stray = {"probe.weight": torch.zeros(2, 3)}
    with pytest.raises(UsageError, match=r"probe.weight of shape \[2, 3\]: no rule takes it"):
        build_optimizer(stray.items(), OptimizerConfig())
    both = (*RULES, Rule("everything", "everything", lambda name, ndim: True, "matrix_lr"))
    with pytest.raises(UsageError, match="the rules embedding and everything take it"):
        group_parameters(decoder().items(), OptimizerConfig(), both)


def test_groups_must_match_the_parameters():
    parameters = decoder()
    groups = group_parameters(parameters.items(), OptimizerConfig())
    with pytest.raises(UsageError, match="is in two groups"):
        Optimizer([*groups, groups[0]], parameters.items())
    with pytest.raises(UsageError, match="is in no group"):
        Optimizer(groups[1:], parameters.items())
    del parameters["head.bias"]
    with pytest.raises(UsageError, match=r"head.bias is in a group but no parameter"):
        Optimizer(groups, parameters.items())


def test_describe_has_one_row_a_group_with_the_same_columns():
    rows = describe(group_parameters(decoder().items(), OptimizerConfig()))
    assert [row["group"] for row in rows] == [rule.name for rule in RULES]
    assert rows[0] | {"rule": ""} == {
        "group": "matrices",
        "method": "Muon",
        "learning rate": "0.02",
        "decay": "0.01",
        "tensors": "14",
        "parameters": "1,152",
        "rule": "",
    }
    assert all(row.keys() == rows[0].keys() for row in rows)


@pytest.mark.parametrize("config", CONFIGS)
def test_config_survives_its_file(config):
    assert from_dict(OptimizerConfig, to_dict(config)) == config


def test_config_refuses_a_negative_learning_rate_by_name():
    with pytest.raises(UsageError, match="head_lr must be at least 0"):
        OptimizerConfig(head_lr=-1.0)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("interrupted_at", [0, 1, 13])
def test_state_goes_through_a_file_bit_for_bit(config, interrupted_at, tmp_path):
    whole = decoder()
    optimizer = build_optimizer(whole.items(), config)
    for step in range(20):
        if step == interrupted_at:
            save_file(optimizer.state_dict(), tmp_path / "state")
            save_file({name: p.detach() for name, p in whole.items()}, tmp_path / "weights")
        set_gradients(whole, step)
        optimizer.step(1 - step / 20)

    resumed = decoder(seed=1)
    with torch.no_grad():
        for name, weight in load_file(tmp_path / "weights").items():
            resumed[name].copy_(weight)
    again = build_optimizer(resumed.items(), config)
    again.load_state_dict(load_file(tmp_path / "state"))
    for step in range(interrupted_at, 20):
        set_gradients(resumed, step)
        again.step(1 - step / 20)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    first, second = optimizer.state_dict(), again.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_state_of_another_method_or_shape_is_refused_and_changes_nothing():
    parameters = decoder()
    muon, adamw = (build_optimizer(parameters.items(), config) for config in (CONFIGS[0], CONFIGS[2]))
    set_gradients(parameters, 0)
    muon.step()
    before = {key: tensor.clone() for key, tensor in muon.state_dict().items()}
    with pytest.raises(GroundupError, match=r"layers.0.mixer.key.weight/first is unknown"):
        muon.load_state_dict(adamw.state_dict())
    cut = dict(before) | {"head.bias/first": torch.zeros(3)}
    with pytest.raises(GroundupError, match=r"head.bias/first is torch.float32 \[3\] instead of torch.float32 \[40\]"):
        muon.load_state_dict(cut)
    after = muon.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_zero_grad_drops_gradients():
    parameters = decoder()
    set_gradients(parameters, 0)
    build_optimizer(parameters.items(), OptimizerConfig()).zero_grad()
    assert all(parameter.grad is None for parameter in parameters.values())


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
def test_clip_is_torch_clip(max_norm):
    ours, theirs = decoder(), decoder()
    for step, parameters in itertools.product(range(1), (ours, theirs)):
        set_gradients(parameters, step)
    theirs["hash_embedding.weight"].grad = theirs["hash_embedding.weight"].grad.to_dense()
    ours["head.bias"].grad = theirs["head.bias"].grad = None
    norm = clip_by_global_norm(ours.values(), max_norm)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm))
    for name in ours:
        if theirs[name].grad is not None:
            gradient = ours[name].grad
            torch.testing.assert_close(gradient.to_dense() if gradient.is_sparse else gradient, theirs[name].grad)


def test_clip_shows_what_is_not_finite_and_takes_no_gradients_at_all():
    parameters = decoder()
    assert clip_by_global_norm(parameters.values(), 1.0) == 0
    set_gradients(parameters, 0)
    parameters["head.bias"].grad[3] = torch.nan
    assert not clip_by_global_norm(parameters.values(), 1.0).isfinite()
    with pytest.raises(UsageError, match="max_norm must be above 0"):
        clip_by_global_norm(parameters.values(), 0.0)


def test_a_small_problem_is_solved_by_every_method():
    """Each method, on a matrix that a linear map's data determine, comes near it."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(64, 8, generator=generator), torch.randn(4, 8, generator=generator)
    for config in CONFIGS:
        weight = torch.nn.Parameter(torch.zeros(4, 8))
        optimizer = build_optimizer([("layers.0.mlp.up.weight", weight)], dataclasses.replace(config, matrix_lr=0.05, weight_decay=0.0))
        for step in range(300):
            optimizer.zero_grad()
            (x @ (weight - target).T).square().mean().backward()
            optimizer.step(1 - step / 300)
        assert (weight - target).abs().max() < 0.02, config.matrices
