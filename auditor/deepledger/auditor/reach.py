"""How far updates that cannot be read can have taken a model: they may be anything, but no longer than a job takes."""

from __future__ import annotations

from math import sqrt

import numpy as np

from deepledger.protocol.formats.rules import WeightedMean
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.settlement.aggregation.stack import Stack
from deepledger.protocol.settlement.aggregation.weighted_mean import mean_of

_MORE = 1 + 1e-6  # floats differ by less


def too_far(spec: JobSpec, before: Blocks, settled: Blocks, read: Stack, *, gone: int) -> float | None:
    """How many times as long as updates may be those that cannot be read, which weigh `gone` together, would have had
    to be at least, for the mean of them and those that were `read` to make the settled model. None: they may have made
    it; or the rule is another, and nothing is said.

    The mean times its weight W is off by W at most: a half by its own rounding, and a half by that of the means of
    groups or buckets. Coordinates at the ends of int32, where a model is held, say nothing.
    """
    if not isinstance(spec.aggregation, WeightedMean):
        return None
    square, ends = 0.0, np.iinfo(np.int32)
    mean, weight = mean_of(read), gone + sum(row.weight for row in read.rows)
    for start in range(0, spec.model.trained, BLOCK):
        stop = min(start + BLOCK, spec.model.trained)
        after, sums = settled[start:stop], mean(start, stop)[0]
        lacking = (after.astype(np.float64) - before[start:stop]) * weight - sums
        lacking = np.maximum(np.abs(lacking) - weight, 0)[(after > ends.min) & (after < ends.max)]
        square += float(lacking @ lacking)
    longest = gone * sqrt(spec.update.square_limit) * 2 ** (spec.model.fraction_bits - spec.update.fraction_bits)
    return sqrt(square) / longest if sqrt(square) > longest * _MORE else None
