"""Shamir's sharing against a plain version, and against answers that others give."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.privacy.shamir import interpolate


def product(a: int, b: int) -> int:
    """In GF(2^8), bit by bit."""
    total = 0
    while b:
        total ^= a if b & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return total


def inverse(a: int) -> int:
    return next(b for b in range(256) if product(a, b) == 1)


def value(coefficients: list[int], x: int) -> int:
    """Of a polynomial, by Horner's rule."""
    total = 0
    for coefficient in reversed(coefficients):
        total = product(total, x) ^ coefficient
    return total


def rows(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint8).reshape(-1, 1)


def test_known_answers() -> None:
    """FIPS 197, section 4.2: {57}·{83} = {c1}; and a line worked by hand: 0x53 + x·0xCA, where {53}·{ca} = {01}."""
    assert interpolate([0, 1], rows([0, 0x57]), at=[0x83]).tolist() == [[0xC1]]
    assert interpolate([0, 1], rows([0x53, 0x53 ^ 0xCA]), at=[0x53]).tolist() == [[0x53 ^ 1]]


@given(data=st.data(), coefficients=st.lists(st.integers(0, 255), min_size=1, max_size=9))
def test_every_polynomial_is_known_from_as_many_points(data, coefficients: list[int]) -> None:
    places = data.draw(st.lists(st.integers(0, 255), min_size=len(coefficients) + 1, unique=True))
    known, at = places[: len(coefficients)], places[len(coefficients) :]
    given_rows = rows([value(coefficients, x) for x in known])
    assert interpolate(known, given_rows, at=at).ravel().tolist() == [value(coefficients, x) for x in at]


def test_rows_are_as_many_secrets() -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (43, 100), np.uint8)  # the secrets and 42 free shares
    shares = np.vstack([known[1:], interpolate(range(43), known, at=range(43, 65))])
    for _ in range(5):
        holders = rng.permutation(64)[:43]
        assert np.array_equal(interpolate([h + 1 for h in holders], shares[holders], at=[0]), known[:1])


def test_fewer_shares_leave_every_secret_as_likely() -> None:
    """Of two shares of a secret with a threshold of three: each of 256 secrets goes with exactly one polynomial."""
    for holders in combinations([1, 2, 5], 2):
        shares = [17, 4]
        found = {interpolate([0, *holders], rows([secret, *shares]), at=[9])[0, 0] for secret in range(256)}
        assert len(found) == 256


@pytest.mark.parametrize("known", [[1, 1], [0, 1]])
def test_a_place_is_not_known_twice_or_asked_for_where_known(known) -> None:
    with pytest.raises(ValueError, match="known once"):
        interpolate(known, rows([1, 2]), at=[0])
