"""A small masked round for tests: members with keys that follow from their seats, and what each of them makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import shake_256

import numpy as np

from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member, cohort_of
from deepledger.protocol.privacy.mask_keys import MaskKey, mask_key
from deepledger.protocol.privacy.masked_updates import Letters, Masked, mask_update, parse_letters
from deepledger.protocol.privacy.unmasking import release

CONTRACT = "0x" + "11" * 20
CONTEXT = MaskContext(31337, CONTRACT, 7, 3, 1)


@dataclass(frozen=True)
class Lacking:
    """A key that shares nothing with some others."""

    key: MaskKey
    without: frozenset[bytes] = field(default_factory=frozenset)

    @property
    def word(self) -> bytes:
        return self.key.word

    def shared_with(self, word: bytes, *, of: str) -> bytes | None:
        return None if word in self.without else self.key.shared_with(word, of=of)


def key_of(seat: int):
    return mask_key(seat.to_bytes(32), chain_id=31337, contract=CONTRACT, job=7)


def members_with(weights: dict[int, int]) -> list[Member]:
    return [Member(seat, f"0x{seat + 0xABC:040x}", key_of(seat).word, weight) for seat, weight in weights.items()]


def cohort_with(weights: dict[int, int], *, bits: int = 16, **dealt) -> Cohort:
    """Of members with these weights, by seat."""
    return cohort_of(members_with(weights), context=CONTEXT, update_bits=bits, **dealt)


def masked_by(cohort: Cohort, seat: int, update: np.ndarray, *, seed: int = 0) -> Masked:
    return mask_update(
        cohort, seat, update, key=key_of(seat), random=lambda n: shake_256(b"%d %d" % (seed, seat)).digest(n)
    )


def letters_of(cohort: Cohort, masked: dict[int, Masked]) -> dict[int, Letters]:
    return {seat: parse_letters(cohort, seat, each.letters) for seat, each in masked.items()}


def releases_of(cohort: Cohort, counted: set[int], letters: dict[int, Letters], *holders: int) -> dict[int, bytes]:
    """By the holders named, or by all."""
    return {
        seat: release(cohort, seat, counted, letters, key=key_of(seat))
        for seat in holders or [member.seat for member in cohort.members]
    }
