"""Hybrid mask keys: what two share rests on X25519 and on ML-KEM-768 (FIPS 203), and stays secret while one holds.

    key blob   X25519 public 32 ‖ ML-KEM public 1184 ‖ an entry for each who sat before
    entry      its word 32 ‖ ciphertext 1088 ‖ tag 16 ‖ kept 48
    word       the digest of a key blob, which stands on chain from joining
    shared     HKDF-SHA256(ML-KEM secret ‖ X25519 secret; transcript)

Who joins finds the key blobs of those who sit, and makes a ciphertext for each: of two, it is the later one who does,
and since a blob names the words of others, no two can name each other's. Beside each ciphertext lies what both then
share, encrypted to its own maker (*kept*): a library's encapsulation cannot be made again, and no disk is needed to
remember it. The tag tells the other whether both have the same; ML-KEM does not, for its decapsulation never fails.

The combiner is that of SP 800-56C rev. 2 (ML-KEM's secret first), with the whole transcript bound: place, who made the
ciphertext, the keys of both and the ciphertext; X-Wing (draft-connolly-cfrg-xwing-kem) shows why less would do. For
whom it is, a word says, and not an account: whoever joins with another's word takes nothing from that one.

All secret keys follow from an account's *mask secret*, 32 bytes of its keystore file, and not from its signing key:
that one stands behind a secp256k1 key which every transaction shows, so that whoever breaks X25519 has it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.rules import MAX_SEATS
from deepledger.protocol.privacy.ecies import KEY_BYTES, NONCE, TAG_BYTES, derive
from deepledger.protocol.privacy.mask_keys import is_usable, shared_secret
from deepledger.protocol.types import Address, JobId

X25519_BYTES: Final = 32
MLKEM_BYTES: Final = 1184
WORD_BYTES: Final = 32
CIPHERTEXT_BYTES: Final = 1088
KEPT_BYTES: Final = KEY_BYTES + TAG_BYTES
HEAD_BYTES: Final = X25519_BYTES + MLKEM_BYTES
ENTRY_BYTES: Final = WORD_BYTES + CIPHERTEXT_BYTES + TAG_BYTES + KEPT_BYTES
MOST_BYTES: Final = HEAD_BYTES + (MAX_SEATS - 1) * ENTRY_BYTES

_LABEL: Final = b"deepledger: hybrid mask keys, "


class BadKeys(Exception):
    """The blob is no key blob: its owner's fault, and everybody finds the same."""


class NothingShared(Exception):
    """Two have no secret in common; says why."""


class Entry(NamedTuple):
    """What a key blob has for one who sat before its owner."""

    ciphertext: bytes
    tag: bytes
    kept: bytes  # the shared secret, encrypted to the blob's owner


@dataclass(frozen=True, slots=True)
class KeyBlob:
    head: bytes
    mlkem: MLKEM768PublicKey
    entries: Mapping[bytes, Entry]  # by the word of whom they are for

    @property
    def x25519(self) -> bytes:
        return self.head[:X25519_BYTES]


class Known(NamedTuple):
    """Who sits before somebody joins."""

    participant: Address
    word: bytes
    blob: KeyBlob


@dataclass(frozen=True, slots=True)
class HybridSecret:
    """What an account keeps to itself in one job."""

    owner: Address
    place: bytes  # chain, contract and job
    secret: bytes = field(repr=False)  # the account's mask secret
    x25519: X25519PrivateKey = field(repr=False)
    mlkem: MLKEM768PrivateKey = field(repr=False)

    @property
    def head(self) -> bytes:
        """1216 bytes, with which its key blobs begin."""
        return self.x25519.public_key().public_bytes_raw() + self.mlkem.public_key().public_bytes_raw()

    def derive(self, purpose: bytes, length: int = KEY_BYTES) -> bytes:
        """Bound to job and account."""
        owner = bytes.fromhex(self.owner[2:])
        return derive(self.secret, info=_LABEL + self.place + owner + purpose, length=length)


@dataclass(frozen=True, slots=True)
class HybridKey:
    """A `MaskKey`, as far as secrets are shared."""

    word: bytes
    owner: Address
    shared: Mapping[Address, bytes] = field(repr=False)  # with the owner itself, too

    def shared_with(self, word: bytes, *, of: Address) -> bytes | None:  # noqa: ARG002 (found by account)
        return self.shared.get(of)


def hybrid_secret(secret: bytes, *, chain_id: int, contract: Address, job: JobId, owner: Address) -> HybridSecret:
    """From an account's mask secret, 32 bytes."""
    place = chain_id.to_bytes(32) + bytes.fromhex(contract[2:]) + job.to_bytes(32)
    info = _LABEL + place + bytes.fromhex(owner[2:])
    return HybridSecret(
        owner=owner,
        place=place,
        secret=secret,
        x25519=X25519PrivateKey.from_private_bytes(derive(secret, info=info + b"X25519")),
        mlkem=MLKEM768PrivateKey.from_seed_bytes(derive(secret, info=info + b"ML-KEM-768", length=64)),
    )


def key_blob(secret: HybridSecret, before: Iterable[Known]) -> bytes:
    """What the account publishes before it joins, after those who sit already."""
    entries: dict[bytes, bytes] = {}
    for other in before:
        kem, ciphertext = _encapsulate(other.blob.mlkem)
        shared = _combined(
            secret.place,
            kem=kem,
            x25519=shared_secret(secret.x25519, other.blob.x25519, of=other.participant),
            later=(secret.owner, secret.head),
            earlier=other.word,
            ciphertext=ciphertext,
        )
        kept = _keeper(secret, ciphertext).encrypt(NONCE, shared, None)
        entries[other.word] = other.word + ciphertext + _tag(shared) + kept
    return secret.head + b"".join(entries.values())


def parse_key_blob(blob: Buffer) -> KeyBlob:
    """Raises `BadKeys`."""
    data = bytes(blob)
    body = data[HEAD_BYTES:]
    if len(data) < HEAD_BYTES or len(body) % ENTRY_BYTES or len(data) > MOST_BYTES:
        raise BadKeys(
            f"a key blob has {HEAD_BYTES:,} bytes and {ENTRY_BYTES:,} for each of at most {MAX_SEATS - 1} others, this "
            f"one has {len(data):,}"
        )
    if not is_usable(data[:X25519_BYTES]):
        raise BadKeys("its X25519 key is of low order")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(data[X25519_BYTES:HEAD_BYTES])
    except ValueError:
        raise BadKeys("its ML-KEM-768 key is none: it is not reduced as FIPS 203 asks, section 7.2") from None
    entries = {}
    for start in range(0, len(body), ENTRY_BYTES):
        word, rest = body[start : start + WORD_BYTES], body[start + WORD_BYTES : start + ENTRY_BYTES]
        tagged = CIPHERTEXT_BYTES + TAG_BYTES
        entries[word] = Entry(rest[:CIPHERTEXT_BYTES], rest[CIPHERTEXT_BYTES:tagged], rest[tagged:])
    if len(entries) * ENTRY_BYTES != len(body):
        raise BadKeys("it names somebody twice")
    return KeyBlob(data[:HEAD_BYTES], mlkem, entries)


def shared_by(
    secret: HybridSecret, own: KeyBlob, *, own_word: bytes, word: bytes, other: Address, blob: KeyBlob | None
) -> bytes:
    """What the account shares with `other`, who joined with `word`: from its own blob, where that has an entry for the
    other, else from the other's, which None says is not there. Raises `NothingShared`.
    """
    if (entry := own.entries.get(word)) is not None:
        try:
            return _keeper(secret, entry.ciphertext).decrypt(NONCE, entry.kept, None)
        except InvalidTag:
            raise NothingShared("its own key blob was not made with this account's mask secret") from None
    if blob is None:
        raise NothingShared("its key blob cannot be had")
    if (entry := blob.entries.get(own_word)) is None:
        raise NothingShared("neither one's key blob has anything for the other")
    try:
        x25519 = shared_secret(secret.x25519, blob.x25519, of=other)
    except BadInput as error:
        raise NothingShared(str(error)) from None
    shared = _combined(
        secret.place,
        kem=secret.mlkem.decapsulate(entry.ciphertext),
        x25519=x25519,
        later=(other, blob.head),
        earlier=own_word,
        ciphertext=entry.ciphertext,
    )
    if _tag(shared) != entry.tag:
        raise NothingShared("what its key blob has for this account does not open")
    return shared


def hybrid_key(secret: HybridSecret, word: bytes, shared: Mapping[Address, bytes]) -> HybridKey:
    """The account's key as it masks with, among those with whom it shares something."""
    return HybridKey(word, secret.owner, {**shared, secret.owner: secret.derive(b"to itself" + word)})


def _combined(
    place: bytes,
    *,
    kem: bytes,
    x25519: bytes,
    later: tuple[Address, bytes],
    earlier: bytes,
    ciphertext: bytes,
) -> bytes:
    """32 bytes. `later`: who made the ciphertext, and its head; `earlier`: the word of whom it is for."""
    ends = bytes.fromhex(later[0][2:]) + later[1] + earlier
    return derive(kem + x25519, info=_LABEL + b"pair" + sha256(place + ends + ciphertext).digest())


def _tag(shared: bytes) -> bytes:
    return derive(shared, info=_LABEL + b"tag", length=TAG_BYTES)


def _keeper(secret: HybridSecret, ciphertext: bytes) -> ChaCha20Poly1305:
    """Its key encrypts one message, for no ciphertext comes twice."""
    return ChaCha20Poly1305(secret.derive(b"kept" + sha256(ciphertext).digest()))


def _encapsulate(public: MLKEM768PublicKey) -> tuple[bytes, bytes]:
    """Secret and ciphertext."""
    return public.encapsulate()
