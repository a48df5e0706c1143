"""Masked rounds: the sum is exact whoever drops out, while enough holders are left, and refused otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.privacy.cohort import weights
from deepledger.protocol.privacy.masked_updates import letters_bytes, vector_bytes
from deepledger.protocol.privacy.unmasking import NotUnmaskable, called_for, parse_release, rebuild, unmask_sum

from .masked_rounds import cohort_with, letters_of, masked_by, releases_of

COORDINATES = 75  # no multiple of what packing works on


@st.composite
def rounds(draw):
    n = draw(st.integers(3, 12))
    bits = draw(st.sampled_from([8, 16]))
    samples = draw(st.lists(st.integers(1, 10**6), min_size=n, max_size=n))
    seats = sorted(draw(st.sets(st.integers(0, 63), min_size=n, max_size=n)))
    parts = weights(samples, draw(st.sampled_from([0, 4, 8])))
    cohort = cohort_with(dict(zip(seats, parts, strict=True)), bits=bits)
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
    masked = {seat: masked_by(cohort, seat, updates[seat], seed=seed) for seat in sorted(counted)}
    for each in masked.values():
        assert len(each.letters) == letters_bytes(cohort)
        assert len(each.vector) == vector_bytes(cohort, COORDINATES)
    letters = letters_of(cohort, masked)
    releases = releases_of(cohort, counted, letters, *sorted(released)) if released else {}

    # Of nobody both kinds: b of who is counted, and of who is not the masks that it shares with the counted.
    for seat, blob in releases.items():
        for author, shown in parse_release(cohort, seat, counted, blob).items():
            wanted = called_for(cohort, author, frozenset(counted)).secrets
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
