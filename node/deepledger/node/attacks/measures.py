"""What an attack has found, beside what chance gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SURE = 2.576
"""Standard deviations of an interval that misses the truth once in a hundred times."""
FALSE_ALARMS = 0.05


@dataclass(frozen=True, slots=True)
class Separation:
    """How well scores tell members from others. `auc`: the chance that a member has the greater one; 0.5 is a guess."""

    auc: float
    low: float  # 99 % interval
    high: float
    caught: float  # share of the members above the score that `FALSE_ALARMS` of the others are above
    members: Array
    others: Array

    @property
    def found(self) -> bool:
        return self.low > 0.5

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Points (share of others, share of members) that are taken for members, as the threshold falls."""
        at = np.sort(np.concatenate([self.members, self.others]))[::-1]
        return [(0.0, 0.0)] + [(_above(self.others, each), _above(self.members, each)) for each in at] + [(1.0, 1.0)]


def separate(members: Array, others: Array) -> Separation:
    """Of scores, each 1-d and not empty; ties count half. The interval is that of Hanley & McNeil (1982)."""
    ranks = np.searchsorted(np.sort(others), members, "left") + np.searchsorted(np.sort(others), members, "right")
    auc = float(ranks.mean() / (2 * len(others)))
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (len(members) - 1) * (one - auc**2) + (len(others) - 1) * (two - auc**2)
    spread = SURE * math.sqrt(max(variance, 0.25) / (len(members) * len(others)))
    threshold = np.quantile(others, 1 - FALSE_ALARMS, method="higher")
    return Separation(
        auc, max(auc - spread, 0.0), min(auc + spread, 1.0), float((members > threshold).mean()), members, others
    )


def _above(scores: Array, threshold: float) -> float:
    return float((scores >= threshold).mean())


@dataclass(frozen=True, slots=True)
class Fit:
    """How well guesses follow the truth. `correlation` is 0 for who guesses."""

    correlation: float
    low: float  # 99 % interval
    high: float

    @property
    def found(self) -> bool:
        return self.low > 0


def fit_of(guessed: Array, true: Array, *, independent: int) -> Fit:
    """Of arrays of one shape, in which so many entries are independent. The interval is Fisher's."""
    if not (np.ptp(guessed) > 0 and np.ptp(true) > 0):
        return Fit(0.0, -1.0, 1.0)
    correlation = float(np.corrcoef(guessed.ravel(), true.ravel())[0, 1])
    middle, spread = math.atanh(min(max(correlation, -0.999999), 0.999999)), SURE / math.sqrt(max(independent - 3, 1))
    return Fit(correlation, math.tanh(middle - spread), math.tanh(middle + spread))
