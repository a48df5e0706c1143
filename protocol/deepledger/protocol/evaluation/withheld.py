"""A validation set that nobody can train on: encrypted once, and its key sealed to each coordinator of the job.

The ciphertext is in the blob store from the start, so that everybody sees that it can be had; the contract holds the
hash of the key. Whoever discloses the key on chain discloses the set to everybody.

    ciphertext     ChaCha20-Poly1305(key; salt ‖ validation set), with a salt of 32 random bytes
    salted digest  SHA-256(salt ‖ validation set): without the salt, a set that somebody guesses could be recognised
    sealed key     as `privacy/ecies.py` seals it to the coordinator's account

The seal binds the coordinator's address and the digest of the ciphertext as associated data: a sealed key that is
copied into another spec does not open there. Every symmetric key encrypts one message, so that its nonce may be zero.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from coincurve import PrivateKey, PublicKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from eth_utils.crypto import keccak
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.formats.spec import KEY_BYTES, SEALED_BYTES, WITHHELD_OVERHEAD, JobSpec, SealedKey
from deepledger.protocol.privacy.ecies import NONCE, POINT_BYTES, TAG_BYTES, address_of, box, point, public_key_of
from deepledger.protocol.types import Address, Digest

SALT_BYTES: Final = 32
_PURPOSE: Final = b"deepledger: key of a withheld validation set"
_MOST_BYTES: Final = (1 << 31) - 1 - WITHHELD_OVERHEAD


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def lock_of(key: bytes) -> bytes:
    """What the contract compares a disclosed key with: keccak256(abi.encode(key))."""
    return keccak(key)


def encrypt(key: bytes, validation: bytes) -> tuple[bytes, bytes]:
    """Ciphertext and salted digest. Raises `BadInput` for more than 2 GiB."""
    if len(validation) > _MOST_BYTES:
        raise BadInput(f"a validation set of more than {_MOST_BYTES:,} bytes cannot be withheld; take fewer samples")
    salted = secrets.token_bytes(SALT_BYTES) + validation
    return ChaCha20Poly1305(key).encrypt(NONCE, salted, None), hashlib.sha256(salted).digest()


def decrypt(key: bytes, ciphertext: Buffer, *, salted_digest: bytes) -> memoryview:
    """The validation set. Raises `BadSpec` if the key does not open it, or it is not what the digest promises."""
    try:
        salted = ChaCha20Poly1305(key).decrypt(NONCE, memoryview(ciphertext), None)
    except (InvalidTag, ValueError):
        raise BadSpec("the key does not open the validation set: the sponsor encrypted it under another one") from None
    found = hashlib.sha256(salted).digest()
    if found != salted_digest:
        raise BadSpec(
            f"the validation set has the salted digest {found.hex()} and the spec pins {salted_digest.hex()}: the "
            "sponsor encrypted another set"
        )
    return memoryview(salted)[SALT_BYTES:]


def seal(key: bytes, *, to: bytes, ciphertext: Digest) -> SealedKey:
    """`to` is a coordinator's compressed public key. Raises `BadInput` if it is none."""
    receiver, coordinator = point(to), address_of(to)
    ephemeral = PrivateKey()
    sealed = _box(ephemeral, receiver, point=ephemeral.public_key.format()).encrypt(
        NONCE, key, _bound_to(coordinator, ciphertext)
    )
    return SealedKey(coordinator=coordinator, sealed=(ephemeral.public_key.format() + sealed).hex())


def unseal(sealed: SealedKey, *, secret: bytes, ciphertext: Digest) -> bytes:
    """The key, with the secret key of the coordinator that it is sealed to. Raises `BadSpec` if it does not open."""
    data = bytes.fromhex(sealed.sealed)
    ephemeral, sealed_key = data[:POINT_BYTES], data[POINT_BYTES:]
    ours = PrivateKey(secret)
    coordinator = address_of(ours.public_key.format())
    try:
        opener = _box(ours, PublicKey(ephemeral), point=ephemeral)
        return opener.decrypt(NONCE, sealed_key, _bound_to(coordinator, ciphertext))
    except (InvalidTag, ValueError):
        raise BadSpec(
            f"the key of the validation set is not sealed to {coordinator} in a way that it can open; post no bond and "
            "tell the sponsor"
        ) from None


def check_seals(spec: JobSpec) -> None:
    """Raises `BadSpec` where anybody can see that a sealed key opens for nobody. That one opens for its coordinator,
    only that one can tell.
    """
    for sealed in spec.validation.withheld.keys if spec.validation.withheld is not None else ():
        try:
            PublicKey(bytes.fromhex(sealed.sealed)[:POINT_BYTES])
        except ValueError:
            raise BadSpec(f"what is sealed to {sealed.coordinator} is no key that anybody could open") from None


def open_key(spec: JobSpec, *, lock: bytes, secret: bytes) -> bytes:
    """The key of a job's withheld validation set, from its spec, for the coordinator whose secret key this is.

    `lock` is what the job's terms say. Raises `BadSpec` if the key is not sealed to it, does not open, or does not fit.
    """
    coordinator = address_of(public_key_of(secret))
    sealed = spec.validation.withheld.keys if spec.validation.withheld is not None else ()
    ours = next((each for each in sealed if each.coordinator.lower() == coordinator.lower()), None)
    if ours is None:
        raise BadSpec(f"the spec seals the key of no validation set to {coordinator}; use the account of a coordinator")
    key = unseal(ours, secret=secret, ciphertext=spec.validation_digest)
    if not any(key) or lock_of(key) != lock:
        raise BadSpec(
            "the key that the spec seals is not the one that the contract waits for: who uses it cannot disclose it; "
            "post no bond and tell the sponsor"
        )
    return key


def _box(ours: PrivateKey, theirs: PublicKey, *, point: bytes) -> ChaCha20Poly1305:
    return box(ours, theirs, info=_PURPOSE + point)


def _bound_to(coordinator: Address, ciphertext: Digest) -> bytes:
    return bytes.fromhex(coordinator[2:]) + ciphertext


assert SEALED_BYTES == POINT_BYTES + KEY_BYTES + TAG_BYTES  # noqa: S101 (a point, a key and a tag)
