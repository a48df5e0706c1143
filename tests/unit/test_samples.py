"""How many samples there are in what a task loads, and parts of it."""

from __future__ import annotations

from collections import UserDict, defaultdict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.samples import concatenate, count, take

X, Y = torch.arange(30.0).reshape(10, 3), torch.arange(10)
ROWS = TensorDataset(X, Y)


class DatasetDict(UserDict):  # type: ignore[type-arg]
    """As that of Hugging Face: a mapping from splits to data sets."""


class Table:
    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> int:
        return row


KNOWN = {
    "tensor data set": ROWS,
    "subset": Subset(ROWS, range(10)),
    "tuple of tensors": (X, Y),
    "dict of arrays": {"x": X.numpy(), "y": Y.numpy()},
    "array": X.numpy(),
    "list of samples": [(x, y) for x, y in ROWS],
    "list of texts": ["text"] * 10,
    "list of tensors of their own lengths": [torch.zeros(length) for length in range(10)],
    "anything with rows": Table(),
    "list of lists": [[1.0, 2.0]] * 5 + [[3.0, 4.0]] * 5,
    "list of texts as numbers": [[1, 2, 3], *[[4]] * 9],
    "named tuple": namedtuple("Columns", "x y")(X, Y),
    "user's dict": UserDict(x=X, y=Y),
    "dict with a default": defaultdict(list, x=X, y=Y),
}


@pytest.mark.parametrize("data", KNOWN.values(), ids=KNOWN)
def test_samples_are_counted_and_taken(data: Any) -> None:
    assert count(data) == 10
    part = take(data, [7, 2])
    if not isinstance(data, list):  # which may be columns, were it shorter
        assert count(part) == 2
    if isinstance(data, tuple | Mapping):
        assert type(part) is type(data)
        columns = (
            zip(part.values(), data.values(), strict=True)
            if isinstance(data, Mapping)
            else zip(part, data, strict=True)
        )
        assert all(str(some[0]) == str(every[7]) for some, every in columns)
    else:
        assert str(part[0]) == str(data[7])


def test_a_loader_has_as_many_samples_as_it_draws() -> None:
    assert count(DataLoader(ROWS, batch_size=4)) == 10
    assert count(DataLoader(ROWS, batch_size=4, drop_last=True)) == 10
    assert count(DataLoader(ROWS, sampler=torch.utils.data.SubsetRandomSampler([1, 2, 3]))) == 3
    assert count(DataLoader(ROWS, sampler=WeightedRandomSampler([1.0] * 10, 10**6))) == 10, "the same ones again"
    with pytest.raises(BadInput, match="DataLoader, which cannot be divided"):
        take(DataLoader(ROWS), [1])


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(range(10))


class Sized:
    def __len__(self) -> int:
        return 4


class Fields(Sized):
    """As a graph of torch-geometric: it has names, and as many as it says."""

    def keys(self) -> list[str]:
        return ["x", "edge_index", "y", "batch"]

    def __getitem__(self, name: str) -> Any:
        return X


UNKNOWN = {
    "splits": (DatasetDict(train=ROWS, test=ROWS), "a DatasetDict of 2 entries"),
    "two sets": ((ROWS, ROWS), "a tuple of 2 entries that are not tensors or arrays of one length"),
    "uneven tensors": ((X, Y[:5]), "a tuple of 2 entries"),
    "nothing": ((), "a tuple of 0 entries"),
    "list of columns": ([X, Y], "a list of 2 tensors, arrays or lists of 10 entries each"),
    "list of one column": ([X], "a list of 1 tensors, arrays or lists of 10 entries each"),
    "list of lists that are columns": ([X.tolist(), Y.tolist()], "a list of 2 tensors, arrays or lists of 10 entries"),
    "list of either": ([X, Y.tolist()], "a list of 2 tensors, arrays or lists of 10 entries"),
    "list of sets": ([ROWS, Subset(ROWS, [1])], "a list of 2 entries with a Dataset in it"),
    "list of batches": (list(DataLoader(ROWS, 2)), "a list of 5 entries that may be batches"),
    "list of batches by name": ([{"x": X[:2], "y": Y[:2]}] * 5, "a list of 5 entries that may be batches"),
    "loader of batches": (DataLoader([(X, Y)] * 2, batch_size=None), "a DataLoader without a batch_size"),
    "loader with a sampler of batches": (DataLoader(ROWS, batch_sampler=[[1, 2]]), "a DataLoader without a batch_size"),
    "what has fields": (Fields(), "a Fields, whose length may be that of anything"),
    "what only has a length": (Sized(), "a Sized, whose length may be that of anything"),
    "path": ("data.csv", "a str, whose length"),
    "stream": (Stream(), "a Stream, which has no length"),
    "loader of a stream": (DataLoader(Stream()), "a DataLoader's sampler, which has no length"),
    "number": (torch.tensor(5.0), "a Tensor, which has no length"),
    "iterator": (iter([1]), "a list_iterator, which has no length"),
}


@pytest.mark.parametrize(("data", "says"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_known_to_be_samples_is_refused_by_name(data: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says) as refusal:
        count(data)
    assert "count_samples(data)" in str(refusal.value)


def test_what_pandas_and_hugging_face_have_is_divided_their_way() -> None:
    class Chosen(Table):
        features = "which every Dataset of Hugging Face has"

        def __init__(self, rows: Any = range(10)) -> None:
            self.rows = np.array(rows)

        def __len__(self) -> int:
            return len(self.rows)

        def select(self, rows: Any) -> Chosen:
            return Chosen(self.rows[rows])

    part = take(Chosen(), [7, 2])
    assert isinstance(part, Chosen)
    assert (count(part), part.rows.tolist()) == (2, [7, 2])


class Polars(Table):
    """A table's rows by a list of them."""

    __module__ = "polars.dataframe.frame"

    def __getitem__(self, rows: Any) -> Any:
        return [f"row {row}" for row in rows]

    def select(self, columns: Any) -> Any:
        raise KeyError(columns)


class Arrow(Polars):
    """Here a list would be one of columns."""

    __module__ = "pyarrow.lib"

    def __getitem__(self, columns: Any) -> Any:
        raise TypeError(columns)

    def take(self, rows: Any) -> Any:
        return [f"row {row}" for row in rows]


@pytest.mark.parametrize("table", [Polars(), Arrow()])
def test_tables_of_polars_and_arrow_are_divided_by_rows(table: Any) -> None:
    assert count(table) == 10
    assert take(table, range(2)) == ["row 0", "row 1"]


def test_what_fails_where_it_is_divided_is_told() -> None:
    class Broken(Table):
        iloc = None

    with pytest.raises(BadInput, match="a Broken, which cannot be divided: TypeError: 'NoneType'"):
        take(Broken(), [1])


@pytest.mark.parametrize("kind", ["dataset", "tuple", "mapping", "list", "subset", "array"])
def test_data_of_a_kind_are_joined_to_data_of_that_kind(kind):
    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    data = {
        "dataset": TensorDataset(x, y), "tuple": (x, y), "mapping": {"x": x, "y": y}, "list": [*zip(x, y, strict=True)],
        "subset": Subset(TensorDataset(x, y), range(5)), "array": x.numpy(),
    }[kind]  # fmt: skip
    joined = concatenate([take(data, [3, 1]), take(data, [2])])
    assert count(joined) == 3
    if kind in ("tuple", "dataset", "mapping", "list"):
        assert type(joined) is type(data)
    if kind == "dataset":
        assert torch.equal(joined.tensors[1], torch.tensor([3, 1, 2]))
    if kind == "mapping":
        assert torch.equal(joined["y"], torch.tensor([3, 1, 2]))
    if kind == "array":
        assert np.array_equal(joined, x.numpy()[[3, 1, 2]])


def test_data_that_cannot_be_joined_are_refused_by_name():
    with pytest.raises(BadInput, match="returns a set, which cannot be joined"):
        concatenate([{1}, {2}])
