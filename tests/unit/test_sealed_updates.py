"""Sealed updates: who opens them, and that all readers agree on which are badly sealed."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.privacy.ecies import POINT_BYTES, public_key_of
from deepledger.protocol.privacy.sealed_updates import SHARE_BYTES, BadlySealed, Seal

SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]
SLOT = Slot(1, "0x" + "11" * 20, 7, 0, "0x" + "22" * 20)
SEAL = Seal(SLOT, [public_key_of(secret) for secret in SECRETS])
UPDATE, KEY = b"update" * 50, b"\7" * 32


def test_every_reader_opens_it_and_its_length_is_that_of_every_other() -> None:
    blob = SEAL.close(UPDATE, key=KEY)
    assert [SEAL.open(blob, secret=secret) for secret in SECRETS] == [UPDATE] * 3
    assert len(blob) == len(UPDATE) + SEAL.overhead


def test_a_known_answer() -> None:
    """A job that runs for months outlives releases: what was sealed must open for ever."""
    blob = SEAL.close(UPDATE, key=KEY)
    assert sha256(blob).hexdigest() == "8ed372ea88145908671112f9242b7958c2944d45e49ce425e34416b435049187"


def test_nothing_of_the_update_is_in_the_blob() -> None:
    one, other = (SEAL.close(bytes(4096), key=os.urandom(32)) for _ in range(2))
    assert not any(a == b for a, b in zip(_pieces(one), _pieces(other), strict=True))
    assert len(set(_pieces(one))) == len(_pieces(one))


def _pieces(blob: bytes) -> list[bytes]:
    return [blob[start : start + 16] for start in range(0, len(blob), 16)]


@given(place=st.integers(0, len(UPDATE) + SEAL.overhead - 1), flip=st.integers(1, 255))
def test_every_reader_finds_what_is_altered(place: int, flip: int) -> None:
    blob = bytearray(SEAL.close(UPDATE, key=KEY))
    blob[place] ^= flip
    for secret in SECRETS:
        with pytest.raises(BadlySealed):
            SEAL.open(bytes(blob), secret=secret)


def test_a_share_that_one_reader_cannot_open_is_found_by_all() -> None:
    """Sealed to the auditors rightly and to the coordinator wrongly, by hand: not one word against another."""
    elsewhere = Seal(SLOT, [public_key_of(b"\x09" * 32), *SEAL.readers[1:]])
    blob, other = SEAL.close(UPDATE, key=KEY), elsewhere.close(UPDATE, key=KEY)
    crafted = other[: POINT_BYTES + SHARE_BYTES] + blob[POINT_BYTES + SHARE_BYTES :]
    assert crafted[:POINT_BYTES] == blob[:POINT_BYTES]
    for secret in SECRETS:
        with pytest.raises(BadlySealed):
            SEAL.open(crafted, secret=secret)


@pytest.mark.parametrize(
    "changes", [{"participant": "0x" + "33" * 20}, {"job": 8}, {"contract": "0x" + "12" * 20}, {"chain_id": 2}]
)
def test_another_participant_job_or_chain_cannot_use_it(changes: dict[str, object]) -> None:
    blob = SEAL.close(UPDATE, key=KEY)
    with pytest.raises(BadlySealed):
        replace(SEAL, slot=replace(SLOT, **changes)).open(blob, secret=SECRETS[0])


@pytest.mark.parametrize("blob", [bytes(SEAL.overhead + 10), b"\xff" * (SEAL.overhead + 300), os.urandom(900)])
def test_garbage_is_badly_sealed(blob: bytes) -> None:
    with pytest.raises(BadlySealed):
        SEAL.open(blob, secret=SECRETS[0])
