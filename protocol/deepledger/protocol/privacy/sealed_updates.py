"""Sealed updates: nobody reads one but the job's coordinators and auditors, whose public keys its spec names.

    K      32 random bytes, fresh for every update
    e, E   an ephemeral pair, of which e = HKDF(K)
    blob   E ‖ for each reader ChaCha20-Poly1305(HKDF(ECDH(e, P)); K) ‖ ChaCha20-Poly1305(HKDF(K); update)

Everything but K is derived from K, as Fujisaki and Okamoto (1999) make encryption that can be checked: one reader who
has opened it makes the whole blob again, and so knows whether every other reader can open it, too. Nobody can show
an update to the coordinator only, or to the auditor only, and no verdict on it is one reader's word against another's.

The owner and the ledger are bound as associated data: another participant's blob does not open as one's own. All
readers' shares have one length, so that a sealed update is as long as every other one of its job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coincurve import PrivateKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.spec import SEAL_BYTES, SHARE_BYTES
from deepledger.protocol.privacy.ecies import (
    KEY_BYTES,
    NONCE,
    POINT_BYTES,
    TAG_BYTES,
    box,
    derive,
    point,
    public_key_of,
)

_PURPOSE: Final = b"deepledger: sealed update, "
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_WIDE: Final = 48  # bytes of which a scalar is made: 128 bits more than it has, so that none is likelier than another


class BadlySealed(Exception):
    """The blob is not what sealing an update makes: its author's fault, and every reader finds the same."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What an update is sealed under: whose it is, in which job, and for whom."""

    slot: Slot  # of any round: an update that is shown again is a copy by its digest
    readers: Sequence[bytes]  # compressed public keys, in the order of the spec

    @property
    def overhead(self) -> int:
        """How many bytes longer a sealed update is than a plain one."""
        return SEAL_BYTES + SHARE_BYTES * len(self.readers)

    @property
    def _bound(self) -> bytes:
        slot = self.slot
        return slot.chain_id.to_bytes(32) + bytes.fromhex(slot.contract[2:]) + slot.job.to_bytes(32) + bytes.fromhex(
            slot.participant[2:]
        )  # fmt: skip

    def close(self, update: Buffer, *, key: bytes) -> bytes:
        """The blob: the same bytes for the same update and `key`, which is 32 fresh random bytes."""
        return self._head(key) + self._body(key).encrypt(NONCE, memoryview(update), self._bound)

    def open(self, blob: Buffer, *, secret: bytes) -> bytes:
        """The update's bytes, with a reader's secret key. Raises `BadlySealed`."""
        view = memoryview(blob).cast("B")
        head, body = view[: self.overhead - TAG_BYTES], view[self.overhead - TAG_BYTES :]
        key = self._share(bytes(head), secret)
        if self._head(key) != head:
            raise BadlySealed("not every reader can open it")
        try:
            return self._body(key).decrypt(NONCE, body, self._bound)
        except InvalidTag:
            raise BadlySealed("its contents do not open with the key that is sealed to every reader") from None

    def _share(self, head: bytes, secret: bytes) -> bytes:
        ours, ephemeral = public_key_of(secret), head[:POINT_BYTES]
        start = POINT_BYTES + SHARE_BYTES * list(self.readers).index(ours)
        try:
            opener = box(PrivateKey(secret), point(ephemeral), info=_PURPOSE + b"share" + ephemeral + ours)
            return opener.decrypt(NONCE, head[start : start + SHARE_BYTES], self._bound)
        except (InvalidTag, BadInput):
            raise BadlySealed("it does not open for a reader") from None

    def _head(self, key: bytes) -> bytes:
        ephemeral = PrivateKey.from_int(
            int.from_bytes(derive(key, info=_PURPOSE + b"ephemeral", length=_WIDE)) % (_ORDER - 1) + 1
        )
        public = ephemeral.public_key.format()
        shares = (
            box(ephemeral, point(reader), info=_PURPOSE + b"share" + public + reader).encrypt(NONCE, key, self._bound)
            for reader in self.readers
        )
        return public + b"".join(shares)

    def _body(self, key: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(derive(key, info=_PURPOSE + b"contents"))


assert (SEAL_BYTES, SHARE_BYTES) == (POINT_BYTES + TAG_BYTES, KEY_BYTES + TAG_BYTES)  # noqa: S101 (point and tag; share)
