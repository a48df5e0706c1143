"""From a revealed blob to the update in it, in every privacy mode of a job."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import Buffer

from deepledger.protocol.formats.commitment import Slot
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.privacy.ecies import public_key_of
from deepledger.protocol.privacy.sealed_updates import Seal
from deepledger.protocol.types import Address, JobId, RoundNumber

Open = Callable[[Buffer, Address], Buffer]
"""An update's bytes, from a blob and whose it is. Raises `BadlySealed`."""


def as_it_is(blob: Buffer, _participant: Address) -> Buffer:
    return blob


def opener(spec: JobSpec, *, chain_id: int, contract: Address, job: JobId, secret: bytes | None) -> Open | None:
    """How updates of a job are read with an account's secret key; None if they are sealed, and not to it. Nobody reads
    masked ones, which are not read one by one.
    """
    if spec.privacy != "sealed":
        return as_it_is
    if secret is None or public_key_of(secret).hex() not in spec.readers:
        return None

    def unseal(blob: Buffer, participant: Address) -> Buffer:
        slot = Slot(chain_id, contract, job, RoundNumber(0), participant)
        return seal_for(spec, slot).open(blob, secret=secret)

    return unseal


def published(spec: JobSpec, slot: Slot, update: Buffer, *, key: bytes) -> Buffer:
    """The blob of an update: itself, or sealed under a fresh `key` of 32 bytes."""
    return update if spec.privacy == "open" else seal_for(spec, slot).close(update, key=key)


def seal_for(spec: JobSpec, slot: Slot) -> Seal:
    """What updates of a sealed job are sealed under."""
    return Seal(slot, [bytes.fromhex(reader) for reader in spec.readers])
