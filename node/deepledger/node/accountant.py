"""What all that was released of some data costs of their privacy together: (ε, δ).

Private steps are composed by privacy loss distributions, which need dp-accounting once there are any. Each step is the
Gaussian mechanism on samples drawn by lot (Poisson); neighbours differ by one sample that is there or not; losses are
rounded to multiples of `INTERVAL` so that what is said is an upper bound ("connect the dots", Doroshenko et al. 2022),
whatever rounds and jobs the steps were taken in. Rényi accounting with the classical conversion gives more (the numbers
of older tables), Gaussian differential privacy less than is true.

Updates behind Skellam noise are composed by their Rényi divergences (`privacy.skellam`): what is released of data that
differ by one sample differs by no more than of any two. Where there is both, each gets half of δ, and the two ε add up:
so much holds for private mechanisms whose releases alternate, too (Lyu 2022, "Composition Theorems for Interactive
Differential Privacy").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import Steps
from deepledger.protocol.privacy.skellam import ORDERS, Divergences, divergences, epsilon_of

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

INTERVAL = 1e-3


Cost = Steps | Release


class Accountant:
    """Of some steps and releases. What is known of all before is kept, so that a round is added to it."""

    def __init__(self, costs: Iterable[Cost] = (), *, before: Accountant | None = None) -> None:
        costs = tuple(costs)
        self._loss: PrivacyLossDistribution | None = None if before is None else before._loss
        self._divergences: Divergences = np.zeros(len(ORDERS)) if before is None else before._divergences
        self._distance: float = 0.0 if before is None else before._distance
        for (rate, noise), count in alike(each for each in costs if isinstance(each, Steps)).items():
            more = _steps(rate, noise, count)
            self._loss = more if self._loss is None else self._loss.compose(more)
        for release, count in Counter(each for each in costs if isinstance(each, Release)).items():
            self._divergences = self._divergences + count * divergences(release)
            self._distance += count * release.distance
        self._after: tuple[tuple[Cost, ...], Accountant] | None = None

    def plus(self, costs: Iterable[Cost]) -> Accountant:
        """The last one is kept: what a round will cost is asked before it, and again when it did."""
        costs = tuple(costs)
        if self._after is None or self._after[0] != costs:
            self._after = (costs, Accountant(costs, before=self))
        return self._after[1]

    def epsilon(self, delta: float) -> float:
        if self._loss is None:
            return self._of_releases(delta)
        if not self._distance:
            return float(self._loss.get_epsilon_for_delta(delta))
        of_steps = float(self._loss.get_epsilon_for_delta(delta / 2))
        return of_steps + self._of_releases(delta / 2, besides=of_steps)

    def fits(self, epsilon: float, delta: float) -> bool:
        """Whether no more than this is spent."""
        return self.epsilon(delta) <= epsilon if self._distance else self._steps_fit(epsilon, delta)

    def _steps_fit(self, epsilon: float, delta: float) -> bool:
        return self._loss is None or float(self._loss.get_delta_for_epsilon(epsilon)) <= delta

    def _of_releases(self, delta: float, *, besides: float = 0.0) -> float:
        if not self._distance:
            return 0.0
        return epsilon_of(self._divergences, distance=self._distance, delta=delta, besides=besides)


def alike(steps: Iterable[Steps]) -> Counter[tuple[float, float]]:
    """How many there are of each rate and noise multiplier."""
    counts: Counter[tuple[float, float]] = Counter()
    for each in steps:
        counts[each.rate, each.noise_multiplier] += each.count
    return counts


class Allowance:
    """Says of every step of a training whether it stays within ε at δ, after what was spent before."""

    def __init__(self, spent: Accountant, *, epsilon: float, delta: float) -> None:
        self._spent, self._epsilon, self._delta = spent, epsilon, delta
        self._fit: dict[tuple[tuple[Steps, ...], float, float], int] = {}

    def fits(self, costs: Iterable[Cost]) -> bool:
        return self._spent.plus(costs).fits(self._epsilon, self._delta)

    def expect(self, steps: tuple[Steps, ...]) -> bool:
        """As `fits`; where they do, so many are not looked at again."""
        found = self.fits(steps)
        if found and len(steps) == 1:
            self._fit[(), steps[0].rate, steps[0].noise_multiplier] = steps[0].count
        return found

    def may_take(self, others: tuple[Steps, ...], rate: float, noise_multiplier: float, count: int) -> bool:
        """Whether `count` steps fit after others. Looks ahead, twice as far each time, so that few are looked at."""
        key = (others, rate, noise_multiplier)
        ahead = max(count - 1, 1)
        while self._fit.get(key, 0) < count:
            if self.fits([*others, Steps(rate, noise_multiplier, count - 1 + ahead)]):
                self._fit[key] = count - 1 + ahead
            elif ahead == 1:
                return False
            ahead = max(ahead // 2, 1)
        return True


@lru_cache(maxsize=64)
def _steps(rate: float, noise_multiplier: float, count: int) -> PrivacyLossDistribution:
    return _step(rate, noise_multiplier).self_compose(count)


@lru_cache(maxsize=64)
def _step(rate: float, noise_multiplier: float) -> PrivacyLossDistribution:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ModuleNotFoundError as error:
        raise BadInput(
            f"to tell what was spent of privacy needs {error.name}: pip install 'deepledger[privacy]'"
        ) from None

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=rate, value_discretization_interval=INTERVAL
    )
