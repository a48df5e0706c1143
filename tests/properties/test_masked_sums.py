"""Masked rounds: the sum is exact whoever drops out, while enough holders are left, and refused otherwise."""

from __future__ import annotations

from hashlib import shake_256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member, cohort_of, weights
from deepledger.protocol.privacy.mask_keys import mask_key, public_bytes
from deepledger.protocol.privacy.masked_updates import (
    letters_bytes,
    mask_update,
    parse_letters,
    vector_bytes,
)
from deepledger.protocol.privacy.unmasking import (
    NotUnmaskable,
    called_for,
    parse_release,
    rebuild,
    release,
    unmask_sum,
)

CONTRACT = "0x" + "11" * 20
CONTEXT = MaskContext(31337, CONTRACT, 7, 3, 1)
COORDINATES = 75  # no multiple of what packing works on


def key_of(seat: int):
    return mask_key(seat.to_bytes(32), chain_id=31337, contract=CONTRACT, job=7)


def cohort_with(shares: list[int], bits: int, drawn_from: bytes = b"") -> Cohort:
    """Of members with these weights; seats have gaps."""
    seats = [2 * number + number // 3 for number in range(len(shares))]
    members = [
        Member(seat, f"0x{seat + 0xABC:040x}", public_bytes(key_of(seat)), weight)
        for seat, weight in zip(seats, shares, strict=True)
    ]
    return cohort_of(members, context=CONTEXT, update_bits=bits, drawn_from=drawn_from)


@st.composite
def rounds(draw):
    n = draw(st.integers(3, 12))
    bits = draw(st.sampled_from([8, 16]))
    samples = draw(st.lists(st.integers(1, 10**6), min_size=n, max_size=n))
    cohort = cohort_with(weights(samples, draw(st.sampled_from([0, 4, 8]))), bits)
    seats = [member.seat for member in cohort.members]
    counted = draw(st.sets(st.sampled_from(seats), min_size=2))
    released = draw(st.sets(st.sampled_from(seats)))
    return cohort, counted, released, draw(st.integers(0, 2**32))


@given(played=rounds())
def test_the_sum_is_exact_or_refused(played) -> None:
    cohort, counted, released, seed = played
    rng = np.random.default_rng(seed)
    limit = 1 << cohort.update_bits - 1
    updates = {
        member.seat: rng.choice([-limit, limit - 1, 0, 1, int(rng.integers(-limit, limit))], COORDINATES).astype(
            f"i{cohort.update_bits // 8}"
        )
        for member in cohort.members
    }
    masked = {
        seat: mask_update(
            cohort, seat, update, key=key_of(seat), random=lambda n, s=seat: shake_256(b"%d %d" % (seed, s)).digest(n)
        )
        for seat, update in updates.items()
        if seat in counted
    }
    for each in masked.values():
        assert len(each.letters) == letters_bytes(cohort)
        assert len(each.vector) == vector_bytes(cohort, COORDINATES)
    letters = {seat: parse_letters(cohort, seat, each.letters) for seat, each in masked.items()}
    releases = {seat: release(cohort, seat, counted, letters, key=key_of(seat)) for seat in sorted(released)}

    # Of nobody both kinds: b of who is counted, and of who is not the masks that it shares with the counted.
    for seat, blob in releases.items():
        for author, shown in parse_release(cohort, seat, counted, blob).items():
            wanted = called_for(cohort, author, frozenset(counted))
            neighbours = cohort.neighbours(author)
            assert author in counted
            assert len(shown.shares) == len(wanted)
            assert not {neighbours[number - 1] for number in wanted if number} & counted

    rebuilt = rebuild(cohort, counted, letters, releases)
    assert not rebuilt.badly_shared
    assert not rebuilt.bad_shares
    vectors = {seat: each.vector for seat, each in masked.items()}
    if len(released) < cohort.threshold:
        assert not rebuilt.own
        assert not rebuilt.pairs
        with pytest.raises(NotUnmaskable, match="could not be rebuilt"):
            unmask_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)
    else:
        total = unmask_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)
        expected = sum(cohort.member(seat).weight * updates[seat].astype(np.int64) for seat in counted)
        assert total.dtype == np.int64
        assert np.array_equal(total, expected)
