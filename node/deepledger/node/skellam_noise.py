"""Skellam noise: the difference of two Poisson values of one mean, so near to it that the distance can be told.

A value is how many edges of its distribution are at most 128 random bits. The edges are computed in integers, by the
recurrence of modified Bessel functions from far outside, where it is stable (Miller), and rounded to 128 bits; 64 of
the random bits decide, unless they are an edge's own. In total variation a value is less than 2^-90 from Skellam noise:
all values of a round, of 2^30 coordinates and 64 participants, less than 2^-54.

Random bits are AES-256 in counter mode under a key that is drawn from the system for every vector, so that a process
and its copy, or the same one begun again, draw nothing twice.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from deepledger.protocol.formats.participant_privacy import reach

Noise = npt.NDArray[np.int32]

FAST_FROM: Final = 1 << 18
"""Values from which the compiled loop is worth its import."""

_LEFT_OUT: Final = 2.0**-92
"""The chance of all values that are never drawn."""
_BEGUN_AT: Final = 2.0**-180
"""The chance of the values at which the recurrence begins: what it begins with is forgotten where values count."""
_PIECE: Final = 1 << 18
"""Values that are drawn at once."""


def skellam(count: int, *, variance: int) -> Noise:
    """Shape (count,)."""
    found = distribution(variance)
    stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
    noise = np.empty(count, np.int32)
    for start in range(0, count, _PIECE):
        part = noise[start : start + _PIECE]
        words = np.frombuffer(stream.update(bytes(8 * len(part))), "<u8")
        if fast := compiled(count):
            fast.look_up(words, found.edges, found.guide, part)
        else:
            part[:] = np.searchsorted(found.edges, words, side="right")
        for index in np.flatnonzero(words == found.edges[part - 1]):
            part[index] = found.place(int(words[index]) << 64 | int.from_bytes(os.urandom(8), "big"))
        part -= found.most
    return noise


@dataclass(frozen=True)
class Distribution:
    """Of values from -`most` to `most`."""

    most: int
    exact: tuple[int, ...]  # 2·most edges: the chance of all values up to the i-th, in units of 2^-128

    @cached_property
    def edges(self) -> npt.NDArray[np.uint64]:
        """Their first 64 bits."""
        return np.array([edge >> 64 for edge in self.exact], np.uint64)

    @cached_property
    def guide(self) -> npt.NDArray[np.int32]:
        """See `kernels.skellam`."""
        from deepledger.protocol.kernels.skellam import guide

        return guide(self.edges)

    def place(self, bits: int) -> int:
        """Of the value that 128 bits stand for, from 0 for -`most` on."""
        return bisect_right(self.exact, bits)


@lru_cache(maxsize=4)
def distribution(variance: int) -> Distribution:
    """P(k) is in proportion to I_k(variance), with I_{k-1} = I_{k+1} + 2k/variance · I_k."""
    most, begun = reach(variance, chance=_LEFT_OUT), reach(variance, chance=_BEGUN_AT)
    farther, here, tail = 0, 1 << 256, []
    for k in range(begun, 0, -1):
        if k <= most:
            tail.append(here)
        farther, here = here, farther + 2 * k * here // variance
    values = [*tail, here, *reversed(tail)]
    total = sum(values)
    return Distribution(most, tuple((sums << 128) // total for sums in accumulate(values[:-1])))


def compiled(count: int) -> ModuleType | None:
    return _fast() if count >= FAST_FROM else None


@cache
def _fast() -> ModuleType | None:
    try:
        from deepledger.protocol.kernels import skellam
    except ImportError:
        return None
    return skellam
