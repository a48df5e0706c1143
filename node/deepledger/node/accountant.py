"""What private steps cost together: (ε, δ) from privacy loss distributions. Needs dp-accounting once it is asked.

Each step is the Gaussian mechanism on samples drawn by lot (Poisson); neighbours differ by one sample that is there or
not; losses are rounded to multiples of `INTERVAL` so that what is said is an upper bound ("connect the dots",
Doroshenko et al. 2022), whatever rounds and jobs the steps were taken in. Rényi accounting with the classical
conversion gives more (the numbers of older tables), Gaussian differential privacy less than is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.private_run import Steps

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

INTERVAL = 1e-3


class Accountant:
    """Of some steps. Composition is a convolution, so that a round is added to what is known of all before."""

    def __init__(self, steps: Iterable[Steps] = (), *, before: Accountant | None = None) -> None:
        self._loss: PrivacyLossDistribution | None = None if before is None else before._loss
        for (rate, noise), count in alike(steps).items():
            more = _steps(rate, noise, count)
            self._loss = more if self._loss is None else self._loss.compose(more)
        self._after: tuple[tuple[Steps, ...], Accountant] | None = None

    def plus(self, steps: Iterable[Steps]) -> Accountant:
        """The last one is kept: what a round will cost is asked before it, and again when it did."""
        steps = tuple(steps)
        if self._after is None or self._after[0] != steps:
            self._after = (steps, Accountant(steps, before=self))
        return self._after[1]

    def epsilon(self, delta: float) -> float:
        return 0.0 if self._loss is None else float(self._loss.get_epsilon_for_delta(delta))

    def delta(self, epsilon: float) -> float:
        return 0.0 if self._loss is None else float(self._loss.get_delta_for_epsilon(epsilon))


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

    def fits(self, steps: Iterable[Steps]) -> bool:
        return self._spent.plus(steps).delta(self._epsilon) <= self._delta

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
