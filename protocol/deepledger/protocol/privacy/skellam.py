"""What Skellam noise keeps private: Rényi divergences after Agarwal, Kairouz and Liu (2021, "The Skellam Mechanism for
Differentially Private Federated Learning", theorem 3.5), and what they mean as (ε, δ).

Integer vectors x and x' that differ by L2 norm Δ2 and L1 norm Δ1, each with noise of variance μ in every coordinate,
have at every whole order α > 1 a Rényi divergence of at most

    α·Δ2² / 2μ + min( ((2α − 1)·Δ2² + 6·Δ1) / 4μ², 3·Δ1 / 2μ )

of which the first term is that of Gaussian noise. Of integers Δ1 ≤ min(√d·Δ2, Δ2²). Divergences of releases add up,
each may depend on what was released before. Order by order ε = divergence + log(1 − 1/α) − (log δ + log α)/(α − 1)
(Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy", proposition 12); the least counts.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from deepledger.protocol.formats.participant_privacy import Release

Divergences = npt.NDArray[np.float64]
"""One for each of `ORDERS`."""

_MOST_EPSILON: Final = 700.0
"""e^ε is a float up to there."""

_REPEATS: Final = 100

ORDERS: Final = np.array(
    [*range(2, 128), *(2**power + step * 2**power // 8 for power in range(7, 15) for step in range(8))]
)


@lru_cache(maxsize=64)
def divergences(release: Release) -> Divergences:
    """Of one release; shape (orders,)."""
    variance, squares = float(release.variance), float(release.squares)
    length = min(sqrt(release.coordinates * squares), squares)
    further = np.minimum(
        ((2 * ORDERS - 1) * squares + 6 * length) / (4 * variance * variance), 3 * length / (2 * variance)
    )
    found: Divergences = ORDERS * squares / (2 * variance) + further
    found.flags.writeable = False
    return found


def epsilon_of(divergences: Divergences, *, distance: float, delta: float, besides: float = 0.0) -> float:
    """ε at δ of releases whose divergences, and distances in total variation, add up to these; infinite where δ is too
    small for how noise is drawn. `besides`: the ε of whatever else is spent.

    What is within η of something (ε, δ)-private is (ε, δ + (1 + e^ε)·η)-private: of all ε that this leaves a δ for, the
    least is what repeating comes to from below.
    """
    found = 0.0
    for _ in range(_REPEATS):
        left = delta - distance * (1 + exp(min(found + besides, _MOST_EPSILON)))
        if left <= 0:
            return inf
        last, found = found, _converted(divergences, delta=left)
        if found <= last * (1 + 1e-12):
            return found
    return inf


def _converted(divergences: Divergences, *, delta: float) -> float:
    found = divergences + np.log1p(-1 / ORDERS) - (np.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(float(found.min()), 0.0)


def epsilon_of_rounds(release: Release, *, rounds: int, delta: float) -> float:
    """What that many alike cost."""
    if not rounds:
        return 0.0
    return epsilon_of(rounds * divergences(release), distance=rounds * release.distance, delta=delta)
