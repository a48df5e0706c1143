"""The validation set of a job, from the blob store."""

from __future__ import annotations

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.spec import JobSpec


def fetch_validation(store: BlobStore, spec: JobSpec, key: bytes | None = None) -> Buffer:
    """The validation set; `key` is that of a withheld one.

    Raises `BadInput` if it is withheld and there is no key, `BadSpec` if it is not what the spec says, and as the store
    does.
    """
    withheld = spec.validation.withheld
    if withheld is not None and key is None:
        raise BadInput("the validation set is withheld until the job closes, and its key is not known here")
    data = np.empty(spec.validation.bytes, np.uint8)
    store.read_into(spec.validation_digest, data.data)
    if withheld is None or key is None:
        return data.data
    from deepledger.protocol.evaluation.withheld import decrypt

    return decrypt(key, data.data, salted_digest=bytes.fromhex(withheld.salted_digest))
