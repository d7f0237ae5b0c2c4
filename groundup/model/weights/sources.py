"""Tensors by their Hugging Face names, wherever they are stored: nothing is read but the tensor asked for."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.errors import GroundupError, UsageError
from groundup.files import read_json
from groundup.model.weights.quantized import fp8_blocks, mxfp4

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)")


@runtime_checkable
class Source(Protocol):
    """Where tensors come from."""

    @property
    def where(self) -> str:
        """What an error names: a folder or file."""
        ...

    def names(self) -> Collection[str]:
        """Every tensor there."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        ...

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU in the precision it is stored in, fp32 for one in few bits; it may be a view of the file."""
        ...


class SafetensorsFolder:
    """The ``model.safetensors`` of a folder, or its shards: memory-mapped, headers read and held against sizes and the index.

    Raises UsageError for a folder without such weights, saying so where it has them as pickles, and GroundupError for a shard that is
    missing, cut off, or lacks what the index says is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._files = {}
        index = folder / INDEX
        if (folder / WHOLE).exists():
            places = None
        elif index.exists():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(name, str) and Path(name).name == name for name in places.values()):
                raise GroundupError(f"{index} is broken: its weight_map does not name files beside it; get it again")
        else:
            _refuse(folder)
        for file in [WHOLE] if places is None else sorted(set(places.values())):
            opened = _open(folder / file)
            self._files |= dict.fromkeys(opened.keys(), opened)
        for name, file in (places or {}).items():
            if name not in self._files:
                raise GroundupError(f"{folder / file} lacks {name}, which {INDEX} says is there: get both again")

    def names(self) -> Collection[str]:
        """See ``Source``."""
        return self._files.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """See ``Source``; a view of the file, of which a page is read when it is first used."""
        return self._files[name].get_tensor(name)


def _open(file: Path):
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError as error:
        raise GroundupError(f"{file} is missing: get the whole folder") from error
    except (SafetensorError, OSError) as error:
        raise GroundupError(f"{file} is cut off or broken ({error}): get it again") from error


def _refuse(folder: Path) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if _PICKLES.fullmatch(path.name)) if folder.is_dir() else []
    if pickles:
        raise UsageError(
            f"{folder / pickles[0]} is a pickle, which may run any code when it is read: get the model's .safetensors, "
            "or convert it where you trust its maker"
        )
    raise UsageError(f"{folder} has neither {WHOLE} nor {INDEX}: get the model's weights")


class Dequantized:
    """A source in which matrices stored as FP8 blocks or MXFP4 appear whole, under the names that they would have had.

    ``x.weight`` beside ``x.weight_scale_inv`` is FP8 by blocks (DeepSeek-V3); ``x_blocks`` beside ``x_scales`` is MXFP4 (gpt-oss), whose
    matrices [experts, out, in] appear as [experts, in, out], in bf16, which holds their numbers exactly.
    """

    def __init__(self, source: Source, fp8_side: int = 128) -> None:
        self.where, self._source, self._side = source.where, source, fp8_side
        known = set(source.names())
        self._fp8 = {name for name in known if f"{name}_scale_inv" in known}
        self._mxfp4 = {name.removesuffix("_blocks") for name in known if name.endswith("_blocks") and f"{name[:-7]}_scales" in known}
        hidden = {f"{name}_scale_inv" for name in self._fp8} | {f"{name}{end}" for name in self._mxfp4 for end in ("_blocks", "_scales")}
        self._names = known - hidden | self._mxfp4

    def names(self) -> Collection[str]:
        """See ``Source``."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        if name not in self._mxfp4:
            return self._source.shape(name)
        *experts, out, groups, n_bytes = self._source.shape(f"{name}_blocks")
        return (*experts, groups * n_bytes * 2, out)

    def read(self, name: str) -> Tensor:
        """See ``Source``."""
        if name in self._fp8:
            weight, scale = self._source.read(name), self._source.read(f"{name}_scale_inv")
            if scale.shape != tuple(-(-size // self._side) for size in weight.shape):
                raise GroundupError(f"{self.where}: {name}_scale_inv is {list(scale.shape)}, which does not fit {list(weight.shape)}")
            return fp8_blocks(weight, scale, self._side)
        if name not in self._mxfp4:
            return self._source.read(name)
        blocks, scales = self._source.read(f"{name}_blocks"), self._source.read(f"{name}_scales")
        if blocks.shape[:-1] != scales.shape or blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
            raise GroundupError(f"{self.where}: {name}_scales is {list(scales.shape)}, which does not fit blocks of {list(blocks.shape)}")
        out = torch.empty(self.shape(name), dtype=torch.bfloat16)
        for i, expert in enumerate(blocks):  # one at a time: unpacking takes several times the result
            out[i] = mxfp4(expert, scales[i]).T
        return out
