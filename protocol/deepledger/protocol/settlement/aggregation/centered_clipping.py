"""Centered clipping with momentum (Karimireddy et al. 2021, algorithm 1 and 2, one iteration).

The centre is the last round's step: what lies farther from it than the radius is pulled in. Participants send momentum
(the spec's `momentum_percent`), which makes honest updates vary less from round to round.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from deepledger.protocol.formats.rules import FIXED_ONE, CenteredClipping
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Scaled, Stack, gram
from deepledger.protocol.settlement.aggregation.step import Int64s, Mean


def centered_clipping(stack: Stack, rule: CenteredClipping, context: Context) -> Mean:
    """v + (1/n) sum_p min(1, radius / |x_p - v|) (x_p - v), with v the last round's step (0 in the first round)."""
    centre = np.zeros(stack.length, np.int64) if context.drift is None else context.drift
    vectors = [Scaled(row.vector, stack.shift) for row in stack.rows]
    (square, *towards), *products = gram([centre, *vectors], stack.length)
    factors = [
        _factor(rule.radius_square(context.model.fraction_bits), own[index] + square - 2 * towards[index - 1])
        for index, own in enumerate(products, 1)
    ]

    def mean(start: int, stop: int) -> tuple[Int64s, int]:
        at = centre[start:stop]
        total = at * (len(factors) * FIXED_ONE)
        for factor, vector in zip(factors, vectors, strict=True):
            total += (vector[start:stop] - at) * factor
        return total, len(factors) * FIXED_ONE

    return mean


def _factor(radius_square: int, distance_square: int) -> int:
    return FIXED_ONE if distance_square <= radius_square else isqrt(radius_square * FIXED_ONE**2 // distance_square)
