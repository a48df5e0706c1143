"""How many samples there are in what `load_data` returns, and some of them as data of the same kind.

`len` is not the answer for all that has one: of a tuple of tensors it is how many tensors there are, of a DataLoader
how many batches, of a Hugging Face DatasetDict how many splits. Pay follows from the number, so what is not known to be
samples is refused by name. Needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
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
        if data.batch_size is None:
            raise BadInput(
                f"load_data returns a {kind} without a batch_size: it draws any number of samples at a time; {_SAY_IT}"
            )
        return min(_length(data.sampler, f"{kind}'s sampler"), _length(data.dataset, kind))
    if isinstance(data, Mapping | tuple):
        parts = list(data.values()) if isinstance(data, Mapping) else list(data)
        if not _are_columns(parts):
            raise BadInput(
                f"load_data returns a {kind} of {len(parts)} entries that are not tensors or arrays of one length: it "
                f"cannot be told what is a sample; return one Dataset, or {_SAY_IT}"
            )
        return len(parts[0])
    if isinstance(data, list):
        _check_list(data)
    elif not hasattr(data, "__getitem__") or (callable(getattr(data, "keys", None)) and not hasattr(data, "iloc")):
        _length(data, kind)
        raise BadInput(f"load_data returns a {kind}, whose length may be that of anything; {_SAY_IT}")
    return _length(data, kind)


def _check_list(data: list[Any]) -> None:
    """Whether its entries may be anything but samples. Raises `BadInput` then."""
    from torch.utils.data import Dataset

    if any(isinstance(each, Dataset) for each in data):
        raise BadInput(
            f"load_data returns a list of {len(data)} entries with a Dataset in it; return one, or {_SAY_IT}"
        )
    if _are_columns(data, also=(list, tuple)) and len(data[0]) > len(data):
        raise BadInput(
            f"load_data returns a list of {len(data)} tensors, arrays or lists of {len(data[0])} entries each: it "
            f"cannot be told which of the two numbers is that of samples; return a TensorDataset, or {_SAY_IT}"
        )
    if data and all(map(_is_batch, data)):
        raise BadInput(
            f"load_data returns a list of {len(data)} entries that may be batches; return a Dataset, or {_SAY_IT}"
        )


def _is_batch(entry: Any) -> bool:
    """Several tensors or arrays of one length over 1."""
    parts = list(entry.values()) if isinstance(entry, Mapping) else entry
    return isinstance(parts, list | tuple) and len(parts) > 1 and _are_columns(parts) and len(parts[0]) > 1


def take(data: Any, rows: Sequence[int]) -> Any:
    """These samples, as data of the same kind where that is known. Raises `BadInput` if data cannot be divided."""
    try:
        return _take(data, rows)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"load_data returns a {type(data).__name__}, which cannot be divided: {type(error).__name__}: {error}"
        ) from error


def concatenate(parts: Sequence[Any]) -> Any:
    """Data of one kind, one after the other, as data of that kind where it is known. Raises `BadInput` else."""
    from torch import cat
    from torch.utils.data import ConcatDataset, Dataset, TensorDataset

    first = parts[0]
    try:
        if all(type(part) is TensorDataset for part in parts):
            return TensorDataset(*map(cat, zip(*(part.tensors for part in parts), strict=True)))
        if isinstance(first, Mapping):
            whole: Any = copy(first)
            for name in first:
                whole[name] = _joined([part[name] for part in parts])
            return whole
        if isinstance(first, tuple):
            columns = [_joined(each) for each in zip(*parts, strict=True)]
            return first._make(columns) if hasattr(first, "_make") else tuple(columns)
        if isinstance(first, list):
            return [sample for part in parts for sample in part]
        if isinstance(first, Dataset):
            return ConcatDataset(parts)
        return _joined(parts)
    except Exception as error:
        raise BadInput(
            f"load_data returns a {type(first).__name__}, which cannot be joined: {type(error).__name__}: {error}"
        ) from error


def _joined(columns: Sequence[Any]) -> Any:
    from torch import Tensor, cat

    return cat(list(columns)) if isinstance(columns[0], Tensor) else np.concatenate(columns)


def _take(data: Any, rows: Sequence[int]) -> Any:
    from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

    if type(data) is TensorDataset:
        return TensorDataset(*(tensor[list(rows)] for tensor in data.tensors))
    if isinstance(data, DataLoader | str | bytes) or not hasattr(data, "__getitem__"):
        raise BadInput(
            f"load_data returns a {type(data).__name__}, which cannot be divided among simulated participants; let it "
            "return a Dataset"
        )
    if isinstance(data, Mapping):
        part: Any = copy(data)
        for name, column in data.items():
            part[name] = column[list(rows)]
        return part
    if isinstance(data, tuple):
        columns = [column[list(rows)] for column in data]
        return data._make(columns) if hasattr(data, "_make") else tuple(columns)
    if isinstance(data, list):
        return [data[row] for row in rows]
    if not isinstance(data, Dataset):
        if hasattr(data, "iloc"):  # a table of pandas
            return data.iloc[list(rows)]
        if callable(getattr(data, "select", None)) and hasattr(data, "features"):  # a Dataset of Hugging Face
            return data.select(list(rows))
        library = type(data).__module__.partition(".")[0]
        if library == "pyarrow":  # a table, of which data[rows] would be columns
            return data.take(list(rows))
        if _is_column(data) or library == "polars":
            return data[list(rows)]
    return Subset(data, list(rows))


def _length(data: Any, kind: str) -> int:
    try:
        return len(data)
    except TypeError:  # it has none, or refuses to say
        raise BadInput(f"load_data returns a {kind}, which has no length; {_SAY_IT}") from None


def _are_columns(parts: Sequence[Any], *, also: tuple[type, ...] = ()) -> bool:
    """`also`: what may be a column, besides tensors and arrays."""
    whole = bool(parts) and all(_is_column(part) or isinstance(part, also) for part in parts)
    return whole and len({len(part) for part in parts}) == 1


def _is_column(part: Any) -> bool:
    import torch

    return isinstance(part, torch.Tensor | np.ndarray) and part.ndim > 0
