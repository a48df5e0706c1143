"""Aggregation rules: accepted updates and the model before give the model after, in integers only.

An aggregator takes updates one at a time and keeps no more memory than its rule needs, however many there are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from deepledger.protocol.spec import JobSpec, TrimmedMean
from deepledger.protocol.vectors import BLOCK, ModelVector, UpdateVector, update_dtype

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

    The spec was refused if these sums could overflow. Memory: 8·d bytes.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._shift = spec.model.fraction_bits - spec.update.fraction_bits
        self._sums: Int64s = np.zeros(spec.model.coordinates, np.int64)
        self._weight = 0

    def add(self, update: UpdateVector, *, weight: int) -> None:
        for start in range(0, len(update), BLOCK):
            self._sums[start : start + BLOCK] += np.multiply(update[start : start + BLOCK], weight, dtype=np.int64)
        self._weight += weight

    def advance(self, model: ModelVector) -> int:
        return _step(model, lambda start, stop: (self._sums[start:stop] << self._shift, max(self._weight, 1)))


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
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the aggregator)

    def add(self, update: UpdateVector, *, weight: int) -> None:  # noqa: ARG002 (see above)
        self._file.write(update.data.cast("B"))
        self._count += 1

    def advance(self, model: ModelVector) -> int:
        self._file.flush()
        drop = self._count * self._percent // 100
        kept = max(self._count - 2 * drop, 1)

        def block(start: int, stop: int) -> tuple[Int64s, int]:
            values = np.stack(
                [self._read(i, start, stop) for i in range(self._count)] or [np.zeros(stop - start, self._dtype)]
            )
            values.sort(axis=0)
            total = values[drop : drop + kept].sum(axis=0, dtype=np.int64)
            return total << self._shift, kept

        return _step(model, block)

    def _read(self, index: int, start: int, stop: int) -> UpdateVector:
        self._file.seek(index * self._length + start * self._dtype.itemsize)
        return np.frombuffer(self._file.read((stop - start) * self._dtype.itemsize), self._dtype)


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


def _step(model: ModelVector, block: Callable[[int, int], tuple[Int64s, int]]) -> int:
    limits = np.iinfo(np.int32)
    saturated = 0
    for start in range(0, len(model), BLOCK):
        stop = min(start + BLOCK, len(model))
        moved = model[start:stop] + div_half_even(*block(start, stop))
        saturated += int(np.count_nonzero((moved < limits.min) | (moved > limits.max)))
        model[start:stop] = np.clip(moved, limits.min, limits.max)
    return saturated
