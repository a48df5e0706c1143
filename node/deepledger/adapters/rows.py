"""Reading a participant's file for code that expects a torch Dataset: one row a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepledger.protocol.errors import BadInput

if TYPE_CHECKING:
    import torch


class Records:
    """A map-style Dataset whose samples are dicts, of tensors that have a row for each sample."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return {name: tensor[row] for name, tensor in self.tensors.items()}


def records(path: Path) -> Records:
    """The rows of a .safetensors, .npz or .csv file, each a dict by the names that stand there."""
    return Records(_read(path))


def columns(*names: str) -> Callable[[Path], torch.utils.data.TensorDataset]:
    """A `load_data` that gives these columns of such a file, in this order: a sample is a tuple of so many tensors."""

    def load_data(path: Path) -> torch.utils.data.TensorDataset:
        from torch.utils.data import TensorDataset

        tensors = _read(path)
        if missing := [name for name in names if name not in tensors]:
            raise BadInput(f"{path} has no column {missing[0]!r}; it has {', '.join(tensors)}")
        return TensorDataset(*(tensors[name] for name in names or tensors))

    return load_data


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Raises `BadInput` for what is no such file, and for columns of several lengths."""
    import torch

    match path.suffix:
        case ".safetensors":
            from safetensors.torch import load_file

            tensors = dict(load_file(path))
        case ".npz":
            with np.load(path, allow_pickle=False) as file:
                tensors = {name: torch.from_numpy(file[name]) for name in file.files}
        case ".csv":
            tensors = _read_csv(path)
        case _:
            raise BadInput(f"{path.name}: write a load_data of your own, or give .safetensors, .npz or .csv files")
    lengths = {len(tensor) if tensor.ndim else -1 for tensor in tensors.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise BadInput(f"the columns of {path.name} are not of one length: {', '.join(tensors) or 'there are none'}")
    return tensors


def _read_csv(path: Path) -> dict[str, torch.Tensor]:
    """Columns by its heading. Whole numbers make a column of int64, as classes are, others one of float32."""
    import torch

    with path.open() as file:
        names = [name.strip() for name in file.readline().split(",")]
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    if table.shape[1] != len(names):
        raise BadInput(f"{path.name} has {len(names)} names in its heading and {table.shape[1]} columns")
    columns = (table[:, place] for place in range(len(names)))
    whole = [
        column.astype(np.int64) if (column == column.round()).all() else column.astype(np.float32) for column in columns
    ]
    return {name: torch.from_numpy(column) for name, column in zip(names, whole, strict=True)}
