"""Divide and conquer, DnC (Shejwalkar & Houmansadr 2021, algorithm 2): drop what stands out along the direction in
which the updates differ most, seen in coordinates drawn by lot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from deepledger.protocol.formats.rules import DnC
from deepledger.protocol.formats.vectors import uniform
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Gram, Stack, gram
from deepledger.protocol.settlement.aggregation.step import Mean
from deepledger.protocol.settlement.aggregation.weighted_mean import mean_of

_SQUARINGS = 10  # of the matrix of inner products: its 1024th power, in which the top direction stands alone
_SCALE = 1 << 34


def dnc(stack: Stack, rule: DnC, context: Context) -> Mean:
    """`iterations` times: draw `sample` coordinates, leave out the f = floor(n · byzantine_percent / 100) updates with
    the largest squared projection on the top singular vector of the centred updates. The mean of those that are never
    left out (if there are none, of those that are least often).
    """
    count = len(stack)
    byzantine = count * rule.byzantine_percent // 100
    lots = [context.lot("dnc", row.participant) for row in stack.rows]
    dropped: Counter[int] = Counter(dict.fromkeys(range(count), 0))
    for iteration in range(rule.iterations):
        coordinates = draw(stack.length, rule.sample, seed=context.draw(f"dnc {iteration}"))
        direction = top_direction(centred(gram(values_at(stack, coordinates), len(coordinates))), lots)
        order = sorted(range(count), key=lambda index: (direction[index] ** 2, lots[index]))
        dropped.update(order[count - byzantine :])
    least = min(dropped.values())
    return mean_of(stack.only(index for index in range(count) if dropped[index] == least))


def draw(length: int, sample: int, *, seed: int) -> np.ndarray:
    """At most `sample` distinct coordinates of 0 … length - 1, ascending; all if there are no more."""
    if length <= sample:
        return np.arange(length)
    fine = uniform(seed, 0, sample) + uniform(seed, sample, sample) * 2.0**-24  # multiples of 2^-48 in [0, 1)
    return np.unique((fine * length).astype(np.int64))


def values_at(stack: Stack, coordinates: np.ndarray) -> list[np.ndarray]:
    """Every row at some coordinates only, read block by block."""
    parts = []
    for start, stop in stack.blocks():
        inside = coordinates[np.searchsorted(coordinates, start) : np.searchsorted(coordinates, stop)] - start
        if len(inside):
            parts.append(stack.block(start, stop)[:, inside])
    return list(np.concatenate(parts, axis=1))


def centred(products: Gram) -> Gram:
    """n² times the inner products of rows less their mean, from those of the rows."""
    count = len(products)
    sums = [sum(row) for row in products]
    total = sum(sums)
    return tuple(
        tuple(count**2 * value - count * (sums[i] + sums[j]) + total for j, value in enumerate(row))
        for i, row in enumerate(products)
    )


def top_direction(products: Gram, lots: Sequence[bytes]) -> Sequence[int]:
    """The top left singular vector of rows with these inner products, up to scale. Its squares are, up to scale, the
    squared projections on the right one.

    It is every column of a high power of the matrix, longest where the diagonal is greatest (of equal ones, by lot).
    No start has to be chosen, which somebody could make orthogonal to it. Squares are exact, then cut to 34 bits.
    """
    for _ in range(_SQUARINGS):
        most = max(max(map(abs, row)) for row in products)
        if not most:
            break
        rows = [np.array([value * _SCALE // most for value in row], np.int64) for row in products]
        products = gram(rows, len(rows))  # the matrix is symmetric, so that these are its square
    return products[max(range(len(products)), key=lambda index: (products[index][index], lots[index]))]
