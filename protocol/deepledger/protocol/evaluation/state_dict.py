"""A model's floats as one vector: the floating-point entries of the `state_dict`, in its order. Needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.spec import LayoutEntry
from deepledger.protocol.formats.vectors import Floats

if TYPE_CHECKING:
    import torch


def layout_of(model: torch.nn.Module) -> tuple[LayoutEntry, ...]:
    entries, offset = [], 0
    for name, tensor in _floating(model):
        entry = LayoutEntry(name=name, shape=tuple(tensor.shape), offset=offset)
        entries.append(entry)
        offset += entry.size
    return tuple(entries)


def read_floats(model: torch.nn.Module) -> Floats:
    """A copy of the model's floating-point entries, shape (d,)."""
    tensors = [tensor for _, tensor in _floating(model)]
    values = np.empty(sum(tensor.numel() for tensor in tensors), np.float32)
    offset = 0
    for tensor in tensors:
        values[offset : offset + tensor.numel()] = tensor.detach().float().cpu().numpy().reshape(-1)
        offset += tensor.numel()
    return values


def write_floats(model: torch.nn.Module, values: Floats) -> None:
    """Set the model's floating-point entries. Raises `BadInput` if the model does not have `len(values)` of them."""
    import torch

    tensors = [tensor for _, tensor in _floating(model)]
    if sum(tensor.numel() for tensor in tensors) != len(values):
        raise BadInput("the task's model does not have the layout that the spec pins; is its configuration the same?")
    offset = 0
    with torch.no_grad():
        for tensor in tensors:
            part = torch.from_numpy(values[offset : offset + tensor.numel()])
            tensor.copy_(part.reshape(tensor.shape))
            offset += tensor.numel()


def _floating(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
