"""Masked rounds: every group's sum is exact whoever drops out, while enough of it are counted and enough holders are
left, and nothing of it is shown otherwise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.errors import BadInput
from deepledger.protocol.privacy.cohort import weights
from deepledger.protocol.privacy.masked_updates import letters_bytes, vector_bytes
from deepledger.protocol.privacy.unmasking import NotUnmaskable, called_for, parse_release, rebuild, unmask_sum

from .masked_rounds import cohort_with, letters_of, masked_by, releases_of

COORDINATES = 75  # no multiple of what packing works on


@st.composite
def rounds(draw):
    n = draw(st.integers(3, 14))
    bits = draw(st.sampled_from([8, 16]))
    samples = draw(st.lists(st.integers(1, 10**6), min_size=n, max_size=n))
    seats = sorted(draw(st.sets(st.integers(0, 63), min_size=n, max_size=n)))
    parts = weights(samples, draw(st.sampled_from([0, 4, 8])))
    dealt = {
        "most_groups": draw(st.integers(1, 4)),
        "least": draw(st.integers(2, 4)),
        "drawn_from": draw(st.binary(min_size=32, max_size=32)),
    }
    cohort = cohort_with(dict(zip(seats, parts, strict=True)), bits=bits, **dealt)
    counted = draw(st.sets(st.sampled_from(seats), min_size=2))
    released = draw(st.sets(st.sampled_from(seats)))
    return cohort, counted, released, draw(st.integers(0, 2**32))


@given(played=rounds())
def test_every_sum_is_exact_or_refused(played) -> None:
    cohort, counted, released, seed = played
    sizes = [len(group) for group in cohort.groups]
    assert sorted(seat for group in cohort.groups for seat in group) == sorted(cohort.by_seat)
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 1 or min(sizes) >= cohort.least
    shown = [
        group
        for group in cohort.groups
        if len(counted & set(group)) >= max(cohort.least, math.ceil(Fraction(2 * len(group), 3)))
    ]
    rng = np.random.default_rng(seed)
    limit = 1 << cohort.update_bits - 1
    updates = {
        member.seat: rng.choice([-limit, limit - 1, 0, 1, int(rng.integers(-limit, limit))], COORDINATES).astype(
            f"i{cohort.update_bits // 8}"
        )
        for member in cohort.members
    }
    masked = {seat: masked_by(cohort, seat, updates[seat], seed=seed) for seat in sorted(counted)}
    for seat, each in masked.items():
        assert len(each.letters) == letters_bytes(cohort, seat)
        assert len(each.vector) == vector_bytes(cohort, COORDINATES)
    letters = letters_of(cohort, masked)
    if not shown:
        with pytest.raises(BadInput, match="hide nobody"):
            releases_of(cohort, counted, letters)
        return
    releases = releases_of(cohort, counted, letters, *sorted(released)) if released else {}

    # Of nobody both kinds: b of who is counted, and of who is not the masks that it shares with the counted. Neither,
    # where its group would show too few.
    for seat, blob in releases.items():
        for author, part in parse_release(cohort, seat, counted, blob).items():
            wanted = called_for(cohort, author, frozenset(counted)).secrets
            neighbours = cohort.neighbours(author)
            assert author in counted
            assert any(author in group for group in shown)
            assert len(part.shares) == len(wanted)
            assert not {neighbours[number - 1] for number in wanted if number} & counted

    rebuilt = rebuild(cohort, counted, letters, releases)
    assert not rebuilt.badly_shared
    assert not rebuilt.bad_shares
    assert rebuilt.counted == counted & {seat for group in shown for seat in group}
    assert rebuilt.counted >= rebuilt.own.keys() | {one for one, _ in rebuilt.pairs}
    vectors = {seat: each.vector for seat, each in masked.items()}
    for group in cohort.groups:
        if group not in shown:
            with pytest.raises(NotUnmaskable, match="too few"):
                unmask_sum(cohort, rebuilt, vectors, coordinates=COORDINATES, group=group[0])
        elif len(released) < cohort.threshold:
            assert not rebuilt.own
            assert not rebuilt.pairs
            with pytest.raises(NotUnmaskable, match="could not be rebuilt"):
                unmask_sum(cohort, rebuilt, vectors, coordinates=COORDINATES, group=group[0])
        else:
            total = unmask_sum(cohort, rebuilt, vectors, coordinates=COORDINATES, group=group[0])
            expected = sum(cohort.member(seat).weight * updates[seat].astype(np.int64) for seat in counted & set(group))
            assert total.dtype == np.int32
            assert np.array_equal(total, expected)
