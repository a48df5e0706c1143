"""Aggregation rules: accepted updates and the model before give the model after, in integers only.

An aggregator takes updates one at a time and keeps no more memory than its rule needs, however many there are.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from deepledger.protocol.cores import in_parts
from deepledger.protocol.errors import StateError
from deepledger.protocol.spec import MAX_SEATS, JobSpec, TrimmedMean
from deepledger.protocol.vectors import BLOCK, ModelVector, UpdateVector, compiled, update_dtype

Int64s = npt.NDArray[np.int64]


class Aggregator(Protocol):
    def add(self, update: UpdateVector, *, weight: int) -> None:
        """Take one accepted update, shape (d,), with its weight in samples (at least 1)."""

    def advance(self, model: ModelVector) -> int:
        """Turn the model before into the model after, in place; with nothing added it stays as it is.

        Returns how many coordinates left int32's range and were held at its end.
        """


def aggregator(spec: JobSpec) -> Aggregator:
    return RULES[spec.aggregation.rule](spec)


class WeightedMeanAggregator:
    """m' = m + div_half_even(sum_p w_p·q_p · 2^(F-U), sum_p w_p), in int64 (FedAvg, McMahan et al. 2017, alg. 1).

    The spec was refused if these sums could overflow. Memory: 8·d bytes, or 4·d where the sums before the shift fit
    int32, as they do for int16 updates if no weight exceeds 1,023.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._shift = spec.model.fraction_bits - spec.update.fraction_bits
        fits_int32 = MAX_SEATS * spec.max_samples << (spec.update.bits - 1) < 1 << 31
        self._sums: npt.NDArray[np.signedinteger] = np.zeros(
            spec.model.coordinates, np.int32 if fits_int32 else np.int64
        )
        self._weight = 0

    def add(self, update: UpdateVector, *, weight: int) -> None:
        self._weight += weight
        if fast := compiled(len(update)):
            fast.add_weighted(self._sums, update, weight=weight)
            return
        for start in range(0, len(update), BLOCK):
            part = update[start : start + BLOCK]
            self._sums[start : start + BLOCK] += np.multiply(part, weight, dtype=self._sums.dtype)

    def advance(self, model: ModelVector) -> int:
        weight = max(self._weight, 1)
        if fast := compiled(len(model)):
            return int(fast.step_by_mean(model, self._sums, factor=1 << self._shift, denominator=weight))

        def block(start: int, stop: int) -> tuple[Int64s, int]:
            return self._sums[start:stop].astype(np.int64) << self._shift, weight

        return _step(model, block)


class TrimmedMeanAggregator:
    """Coordinate-wise trimmed mean (Yin et al. 2018, def. 2): per coordinate, drop the k smallest and the k largest
    of n values, k = floor(n · trim_percent / 100), and average the rest. Weights do not count: nobody can check them.

    Sorting needs every update's block of coordinates at once, so updates wait in a temporary file, not in memory.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._shift = spec.model.fraction_bits - spec.update.fraction_bits
        self._percent = cast(TrimmedMean, spec.aggregation).trim_percent
        self._dtype = update_dtype(spec.update)
        self._length = spec.update_bytes
        self._count = 0
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the aggregator)
        weakref.finalize(self, self._file.close)

    def add(self, update: UpdateVector, *, weight: int) -> None:  # noqa: ARG002 (see above)
        rest = update.data.cast("B")
        try:
            while rest:  # one write takes at most 2 GiB
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise StateError(f"cannot keep updates in {tempfile.gettempdir()}: {error.strerror}; set TMPDIR") from None
        self._count += 1

    def advance(self, model: ModelVector) -> int:
        if not self._count:
            return 0
        drop = self._count * self._percent // 100
        kept = self._count - 2 * drop
        exchanges = sorting_network(self._count)

        def block(start: int, stop: int) -> tuple[Int64s, int]:
            rows = np.empty((self._count, stop - start), self._dtype)
            for index, row in enumerate(rows):
                os.preadv(self._file.fileno(), [row], index * self._length + start * self._dtype.itemsize)
            spare = np.empty_like(rows[0])
            for low, high in exchanges:
                np.minimum(rows[low], rows[high], out=spare)
                np.maximum(rows[low], rows[high], out=rows[high])
                rows[low] = spare
            return rows[drop : drop + kept].sum(axis=0, dtype=np.int64) << self._shift, kept

        return _step(model, block)


def sorting_network(count: int) -> list[tuple[int, int]]:
    """Which pairs of `count` rows to put in order, one after the other, so that all are (Batcher's merge exchange;
    Knuth, The Art of Computer Programming, 5.2.2, algorithm M). Whole rows compare far faster than columns sort."""
    pairs = []
    top = 1 << max((count - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return pairs


RULES: Mapping[str, Callable[[JobSpec], Aggregator]] = {
    "weighted_mean": WeightedMeanAggregator,
    "trimmed_mean": TrimmedMeanAggregator,
}


def div_half_even(numerator: Int64s, denominator: int) -> Int64s:
    """Exact quotient rounded to the nearest integer, ties to even; denominator > 0."""
    quotient, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    up = (twice > denominator) | ((twice == denominator) & (quotient & 1 == 1))
    return cast(Int64s, quotient + up)


def _step(model: ModelVector, mean: Callable[[int, int], tuple[Int64s, int]]) -> int:
    """Add mean(start, stop) = (numerators, denominator), block by block; returns how many coordinates saturated."""
    limits = np.iinfo(np.int32)
    fast = compiled(len(model))

    def step_part(first: int, last: int) -> int:
        saturated = 0
        for start in range(first, last, BLOCK):
            stop = min(start + BLOCK, last)
            numerators, denominator = mean(start, stop)
            if fast:
                saturated += fast.step_by_mean(model[start:stop], numerators, factor=1, denominator=denominator)
                continue
            moved = model[start:stop] + div_half_even(numerators, denominator)
            saturated += int(np.count_nonzero((moved < limits.min) | (moved > limits.max)))
            model[start:stop] = np.clip(moved, limits.min, limits.max)
        return saturated

    return sum(in_parts(step_part, len(model), step=BLOCK))
