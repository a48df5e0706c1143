"""Fetching what a job's terms point to, and checking that it fits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from deepledger.protocol.blobs.spool import FileVector, fetched
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.errors import BadInput, BadSpec, BlobMissing
from deepledger.protocol.formats.admission import admission_root
from deepledger.protocol.formats.model import Frozen
from deepledger.protocol.formats.spec import MAX_SPEC_BYTES, JobSpec, parse_spec
from deepledger.protocol.formats.vectors import ModelVector, as_model
from deepledger.protocol.types import Address, Digest


def fetch_spec(store: BlobStore, terms: JobTerms) -> JobSpec:
    """Raises `BadSpec`, and as the store does."""
    try:
        data = store.read(terms.spec_digest, limit=MAX_SPEC_BYTES)
    except BlobMissing as error:
        raise BlobMissing(f"the job's spec cannot be had: {error}") from None
    return read_spec(data, terms)


def read_spec(data: bytes, terms: JobTerms) -> JobSpec:
    """A spec that goes together with the terms. Raises `BadSpec`."""
    spec = parse_spec(data)
    if terms.withheld != (spec.validation.withheld is not None):
        raise BadSpec(
            "the validation set is withheld by the job's terms or by its spec, and not by both; have nothing to do "
            "with this job"
        )
    if terms.masked != (spec.masks is not None):
        raise BadSpec(
            "updates are masked by the job's terms or by its spec, and not by both; have nothing to do with this job"
        )
    if spec.masks is not None and terms.min_participants < spec.masks.fewest:
        raise BadSpec(
            f"rounds open with {terms.min_participants} participants, and groups in which masks hide "
            f"{spec.masks.least} or more take {spec.masks.fewest}; have nothing to do with this job"
        )
    if (spec.colluders(participants=terms.min_participants) or 0) < 0:
        raise BadSpec(
            f"rounds open with {terms.min_participants} participants, and the noise that hides one is that of more "
            "than may be counted then; have nothing to do with this job"
        )
    if terms.admission != admission_root(spec.admitted):
        raise BadSpec("the job's terms admit others than its spec lists; have nothing to do with this job")
    return spec


def check_keys(spec: JobSpec, coordinators: Sequence[Address]) -> None:
    """Raises `BadSpec` unless whoever may have to settle can open sealed updates and a withheld validation set."""
    withheld = spec.validation.withheld
    if withheld is not None:
        _check_named(
            coordinators, {key.coordinator for key in withheld.keys}, "the key of the withheld validation set is"
        )
    if spec.privacy == "sealed":
        from deepledger.protocol.privacy.ecies import address_of

        readers = {address_of(bytes.fromhex(reader)) for reader in spec.readers}
        _check_named(coordinators, readers, "updates are")


def _check_named(coordinators: Sequence[Address], named: Collection[str], what: str) -> None:
    known = {each.lower() for each in named}
    without = [coordinator for coordinator in coordinators if coordinator.lower() not in known]
    if without:
        raise BadSpec(f"{what} not sealed to the coordinator {without[0]}")


def is_admitted(spec: JobSpec, account: Address) -> bool:
    """Whether its sponsor lets the account join; its list may spell addresses in either case."""
    return not spec.admitted or account.lower() in {admitted.lower() for admitted in spec.admitted}


def check_admitted(spec: JobSpec, account: Address) -> None:
    """Raises `BadInput` where only listed accounts may join, and this is none of them."""
    if not is_admitted(spec, account):
        raise BadInput(
            f"only the {len(spec.admitted)} accounts that the job's sponsor has listed may join, and {account} is none "
            "of them; ask the sponsor, or use the account that is listed"
        )


def fetch_model(store: BlobStore, digest: Digest, spec: JobSpec) -> ModelVector:
    """A writable model vector whose bytes have this digest. Raises as the store does."""
    buffer = np.empty(spec.model_bytes, np.uint8)
    store.read_into(digest, buffer.data)
    return as_model(buffer.data, spec.model)


def hold_model(store: BlobStore, digest: Digest, spec: JobSpec) -> FileVector:
    """As `fetch_model`, in a file: of it, only what is looked at is in memory. Raises `StateError` without room."""
    with fetched(store, digest, spec.model_bytes) as file:
        return FileVector(file, np.dtype("<i4"))


def fetch_frozen(store: BlobStore, frozen: Frozen) -> bytes:
    """The values of frozen entries. Raises as the store does."""
    data = np.empty(frozen.bytes, np.uint8)
    store.read_into(Digest(bytes.fromhex(frozen.digest)), data.data)
    return data.tobytes()
