"""Fetching what a job's terms point to, and checking that it fits."""

from __future__ import annotations

import numpy as np

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.spec import MAX_SPEC_BYTES, JobSpec, parse_spec
from deepledger.protocol.types import Digest
from deepledger.protocol.vectors import ModelVector, as_model


def fetch_spec(store: BlobStore, terms: JobTerms) -> JobSpec:
    """Raises `BadSpec`, and as the store does."""
    return parse_spec(store.read(terms.spec_digest, limit=MAX_SPEC_BYTES))


def fetch_model(store: BlobStore, digest: Digest, spec: JobSpec) -> ModelVector:
    """A writable model vector whose bytes have this digest. Raises as the store does."""
    buffer = np.empty(spec.model_bytes, np.uint8)
    store.read_into(digest, buffer.data)
    return as_model(buffer.data, spec.model)
