"""How many samples there are in what `load_data` returns, and some of them as data of the same kind.

`len` is not the answer for all that has one: of a tuple of tensors it is how many tensors there are, of a DataLoader
how many batches, of a Hugging Face DatasetDict how many splits. Pay follows from the number, so what is not known to be
samples is refused by name. Needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepledger.protocol.errors import BadInput

_SAY_IT = "give the task a function count_samples(data) that says how many samples there are"


def count(data: Any) -> int:
    """Raises `BadInput` if that cannot be told."""
    from torch.utils.data import DataLoader

    kind = type(data).__name__
    if isinstance(data, str | bytes):
        raise BadInput(f"load_data returns a {kind}, whose length is no number of samples; {_SAY_IT}")
    if isinstance(data, DataLoader):
        return min(_length(data.sampler, f"{kind}'s sampler"), _length(data.dataset, kind))
    if isinstance(data, Mapping | tuple):
        parts = list(data.values()) if isinstance(data, Mapping) else list(data)
        if not _are_columns(parts):
            raise BadInput(
                f"load_data returns a {kind} of {len(parts)} entries that are not tensors or arrays of one length: it "
                f"cannot be told what is a sample; return one Dataset, or {_SAY_IT}"
            )
        return len(parts[0])
    if isinstance(data, list) and _are_columns(data) and len(data[0]) > len(data) > 1:
        raise BadInput(
            f"load_data returns a list of {len(data)} tensors or arrays of {len(data[0])} entries each: it cannot be "
            f"told which of the two numbers is that of samples; return a TensorDataset, or {_SAY_IT}"
        )
    return _length(data, kind)


def take(data: Any, rows: Sequence[int]) -> Any:
    """These samples, as data of the same kind where that is known. Raises `BadInput` if data cannot be divided."""
    from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

    if type(data) is TensorDataset:
        return TensorDataset(*(tensor[list(rows)] for tensor in data.tensors))
    if isinstance(data, DataLoader | str | bytes) or not hasattr(data, "__getitem__"):
        raise BadInput(
            f"load_data returns a {type(data).__name__}, which cannot be divided among simulated participants; let it "
            "return a Dataset"
        )
    if isinstance(data, Mapping):
        return {name: column[list(rows)] for name, column in data.items()}
    if isinstance(data, tuple):
        return tuple(column[list(rows)] for column in data)
    if isinstance(data, list):
        return [data[row] for row in rows]
    if not isinstance(data, Dataset):
        if hasattr(data, "iloc"):  # a table of pandas
            return data.iloc[list(rows)]
        if callable(getattr(data, "select", None)):  # a Dataset of Hugging Face
            return data.select(list(rows))
        if _is_column(data):
            return data[list(rows)]
    return Subset(data, list(rows))


def _length(data: Any, kind: str) -> int:
    try:
        return len(data)
    except TypeError:  # it has none, or refuses to say
        raise BadInput(f"load_data returns a {kind}, which has no length; {_SAY_IT}") from None


def _are_columns(parts: Sequence[Any]) -> bool:
    return bool(parts) and all(map(_is_column, parts)) and len({len(part) for part in parts}) == 1


def _is_column(part: Any) -> bool:
    import torch

    return isinstance(part, torch.Tensor | np.ndarray) and part.ndim > 0
