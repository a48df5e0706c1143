from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats.commitment import Slot, commitment_for

words = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
slots = st.builds(
    Slot,
    chain_id=st.integers(0, 2**256 - 1),
    contract=addresses,
    job=st.integers(0, 2**256 - 1),
    round=st.integers(0, 2**24 - 1),
    participant=addresses,
)
TYPES = ["uint256", "address", "uint256", "uint24", "address", "bytes32", "bytes32", "bytes32"]


@given(slot=slots, digest=words, root=words, salt=words)
def test_a_commitment_is_the_keccak_of_the_abi_encoding(slot, digest, root, salt):
    fields = [slot.chain_id, slot.contract, slot.job, slot.round, slot.participant, digest, root, salt]
    assert commitment_for(slot, digest=digest, root=root, salt=salt) == keccak(encode(TYPES, fields))[:30]


def test_every_field_counts():
    slot = Slot(chain_id=1, contract="0x" + "01" * 20, job=1, round=1, participant="0x" + "02" * 20)
    blob = {"digest": bytes(32), "root": b"\1" * 32, "salt": b"\2" * 32}
    others = [
        replace(slot, chain_id=2),
        replace(slot, contract="0x" + "03" * 20),
        replace(slot, job=2),
        replace(slot, round=2),
        replace(slot, participant="0x" + "04" * 20),
    ]
    found = {commitment_for(other, **blob) for other in [slot, *others]}
    found |= {commitment_for(slot, **(blob | {name: b"\3" * 32})) for name in blob}
    found.add(commitment_for(slot, digest=blob["root"], root=blob["digest"], salt=blob["salt"]))
    assert len(found) == 10


@pytest.mark.parametrize("name", ["digest", "root", "salt"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_words_have_32_bytes(name, length):
    slot = Slot(chain_id=1, contract="0x" + "01" * 20, job=1, round=1, participant="0x" + "02" * 20)
    blob = dict.fromkeys(("digest", "root", "salt"), bytes(32)) | {name: bytes(length)}
    with pytest.raises(ValueError, match="32 bytes each"):
        commitment_for(slot, **blob)
