"""From tensors to a model: every name and shape is checked before the first is read, then one tensor at a time goes where it belongs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from groundup.config import ModelConfig
from groundup.errors import GroundupError
from groundup.model.decoder import Decoder
from groundup.model.families import Family, TensorMap
from groundup.model.weights.sources import Source


def load_model(
    source: Source, family: Family, config: ModelConfig, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> Decoder:
    """A decoder with the weights of a source; at no time is there more in memory than it and one tensor (or the few that one map joins).

    Args:
        dtype: of parameters and buffers; None keeps what is stored, e.g. bf16. A tensor that is stored in it on a CPU is not even copied:
            its pages are read from the file when they are first used.

    Raises GroundupError naming the tensor that is missing, of another shape, or unknown, before any is read.
    """
    maps = list(family.tensors(config))
    names = check_weights(source, family, config)
    model = Decoder(config)  # memory that nobody has written to takes no room
    for part in maps:
        read = tuple(source.read(names[name]) for name in part.theirs)
        for ours, tensor in zip(part.ours, part.load(read), strict=True):
            _assign(model, ours, tensor.to(device=device, dtype=dtype or tensor.dtype))
    return model.to(device)


def check_weights(source: Source, family: Family, config: ModelConfig) -> dict[str, str]:
    """Where each of the family's tensors is: its name in the source, which may lack the prefix of files without a head.

    Raises GroundupError unless the source has exactly the tensors that the configuration asks for, in their shapes.
    """
    try:
        with torch.device("meta"):
            ours = Decoder(config).state_dict()
    except RuntimeError as error:  # torch cannot even count so many numbers
        raise GroundupError(f"{source.where}: the configuration asks for a tensor that no memory holds: get it again") from error
    maps = list(family.tensors(config))
    unread = set(source.names())
    names = _names_in(unread, maps, family)
    for part in maps:
        for name, wanted in zip(part.theirs, part.save(tuple(ours[name] for name in part.ours)), strict=True):
            shape = source.shape(names[name]) if names[name] in unread else None
            if shape != tuple(wanted.shape):
                has = "no" if shape is None else f"{list(shape)} as its"
                raise GroundupError(
                    f"{source.where}: the weights have {has} {name}, where the configuration asks for {list(wanted.shape)}; "
                    "get weights and config.json of one model"
                )
            unread.discard(names[name])
    if unknown := sorted(name for name in unread if not family.ignores(name, config)):
        raise GroundupError(
            f"{source.where}: the weights have {unknown[0]}, which the configuration does not ask for; get both of one model"
        )
    return names


def _names_in(known: Collection[str], maps: Sequence[TensorMap], family: Family) -> dict[str, str]:
    wanted = [name for part in maps for name in part.theirs]
    if not any(name in known for name in wanted) and any(name.removeprefix(family.prefix) in known for name in wanted):
        return {name: name.removeprefix(family.prefix) for name in wanted}
    return {name: name for name in wanted}


def _assign(model: Decoder, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    setattr(module, leaf, tensor if leaf in dict(module.named_buffers(recurse=False)) else nn.Parameter(tensor))
