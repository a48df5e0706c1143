"""Keys of masked rounds: one per account and job, X25519 (RFC 7748), or that and ML-KEM-768 (`hybrid_keys.py`).

An X25519 key is derived from the account's own secret: whoever has a backup of the account has one of every mask key,
so that none can be lost apart from it, and nothing is on disk. A pair's shared secret gives, through HKDF-SHA256, one
seed per attempt for the mask that they share, and one key per direction for letters: one key for both would give two
letters one keystream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from deepledger.protocol.errors import BadInput
from deepledger.protocol.privacy.ecies import KEY_BYTES, derive
from deepledger.protocol.types import Address, JobId

SEED_BYTES: Final = 16

_ANY: Final = X25519PrivateKey.from_private_bytes(bytes(32))


class MaskKey(Protocol):
    """One account's key in one job."""

    @property
    def word(self) -> bytes:
        """32 bytes, what `join` puts on chain."""

    def shared_with(self, word: bytes, *, of: Address) -> bytes | None:
        """The 32 bytes that only both know, from the word that the other joined with; None where there are none.

        Raises `BadInput` where the word is a key that everybody could know such a secret of.
        """


@dataclass(frozen=True, slots=True)
class X25519Key:
    private: X25519PrivateKey
    word: bytes

    def shared_with(self, word: bytes, *, of: Address) -> bytes:
        return shared_secret(self.private, word, of=of)


def mask_key(secret: bytes, *, chain_id: int, contract: Address, job: JobId) -> X25519Key:
    """The mask key of the account whose secret key this is, for one job."""
    info = b"deepledger: mask key" + chain_id.to_bytes(32) + bytes.fromhex(contract[2:]) + job.to_bytes(32)
    private = X25519PrivateKey.from_private_bytes(derive(secret, info=info))
    return X25519Key(private, private.public_key().public_bytes_raw())


def is_usable(public: bytes) -> bool:
    """Whether secrets can be shared with it: not where it is zero or another point of low order (RFC 7748, 6.1)."""
    try:
        return len(public) == KEY_BYTES and bool(_ANY.exchange(X25519PublicKey.from_public_bytes(public)))
    except ValueError:
        return False


def shared_secret(key: X25519PrivateKey, public: bytes, *, of: Address) -> bytes:
    """Raises `BadInput` where the public key of the other is of low order: everybody would know the secret."""
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise BadInput(
            f"the mask key {public.hex()} of {of} is none: anybody would know what is shared with it; leave {of} "
            "out of the cohort"
        ) from None


def pair_seed(shared: bytes, *, binding: bytes, one: Address, other: Address) -> bytes:
    """s_ij, 16 bytes: the same for both. `binding` is the cohort's."""
    lower, higher = sorted(bytes.fromhex(end[2:]) for end in (one, other))
    return derive(shared, info=b"deepledger: pair seed" + binding + lower + higher, length=SEED_BYTES)


def letter_key(shared: bytes, *, binding: bytes, author: Address, holder: Address, salt: bytes) -> bytes:
    """32 bytes, for one letter: bound to its direction and to the author's fresh salt."""
    ends = bytes.fromhex(author[2:]) + bytes.fromhex(holder[2:])
    return derive(shared, info=b"deepledger: letter" + binding + ends + salt)
