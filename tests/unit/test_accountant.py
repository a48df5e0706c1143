"""What private steps cost, held against published values, each with the conversion that it was made with."""

from __future__ import annotations

import math
from importlib.metadata import version

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm

from deepledger.node.accountant import Accountant, Allowance
from deepledger.protocol.formats.private_run import Steps

SAMPLES, BATCH, DELTA = 60000, 256, 1e-5
ORDERS = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))

PUBLISHED = [
    # Noise multiplier, epochs; ε in the table of TF Privacy's tutorial on MNIST (batches of 256 of 60,000, δ = 1e-5),
    # which is Rényi accounting with the classical conversion (its 9.74 is 9.75 today: fractional orders were computed
    # otherwise); ε by privacy loss distributions.
    (1.12, 60, 2.92, 2.31),
    (1.2, 10, 1.20, 0.79),
    (0.6, 30, 9.74, 7.69),
]


def steps_of(noise_multiplier: float, epochs: int) -> Steps:
    return Steps(BATCH / SAMPLES, noise_multiplier, epochs * (SAMPLES // BATCH))


def test_the_version_is_the_one_that_has_privacy_loss_distributions() -> None:
    """With attrs from 24 on, installers take 0.0.2 without a word."""
    assert version("dp-accounting") == "0.6.0"
    assert int(version("attrs").split(".")[0]) < 24


@pytest.mark.parametrize(("noise_multiplier", "epochs", "classical", "tight"), PUBLISHED)
def test_published_values(noise_multiplier: float, epochs: int, classical: float, tight: float) -> None:
    steps = steps_of(noise_multiplier, epochs)
    renyi = RdpAccountant(ORDERS)
    step = dp_accounting.PoissonSampledDpEvent(steps.rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    renyi.compose(step, steps.count)
    by_orders = zip(renyi._rdp, ORDERS, strict=True)
    assert min(loss + math.log(1 / DELTA) / (order - 1) for loss, order in by_orders) == pytest.approx(
        classical, abs=0.015
    )
    assert -0.005 <= Accountant([steps]).epsilon(DELTA) - tight < 0.02  # an upper bound of it
    assert Accountant([steps]).epsilon(DELTA) < renyi.get_epsilon(DELTA) < classical


@pytest.mark.parametrize(("noise_multiplier", "count"), [(1.0, 1), (4.0, 10)])
def test_steps_with_all_samples_are_the_gaussian_mechanism(noise_multiplier: float, count: int) -> None:
    """Whose δ is known exactly (Balle and Wang 2018, theorem 8)."""
    epsilon, mu = 1.5, math.sqrt(count) / noise_multiplier
    exact = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    spent = Accountant([Steps(1.0, noise_multiplier, count)])
    assert spent.fits(epsilon, 1.01 * exact)
    assert not spent.fits(epsilon, 0.9999 * exact)


def test_rounds_and_jobs_compose_whatever_their_order() -> None:
    one, other = Steps(0.05, 1.0, 40), Steps(0.1, 1.5, 30)
    together = Accountant([one, other, one]).epsilon(DELTA)
    assert Accountant([other]).plus([one]).plus([one]).epsilon(DELTA) == pytest.approx(together, rel=1e-6)
    assert Accountant([Steps(0.05, 1.0, 80), other]).epsilon(DELTA) == pytest.approx(together, rel=1e-6)
    assert together > Accountant([one, one]).epsilon(DELTA) > Accountant([one]).epsilon(DELTA) > 0
    assert Accountant().epsilon(DELTA) == 0


def test_an_allowance_ends_with_the_last_step_that_fits() -> None:
    spent = Accountant([Steps(0.05, 1.0, 40)])
    allowance = Allowance(spent, epsilon=3.0, delta=DELTA)
    taken = 0
    while allowance.may_take((), 0.05, 1.0, taken + 1):
        taken += 1
    assert spent.plus([Steps(0.05, 1.0, taken)]).epsilon(DELTA) <= 3.0
    assert spent.plus([Steps(0.05, 1.0, taken + 1)]).epsilon(DELTA) > 3.0
    others = (Steps(0.05, 1.0, taken // 2),)
    more = next(count for count in range(1, 1000) if not allowance.may_take(others, 0.05, 0.8, count)) - 1
    assert 0 < more < taken
    assert spent.plus([*others, Steps(0.05, 0.8, more)]).epsilon(DELTA) <= 3.0
    assert allowance.expect((Steps(0.05, 1.0, taken),))
    assert not allowance.expect((Steps(0.05, 1.0, taken + 1),))
