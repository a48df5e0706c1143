"""Sparse updates: of what is trained, the few coordinates that move most travel, each with its place.

Places are coded as Elias (1974) and Fano (1971) did, which takes hardly more bits than there is to say: of k places
among d, the low `low_bits` of each are written as they are, and of the rest how many places have each value, in unary.

    head        for each value that the high part of a place can have: a 1 for each place that has it, then a 0
    lows        the low parts, `low_bits` each
    values      never 0, `bits` each, two's complement
    statistics  all of them, as in a dense update: they are few

Every part has the same length in all updates of a job, from the lowest bit of each byte on; what is not needed, since
fewer than k coordinates move, is zero. So one update has exactly one byte string, and every other one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.packing import GROUP, pack, packed_bytes, unpack

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

_PIECE = 256
"""Bytes of the head that are read at once: what is asked for lies in a few of them."""
_TOGETHER = 64
"""Pieces that are checked at once."""


class Bytes(Protocol):
    """Bytes that can be cut: an array, or a file."""

    def __getitem__(self, part: slice, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class SparseFormat:
    """What all sparse updates of a job have in common."""

    trained: int  # coordinates, of which few travel
    statistics: int  # coordinates, which all do
    most: int  # of the trained ones that travel
    bits: int  # of each value

    @property
    def low_bits(self) -> int:
        """floor(log2(trained / most)): with these the head has 1 to 2 bits for each place that it does not tell."""
        return (self.trained // self.most).bit_length() - 1

    @property
    def lows_at(self) -> int:
        return packed_bytes(self.most + ((self.trained - 1) >> self.low_bits) + 1, 1)

    @property
    def values_at(self) -> int:
        return self.lows_at + packed_bytes(self.most, self.low_bits)

    @property
    def statistics_at(self) -> int:
        return self.values_at + packed_bytes(self.most, self.bits)

    @property
    def dtype(self) -> np.dtype[np.signedinteger]:
        """Of what is read, and of statistics."""
        return np.dtype(f"<i{max(self.bits, 8) // 8}")

    @property
    def bytes(self) -> int:
        return self.statistics_at + self.statistics * self.dtype.itemsize


def most_of(trained: int, *, share: float) -> int:
    """How many coordinates are that share of them, rounded up: of the decimal as which it is written."""
    return ceil(Fraction(repr(share)) * trained)


def largest(values: npt.NDArray[np.float32], most: int) -> Int64s:
    """The places, ascending, of so many values that are largest in size; of equal ones, of the first."""
    sizes = np.abs(values)
    least = np.partition(sizes, len(sizes) - most)[len(sizes) - most]
    larger = np.flatnonzero(sizes > least)
    return np.union1d(larger, np.flatnonzero(sizes == least)[: most - len(larger)])


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse update as it travels, read block by block as a vector of shape (d,): see `aggregation.stack.Vector`."""

    data: Bytes
    format: SparseFormat
    ranks: Int64s  # how many places stand before each piece of the head, and in all

    def __len__(self) -> int:
        return self.format.trained + self.format.statistics

    @property
    def count(self) -> int:
        """Of trained coordinates that move."""
        return int(self.ranks[-1])

    def __getitem__(self, part: slice) -> npt.NDArray[np.signedinteger]:
        form, start, stop = self.format, part.start or 0, len(self) if part.stop is None else part.stop
        block = np.zeros(stop - start, form.dtype)
        places, values = self.entries(start, stop)
        block[places - start] = values
        if stop > form.trained:
            first = max(start, form.trained)
            block[first - start :] = self.statistics(first - form.trained, stop - form.trained)
        return block

    def statistics(self, start: int, stop: int) -> npt.NDArray[np.signedinteger]:
        """Of these, numbers start … stop."""
        at, size = self.format.statistics_at, self.format.dtype.itemsize
        return self.data[at + start * size : at + stop * size].view(self.format.dtype)

    def entries(self, start: int, stop: int) -> tuple[Int64s, Int32s]:
        """Places, ascending, and values of what moves among the trained coordinates start … stop."""
        form, zeros = self.format, _zeros_before(self.ranks)
        if start >= (stop := min(stop, form.trained)):
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        # Places whose high part is h stand between the h-th zero and the next one.
        low, high = start >> form.low_bits, (stop - 1) >> form.low_bits
        first, last = np.maximum(np.searchsorted(zeros, [low, high + 1]) - 1, 0)
        places, values = _decode(self.data, form, int(first), int(last) + 1, rank=int(self.ranks[first]))
        inside = slice(*np.searchsorted(places, [start, stop]))
        return places[inside], values[inside]

    def values(self) -> Iterator[Int32s]:
        """All that move, in parts."""
        for first in range(0, len(self.ranks) - 1, _TOGETHER):
            stop = min(first + _TOGETHER, len(self.ranks) - 1)
            if self.ranks[stop] > (rank := int(self.ranks[first])):
                yield _read(self.data, self.format, self.format.values_at, rank, int(self.ranks[stop]))


def write_sparse(places: Int64s, values: Int32s, form: SparseFormat, *, statistics: Buffer = b"") -> SparseVector:
    """`places`: ascending, at most `most`; `values`: not 0."""
    count, head = len(places), np.zeros(8 * form.lows_at, np.uint8)
    head[(places >> form.low_bits) + np.arange(count)] = 1
    lows, kept = np.zeros(form.most, np.uint32), np.zeros(form.most, np.uint32)
    lows[:count] = places & ((1 << form.low_bits) - 1)
    kept[:count] = values.astype(np.int32).view(np.uint32)
    parts = (
        np.packbits(head, bitorder="little").tobytes(),
        pack(lows, form.low_bits) if form.low_bits else b"",
        pack(kept, form.bits),
        bytes(memoryview(statistics).cast("B")),
    )
    return parse_sparse(b"".join(parts), form)


def parse_sparse(data: Buffer, form: SparseFormat) -> SparseVector:
    """View bytes as a sparse update, without a copy. Raises `BadVector` unless they are the one way to write it."""
    view = memoryview(data).cast("B")
    if view.nbytes != form.bytes:
        raise BadVector(f"expected {form.bytes} bytes for a sparse update, got {view.nbytes}")
    found = np.frombuffer(view, np.uint8)
    pieces = -(-form.lows_at // _PIECE)
    ranks, last = np.zeros(pieces + 1, np.int64), -1
    for first in range(0, pieces, _TOGETHER):
        stop = min(first + _TOGETHER, pieces)
        head = found[first * _PIECE : min(stop * _PIECE, form.lows_at)]
        ones = np.add.reduceat(np.bitwise_count(head), np.arange(0, len(head), _PIECE), dtype=np.int64)
        ranks[first + 1 : stop + 1] = ranks[first] + np.cumsum(ones)
        if ranks[stop] > form.most:
            raise BadVector(f"a sparse update has more than {form.most} coordinates")
        places, values = _decode(found, form, first, stop, rank=int(ranks[first]))
        if not len(places):
            continue
        if places[0] <= last or not (np.diff(places) > 0).all():
            raise BadVector("the coordinates of a sparse update do not ascend")
        if (last := int(places[-1])) >= form.trained:
            raise BadVector(f"a sparse update has coordinate {last}, and {form.trained} are trained")
        if not values.all():
            raise BadVector("a sparse update names a coordinate that does not move")
    count = int(ranks[-1])
    if not (
        _is_blank(found[form.lows_at : form.values_at], count * form.low_bits)
        and _is_blank(found[form.values_at : form.statistics_at], count * form.bits)
    ):
        raise BadVector("a sparse update has something where nothing belongs")
    return SparseVector(found, form, ranks)


def _zeros_before(ranks: Int64s) -> Int64s:
    """In the head, before each piece. The last one counts zeros that are not there, which nobody looks for."""
    return np.arange(len(ranks)) * (8 * _PIECE) - ranks


def _decode(data: Bytes, form: SparseFormat, first: int, stop: int, *, rank: int) -> tuple[Int64s, Int32s]:
    """The entries in pieces first … stop of the head, before which `rank` stand."""
    head = data[first * _PIECE : min(stop * _PIECE, form.lows_at)]
    ones = np.flatnonzero(np.unpackbits(head, bitorder="little"))
    ranks = np.arange(rank, rank + len(ones))
    places = (first * 8 * _PIECE + ones - ranks) << form.low_bits
    if not len(ones):
        return places, np.zeros(0, np.int32)
    if form.low_bits:
        places |= _unpack(data, form.lows_at, form.low_bits, rank, rank + len(ones))
    return places, _read(data, form, form.values_at, rank, rank + len(ones))


def _read(data: Bytes, form: SparseFormat, at: int, start: int, stop: int) -> Int32s:
    """Values number start … stop."""
    found = _unpack(data, at, form.bits, start, stop)
    spare = np.int32(32 - form.bits)
    return (found.view(np.int32) << spare) >> spare


def _unpack(data: Bytes, at: int, bits: int, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Numbers start … stop of what is packed from `at` on."""
    skipped = start % GROUP
    first = at + (start - skipped) * bits // 8
    length = packed_bytes(stop - start + skipped, bits)
    return unpack(data[first : first + length].data, bits, coordinates=stop - start + skipped)[skipped:]


def _is_blank(part: npt.NDArray[np.uint8], bit: int) -> bool:
    """Whether all is zero from a bit on."""
    whole, rest = divmod(bit, 8)
    return not (part[whole:].any() and (part[whole + 1 :].any() or part[whole] >> rest))
