"""Encrypted updates: the sum of the counted ones is exact whoever drops out, and lies are noticed or named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepledger.protocol.bfv.program import BLOCK_BYTES, BeyondRange, vector_bytes
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.privacy import hidden_updates
from deepledger.protocol.privacy.encrypted_updates import (
    decrypt_sum,
    encrypt_update,
    letters_bytes,
    parse_letters,
    parse_release,
    rebuild,
    release,
)
from deepledger.protocol.privacy.masked_updates import BadLetters, Masked
from deepledger.protocol.privacy.pairs import check_sound, sound
from deepledger.protocol.privacy.unmasking import NOTHING, BadRelease, NotUnmaskable
from tests.unit.masked_rounds import cohort_with, key_of

COORDINATES = 2100  # two blocks
SEATS = {0: 1, 1: 3, 4: 2, 7: 5}  # and weights
HEAD = 32 + 16 + 16  # of letters, before the hashes

pytestmark = pytest.mark.usefixtures("bfv_program")


@pytest.fixture(scope="module")
def cohort() -> Any:
    return cohort_with(SEATS, encrypted=True)


@pytest.fixture(scope="module")
def updates() -> Any:
    random = np.random.default_rng(5)
    return {seat: random.integers(-(1 << 15), 1 << 15, COORDINATES).astype(np.int16) for seat in SEATS}


@pytest.fixture(scope="module")
def made(bfv_program: Any, cohort: Any, updates: Any) -> Any:
    return {seat: encrypt_update(cohort, seat, update, key=key_of(seat)) for seat, update in updates.items()}


def letters_of(cohort: Any, made: dict[int, Masked]) -> Any:
    return {seat: parse_letters(cohort, seat, each.letters) for seat, each in made.items()}


def releases_of(cohort: Any, counted: set[int], letters: Any) -> Any:
    return {seat: release(cohort, seat, counted, letters, key=key_of(seat)) for seat in counted}


def weighted_sum(updates: Any, counted: set[int]) -> Any:
    return sum(SEATS[seat] * updates[seat].astype(np.int64) for seat in counted)


@pytest.mark.parametrize("counted", [{0, 1, 4, 7}, {0, 1, 7}, {1, 4, 7}])
@pytest.mark.parametrize("silent", [set(), {7}])
def test_the_sum_is_that_of_the_counted_whoever_drops_out(
    cohort: Any, updates: Any, made: Any, counted: set[int], silent: set[int]
) -> None:
    letters = letters_of(cohort, made)
    releases = releases_of(cohort, counted, {seat: letters[seat] for seat in counted})
    rebuilt = rebuild(cohort, counted, letters, {seat: each for seat, each in releases.items() if seat not in silent})
    vectors = {seat: made[seat].vector for seat in counted}
    if len(counted - silent) < cohort.threshold:
        assert rebuilt.short == tuple(sorted(counted))
        with pytest.raises(NotUnmaskable, match="not in what was released"):
            decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)
        return
    assert rebuilt.complete
    found = decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)
    assert np.array_equal(found, weighted_sum(updates, counted))


def test_shares_of_one_set_open_the_sum_of_no_other(cohort: Any, made: Any) -> None:
    letters, all_four = letters_of(cohort, made), set(SEATS)
    rebuilt = rebuild(cohort, all_four, letters, releases_of(cohort, all_four, letters))
    fewer = rebuild(cohort, {0, 1, 4}, letters, {})
    for counted in (frozenset({0, 1, 4}), frozenset({0})):
        told = type(rebuilt)(counted, {}, {}, {}, {}, (), rebuilt.shares)
        with pytest.raises(NotUnmaskable):
            decrypt_sum(cohort, told, {seat: each.vector for seat, each in made.items()}, coordinates=COORDINATES)
    assert not fewer.complete


def test_a_letter_opens_for_its_holder_only(cohort: Any, made: Any) -> None:
    letters = letters_of(cohort, made)
    blob = release(cohort, 1, set(SEATS), letters, key=key_of(1))
    complaints, share = parse_release(set(SEATS), blob)
    assert (complaints, len(share or b"")) == (frozenset(), BLOCK_BYTES)
    with pytest.raises(BadInput, match="not the one with which"):
        release(cohort, 1, set(SEATS), letters, key=key_of(2))


def test_who_sends_letters_that_open_for_nobody_is_named(cohort: Any, made: Any) -> None:
    bad = bytearray(made[4].letters)
    bad[HEAD : HEAD + 16 * len(SEATS)] = bytes(16 * len(SEATS))
    letters = letters_of(cohort, made | {4: Masked(bytes(bad), made[4].vector)})
    releases = releases_of(cohort, set(SEATS), letters)
    assert {len(each) for each in releases.values()} == {4}
    rebuilt = rebuild(cohort, set(SEATS), letters, releases)
    assert rebuilt.badly_shared == {4: "its letters do not open for 4 holders"}
    assert not rebuilt.bad_shares


def test_one_letter_that_does_not_open_costs_one_holder_and_no_sum(cohort: Any, made: Any, updates: Any) -> None:
    bad = bytearray(made[4].letters)
    bad[-1] ^= 1  # the last letter, which is to seat 7
    letters = letters_of(cohort, made | {4: Masked(bytes(bad), made[4].vector)})
    releases = releases_of(cohort, set(SEATS), letters)
    assert releases[7] == b"\0\0\1\0"
    rebuilt = rebuild(cohort, set(SEATS), letters, releases)
    assert (rebuilt.badly_shared, rebuilt.bad_shares, sorted(rebuilt.shares)) == ({}, {}, [0, 1, 4])
    vectors = {seat: each.vector for seat, each in made.items()}
    assert np.array_equal(
        decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES), weighted_sum(updates, set(SEATS))
    )


def test_an_author_whose_letters_too_many_could_not_read_is_named(cohort: Any, made: Any) -> None:
    letters, seen = letters_of(cohort, made), letters_of(cohort, {seat: made[seat] for seat in (0, 1, 7)})
    releases = releases_of(cohort, set(SEATS), letters)
    for holder in (1, 7):
        releases[holder] = release(cohort, holder, set(SEATS), seen, key=key_of(holder))
        assert releases[holder] == b"\0\0\2\0"
    rebuilt = rebuild(cohort, set(SEATS), letters, releases)
    assert rebuilt.badly_shared == {4: "its letters do not open for 2 holders"}
    assert not rebuilt.bad_shares


@pytest.mark.parametrize("flags", [b"\1\1\1\0", b"\2\2\2\0", b"\1\2\2\0"])
def test_a_holder_that_says_of_too_many_that_it_has_no_share_is_named(cohort: Any, made: Any, flags: bytes) -> None:
    letters = letters_of(cohort, made)
    releases = releases_of(cohort, set(SEATS), letters) | {7: flags}
    rebuilt = rebuild(cohort, set(SEATS), letters, releases)
    assert rebuilt.bad_shares == {7: "it complains about 3 whose letters open for others"}
    assert not rebuilt.badly_shared
    assert rebuilt.complete


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        NOTHING,
        b"\0\0\0\0",
        b"\0\0\0\3",
        b"\1\0\0\0" + bytes(BLOCK_BYTES),
        bytes(4 + BLOCK_BYTES + 1),
        b"\xff" * 50,
    ],
)
def test_a_release_that_is_none_is_its_holders_fault(cohort: Any, made: Any, blob: bytes) -> None:
    with pytest.raises(BadRelease):
        parse_release(set(SEATS), blob)
    letters = letters_of(cohort, made)
    rebuilt = rebuild(cohort, set(SEATS), letters, releases_of(cohort, set(SEATS), letters) | {0: blob})
    assert rebuilt.bad_shares.keys() == {0}
    assert rebuilt.complete


def test_a_share_that_does_not_fit_is_left_aside_and_nobodys_fault(cohort: Any, made: Any, updates: Any) -> None:
    """Its holder may have made it up, or an author may have sent it."""
    letters, vectors = letters_of(cohort, made), {seat: each.vector for seat, each in made.items()}
    releases = releases_of(cohort, set(SEATS), letters)
    lie = releases[1][:100] + bytes([releases[1][100] ^ 4]) + releases[1][101:]
    rebuilt = rebuild(cohort, set(SEATS), letters, releases | {1: lie})
    assert not rebuilt.bad_shares
    found = decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)
    assert np.array_equal(found, weighted_sum(updates, set(SEATS)))
    del releases[0]  # of three, which are needed, one lies now
    rebuilt = rebuild(cohort, set(SEATS), letters, releases | {1: lie})
    with pytest.raises(NotUnmaskable, match="no key that the shares make"):
        decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)


def test_letters_of_another_length_or_cohort_are_none(cohort: Any, made: Any) -> None:
    blob = made[0].letters
    assert len(blob) == letters_bytes(cohort)
    for bad in (b"", blob[:-1], blob + b"\0", made[0].vector):
        with pytest.raises(BadLetters, match="bytes in this cohort"):
            parse_letters(cohort, 0, bad)
    with pytest.raises(BadLetters, match="made in another cohort"):
        parse_letters(cohort_with(SEATS | {7: 6}, encrypted=True), 0, blob)


def test_a_masked_cohort_and_an_encrypted_one_have_nothing_in_common(cohort: Any) -> None:
    assert cohort.binding != cohort_with(SEATS).binding


def test_vectors_of_another_length_are_refused_before_they_are_read(cohort: Any, made: Any) -> None:
    letters = letters_of(cohort, made)
    rebuilt = rebuild(cohort, set(SEATS), letters, releases_of(cohort, set(SEATS), letters))
    vectors = {seat: each.vector for seat, each in made.items()}
    with pytest.raises(BadVector, match=f"seat 4 has 10 bytes, and {vector_bytes(COORDINATES)} are due"):
        decrypt_sum(cohort, rebuilt, vectors | {4: bytes(10)}, coordinates=COORDINATES)
    del vectors[7]
    with pytest.raises(NotUnmaskable, match=r"\[7\] are not there"):
        decrypt_sum(cohort, rebuilt, vectors, coordinates=COORDINATES)


def test_more_than_updates_can_add_up_to_is_no_sum(cohort: Any) -> None:
    """Who encrypts what is no update moves a sum where no update could, and that is seen."""
    loud = cohort_with(dict.fromkeys(SEATS, 200), encrypted=True)  # as if it weighed more
    quiet = cohort_with(dict.fromkeys(SEATS, 1), encrypted=True)
    object.__setattr__(loud, "binding", quiet.binding)
    most = np.full(10, 32767, np.int16)
    made = {
        seat: encrypt_update(loud if seat == 4 else quiet, seat, most if seat == 4 else 0 * most, key=key_of(seat))
        for seat in SEATS
    }
    letters = letters_of(quiet, made)
    rebuilt = rebuild(quiet, set(SEATS), letters, releases_of(quiet, set(SEATS), letters))
    with pytest.raises(BeyondRange, match="6553400 at coordinate 0"):
        decrypt_sum(quiet, rebuilt, {seat: each.vector for seat, each in made.items()}, coordinates=10)


def test_everybody_whose_letters_are_there_can_be_counted_together(cohort: Any, made: Any) -> None:
    letters = letters_of(cohort, made)
    assert sound(cohort, set(SEATS), letters) == set(SEATS)
    assert not check_sound(cohort, set(SEATS), letters)


def test_only_some_cohorts_can_encrypt(cohort: Any) -> None:
    for changed in ({"most_groups": 2, "drawn_from": bytes(32), "least": 3}, {"hybrid": True}):
        with pytest.raises(BadInput, match="encrypted updates have one sum"):
            cohort_with(dict.fromkeys(range(6), 1), encrypted=True, **changed)
    with pytest.raises(BadInput, match="of at most 64 members"):
        cohort_with(dict.fromkeys(range(65), 1), encrypted=True, drawn_from=bytes(32))


def test_the_room_that_knows_both_tells_the_sizes_of_each(cohort: Any, made: Any) -> None:
    assert hidden_updates.letters_bytes(cohort, 0) == len(made[0].letters)
    assert hidden_updates.vector_bytes(cohort, COORDINATES) == len(made[0].vector)
    letters = letters_of(cohort, made)
    longest = max(map(len, releases_of(cohort, set(SEATS), letters).values()))
    assert hidden_updates.most_release_bytes(cohort) == longest
