"""Pointwise layers with a backward of few passes: on a CPU each pass over an activation costs as much as a sixth of a matrix product."""

import torch
from jaxtyping import Float
from torch import Tensor


class _Relu2(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx, grad):
        (positive,) = ctx.saved_tensors
        return torch.mul(positive, grad).mul_(2)


def relu2(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """max(x, 0)^2, with derivative 2 max(x, 0): the positive part is all that is kept."""
    return _Relu2.apply(x)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return torch.sigmoid(gate).mul_(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors
        s = torch.sigmoid(gate)
        act = s * gate
        d_up = grad * act
        # d silu / d gate = s + silu * (1 - s)
        d_gate = (1 - s).mul_(act).add_(s).mul_(up).mul_(grad)
        return d_gate, d_up


def swiglu(gate: Float[Tensor, "*n"], up: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """silu(gate) * up; keeps its two inputs only."""
    return _SwiGLU.apply(gate, up)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        wide = torch.promote_types(x.dtype, torch.float32)
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        y = torch.mul(x, inverse, out=torch.empty_like(x))  # one rounding, and no wide copy of x
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, inverse = ctx.saved_tensors
        # with y = x r: dx = r (g - y mean(g y)); exact because eps is inside r
        inner = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, inner, value=-1).mul_(inverse), None


def rms_norm(x: Float[Tensor, "*n d"], eps: float = 1e-6) -> Float[Tensor, "*n d"]:
    """x / sqrt(mean(x^2) + eps) keeping the output and one number a row; the statistics are in fp32, or fp64 of fp64."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        from groundup.kernels import fused  # only where it runs: a GPU's machine need not have numba

        return fused.rms_norm(x, eps)
    return _RMSNorm.apply(x, eps)
