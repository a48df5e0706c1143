"""How long it takes to read the sums of a masked or an encrypted round, for `rehearsal`: as long as it can take.

Masks are taken off by so many seeds as there can be: the fewest are counted, and each was masked with all others.
Ciphertexts are those of one update, again and again, since to encrypt takes longer than to open.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from deepledger.protocol.bfv.program import BLOCK_BYTES, add_shares, encrypt
from deepledger.protocol.formats.spec import JobSpec, enough
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member
from deepledger.protocol.privacy.hidden_updates import read_sum, vector_bytes
from deepledger.protocol.privacy.masked_updates import SHARE_BYTES
from deepledger.protocol.privacy.unmasking import NotUnmaskable, Rebuilt
from deepledger.protocol.types import Address, JobId, RoundNumber


def prepare_sums(spec: JobSpec, participants: int) -> Callable[[], None]:
    """What reads the sums of a round of so many."""
    cohort, coordinates = _cohort(spec, participants), spec.masked_coordinates
    if cohort.encrypted:
        zeros = np.zeros(coordinates, np.int32)
        vector, shares = encrypt(zeros, seed=cohort.binding, holders=participants, threshold=cohort.threshold)
        summed = {seat: add_shares([share] * participants) for seat, share in enumerate(shares)}
        rebuilt, vectors = _rebuilt(cohort, frozenset(summed), summed), dict.fromkeys(summed, vector)
    else:
        counted = frozenset(seat for group in cohort.groups for seat in group[: enough(len(group), least=cohort.least)])
        rebuilt = _rebuilt(cohort, counted, {})
        vectors = dict.fromkeys(counted, bytes(vector_bytes(cohort, coordinates)))

    def read() -> None:
        for group in cohort.groups:
            read_sum(cohort, rebuilt, vectors, coordinates=coordinates, group=group[0])

    return read


def prepare_search(spec: JobSpec, participants: int) -> Callable[[], None]:
    """What looks in vain for shares of an encrypted sum's key that fit together, as long as anybody does."""
    cohort, coordinates = _cohort(spec, participants), spec.masked_coordinates
    shares = {seat: os.urandom(BLOCK_BYTES) for seat in cohort.by_seat}
    rebuilt = _rebuilt(cohort, frozenset(shares), shares)
    vectors = dict.fromkeys(shares, bytes(vector_bytes(cohort, coordinates)))

    def search() -> None:
        with suppress(NotUnmaskable):
            read_sum(cohort, rebuilt, vectors, coordinates=coordinates, group=0)

    return search


def _cohort(spec: JobSpec, participants: int) -> Cohort:
    """Of the greatest weights, so that sums have as many bits as they can have."""
    masks = spec.masks
    assert masks is not None  # noqa: S101 (the caller looked)
    names = (Address(f"0x{seat:040x}") for seat in range(participants))
    weight = max(1, (1 << masks.weight_bits) - 1)
    return Cohort(
        MaskContext(0, Address("0x" + "0" * 40), JobId(0), RoundNumber(0), 0),
        tuple(Member(seat, name, bytes(32), weight) for seat, name in enumerate(names)),
        spec.update.bits,
        drawn_from=bytes(32),
        most_groups=masks.groups,
        least=masks.least,
        encrypted=spec.privacy == "encrypted",
    )


def _rebuilt(cohort: Cohort, counted: frozenset[int], shares: dict[int, bytes]) -> Rebuilt:
    seed = bytes(SHARE_BYTES)
    return Rebuilt(
        counted=counted,
        own=dict.fromkeys(counted, seed),
        pairs={(one, other): seed for one in counted for other in cohort.neighbours(one) if other not in counted},
        badly_shared={},
        bad_shares={},
        short=(),
        shares=shares,
    )
