"""The fused head equals logits, mixture and cross-entropy written out, and never holds more than a chunk of logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.kernels import cross_entropy
from groundup.kernels.cross_entropy import chunk_rows, head_loss
from groundup.model import functional as F

N, D, V, K = 70, 5, 11, 2


def problem(seed: int, dtype=torch.float64, n: int = N) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    targets = torch.randint(-1, V, (n,), generator=g)
    return {
        "hidden": randn(n, D).requires_grad_(),
        "weight": randn(V, D).requires_grad_(),
        "bias": randn(V).requires_grad_(),
        "gate_logits": randn(n, K + 1).requires_grad_(),
        "expert_log_p": -randn(n, K).abs(),
        "targets": targets,
    }


def reference(p, mixture: bool, bias: bool, cap: float | None, share: float, scale: float):
    logits = F.linear(p["hidden"], p["weight"], p["bias"] if bias else None)
    logits = logits if cap is None else F.softcap(logits, cap)
    network = F.mixture_nll_reference(logits, p["targets"])
    mixed = F.mixture_nll_reference(logits, p["targets"], p["gate_logits"], p["expert_log_p"]) if mixture else network
    return scale * ((1 - share) * mixed.sum() + share * network.sum()), torch.stack((network, mixed))


def fused(p, mixture: bool, bias: bool, cap: float | None, share: float, scale: float):
    experts = {"gate_logits": p["gate_logits"], "expert_log_p": p["expert_log_p"]} if mixture else {}
    return head_loss(
        p["hidden"],
        p["weight"],
        p["targets"],
        bias=p["bias"] if bias else None,
        scale=scale,
        logit_softcap=cap,
        network_share=share,
        **experts,
    )


@given(
    mixture=st.booleans(),
    bias=st.booleans(),
    cap=st.sampled_from([None, 2.0]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_loss_and_gradients_are_those_of_the_equation(mixture, bias, cap, share, seed):
    p = problem(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_BYTES", {"cpu": 0})  # the least rows a chunk: three chunks
        ours, nats = fused(p, mixture, bias, cap, share, 0.7)
    expected, each = reference(p, mixture, bias, cap, share, 0.7)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(nats, each)
    leaves = [p["hidden"], p["weight"]] + [p["bias"]] * bias + [p["gate_logits"]] * mixture
    for a, b in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * expected, leaves), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_gradients_are_true(cap):
    p = problem(1, n=6)
    leaves = [p[name] for name in ("hidden", "weight", "bias", "gate_logits")]
    names = ("hidden", "weight", "bias", "gate_logits")
    assert torch.autograd.gradcheck(lambda *a: fused(p | dict(zip(names, a, strict=True)), True, True, cap, 0.3, 0.5)[0], leaves)


def test_the_rows_that_are_not_scored_get_no_gradient():
    p = problem(2)
    loss, nats = fused(p, True, False, None, 0.3, 1.0)
    loss.backward()
    ignored = p["targets"] < 0
    assert ignored.any() and not nats[:, ignored].any()
    assert not p["hidden"].grad[ignored].any() and not p["gate_logits"].grad[ignored].any()


def test_scoring_without_gradients_gives_the_same_nats():
    p = problem(3)
    with torch.no_grad():
        loss, nats = fused(p, True, True, 2.0, 0.3, 1.0)
    expected, each = fused(p, True, True, 2.0, 0.3, 1.0)
    assert not loss.requires_grad
    torch.testing.assert_close(nats, each, atol=0, rtol=0)
    torch.testing.assert_close(loss, expected.detach(), atol=0, rtol=0)


def test_large_logits_stay_finite():
    p = problem(4, torch.float32)
    loss, nats = head_loss(p["hidden"] * 1e3, p["weight"], p["targets"])
    loss.backward()
    assert torch.isfinite(nats).all() and torch.isfinite(p["weight"].grad).all()


def test_bf16_hidden_states_give_fp32_nats_and_an_fp32_gradient_of_the_weight():
    p = problem(5, torch.float32)
    loss, nats = head_loss(p["hidden"].bfloat16(), p["weight"], p["targets"])
    loss.backward()
    exact = F.mixture_nll_reference(F.linear(p["hidden"], p["weight"]), p["targets"])
    assert nats.dtype == p["weight"].grad.dtype == torch.float32
    torch.testing.assert_close(nats[0], exact, atol=0.1, rtol=0.05)


@given(vocab_size=st.integers(2, 300_000))
def test_a_chunk_of_logits_fits_its_share_of_memory_or_has_32_rows(vocab_size):
    rows = chunk_rows(vocab_size, "cpu")
    assert rows >= 32 and (rows == 32 or 4 * rows * vocab_size <= cross_entropy.CHUNK_BYTES["cpu"])
