"""Numbers stored in few bits, as fp32 again: the blocks of GGUF files, FP8 by blocks of a matrix, and MXFP4.

Symbols: N blocks of B bytes that hold E numbers each; q a small integer, d and m a block's scale and offset in fp16.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from groundup.gguf_file import BLOCKS

_AT_ONCE = 1 << 12  # blocks: what is in work then stays in the cache, and beside the result takes no memory to speak of


def dequantize(kind: str, blocks: UInt8[np.ndarray, "n b"]) -> Float[np.ndarray, " m"]:
    """The numbers of N blocks of a kind that ``gguf_file.BLOCKS`` lists, fp32, one after the other: m = N E.

    The layouts are those of ``ggml-quants.c`` (llama.cpp). A kind of one number a block is read as it is. Raises ValueError for a block
    whose scale is infinite or no number, which no quantizer writes.
    """
    if kind in ("F32", "F16"):
        return blocks.reshape(-1).view("<f4" if kind == "F32" else "<f2").astype(np.float32)
    if kind == "BF16":
        return (blocks.reshape(-1).view("<u2").astype(np.uint32) << 16).view(np.float32)
    out = np.empty((len(blocks), BLOCKS[kind][0]), np.float32)
    for start in range(0, len(blocks), _AT_ONCE):
        _BLOCKWISE[kind](blocks[start : start + _AT_ONCE], out[start : start + _AT_ONCE])
    return out.reshape(-1)


def _scale(blocks: np.ndarray, start: int) -> np.ndarray:
    """A number in fp16 at a byte of each block, as fp32, shape [N, 1]."""
    found = np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("a block's scale is not finite")
    return found


def _nibbles(packed: np.ndarray, out: np.ndarray) -> None:
    """The low four bits of each byte into out[..., 0, :], the high four into out[..., 1, :]."""
    out[..., 0, :], out[..., 1, :] = packed & 15, packed >> 4


def _q4_0(blocks: np.ndarray, out: np.ndarray) -> None:
    """d (q - 8); the first 16 numbers are the low halves of 16 bytes, the others the high ones."""
    _nibbles(blocks[:, 2:], out.reshape(-1, 2, 16))
    out -= 8
    out *= _scale(blocks, 0)


def _q4_1(blocks: np.ndarray, out: np.ndarray) -> None:
    """d q + m, in the order of Q4_0."""
    _nibbles(blocks[:, 4:], out.reshape(-1, 2, 16))
    out *= _scale(blocks, 0)
    out += _scale(blocks, 2)


def _q8_0(blocks: np.ndarray, out: np.ndarray) -> None:
    """d q, q a signed byte."""
    out[:] = blocks[:, 2:].view(np.int8)
    out *= _scale(blocks, 0)


def _q4_k(blocks: np.ndarray, out: np.ndarray) -> None:
    """d s_j q - m o_j in eight parts j of 32, s and o of six bits each; of 32 bytes the low halves are a part, the high ones the next."""
    packed = rearrange(blocks[:, 4:16], "n (group j) -> n group j", j=4)  # four bits of the last four s and o hide above the first
    high = packed[:, :2] >> 6
    scales = np.concatenate((packed[:, 0] & 63, (packed[:, 2] & 15) | (high[:, 0] << 4)), axis=1) * _scale(blocks, 0)
    offsets = np.concatenate((packed[:, 1] & 63, (packed[:, 2] >> 4) | (high[:, 1] << 4)), axis=1) * _scale(blocks, 2)
    _nibbles(rearrange(blocks[:, 16:], "n (pair i) -> n pair i", i=32), out.reshape(-1, 4, 2, 32))
    parts = out.reshape(-1, 8, 32)
    parts *= scales[..., None]
    parts -= offsets[..., None]


def _q6_k(blocks: np.ndarray, out: np.ndarray) -> None:
    """d s_j (q - 32) in sixteen parts j of 16, s a signed byte; q is four bits of one byte and two of another."""
    low = rearrange(blocks[:, :128], "n (half two i) -> n half two i", half=2, two=2)
    high = rearrange(blocks[:, 128:192], "n (half i) -> n half i", half=2)
    scales = blocks[:, 192:208].view(np.int8) * _scale(blocks, 208)
    quarters = out.reshape(-1, 2, 4, 32)
    for quarter in range(4):
        bits = (low[:, :, quarter % 2] >> (4 * (quarter // 2))) & 15
        quarters[:, :, quarter] = bits | ((high >> (2 * quarter)) & 3) << 4
    parts = out.reshape(-1, 16, 16)
    parts -= 32
    parts *= scales[..., None]


_BLOCKWISE: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q6_K": _q6_k,
}


def fp8_blocks(weight: Shaped[Tensor, "o i"], scale: Float[Tensor, "p q"], side: int = 128) -> Float[Tensor, "o i"]:
    """W[r, c] = w[r, c] s[r // side, c // side] in fp32: E4M3 by blocks of 128 x 128 (DeepSeek-V3, 2024, section 3.3)."""
    wide = weight.float()
    for row, scales in enumerate(scale.float()):
        rows = wide[row * side : (row + 1) * side]
        rows *= scales.repeat_interleave(side)[: wide.shape[1]]
    return wide


_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def mxfp4(blocks: UInt8[Tensor, "*n g b"], scales: UInt8[Tensor, "*n g"]) -> Float[Tensor, "*n m"]:
    """v = 2^(scale - 127) e2m1(four bits) in fp32: blocks of 32 with a power of two each (OCP Microscaling Formats 1.0, 2023).

    A byte holds two numbers, the first in its low half; m = 2 g b.
    """
    values = torch.tensor([*_E2M1, *(-value for value in _E2M1)], device=blocks.device)
    pairs = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    return torch.ldexp(values[pairs.int()], scales[..., None].int() - 127).flatten(-2)
