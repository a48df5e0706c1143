"""Sealing a symmetric key to the owner of an Ethereum account: ECIES over secp256k1, with the account's own key pair.

    sealed key = E ‖ ChaCha20-Poly1305(HKDF-SHA256(ECDH(e, P)); key), with an ephemeral pair (e, E)

ECDH is libsecp256k1's: SHA-256 of the shared point in compressed form, not the x coordinate of SEC 1 that cryptography
returns (findings/ecdh-of-two-libraries.sh). Whoever acts for a job has such a pair already, so that nobody has to
keep another one. Every key that is derived here encrypts one message, so that its nonce may be zero.
"""

from __future__ import annotations

from typing import Final

from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import Address

KEY_BYTES: Final = 32
POINT_BYTES: Final = 33
TAG_BYTES: Final = 16
NONCE: Final = bytes(12)


def public_key_of(secret: bytes) -> bytes:
    """Compressed, 33 bytes."""
    return PrivateKey(secret).public_key.format()


def address_of(public_key: bytes) -> Address:
    """Raises `BadInput` if it is no point of secp256k1 in compressed form."""
    return Address(to_checksum_address(keccak(point(public_key).format(compressed=False)[1:])[-20:]))


def point(public_key: bytes) -> PublicKey:
    """Raises `BadInput` if it is no point of secp256k1 in compressed form."""
    try:
        if len(public_key) != POINT_BYTES:
            raise ValueError
        return PublicKey(public_key)
    except ValueError:
        raise BadInput(
            f"{public_key.hex()} is no compressed public key of secp256k1; `deepledger account show NAME` prints one"
        ) from None


def derive(secret: bytes, *, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869) without a salt."""
    return HKDF(SHA256(), length, salt=None, info=info).derive(secret)


def box(ours: PrivateKey, theirs: PublicKey, *, info: bytes) -> ChaCha20Poly1305:
    """What the two ends of a seal share; `info` names its purpose and binds the ephemeral public key."""
    return ChaCha20Poly1305(derive(ours.ecdh(theirs.format()), info=info))
