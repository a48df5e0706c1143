"""How updates lie to one another: cosines from exact inner products, in parts per million."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from deepledger.protocol.settlement.aggregation.stack import Gram, Vector, gram_of_sizes, gram_row

ONE = 1_000_000

Cosines = Sequence[Sequence[int]]
"""Shape (n, n), parts per million; 0 where a vector is zero."""


def cosines(products: Gram) -> Cosines:
    return tuple(
        tuple(_cosine(value, row[i], products[j][j]) for j, value in enumerate(row)) for i, row in enumerate(products)
    )


def cosines_with(vectors: Sequence[Vector], index: int, start: int, stop: int) -> Sequence[int]:
    """One row of `cosines`, over coordinates start … stop."""
    products, squares = gram_row(vectors, index, start, stop)
    return [_cosine(product, squares[index], square) for product, square in zip(products, squares, strict=True)]


def _cosine(product: int, one: int, other: int) -> int:
    if not one or not other:
        return 0
    size = isqrt(product * product * ONE * ONE // (one * other))
    return size if product >= 0 else -size


def profiles(vectors: Sequence[Vector], length: int) -> Cosines:
    """Correlations (Pearson) of the sizes of coordinates: whether two updates move the same parts of the model,
    whatever the direction. Training moves some parts far more than others; noise moves all alike.
    """
    sums, products = gram_of_sizes(vectors, length)
    return cosines(
        tuple(
            tuple(length * value - sums[i] * sums[j] for j, value in enumerate(row)) for i, row in enumerate(products)
        )
    )


def upper_median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]
