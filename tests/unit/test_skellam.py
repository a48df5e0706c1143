"""Skellam noise and what it keeps private, held against the distribution and the divergences themselves."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from scipy import stats
from scipy.special import ive

from deepledger.node import skellam_noise
from deepledger.node.accountant import Accountant, Allowance
from deepledger.node.skellam_noise import distribution, skellam
from deepledger.protocol.formats.participant_privacy import Release, reach
from deepledger.protocol.formats.private_run import Steps
from deepledger.protocol.privacy.skellam import ORDERS, divergences, epsilon_of, epsilon_of_rounds

DELTA = 1e-5


@pytest.fixture
def drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's randomness, the same in each run of a test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


def pmf(values: np.ndarray, variance: int) -> np.ndarray:
    return ive(np.abs(values), variance)


@pytest.mark.usefixtures("drawn_alike")
@pytest.mark.parametrize("variance", [1, 3, 100, 250_000])
def test_noise_has_the_distribution_that_is_accounted_for(variance: int) -> None:
    noise, deviation = skellam(100_000, variance=variance), math.sqrt(variance)
    assert noise.mean() == pytest.approx(0, abs=4 * deviation / math.sqrt(len(noise)))
    assert noise.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / len(noise)) + 2 / variance / 100)
    edges = np.unique(np.rint(np.linspace(-3 * deviation, 3 * deviation, 41)))
    inside = np.arange(edges[0], edges[-1])
    chances = np.add.reduceat(pmf(inside, variance), (edges[:-1] - edges[0]).astype(int))
    counts = np.histogram(noise, bins=[*edges[:-1], edges[-1] - 0.5])[0]
    rest = len(noise) - counts.sum(), 1 - chances.sum()
    found = stats.chisquare([*counts, rest[0]], np.array([*chances, rest[1]]) * len(noise))
    assert found.pvalue > 1e-3


@pytest.mark.usefixtures("drawn_alike")
def test_shares_of_noise_add_up_to_noise() -> None:
    total = sum(skellam(100_000, variance=2) for _ in range(5))
    values = np.arange(-9, 10)
    counts = np.array([np.count_nonzero(total == value) for value in values])
    assert stats.chisquare(counts, pmf(values, 10) / pmf(values, 10).sum() * counts.sum()).pvalue > 1e-3
    assert stats.skellam.var(1, 1) * 5 == pytest.approx(stats.skellam.var(5, 5))


@pytest.mark.parametrize("variance", [1, 7, 1000])
def test_edges_are_the_distributions_to_the_last_digit_of_floats(variance: int) -> None:
    found = distribution(variance)
    assert len(found.exact) == 2 * found.most
    sums = np.cumsum(pmf(np.arange(-found.most, found.most), variance))
    assert np.allclose(np.array([edge / 2**128 for edge in found.exact]), sums, rtol=1e-9, atol=2.0**-127)
    both = zip(found.exact, reversed(found.exact), strict=True)
    assert all(0 <= 2**128 - low - high <= 1 for low, high in both)  # rounded down, and as symmetric as that allows
    chance = stats.skellam.sf(found.most // 3 - 1, variance / 2, variance / 2)
    assert reach(variance, chance=2 * chance) >= found.most // 3 - 1  # a bound of what is really exceeded


def test_words_that_are_an_edges_own_are_decided_by_further_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = distribution(5)
    at = found.most
    edge, rest = divmod(found.exact[at], 1 << 64)

    class Stream:
        def encryptor(self) -> Stream:
            return self

        def update(self, data: bytes) -> bytes:
            return np.full(len(data) // 8, edge, "<u8").tobytes()

    monkeypatch.setattr(skellam_noise, "Cipher", lambda *_: Stream())
    for further, value in ((rest - 1, at), (rest, at + 1)):
        monkeypatch.setattr(
            os, "urandom", lambda size, further=further: further.to_bytes(8) if size == 8 else bytes(32)
        )
        assert skellam(3, variance=5).tolist() == [value - found.most] * 3


def test_compiled_and_plain_noise_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for fast_from in (1, 1 << 30):
        monkeypatch.setattr(skellam_noise, "FAST_FROM", fast_from)
        # Whoever else asks for some, as who compiles does, changes nothing.
        monkeypatch.setattr(os, "urandom", lambda size: np.random.default_rng(size).bytes(size))
        drawn.append([skellam(5000, variance=variance) for variance in (1, 90, 10**6)])
    for one, other in zip(*drawn, strict=True):
        assert np.array_equal(one, other)


def _draw(queue: multiprocessing.Queue[list[int]]) -> None:
    queue.put(skellam(50, variance=10**6).tolist())


def test_a_process_and_its_copies_draw_nothing_twice() -> None:
    skellam(10, variance=10**6)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[int]] = context.Queue()
    children = [context.Process(target=_draw, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    drawn = [queue.get(timeout=60) for _ in children] + [skellam(50, variance=10**6).tolist()]
    for child in children:
        child.join()
    assert len({tuple(each) for each in drawn}) == 3


def exact_divergence(variance: int, shift: int, order: int) -> float:
    """Of noise and of shifted noise, by summing over all values that count."""
    values = np.arange(-600, 601)
    with np.errstate(divide="ignore"):
        here, there = np.log(pmf(values, variance)), np.log(pmf(values - shift, variance))
    known = np.isfinite(here) & np.isfinite(there)
    logs = order * here[known] + (1 - order) * there[known]
    return float((logs.max() + np.log(np.exp(logs - logs.max()).sum())) / (order - 1))


@pytest.mark.parametrize(("variance", "orders"), [(1, [2, 3]), (4, [2, 5]), (20, [2, 5, 16]), (1000, [2, 5, 16])])
@pytest.mark.parametrize("shifts", [(1,), (5,), (1, 1, 2), (3, 0, 4)])
def test_divergences_are_bounded_and_nearly_met(variance: int, orders: list[int], shifts: tuple[int, ...]) -> None:
    """Theorem 3.5 of Agarwal, Kairouz and Liu (2021): divergences of coordinates add up."""
    release = Release(variance, sum(shift * shift for shift in shifts), len(shifts))
    for order in orders:
        exact = sum(exact_divergence(variance, shift, order) for shift in shifts)
        bound = divergences(release)[list(ORDERS).index(order)]
        assert exact <= bound <= (1.02 if variance == 1000 else 5) * exact


def test_the_bound_is_the_papers() -> None:
    """With Δ1 as large as integers allow, in both cases of its minimum, worked out by hand."""
    order = list(ORDERS).index(4)
    assert divergences(Release(100, 9, 10**6))[order] == pytest.approx(4 * 9 / 200 + (7 * 9 + 6 * 9) / 40_000)
    assert divergences(Release(2, 9, 10**6))[order] == pytest.approx(4 * 9 / 4 + min((7 * 9 + 54) / 16, 27 / 4))
    assert divergences(Release(100, 16, 4))[order] == pytest.approx(4 * 16 / 200 + (7 * 16 + 6 * 8) / 40_000)


def test_epsilon_is_told_by_the_conversion_of_others() -> None:
    release = Release(10**6, 4 * 10**6 // 9, 650)
    for rounds in (1, 5, 10):
        expected, _ = compute_epsilon(ORDERS, rounds * divergences(release), DELTA)
        assert epsilon_of_rounds(release, rounds=rounds, delta=DELTA) == pytest.approx(expected, rel=1e-9)
    assert epsilon_of_rounds(release, rounds=0, delta=DELTA) == 0
    assert math.isinf(epsilon_of_rounds(release, rounds=100, delta=DELTA)), "e^54 times how noise is drawn is no δ"
    assert math.isinf(epsilon_of(divergences(release), distance=DELTA / 2, delta=DELTA))


def test_how_noise_is_drawn_costs_delta_and_the_more_the_larger_epsilon_is() -> None:
    """What is within η of something (ε, δ)-private is (ε, δ + (1 + e^ε)·η)-private."""
    rough = divergences(Release(100, 400, 1000)) * 6
    for distance in (1e-30, 1e-15, 1e-12):
        epsilon = epsilon_of(rough, distance=distance, delta=DELTA)
        if math.isinf(epsilon):
            continue
        left = DELTA - distance * (1 + math.exp(epsilon))
        assert epsilon == pytest.approx(compute_epsilon(ORDERS, rough, left)[0], rel=1e-9)
    exact = epsilon_of(rough, distance=0.0, delta=DELTA)
    assert exact == pytest.approx(epsilon_of(rough, distance=1e-30, delta=DELTA))
    assert math.isinf(epsilon_of(rough, distance=DELTA / math.exp(exact), delta=DELTA))
    assert math.isinf(epsilon_of(rough, distance=1e-12, delta=DELTA, besides=30.0))
    assert Release(100, 400, 13_706).distance < 2.0**-64


def test_large_noise_costs_what_gaussian_noise_does() -> None:
    """Of which the exact δ is known (Balle and Wang 2018): a Rényi bound is above it, and not by much."""
    release, rounds = Release(10**8, 10**8, 1000), 10
    epsilon, mu = epsilon_of_rounds(release, rounds=rounds, delta=DELTA), math.sqrt(rounds)
    cdf: Callable[[float], float] = stats.norm.cdf
    exact = lambda e: cdf(mu / 2 - e / mu) - math.exp(e) * cdf(-mu / 2 - e / mu)  # noqa: E731
    assert exact(epsilon) < DELTA < exact(0.9 * epsilon)


RELEASE = Release(10**6, 4 * 10**5, 1000)
STEPS = Steps(0.05, 1.0, 40)


def test_releases_and_private_steps_add_up_each_at_half_of_delta() -> None:
    both = Accountant([STEPS]).plus([RELEASE]).plus([RELEASE])
    apart = Accountant([STEPS]).epsilon(DELTA / 2) + epsilon_of_rounds(RELEASE, rounds=2, delta=DELTA / 2)
    assert both.epsilon(DELTA) == pytest.approx(apart)
    assert Accountant([RELEASE, STEPS, RELEASE]).epsilon(DELTA) == pytest.approx(apart)
    assert both.fits(apart + 0.01, DELTA)
    assert not both.fits(apart - 0.01, DELTA)
    only = Accountant([RELEASE] * 2)
    assert only.epsilon(DELTA) == epsilon_of_rounds(RELEASE, rounds=2, delta=DELTA)
    assert only.fits(only.epsilon(DELTA), DELTA)
    assert not only.fits(only.epsilon(DELTA) - 1e-6, DELTA)
    assert not both.fits(epsilon_of_rounds(RELEASE, rounds=2, delta=DELTA / 2) / 2, DELTA)


def test_an_allowance_counts_releases() -> None:
    allowance = Allowance(Accountant([RELEASE]), epsilon=epsilon_of_rounds(RELEASE, rounds=3, delta=DELTA), delta=DELTA)
    assert allowance.fits([RELEASE] * 2)
    assert not allowance.fits([RELEASE] * 3)
