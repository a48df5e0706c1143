"""Rules that sort each coordinate: median and trimmed mean (Yin et al. 2018, definitions 1 and 2).

Weights do not count here: nobody can check them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from deepledger.protocol.formats.rules import Median, TrimmedMean
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Block, Stack
from deepledger.protocol.settlement.aggregation.step import Int64s, Mean


def median(stack: Stack, rule: Median, context: Context) -> Mean:  # noqa: ARG001
    """Coordinate-wise; of an even number of values, the mean of the middle two. Withstands just under a half."""
    return _middle(stack, (len(stack) - 1) // 2)


def trimmed_mean(stack: Stack, rule: TrimmedMean, context: Context) -> Mean:  # noqa: ARG001
    """Per coordinate, drop the k smallest and the k largest of n values, k = floor(n · trim_percent / 100)."""
    return _middle(stack, len(stack) * rule.trim_percent // 100)


def _middle(stack: Stack, drop: int) -> Mean:
    """The mean of what is left without `drop` values at either end."""
    kept = len(stack) - 2 * drop
    sort = sorter(len(stack))

    def mean(start: int, stop: int) -> tuple[Int64s, int]:
        rows = sort(stack.block(start, stop))
        return rows[drop : drop + kept].sum(axis=0, dtype=np.int64) << stack.shift, kept

    return mean


def sorter(count: int) -> Callable[[Block], Block]:
    """Sorts the columns of a block of `count` rows, in place."""
    exchanges = sorting_network(count)

    def sort(rows: Block) -> Block:
        spare = np.empty_like(rows[0])
        for low, high in exchanges:
            np.minimum(rows[low], rows[high], out=spare)
            np.maximum(rows[low], rows[high], out=rows[high])
            rows[low] = spare
        return rows

    return sort


@lru_cache
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
