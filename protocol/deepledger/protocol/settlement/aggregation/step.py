"""From a rule's mean to the model after: exact division, rounding half to even, and the ends of int32."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt

from deepledger.protocol.formats.vectors import ModelVector, compiled
from deepledger.protocol.kernels.cores import BLOCK, in_parts

Int64s = npt.NDArray[np.int64]

Mean = Callable[[int, int], tuple[Int64s, int]]
"""mean(start, stop) -> (numerators in the model's unit, shape (stop - start,), their common denominator > 0)."""


def div_half_even(numerator: Int64s, denominator: int) -> Int64s:
    """Exact quotient rounded to the nearest integer, ties to even; denominator > 0."""
    quotient, rest = np.divmod(numerator, denominator)
    twice = 2 * rest
    up = (twice > denominator) | ((twice == denominator) & (quotient & 1 == 1))
    return cast(Int64s, quotient + up)


def step(model: ModelVector, mean: Mean) -> int:
    """Add the mean to the model, in place, block by block; returns how many coordinates were held at int32's ends."""
    limits = np.iinfo(np.int32)
    fast = compiled(len(model))

    def step_part(first: int, last: int) -> int:
        saturated = 0
        for start in range(first, last, BLOCK):
            stop = min(start + BLOCK, last)
            numerators, denominator = mean(start, stop)
            if fast:
                saturated += fast.step_by_mean(model[start:stop], numerators, denominator=denominator)
                continue
            moved = model[start:stop] + div_half_even(numerators, denominator)
            saturated += int(np.count_nonzero((moved < limits.min) | (moved > limits.max)))
            model[start:stop] = np.clip(moved, limits.min, limits.max)
        return saturated

    return sum(in_parts(step_part, len(model), step=BLOCK))
