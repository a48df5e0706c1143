"""Who lies in a masked round is found, by everybody alike, and who does not is not; and the format stays what it is."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256, shake_256
from unittest.mock import patch

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.blobs import digest_of
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.privacy import masked_updates, unmasking
from deepledger.protocol.privacy.masked_updates import BadLetters, mask_update, parse_letters
from deepledger.protocol.privacy.pairs import sound
from deepledger.protocol.privacy.unmasking import (
    COMPLAINT,
    BadRelease,
    NotUnmaskable,
    parse_release,
    rebuild,
    release,
    unmask_sum,
)

from .masked_rounds import cohort_with, key_of, letters_of, masked_by, releases_of

COHORT = cohort_with(dict.fromkeys(range(6), 1))  # threshold 4: two may be hostile
SEATS = set(range(6))
UPDATES = {seat: np.arange(seat, seat + 40, dtype=np.int16) for seat in SEATS}
MASKED = {seat: masked_by(COHORT, seat, update) for seat, update in UPDATES.items()}
LETTERS = letters_of(COHORT, MASKED)
COUNTED = {0, 1, 2, 4, 5}
RELEASES = releases_of(COHORT, COUNTED, LETTERS)
SECRETS_AT, ROOTS_AT = 64, 64 + 16 * 6
CORRECTIONS_AT = ROOTS_AT + 16 * 6


def summed(rebuilt, vectors=None) -> list[int]:
    vectors = vectors or {seat: MASKED[seat].vector for seat in COUNTED}
    return unmask_sum(COHORT, rebuilt, vectors, coordinates=40).tolist()


SUM = sum(UPDATES[seat].astype(np.int64) for seat in COUNTED).tolist()


def with_letters(author: int, blob: bytes):
    """The round, in which an author's letters are these."""
    letters = LETTERS | {author: parse_letters(COHORT, author, blob)}
    return rebuild(COHORT, COUNTED, letters, releases_of(COHORT, COUNTED, letters))


def altered(blob: bytes, *places: int) -> bytes:
    changed = bytearray(blob)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


def test_known_answers() -> None:
    """A job that runs for months outlives releases: what was masked must be unmasked for ever."""
    blobs = MASKED[0].vector, MASKED[0].letters, RELEASES[3]
    assert [len(blob) for blob in blobs] == [95, 544, 405]
    assert [sha256(blob).hexdigest() for blob in blobs] == [
        "122b1538b99d606eec5ab3aec3d4b11b32a9b522e7f8a472dc11b1f1cd159c98",
        "de18e81828e9d222df17fe6873b104bdfef99a3afb1690fe57a442964716606a",
        "5431c8ee7ee5f57897be00ecfb34c593ba1b82cea031e52788c1c4f99970be59",
    ]


def test_honest_ones_are_not_accused() -> None:
    rebuilt = rebuild(COHORT, COUNTED, LETTERS, RELEASES)
    assert (rebuilt.badly_shared, rebuilt.bad_shares, rebuilt.short) == ({}, {}, ())
    assert summed(rebuilt) == SUM


@pytest.mark.parametrize("change", [-1, 1])
def test_blobs_of_another_length_are_refused(change: int) -> None:
    letters, shown, vector = MASKED[0].letters, RELEASES[0], MASKED[0].vector
    longer = (lambda blob: blob + b"\0") if change > 0 else (lambda blob: blob[:-1])
    with pytest.raises(BadLetters, match="have 544 bytes"):
        parse_letters(COHORT, 0, longer(letters))
    with pytest.raises(BadRelease):
        parse_release(COHORT, 0, COUNTED, longer(shown))
    vectors = {seat: MASKED[seat].vector for seat in COUNTED} | {0: longer(vector)}
    with pytest.raises(BadVector, match="seat 0"):
        summed(rebuild(COHORT, COUNTED, LETTERS, RELEASES), vectors)


def test_a_vector_that_is_not_there_is_named() -> None:
    vectors = {seat: MASKED[seat].vector for seat in COUNTED - {4}}
    with pytest.raises(NotUnmaskable, match=r"vectors of seats \[4\]"):
        summed(rebuild(COHORT, COUNTED, LETTERS, RELEASES), vectors)


def test_a_masked_vector_by_hand() -> None:
    """As the docstrings put it, with nothing of ours but keys and the cohort's binding."""
    me, own = COHORT.member(2), shake_256(b"0 2").digest(16)
    masks = [(1, own)]
    for other in COHORT.members:
        if other.seat == 2:
            continue
        shared = key_of(2).private.exchange(X25519PublicKey.from_public_bytes(other.key))
        ends = sorted(bytes.fromhex(each.participant[2:]) for each in (me, other))
        info = b"deepledger: pair seed" + COHORT.binding + b"".join(ends)
        masks.append((1 if other.seat > 2 else -1, HKDF(SHA256(), 16, salt=None, info=info).derive(shared)))
    expected = [int(value) for value in UPDATES[2]]
    for sign, seed in masks:
        stream = Cipher(AES(sha256(b"deepledger: mask" + seed).digest()), CTR(bytes(16))).encryptor().update(bytes(160))
        expected = [x + sign * int.from_bytes(stream[4 * at : 4 * at + 4], "little") for at, x in enumerate(expected)]
    m = COHORT.modulus_bits
    assert m == 16 + 3
    whole = sum((value % 2**m) << at * m for at, value in enumerate(expected))
    assert MASKED[2].vector == whole.to_bytes(95, "little")
    assert MASKED[2].letters[:32] == digest_of(MASKED[2].vector)


def test_a_sum_over_many_blocks_is_that_of_one() -> None:
    """On every core, in blocks that end within a byte's coordinates."""
    with patch.object(unmasking, "_AT_ONCE", 32):
        assert summed(rebuild(COHORT, COUNTED, LETTERS, RELEASES)) == SUM


@given(blob=st.binary(max_size=500))
def test_garbage_is_no_release_and_takes_nothing_from_the_others(blob: bytes) -> None:
    rebuilt = rebuild(COHORT, COUNTED, LETTERS, RELEASES | {2: blob})
    assert set(rebuilt.bad_shares) == {2}
    assert summed(rebuilt) == SUM


@given(place=st.integers(0, len(RELEASES[2]) - 1), flip=st.integers(1, 255))
def test_no_byte_of_a_release_can_be_altered(place: int, flip: int) -> None:
    """But for a complaint about one other, which might be true; it only costs that share."""
    blob = bytearray(RELEASES[2])
    blob[place] ^= flip
    rebuilt = rebuild(COHORT, COUNTED, LETTERS, RELEASES | {2: bytes(blob)})
    assert set(rebuilt.bad_shares) == {2}
    assert summed(rebuilt) == SUM


def test_what_another_released_or_was_released_for_another_set_is_bad() -> None:
    other_set = release(COHORT, 2, SEATS, LETTERS, key=key_of(2))
    for blob in (RELEASES[1], other_set):
        assert set(rebuild(COHORT, COUNTED, LETTERS, RELEASES | {2: blob}).bad_shares) == {2}


def test_who_is_not_in_the_cohort_releases_nothing() -> None:
    assert set(rebuild(COHORT, COUNTED, LETTERS, RELEASES | {9: RELEASES[2]}).bad_shares) == {9}


def test_who_complains_about_everybody_is_found() -> None:
    rebuilt = rebuild(COHORT, COUNTED, LETTERS, RELEASES | {2: COMPLAINT * len(COUNTED)})
    assert set(rebuilt.bad_shares) == {2}
    assert "complains about 5" in rebuilt.bad_shares[2]
    assert summed(rebuilt) == SUM


def test_an_author_that_cheats_one_holder_gains_nothing() -> None:
    """By a correction, or by a hash: that holder complains, and the others suffice."""
    for place in (CORRECTIONS_AT + 5, ROOTS_AT + 16 * 1):
        rebuilt = with_letters(4, altered(MASKED[4].letters, place))
        assert (rebuilt.badly_shared, rebuilt.bad_shares) == ({}, {})
        assert summed(rebuilt) == SUM


def test_an_author_that_cheats_more_than_may_be_hostile_is_found() -> None:
    blob = altered(MASKED[4].letters, *(ROOTS_AT + 16 * place for place in (0, 2, 5)))
    rebuilt = with_letters(4, blob)
    assert set(rebuilt.badly_shared) == {4}
    assert "3 holders" in rebuilt.badly_shared[4]
    assert rebuilt.bad_shares == {}
    assert not rebuilt.complete
    with pytest.raises(NotUnmaskable, match=r"\[4\]"):
        summed(rebuilt)


def test_many_that_cheat_do_not_make_an_honest_holder_a_liar() -> None:
    """Who complains about three that are badly shared is right about each."""
    blobs = {author: altered(MASKED[author].letters, *range(ROOTS_AT, ROOTS_AT + 96, 16)) for author in (0, 1, 4)}
    letters = LETTERS | {author: parse_letters(COHORT, author, blob) for author, blob in blobs.items()}
    rebuilt = rebuild(COHORT, COUNTED, letters, releases_of(COHORT, COUNTED, letters))
    assert set(rebuilt.badly_shared) == {0, 1, 4}
    assert rebuilt.bad_shares == {}


def test_secrets_that_are_not_their_hashes_are_found() -> None:
    """Of b, of the seed shared with seat 3, which is not counted, and of one that seat 0 says otherwise."""
    for number in (0, 4, 1):
        rebuilt = with_letters(4, altered(MASKED[4].letters, SECRETS_AT + 16 * number))
        assert set(rebuilt.badly_shared) == {4}
        assert rebuilt.bad_shares == {}


def test_shares_of_no_polynomial_are_found() -> None:
    """Made with hashes that fit them, so that no holder can complain."""
    plain = masked_updates.interpolate

    def wrong(known, rows, *, at):
        return plain(known, rows, at=at) ^ 1

    with patch.object(masked_updates, "interpolate", wrong):
        crooked = masked_by(COHORT, 0, UPDATES[0])
    rebuilt = with_letters(0, crooked.letters)
    # The first four holders have free shares of a polynomial, which these four do not make with the secrets.
    assert set(rebuilt.badly_shared) == {0}
    assert "do not make the secrets" in rebuilt.badly_shared[0]
    assert rebuilt.bad_shares == {}


def test_anothers_letters_are_not_counted() -> None:
    """A copy of them, or those of another attempt that say that they are of this one: they have nothing in common with
    anybody's.
    """
    earlier = cohort_with(dict.fromkeys(range(5), 1) | {5: 2})
    with pytest.raises(BadLetters, match="another cohort"):
        parse_letters(COHORT, 4, masked_by(earlier, 4, UPDATES[4]).letters)
    disguised = masked_by(earlier, 4, UPDATES[4]).letters
    disguised = disguised[:32] + COHORT.binding[:16] + disguised[48:]
    for blob in (MASKED[1].letters, disguised):
        letters = LETTERS | {4: parse_letters(COHORT, 4, blob)}
        assert sound(COHORT, COUNTED, letters) == COUNTED - {4}
        with pytest.raises(BadInput, match="no mask in common"):
            release(COHORT, 0, COUNTED, letters, key=key_of(0))
        with pytest.raises(BadInput, match="no mask in common"):
            rebuild(COHORT, COUNTED, letters, {})


def test_letters_that_nobody_can_read_are_their_authors_fault() -> None:
    letters = {seat: each for seat, each in LETTERS.items() if seat != 4}
    rebuilt = rebuild(COHORT, COUNTED, letters, releases_of(COHORT, COUNTED, letters))
    assert set(rebuilt.badly_shared) == {4}
    assert rebuilt.bad_shares == {}


def test_too_few_releases_are_nobodys_lie() -> None:
    rebuilt = rebuild(COHORT, COUNTED, LETTERS, {seat: RELEASES[seat] for seat in (0, 3, 5)})
    assert (rebuilt.badly_shared, rebuilt.bad_shares, rebuilt.short) == ({}, {}, tuple(sorted(COUNTED)))
    assert (rebuilt.own, rebuilt.pairs) == ({}, {})


@pytest.mark.parametrize("counted", [{0, 1, 9}, {0}, set()])
def test_a_count_outside_the_cohort_or_of_one_is_not_released_for(counted) -> None:
    with pytest.raises(BadInput):
        release(COHORT, 0, counted, LETTERS, key=key_of(0))
    with pytest.raises(BadInput):
        rebuild(COHORT, counted, LETTERS, RELEASES)


def test_only_the_owner_of_a_key_releases_with_it() -> None:
    with pytest.raises(BadInput, match="not the one"):
        release(COHORT, 0, COUNTED, LETTERS, key=key_of(1))


def test_masking_again_shares_anew() -> None:
    """An update that is masked twice in an attempt, before one is committed to, uses no key stream twice."""
    one, other = (masked_by(COHORT, 0, UPDATES[0], seed=seed) for seed in (1, 2))
    assert one.vector != other.vector
    pieces = [
        {blob[at : at + 16] for at in range(CORRECTIONS_AT, len(blob), 16)} for blob in (one.letters, other.letters)
    ]
    assert not pieces[0] & pieces[1]
    assert masked_by(COHORT, 0, UPDATES[0], seed=1) == one
    assert mask_update(COHORT, 0, UPDATES[0], key=key_of(0)) != mask_update(COHORT, 0, UPDATES[0], key=key_of(0))
    assert replace(one) == one
