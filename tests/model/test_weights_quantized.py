"""Few-bit numbers are those that the formats' own implementations and definitions give."""

import gguf
import numpy as np
import pytest
import torch
from transformers.integrations.mxfp4 import _convert_moe_packed_tensors

from groundup.gguf_file import BLOCKS
from groundup.model.weights import quantized
from groundup.model.weights.quantized import dequantize, fp8_blocks, mxfp4


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_of_any_bytes_are_what_the_reference_makes_of_them(kind, monkeypatch):
    monkeypatch.setattr(quantized, "_AT_ONCE", 5)  # more rounds than one, and a last that is not full
    numbers, n_bytes = BLOCKS[kind]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (64, n_bytes), dtype=np.uint8)
    for start in {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}.get(kind, []):
        scale = generator.uniform(-1, 1, (64, 1)).astype(np.float16)
        blocks[:, start : start + 2] = scale.view(np.uint8).reshape(64, 2)  # any bytes would be infinite or no number too often
    found = dequantize(kind, blocks)
    wanted = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind]).reshape(-1)
    assert found.dtype == np.float32 and found.shape == (64 * numbers,)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)


def test_fp8_blocks_scale_each_block_of_a_matrix_that_does_not_divide():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0], [0.5, 3.0]])
    found = fp8_blocks(weight, scale, side=4)
    for row in range(5):
        for column in range(7):
            assert found[row, column] == weight[row, column].float() * scale[row // 4, column // 4]


def test_mxfp4_is_what_transformers_unpacks():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(110, 140, (2, 6, 3), dtype=torch.uint8, generator=generator)
    wanted = _convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    torch.testing.assert_close(mxfp4(blocks, scales), wanted.transpose(1, 2), rtol=0, atol=0)


def test_mxfp4_knows_all_sixteen_numbers():
    blocks = torch.arange(0, 256, 17, dtype=torch.uint8).reshape(1, 16)  # each number twice
    found = mxfp4(blocks, torch.tensor([128], dtype=torch.uint8))[::2]
    assert found.tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
def test_a_scale_that_is_no_number_is_damage(kind):
    with pytest.raises(ValueError, match="not finite"):
        dequantize(kind, np.full((3, BLOCKS[kind][1]), 255, np.uint8))
