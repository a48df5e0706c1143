"""A round's updates side by side: a matrix of shape (n, d) that is looked at in blocks of coordinates.

Rows may be mapped files, so that memory does not grow with the number of participants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deepledger.protocol.formats.sparse import Int32s, Int64s, SparseVector
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.types import Address

Block = npt.NDArray[np.signedinteger]
"""Shape (n, number of coordinates looked at)."""
Gram = tuple[tuple[int, ...], ...]
"""Shape (n, n): exact inner products of rows."""
_Float64s = npt.NDArray[np.float64]

_LIMB = 18  # bits: products of two limbs, summed over a block, are integers below 2^53, so float64 adds them exactly
_GRAM_BLOCK = 1 << 14
_MOST_TIMES = 128  # as many coordinates of sparse vectors are read at once, at the most


class Vector(Protocol):
    """What can be cut into blocks: an array, or something that computes its blocks when asked."""

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.signedinteger]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One participant's update, or the mean of a masked group's, which goes by its lowest seat."""

    seat: int
    participant: Address
    weight: int  # samples, at least 1
    vector: Vector  # shape (d,)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    rows: tuple[Row, ...]
    length: int  # d
    shift: int  # rows times 2^shift are in the model's unit, 2^-F
    known: list[Gram] = field(default_factory=list, init=False, repr=False)  # none or one

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, start: int, stop: int) -> Block:
        """A copy of coordinates start … stop of every row."""
        return np.stack([row.vector[start:stop] for row in self.rows])

    def blocks(self) -> Iterable[tuple[int, int]]:
        return ((start, min(start + BLOCK, self.length)) for start in range(0, self.length, BLOCK))

    @property
    def gram(self) -> Gram:
        if not self.known:
            self.remember(gram([row.vector for row in self.rows], self.length))
        return self.known[0]

    def remember(self, products: Gram) -> None:
        """Inner products that somebody computed already."""
        self.known[:] = [products]

    def only(self, chosen: Iterable[int]) -> Stack:
        """The rows with these indices, in this order; inner products that are known stay known."""
        indices = list(chosen)
        part = replace(self, rows=tuple(self.rows[index] for index in indices))
        if self.known:
            part.remember(tuple(tuple(self.gram[i][j] for j in indices) for i in indices))
        return part

    def unweighted(self) -> Stack:
        """For rules that do not believe declared samples."""
        part = replace(self, rows=tuple(replace(row, weight=1) for row in self.rows))
        if self.known:
            part.remember(self.gram)
        return part

    def section(self, start: int, stop: int) -> Stack:
        """Coordinates start … stop of every row."""
        if (start, stop) == (0, self.length):
            return self
        rows = tuple(replace(row, vector=Section(row.vector, start)) for row in self.rows)
        return replace(self, rows=rows, length=stop - start)

    def of_seats(self, mask: int) -> Stack:
        """The rows whose seats are bits of `mask`."""
        return self.only(index for index, row in enumerate(self.rows) if mask >> row.seat & 1)


def gram(vectors: Sequence[Vector], length: int) -> Gram:
    """Exact inner products of integer vectors over coordinates 0 … length, whatever their width."""
    if not vectors:
        return ()
    shape = (len(vectors), len(vectors))
    return _summed(_side_by_side(vectors, 0, length), lambda low, high: low @ high.T, shape=shape)


def gram_row(vectors: Sequence[Vector], index: int, start: int, stop: int) -> Gram:
    """As `gram`, over coordinates start … stop: the inner products with one vector, and the squared lengths of all."""

    def multiply(low: _Float64s, high: _Float64s) -> _Float64s:
        return np.stack([high @ low[index], np.einsum("ij,ij->i", low, high)])

    return _summed(_side_by_side(vectors, start, stop), multiply, shape=(2, len(vectors)))


def gram_of_sizes(vectors: Sequence[Vector], length: int) -> tuple[tuple[int, ...], Gram]:
    """Of the sizes of coordinates: their sums, and as `gram`."""
    if not vectors:
        return (), ()
    blocks = (
        np.concatenate([np.ones((1, block.shape[1]), np.int64), np.abs(block)])
        for block in _side_by_side(vectors, 0, length)
    )
    shape = (len(vectors) + 1, len(vectors) + 1)
    (_, *sums), *products = _summed(blocks, lambda low, high: low @ high.T, shape=shape)
    return tuple(sums), tuple(row[1:] for row in products)


def _summed(
    blocks: Iterable[Int64s], multiply: Callable[[_Float64s, _Float64s], _Float64s], *, shape: tuple[int, int]
) -> Gram:
    """The sum of what `multiply` makes of each block.

    In float64 of 18-bit limbs: every partial sum is an integer that float64 holds, so that the order in which a BLAS
    adds does not matter.
    """
    total = np.zeros(shape, object)
    for block in blocks:
        limbs = list(_limbs(block))
        for i, low in enumerate(limbs):
            for j, high in enumerate(limbs):
                total += multiply(low, high).astype(np.int64).astype(object) << (_LIMB * (i + j))
    return tuple(tuple(int(value) for value in row) for row in total)


def _side_by_side(vectors: Sequence[Vector], start: int, stop: int) -> Iterator[Int64s]:
    """Coordinates start … stop of all, `_GRAM_BLOCK` at a time; where all are sparse, only those in which any moves."""
    step = _GRAM_BLOCK * _times_sparse(vectors)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        found = [entries_in(vector, first, last) for vector in vectors]
        entries = [each for each in found if each is not None]
        if len(entries) < len(vectors):
            for at in range(first, last, _GRAM_BLOCK):
                part = slice(at, min(at + _GRAM_BLOCK, last))
                yield np.stack([vector[part] for vector in vectors]).astype(np.int64)
            continue
        moves, column = np.zeros(last - first, np.bool_), np.empty(last - first, np.int32)
        for places, _ in entries:
            moves[places] = True
        moving = np.flatnonzero(moves)
        column[moving] = np.arange(len(moving)) % _GRAM_BLOCK
        for at in range(0, len(moving), _GRAM_BLOCK):
            chosen = moving[at : at + _GRAM_BLOCK]
            block = np.zeros((len(vectors), len(chosen)), np.int64)
            for row, (places, values) in zip(block, entries, strict=True):
                inside = slice(*np.searchsorted(places, [chosen[0], chosen[-1] + 1]))
                row[column[places[inside]]] = values[inside]
            yield block


def _times_sparse(vectors: Sequence[Vector]) -> int:
    """In so many coordinates does each of the vectors, where all are sparse, move about one."""
    formats = [whole.format for whole, _ in map(_whole, vectors) if isinstance(whole, SparseVector)]
    if len(formats) < len(vectors):
        return 1
    return min(_MOST_TIMES, *(form.trained // form.most for form in formats))


def _limbs(block: npt.NDArray[np.int64]) -> Iterable[_Float64s]:
    """Digits to the base 2^18, the last one signed."""
    while block.size and max(int(block.max()), -int(block.min()) - 1) >= 1 << (_LIMB - 1):
        yield (block & ((1 << _LIMB) - 1)).astype(np.float64)
        block = block >> _LIMB
    yield block.astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """A vector from some coordinate on."""

    vector: Vector
    start: int

    def __getitem__(self, part: slice) -> npt.NDArray[np.signedinteger]:
        return self.vector[self.start + part.start : self.start + part.stop]


def entries_in(vector: Vector, start: int, stop: int) -> tuple[Int64s, Int32s] | None:
    """Places, counted from `start`, and values of what is not 0 in a sparse update; None where all of it is read."""
    whole, offset = _whole(vector)
    if not isinstance(whole, SparseVector) or offset + stop > whole.format.trained:
        return None
    places, values = whole.entries(offset + start, offset + stop)
    return places - (offset + start), values


def _whole(vector: Vector) -> tuple[Vector, int]:
    """What a section is of, and where it begins there."""
    offset = 0
    while isinstance(vector, Section):
        offset += vector.start
        vector = vector.vector
    return vector, offset


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A vector times 2^shift, as int64."""

    vector: Vector
    shift: int

    def __getitem__(self, part: slice) -> npt.NDArray[np.int64]:
        return self.vector[part].astype(np.int64) << self.shift
