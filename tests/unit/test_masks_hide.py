"""Masks hide: who has all that is public, and all that a threshold less one of colluders know, guesses like a coin.

One of two others sends A and one sends B, so that the sum says nothing of who sent which. The distinguisher takes from
the first one's vector every mask that it can know, and says A or B by which of the two lies nearer. The same one, with
one mask left out of those that are added, is always right: it can find what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import shake_256
from unittest.mock import patch

import numpy as np
import pytest

from deepledger.protocol.formats.packing import unpack
from deepledger.protocol.privacy import masked_updates
from deepledger.protocol.privacy.mask_keys import pair_seed
from deepledger.protocol.privacy.masked_updates import Letters, open_letter, secret_hash, shared_with
from deepledger.protocol.privacy.masks import add_masks
from deepledger.protocol.privacy.shamir import interpolate
from deepledger.protocol.privacy.unmasking import rebuild

from .masked_rounds import cohort_with, key_of, letters_of, masked_by, releases_of

TRIALS, COORDINATES = 160, 48
CHANCE = range(TRIALS // 2 - 31, TRIALS // 2 + 32)  # five standard deviations to either side
COHORT = cohort_with(dict.fromkeys(range(4), 1))  # threshold 3
TARGET, OTHER, COLLUDERS = 0, 2, (1, 3)
assert len(COLLUDERS) == COHORT.threshold - 1
A = np.random.default_rng(1).integers(-100, 100, COORDINATES).astype(np.int16)
B = np.random.default_rng(2).integers(-100, 100, COORDINATES).astype(np.int16)


def test_chance_is_not_beaten_when_both_were_counted() -> None:
    """b of the target is known, and its masks with the colluders; not the one with the other."""
    assert right(counted={0, 1, 2, 3}) in CHANCE


def test_chance_is_not_beaten_when_the_target_was_not_counted() -> None:
    """Its masks with all others are known, and not b, of which the colluders hold shares, one too few."""
    assert right(counted={1, 2, 3}) in CHANCE


@pytest.mark.parametrize("counted", [{0, 1, 2, 3}, {1, 2, 3}])
def test_with_one_mask_less_it_is_always_right(counted) -> None:
    """That with the other where both were counted, and b where the target was not."""
    left_out = pair(TARGET, OTHER) if TARGET in counted else None
    assert right(counted=counted, without=left_out, without_own=TARGET not in counted) == TRIALS


def test_one_release_more_than_a_count_allows_would_tell() -> None:
    """What `release` never shows, b of who was not counted, is all that is missing."""
    assert right(counted={1, 2, 3}, knows_own=True) == TRIALS


def pair(one: int, other: int) -> bytes:
    ends = (COHORT.member(seat).participant for seat in (one, other))
    shared = shared_with(COHORT, other, key=key_of(one))
    return pair_seed(shared, binding=COHORT.binding, **dict(zip(("one", "other"), ends, strict=True)))


def right(
    *, counted: set[int], without: bytes | None = None, without_own: bool = False, knows_own: bool = False
) -> int:
    """How often the distinguisher says rightly what the target sent."""
    tosses = np.random.default_rng(3).integers(0, 2, TRIALS)
    good = 0
    for trial, toss in enumerate(tosses):
        sent = {TARGET: (A, B)[toss], OTHER: (B, A)[toss]} | dict.fromkeys(COLLUDERS, np.zeros_like(A))
        owns = {seat: shake_256(b"%d %d" % (trial, seat)).digest(16) for seat in sent}

        def incomplete(total, *, plus, minus=(), start=0, owns=owns):
            kept = [seed for seed in plus if seed != without and not (without_own and seed == owns[TARGET])]
            add_masks(total, plus=kept, minus=[seed for seed in minus if seed != without], start=start)

        with patch.object(masked_updates, "add_masks", incomplete):
            masked = {seat: masked_by(COHORT, seat, update, seed=trial) for seat, update in sent.items()}
        letters = letters_of(COHORT, masked)
        among = {seat: letters[seat] for seat in counted}
        found = rebuild(COHORT, counted, among, releases_of(COHORT, counted, among))
        assert found.complete
        known_own = owns[TARGET] if knows_own else found.own.get(TARGET)
        guess = guessed(masked[TARGET].vector, letters[TARGET], known_own, found.pairs)
        good += guess == toss
    return good


def guessed(vector: bytes, letters: Letters, own: bytes | None, pairs: dict[tuple[int, int], bytes]) -> int:
    """0 for A and 1 for B."""
    shares = {
        holder: open_letter(COHORT, letters, holder=holder, shared=shared_with(COHORT, TARGET, key=key_of(holder)))
        for holder in COLLUDERS
    }
    seeds = {seat: pair(TARGET, seat) for seat in COLLUDERS}
    if (TARGET, OTHER) in pairs or (OTHER, TARGET) in pairs:
        seeds[OTHER] = pairs.get((TARGET, OTHER)) or pairs[OTHER, TARGET]
    else:
        seeds[OTHER] = best(shares, COHORT.neighbours(TARGET).index(OTHER) + 1, letters)
    own = own or best(shares, 0, letters)

    total = unpack(vector, COHORT.modulus_bits, coordinates=COORDINATES).copy()
    residues = []
    for known in (
        [own, *seeds.values()],
        [own, *(seed for seat, seed in seeds.items() if seat != OTHER)],
        [*seeds.values()],
    ):
        rest = total.copy()
        add_masks(rest, plus=[], minus=known)  # all others have higher seats: all was added
        shift = 32 - COHORT.modulus_bits
        residues.append((rest << np.uint32(shift)).view(np.int32).astype(np.int64) >> shift)
    nearest = [[np.abs(rest - sent).sum() for sent in (A, B)] for rest in residues]
    return int(np.argmin(min(nearest, key=min)))


def best(shares: dict[int, list[bytes]], number: int, letters: Letters) -> bytes:
    """The likeliest secret of too few shares: that of a polynomial of a lower degree, unless a guess fits the hash."""
    holders = list(shares)
    rows = np.stack([np.frombuffer(shares[holder][number], np.uint8) for holder in holders])
    places = [COHORT.holders(TARGET).index(holder) + 1 for holder in holders]
    guesses = [interpolate(places, rows, at=[0]).tobytes(), bytes(16), *(shares[holder][number] for holder in holders)]
    owner = None if number else COHORT.member(TARGET)
    fits: Callable[[bytes], bool] = lambda guess: secret_hash(COHORT, guess, of=owner) == letters.secret_hashes[number]  # noqa: E731
    return next(filter(fits, guesses), guesses[0])
