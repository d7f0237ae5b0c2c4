"""Whatever the config says: the decoder that is built from it has the parameters, the FLOPs and the optimizer's state of its account."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import configs
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import CPU, cost
from groundup.account.memory import optimizer_numbers
from groundup.account.workload import Training
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.train.recompute import apply_recompute

# torch's counter passes over this one
IN_PLACE = {torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1]}


@settings(max_examples=60)
@given(
    configs(),
    st.integers(1, 3),
    st.integers(1, 64),
    st.sampled_from(["adamw", "muon", "sgd"]),
    st.sampled_from(["none", "attention", "mlp", "layers"]),
)
def test_a_step_of_any_config_is_as_counted(config, batch_size, seq_len, matrices, recompute):
    model = apply_recompute(initialize(Decoder(config), 0), recompute)
    tokens = torch.randint(config.vocab_size, (batch_size, seq_len), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        model.loss(tokens, tokens)[0].backward()
    counted = cost(config, Training(seq_len, run=replace(CPU, recompute=recompute)))
    assert counter.get_total_flops() == batch_size * counted.tree.executed_training_flops
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {w.name: w.shape for w in counted.weights}
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(matrices=matrices))
    optimizer.step()
    held = sum(t.numel() for name, t in optimizer.state_dict().items() if "/" in name)
    assert held == optimizer_numbers(counted.weights, matrices, "adamw")
