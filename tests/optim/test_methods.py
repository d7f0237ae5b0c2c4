"""The methods against torch.optim, closed forms and one another."""

import pytest
import torch

from groundup.errors import GroundupError, UsageError
from groundup.optim import SGD, SOAP, AdamW, Group, Muon, Optimizer
from groundup.optim.muon import MuonState, update_scale

SHAPES = {"tall": (12, 5), "wide": (5, 12), "square": (7, 7), "vector": (6,)}


def make(method, parameters, lr=0.01, weight_decay=0.0):
    group = Group("all", "everything", method, lr, weight_decay, tuple(parameters), sum(p.numel() for p in parameters.values()))
    return Optimizer([group], parameters.items())


def weights(shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def assert_same_path(ours, theirs, optimizer, oracle, steps=50, tolerance=1e-6, scales=None):
    for step in range(steps):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        scale = 1.0 if scales is None else scales(step)
        for group in oracle.param_groups:
            group["lr"] = group["initial"] * scale
        optimizer.step(scale)
        oracle.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance)


def with_initial(oracle):
    for group in oracle.param_groups:
        group["initial"] = group["lr"]
    return oracle


@pytest.mark.parametrize("method", [SGD(0.0), SGD(0.9), SGD(0.9, nesterov=True)])
def test_sgd_is_torch_sgd(method):
    ours, theirs = weights(), weights()
    oracle = torch.optim.SGD(theirs.values(), lr=0.01, momentum=method.momentum, nesterov=method.nesterov)
    assert_same_path(ours, theirs, make(method, ours), with_initial(oracle))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torch_adamw_under_a_schedule(weight_decay):
    ours, theirs = weights(), weights()
    method = AdamW(0.9, 0.97, 1e-6)
    oracle = torch.optim.AdamW(theirs.values(), lr=0.01, betas=(0.9, 0.97), eps=1e-6, weight_decay=weight_decay)
    optimizer = make(method, ours, weight_decay=weight_decay)
    assert_same_path(ours, theirs, optimizer, with_initial(oracle), scales=lambda step: 1 - step / 50)


@pytest.mark.parametrize("method", [SGD(), AdamW(), Muon(), SOAP()])
def test_decay_is_decoupled_from_the_gradient(method):
    """A gradient of zero moves nothing, so what is left is the decay alone, whatever the method."""
    parameters = weights({"a": (4, 6), "b": (6, 4)})
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = make(method, parameters, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(lr_scale=0.5)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5 * 0.5) ** 3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sparse_rows_that_are_all_touched_are_dense_adamw(weight_decay):
    dense, sparse = weights({"table": (9, 4)}), weights({"table": (9, 4)})
    first, second = make(AdamW(), dense, weight_decay=weight_decay), make(AdamW(), sparse, weight_decay=weight_decay)
    for step in range(20):
        set_gradients(dense, step)
        gradient = dense["table"].grad
        rows = torch.cat([torch.randperm(9), torch.arange(9)])[None]  # twice each: a half and a half
        sparse["table"].grad = torch.sparse_coo_tensor(rows, gradient[rows[0]] / 2, gradient.shape, check_invariants=True)
        first.step()
        second.step()
    torch.testing.assert_close(sparse["table"], dense["table"])


def test_sparse_rows_leave_untouched_rows_and_their_moments_alone():
    parameters = weights({"table": (9, 4)})
    before = parameters["table"].detach().clone()
    optimizer = make(AdamW(), parameters, weight_decay=0.1)
    rows = torch.tensor([[2, 7, 2]])
    parameters["table"].grad = torch.sparse_coo_tensor(rows, torch.ones(3, 4), (9, 4), check_invariants=True)
    optimizer.step()
    untouched = [i for i in range(9) if i not in (2, 7)]
    assert torch.equal(parameters["table"].detach()[untouched], before[untouched])
    assert (parameters["table"].detach()[[2, 7]] != before[[2, 7]]).all()
    for moment in ("first", "second"):
        state = optimizer.state_dict()[f"table/{moment}"]
        assert (state[untouched] == 0).all() and (state[[2, 7]] > 0).all()


def test_an_embedding_trained_sparsely_works_as_it_is():
    table = torch.nn.Embedding(9, 4, sparse=True)
    optimizer = make(AdamW(), dict(table.named_parameters()))
    before = table.weight.detach().clone()
    table(torch.tensor([1, 1, 3])).square().sum().backward()
    optimizer.step()
    assert (table.weight.detach() != before).any(dim=1).nonzero().flatten().tolist() == [1, 3]


def muon_by_svd(parameters, gradients_at, steps, config, lr):
    """Muon with the exact polar factor, one matrix at a time."""
    for name, weight in parameters.items():
        weight, buffer = weight.detach().double().clone(), torch.zeros(weight.shape, dtype=torch.float64)
        for step in range(steps):
            gradient = gradients_at(step)[name].double()
            buffer = config.momentum * buffer + (1 - config.momentum) * gradient
            update = (1 - config.momentum) * gradient + config.momentum * buffer if config.nesterov else buffer
            u, _, vh = torch.linalg.svd(update, full_matrices=False)
            weight -= lr * update_scale(config, *weight.shape) * (u @ vh)
        yield name, weight.float()


@pytest.mark.parametrize("config", [Muon(steps=12), Muon(steps=12, nesterov=False), Muon(steps=12, scale="rms")])
def test_muon_is_its_definition_by_svd(config):
    shapes = {"a": (8, 8), "b": (6, 20), "c": (20, 6), "d": (6, 20), "e": (6, 9)}
    parameters, start = weights(shapes), weights(shapes)
    optimizer = make(config, parameters, lr=0.1)
    for step in range(4):
        set_gradients(parameters, step)
        optimizer.step()

    def gradients_at(step):
        like = weights(shapes)
        set_gradients(like, step)
        return {name: p.grad for name, p in like.items()}

    for name, expected in muon_by_svd(start, gradients_at, 4, config, 0.1):
        torch.testing.assert_close(parameters[name].detach(), expected, rtol=1e-3, atol=1e-3)


def test_muon_scales_state_their_conventions():
    assert update_scale(Muon(scale="spectral"), 16, 4) == 2 and update_scale(Muon(scale="spectral"), 4, 16) == 1
    assert update_scale(Muon(scale="rms"), 16, 4) == update_scale(Muon(scale="rms"), 4, 16) == pytest.approx(0.8)


def test_soap_without_bases_is_adam():
    ours, theirs = weights({"a": (4, 6), "b": (4, 6), "c": (3, 3)}), weights({"a": (4, 6), "b": (4, 6), "c": (3, 3)})
    oracle = torch.optim.AdamW(theirs.values(), lr=0.01, betas=(0.95, 0.95), eps=1e-8, weight_decay=0.1)
    assert_same_path(ours, theirs, make(SOAP(max_dim=0), ours, weight_decay=0.1), with_initial(oracle), tolerance=2e-6)


def test_soap_is_adam_where_the_eigenvectors_are_the_axes():
    """Diagonal gradients have diagonal Gram matrices, whose eigenvectors are the axes in some order."""
    ours, theirs = weights({"a": (5, 5), "b": (5, 5)}), weights({"a": (5, 5), "b": (5, 5)})
    oracle = torch.optim.AdamW(theirs.values(), lr=0.01, betas=(0.95, 0.95), eps=1e-8, weight_decay=0.0)
    optimizer = make(SOAP(refresh_every=3), ours)
    for step in range(30):
        for parameters in (ours, theirs):
            set_gradients(parameters, step)
            for parameter in parameters.values():
                parameter.grad = torch.diag(parameter.grad.diagonal() * torch.arange(1.0, 6.0))
        optimizer.step()
        oracle.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_dim, share", [(100, 0.5), (10, 0.9)])
def test_soap_beats_adam_on_a_rotated_quadratic(max_dim, share):
    """f(W) = |A (W - W*) B|^2 / 2 with ill-conditioned A and B whose axes are not the coordinates'."""
    generator = torch.Generator().manual_seed(3)

    def ill_conditioned(dim):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        return q @ torch.diag(torch.logspace(0, -1.5, dim)) @ q.T

    a, b, target = ill_conditioned(8), ill_conditioned(16), torch.randn(8, 16, generator=generator)

    def loss_after(method, steps=200):
        parameters = {"w": torch.nn.Parameter(torch.zeros(8, 16))}
        optimizer = make(method, parameters, lr=0.05)
        for step in range(steps):
            optimizer.zero_grad()
            loss = (a @ (parameters["w"] - target) @ b).square().sum() / 2
            loss.backward()
            optimizer.step(1 - step / steps)
        return loss.item()

    assert loss_after(SOAP(max_dim=max_dim)) < share * loss_after(AdamW(0.95, 0.95, 1e-8))


def test_errors_name_the_parameter():
    parameters = weights({"w": (4, 4), "v": (4, 4)})
    optimizer = make(Muon(), parameters)
    before = parameters["w"].detach().clone()
    parameters["w"].grad = torch.ones(4, 4)
    with pytest.raises(GroundupError, match="parameter v has no gradient"):
        optimizer.step()
    parameters["v"].grad = torch.ones(4, 4).to_sparse()
    with pytest.raises(GroundupError, match="parameter v has a sparse gradient, which Muon cannot take"):
        optimizer.step()
    assert torch.equal(parameters["w"], before) and optimizer.steps == 0
    with pytest.raises(UsageError, match="Muon moves matrices, but vector has shape"):
        make(Muon(), weights())
    with pytest.raises(UsageError, match=r"w is torch.bfloat16; keep fp32"):
        make(AdamW(), {"w": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))})


@pytest.mark.parametrize(
    "method, values, field",
    [
        (SGD, {"momentum": 1.0}, "sgd.momentum"),
        (SGD, {"momentum": 0.0, "nesterov": True}, "sgd.nesterov"),
        (AdamW, {"beta2": 1.0}, "adamw.beta2"),
        (AdamW, {"eps": 0.0}, "adamw.eps"),
        (Muon, {"steps": 0}, "muon.steps"),
        (Muon, {"lower": 0.0}, "muon.lower"),
        (SOAP, {"refresh_every": 0}, "soap.refresh_every"),
    ],
)
def test_senseless_methods_name_the_field(method, values, field):
    with pytest.raises(UsageError, match=field):
        method(**values)


def test_muon_moves_each_matrix_of_a_stack_as_if_alone():
    generator = torch.Generator().manual_seed(0)
    stack, gradient = (torch.randn(3, 6, 4, generator=generator) for _ in range(2))
    alone = {str(i): stack[i].clone() for i in range(3)}
    MuonState(Muon(), alone).step(list(gradient.unbind()), 0.1, 0.0, 1)
    MuonState(Muon(), {"stack": stack}).step([gradient], 0.1, 0.0, 1)
    torch.testing.assert_close(stack, torch.stack(list(alone.values())))
