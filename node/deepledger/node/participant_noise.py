"""Differential privacy of participants, on a node: what it trained is clipped in integers, and noise is added.

Whatever the vector is a function of, data, earlier rounds or what rounding left out of them, and whatever made it: the
clip holds for it as it is. The noise leaves nothing behind, as it is no error to make up for in the next round.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Final

import numpy as np

from deepledger.node.skellam_noise import skellam
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import Update
from deepledger.protocol.formats.vectors import Encoded, UpdateVector, sum_of_squares
from deepledger.protocol.kernels.cores import BLOCK

_ONE: Final = 1 << 30


def with_noise(encoded: Encoded[Update], spec: JobSpec) -> Encoded[Update]:
    """What may be shown of an update: what the job asks for; the update itself where it asks for nothing."""
    privacy = spec.participant_privacy
    if privacy is None:
        return encoded
    vector = encoded.vector
    assert isinstance(vector, np.ndarray)  # noqa: S101 (such a job sends all coordinates)
    clipped = clip(vector, squares=privacy.squares(spec.update.fraction_bits))
    variance, limits = privacy.share(spec.update.fraction_bits), np.iinfo(vector.dtype)
    drawn, saturated = skellam(len(vector) + (privacy.adaptive is not None), variance=variance), 0
    noise, further = drawn[: len(vector)], drawn[len(vector) :]
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        wanted = part.astype(np.int64) + noise[start : start + BLOCK]
        held = np.clip(wanted, limits.min, limits.max)  # see `participant_privacy.MISFIT`
        saturated += int(np.count_nonzero(held != wanted))
        part[:] = held
    clipped |= encoded.clipped
    bit = 0
    if len(further):
        said = 0 if clipped else privacy.bit(spec.update.fraction_bits)
        bit = min(max(said + int(further[0]), int(limits.min)), int(limits.max))
    return replace(encoded, clipped=clipped, saturated=encoded.saturated + saturated, bit=bit)


def clip(vector: UpdateVector, *, squares: int) -> bool:
    """Shorten a vector, in place, to a sum of squares of at most `squares`, toward zero; whether it was longer."""
    length = sum_of_squares(vector)
    if length <= squares:
        return False
    factor = isqrt(squares * _ONE**2 // length)
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        values = part.astype(np.int64)
        part[:] = np.sign(values) * (np.abs(values) * factor // _ONE)
    return True
