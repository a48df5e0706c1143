"""Commitments: 30 bytes that bind an update to a chain, contract, job, round and participant, and hide it."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.crypto import keccak

from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber

SALT_BYTES = 32
COMMITMENT_BYTES = 30
"""As many as fit beside a seat in one word of the contract: nobody finds two openings that agree in 240 bits."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a commitment is good for: it cannot be copied by others or replayed elsewhere."""

    chain_id: int
    contract: Address
    job: JobId
    round: RoundNumber
    participant: Address


def commitment_for(slot: Slot, *, digest: Digest, root: Root, salt: bytes) -> bytes:
    """The first 30 bytes of keccak256(abi.encode(chain id, contract, job, round, participant, digest, root, salt)).

    All eight are static ABI types, so their encoding is one 32-byte word each.
    """
    words = [
        slot.chain_id.to_bytes(32, "big"),
        bytes.fromhex(slot.contract[2:]).rjust(32, b"\0"),
        slot.job.to_bytes(32, "big"),
        slot.round.to_bytes(32, "big"),
        bytes.fromhex(slot.participant[2:]).rjust(32, b"\0"),
        digest,
        root,
        salt,
    ]
    if any(len(word) != 32 for word in words):
        raise ValueError("digest, root and salt have 32 bytes each")
    return keccak(b"".join(words))[:COMMITMENT_BYTES]
