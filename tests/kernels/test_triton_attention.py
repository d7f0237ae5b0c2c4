"""The Triton attention equals the readable reference, in Triton's interpreter: the same kernels, run block by block on the CPU."""

import os

import pytest
import torch

from groundup.errors import UsageError
from groundup.kernels.attention import choose_backend
from groundup.model.functional import attention_reference

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported
triton = pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch for GPUs")

if type(triton.language.cdiv).__name__ != "InterpretedFunction":
    pytest.skip("Triton was imported as a compiler before this file could ask for its interpreter", allow_module_level=True)


@triton.jit
def count_to(n, out):
    for i in range(n):
        triton.language.store(out, i)


try:
    count_to[(1,)](3, torch.zeros(1, dtype=torch.int32))
except triton.runtime.errors.InterpreterError as error:  # Triton 3.6 and older with NumPy 2.4 and newer
    pytest.skip(f"this Triton's interpreter cannot run a loop with this NumPy: {error}", allow_module_level=True)

from groundup.kernels import triton_attention  # noqa: E402  only where the interpreter works

TINY = triton_attention.Tiles(triton_attention.Tile(32, 16, 4, 2), triton_attention.Tile(32, 16, 4, 2), triton_attention.Tile(16, 32, 4, 2))
"""Blocks so small that a short sequence has several."""


def inputs(t: int, heads: int, kv: int, dim: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(t)
    return [torch.randn(1, t, n, dim, generator=generator).to(dtype).requires_grad_() for n in (heads, kv, kv)]


def assert_equals_reference(q, k, v, documents, window, tolerance):
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q.dtype)
    ours = triton_attention.triton_attention(q, k, v, documents, window)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    reference = attention_reference(*exact, documents, window)
    found = [ours, *torch.autograd.grad(ours, (q, k, v), upstream)]
    wanted = [reference, *torch.autograd.grad(reference, exact, upstream.double())]
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == q.dtype
        torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)


PACKED = [0] * 3 + [1] * 30 + [2] * 34 + [3, 4, 5]
"""70 tokens: documents that end within a block, at its end, span several, and are one token long."""


@pytest.mark.parametrize(
    ("t", "heads", "kv", "dim", "window", "documents"),
    [
        pytest.param(70, 1, 1, 16, None, None, id="causal, the last block is not full"),
        pytest.param(64, 2, 1, 16, None, None, id="grouped queries"),
        pytest.param(70, 1, 1, 16, 20, None, id="window"),
        pytest.param(40, 1, 1, 16, 1, None, id="a window of itself alone"),
        pytest.param(70, 1, 1, 16, None, PACKED, id="documents"),
        pytest.param(70, 2, 1, 24, 17, PACKED, id="grouped, a head dim that is padded, window and documents"),
        pytest.param(40, 1, 1, 16, None, [0] * 7 + [1] * 20 + [-1] * 13, id="padding is a document of its own"),
        pytest.param(1, 1, 1, 4, 8, [0], id="one token"),
    ],
)
def test_values_and_gradients_are_the_references(monkeypatch, t, heads, kv, dim, window, documents):
    monkeypatch.setattr(triton_attention, "choose_tiles", lambda head_dim, element_bytes: TINY)
    owners = None if documents is None else torch.tensor([documents], dtype=torch.int32)
    assert_equals_reference(*inputs(t, heads, kv, dim), owners, window, 2e-6)


def test_half_precision_accumulates_in_fp32(monkeypatch):
    monkeypatch.setattr(triton_attention, "choose_tiles", lambda head_dim, element_bytes: TINY)
    assert_equals_reference(*inputs(48, 1, 1, 16, torch.float16), None, None, 3e-3)


def test_the_tiles_of_real_use_give_the_references_values():
    assert_equals_reference(*inputs(140, 1, 1, 64, torch.float16), None, 100, 4e-3)


def test_strided_inputs_and_rows_of_a_batch_are_told_apart(monkeypatch):
    monkeypatch.setattr(triton_attention, "choose_tiles", lambda head_dim, element_bytes: TINY)
    joined = torch.randn(2, 20, 3 * 2 * 16, generator=torch.Generator().manual_seed(0))
    q, k, v = (x.view(2, 20, 2, 16) for x in joined.split(32, dim=-1))  # views into one projection, as in the decoder
    v = v.transpose(2, 3).contiguous().transpose(2, 3)  # a head's numbers do not lie side by side
    documents = torch.tensor([[0] * 5 + [1] * 15, [0] * 11 + [1] * 9], dtype=torch.int32)
    torch.testing.assert_close(triton_attention.triton_attention(q, k, v, documents), attention_reference(q, k, v, documents))


def test_documents_that_do_not_ascend_give_no_answer():
    q, k, v = inputs(6, 1, 1, 16)
    out = triton_attention.triton_attention(q, k, v, torch.tensor([[0, 0, 1, 1, 0, 0]], dtype=torch.int32))
    assert out.isnan().all()


def test_equal_inputs_give_equal_bits(monkeypatch):
    monkeypatch.setattr(triton_attention, "choose_tiles", lambda head_dim, element_bytes: TINY)
    q, k, v = inputs(40, 2, 1, 16)
    first, second = (torch.autograd.grad(triton_attention.triton_attention(q, k, v).square().sum(), (q, k, v)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_compiler_takes_it_whole():
    arguments = *inputs(5, 1, 1, 16), torch.tensor([[0, 0, 1, 1, 1]]), None
    torch.library.opcheck(torch.ops.groundup.flash_forward.default, arguments)


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_outer_blocks_are_multiples_of_inner_ones(head_dim, element_bytes):
    tiles = triton_attention.choose_tiles(head_dim, element_bytes)
    assert tiles.forward.queries % tiles.forward.keys == 0
    assert tiles.d_queries.queries % tiles.d_queries.keys == 0
    assert tiles.d_keys.keys % tiles.d_keys.queries == 0


def test_what_it_cannot_take_is_refused():
    for dim, dtype in ((512, torch.float32), (16, torch.float64)):
        with pytest.raises(UsageError, match="Triton attention takes"):
            triton_attention.triton_attention(*inputs(4, 1, 1, dim, dtype))


def test_a_gpu_gets_it():
    assert choose_backend(torch.device("cuda"))[0] == "triton"
