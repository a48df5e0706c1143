"""FLTrust (Cao et al. 2021, algorithm 2): updates count as far as they point where a trusted one does.

The paper's server trains on data of its own. Here the trusted update comes from a participant that the spec names,
which commits and reveals like all others: it is as public and as exactly re-derivable as theirs, and fixed before it
can have seen them.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from deepledger.protocol.formats.rules import FIXED_ONE, FLTrust, Median
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.sorting import median
from deepledger.protocol.settlement.aggregation.stack import Scaled, Stack, gram
from deepledger.protocol.settlement.aggregation.step import Int64s, Mean


def fltrust(stack: Stack, rule: FLTrust, context: Context) -> Mean:  # noqa: ARG001
    """sum_p TS_p·(|q_0| / |q_p|)·q_p / sum_p TS_p with TS_p = max(0, cos(q_p, q_0)) and q_0 the trusted update.

    The trusted update is not in the stack. Without one (its participant is absent), the median of the others. If nobody
    is trusted, the model stays.
    """
    if context.trusted is None:
        return median(stack, Median(), context)
    vectors = [Scaled(row.vector, stack.shift) for row in stack.rows]
    (square, *towards), *products = gram([context.trusted, *vectors], stack.length)
    norms = [own[index] for index, own in enumerate(products, 1)]
    trust = [_cosine(towards[index], square, norm) for index, norm in enumerate(norms)]
    total = sum(trust)
    if not total:
        return _nothing
    factors = [
        given * isqrt(square * FIXED_ONE**2 // norm) // total if given else 0
        for given, norm in zip(trust, norms, strict=True)
    ]

    def mean(start: int, stop: int) -> tuple[Int64s, int]:
        sums = np.zeros(stop - start, np.int64)
        for factor, vector in zip(factors, vectors, strict=True):
            if factor:
                sums += vector[start:stop] * factor
        return sums, FIXED_ONE

    return mean


def _cosine(product: int, one: int, other: int) -> int:
    """max(0, cosine) in units of 1/FIXED_ONE."""
    return isqrt(product**2 * FIXED_ONE**2 // (one * other)) if product > 0 else 0


def _nothing(start: int, stop: int) -> tuple[Int64s, int]:
    return np.zeros(stop - start, np.int64), 1
