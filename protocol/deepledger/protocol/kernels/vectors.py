"""Arithmetic on large vectors as compiled loops: one pass over memory each, the same results as the plain versions.

`formats.vectors` and `settlement.aggregation` hold those, and the tests compare bit for bit.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.cores import BLOCK, in_parts

Vector = npt.NDArray[Any]


def add(one: Vector, other: Vector, out: Vector, *, lanes: int) -> float:
    """out = one + other, where `out` may be either; returns `vectors.float_squares(out)`."""
    blocks = np.empty(-(-len(out) // BLOCK))

    def work(start: int, stop: int) -> None:
        _add(one[start:stop], other[start:stop], out[start:stop], np.empty(lanes), blocks[start // BLOCK :])

    in_parts(work, len(out), step=BLOCK)
    return math.fsum(blocks) if np.isfinite(blocks).all() else math.nan


def sum_of_squares(update: Vector) -> int:
    loop = _wide_squares if update.itemsize == 4 else _narrow_squares
    parts = in_parts(lambda start, stop: loop(update[start:stop]), len(update), step=BLOCK)
    return sum((int(high) << 32) + (int(cross) << 17) + int(low) for high, cross, low in parts)


def round_into(vector: Vector, values: Vector, *, bits: int, scale: float, seed: int | None, subtract: bool) -> int:
    """Round as `vectors.encode_update` does; returns how many saturated."""
    least, most = -float(1 << bits - 1), float((1 << bits - 1) - 1)
    loop = _round_and_subtract if subtract else _round

    def work(start: int, stop: int) -> int:
        part = vector[start:stop], values[start:stop], scale, least, most
        return _truncate(*part) if seed is None else loop(*part, np.uint64((seed + start * GAMMA) % 2**64))

    return sum(in_parts(work, len(vector), step=BLOCK))


def subtract(values: Vector, vector: Vector, *, unit: float) -> None:
    in_parts(lambda start, stop: _subtract(values[start:stop], vector[start:stop], unit), len(values), step=BLOCK)


def add_weighted(sums: Vector, update: Vector, *, weight: int) -> None:
    in_parts(lambda start, stop: _add_weighted(sums[start:stop], update[start:stop], weight), len(sums), step=BLOCK)


def step_by_mean(model: Vector, sums: Vector, *, denominator: int) -> int:
    """As `aggregation.step` with sums / denominator."""

    def work(start: int, stop: int) -> int:
        return int(_step(model[start:stop], sums[start:stop], denominator))

    return sum(in_parts(work, len(model), step=BLOCK))


GAMMA: Final = 0x9E3779B97F4A7C15
_GAMMA: Final = np.uint64(GAMMA)
_MIX1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX2: Final = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(40)


@kernel
def _add(one: Vector, other: Vector, out: Vector, sums: Vector, blocks: Vector) -> None:
    lanes = len(sums)
    for start in range(0, len(out), BLOCK):
        sums[:] = 0
        for first in range(start, min(start + BLOCK, len(out)), lanes):
            stop = min(first + lanes, len(out))
            a, b, total = one[first:stop], other[first:stop], out[first:stop]
            for i in range(len(total)):
                value = a[i] + b[i]
                total[i] = value
                sums[i] += np.float64(value) * np.float64(value)
        width = lanes
        while width > 1:
            width //= 2
            for i in range(width):
                sums[i] += sums[width + i]
        blocks[start // BLOCK] = sums[0]


@kernel
def _narrow_squares(update: Vector) -> tuple[np.int64, np.int64, np.int64]:
    total = np.int64(0)  # at most 2^30 coordinates of at most 2^30
    for i in range(len(update)):
        value = np.int32(update[i])
        total += np.int64(np.int32(value * value))
    return np.int64(0), np.int64(0), total


@kernel
def _wide_squares(update: Vector) -> tuple[np.int64, np.int64, np.int64]:
    high_sum, cross_sum, low_sum = np.int64(0), np.int64(0), np.int64(0)  # each below 2^62 for 2^30 coordinates
    for i in range(len(update)):
        value = np.int64(update[i])
        high, low = value >> 16, value & 0xFFFF
        high_sum += high * high
        cross_sum += high * low
        low_sum += low * low
    return high_sum, cross_sum, low_sum


@kernel
def _round(vector: Vector, values: Vector, scale: float, least: float, most: float, counter: np.uint64) -> int:
    saturated = 0
    for i in range(len(vector)):
        wanted = np.floor(np.float64(values[i]) * scale + _uniform(counter, i))
        held = min(max(wanted, least), most)
        saturated += held != wanted
        vector[i] = held
    return saturated


@kernel
def _round_and_subtract(
    vector: Vector, values: Vector, scale: float, least: float, most: float, counter: np.uint64
) -> int:
    saturated, unit = 0, 1.0 / scale
    for i in range(len(vector)):
        value = np.float64(values[i])
        wanted = np.floor(value * scale + _uniform(counter, i))
        held = min(max(wanted, least), most)
        saturated += held != wanted
        vector[i] = held
        values[i] = np.float32(value - held * unit)
    return saturated


@kernel
def _uniform(counter: np.uint64, index: int) -> float:
    """As `vectors.uniform`."""
    z = counter + np.uint64(index + 1) * _GAMMA
    z = (z ^ (z >> _30)) * _MIX1
    z = (z ^ (z >> _27)) * _MIX2
    z ^= z >> _31
    return np.float64(np.int64(z >> _40)) * 2.0**-24


@kernel
def _truncate(vector: Vector, values: Vector, scale: float, least: float, most: float) -> int:
    saturated = 0
    for i in range(len(vector)):
        wanted = np.trunc(np.float64(values[i]) * scale)
        held = min(max(wanted, least), most)
        saturated += held != wanted
        vector[i] = held
    return saturated


@kernel
def _subtract(values: Vector, vector: Vector, unit: float) -> None:
    for i in range(len(values)):
        values[i] = np.float32(np.float64(values[i]) - np.float64(vector[i]) * unit)


@kernel
def _add_weighted(sums: Vector, update: Vector, weight: int) -> None:
    for i in range(len(sums)):
        sums[i] += np.int64(update[i]) * weight


@kernel
def _step(model: Vector, sums: Vector, denominator: int) -> int:
    # SIMD has no integer division. |numerator| < 2^62, so the first quotient, in float64, leaves a rest below
    # 2^12 + 2 · denominator in size, whose own quotient is off by one at most.
    saturated, inverse = 0, 1.0 / denominator
    for i in range(len(model)):
        numerator = sums[i]
        quotient = np.int64(np.float64(numerator) * inverse)
        quotient += np.int64(np.floor(np.float64(numerator - quotient * denominator) * inverse))
        rest = numerator - quotient * denominator
        quotient += np.int64(rest >= denominator) - np.int64(rest < 0)
        twice = 2 * (numerator - quotient * denominator)
        moved = model[i] + quotient + ((twice > denominator) | ((twice == denominator) & (quotient & 1 == 1)))
        held = min(max(moved, -(2**31)), 2**31 - 1)
        saturated += held != moved
        model[i] = held
    return saturated
