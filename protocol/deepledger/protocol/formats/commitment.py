"""Commitments: one word that binds an update to a chain, contract, job, round and participant, and hides it."""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.crypto import keccak

from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber

SALT_BYTES = 32
KEPT_BYTES = 30
"""What the contract keeps of a commitment, and compares with when it is opened."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a commitment is good for: it cannot be copied by others or replayed elsewhere."""

    chain_id: int
    contract: Address
    job: JobId
    round: RoundNumber
    participant: Address


def commitment_for(slot: Slot, *, digest: Digest, root: Root, salt: bytes) -> bytes:
    """keccak256(abi.encode(chain id, contract, job, round, participant, digest, root, salt)): 32 bytes.

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
    return keccak(b"".join(words))
