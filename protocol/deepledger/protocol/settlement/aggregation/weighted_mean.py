"""The mean weighted by declared samples: FedAvg, McMahan et al. 2017, algorithm 1."""

from __future__ import annotations

import numpy as np

from deepledger.protocol.formats.rules import WeightedMean
from deepledger.protocol.formats.vectors import compiled
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Stack, entries_in
from deepledger.protocol.settlement.aggregation.step import Int64s, Mean


def weighted_mean(stack: Stack, rule: WeightedMean, context: Context) -> Mean:  # noqa: ARG001
    """sum_p w_p·q_p·2^(F-U) / sum_p w_p. The spec was refused if this sum could overflow."""
    return mean_of(stack)


def mean_of(stack: Stack) -> Mean:
    total = sum(row.weight for row in stack.rows)
    fast = compiled(stack.length)

    def mean(start: int, stop: int) -> tuple[Int64s, int]:
        sums = np.zeros(stop - start, np.int64)
        for row in stack.rows:
            if (entries := entries_in(row.vector, start, stop)) is not None:
                places, values = entries
                sums[places] += np.multiply(values, row.weight, dtype=np.int64)
                continue
            part = row.vector[start:stop]
            if fast:
                fast.add_weighted(sums, part, weight=row.weight)
            else:
                sums += np.multiply(part, row.weight, dtype=np.int64)
        return np.left_shift(sums, stack.shift, out=sums), total

    return mean
