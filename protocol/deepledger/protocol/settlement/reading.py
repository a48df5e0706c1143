"""Reading revealed blobs into files: memory does not grow with the number of participants."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import Buffer

from deepledger.protocol.blobs.spool import FileVector, fetch, keep, room_for, view
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import UpdateVector, as_update, update_dtype
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.opening import Open
from deepledger.protocol.privacy.sealed_updates import BadlySealed
from deepledger.protocol.settlement.inputs import Contribution, Earlier
from deepledger.protocol.settlement.judging import inspect
from deepledger.protocol.types import Digest


def read_update(store: BlobStore, contribution: Contribution, spec: JobSpec, open: Open) -> FileVector | Verdict:
    """The update, or the verdict that it is none. Raises as `BlobStore.read_into`, and `StateError` without room."""
    return _read(store, contribution.digest, spec, lambda blob: inspect(blob, contribution, spec, open=open))


def read_earlier(store: BlobStore, earlier: Earlier, spec: JobSpec, open: Open) -> FileVector | Verdict:
    """As `read_update`, for what is not judged any more. A badly sealed one is nothing that anybody could copy."""

    def opened(blob: Buffer) -> UpdateVector | Verdict:
        try:
            return as_update(open(blob, earlier.participant), spec)
        except BadlySealed:
            return Verdict.BADLY_SEALED

    return _read(store, earlier.digest, spec, opened)


def _read(
    store: BlobStore, digest: Digest, spec: JobSpec, judge: Callable[[Buffer], UpdateVector | Verdict]
) -> FileVector | Verdict:
    """Room is taken while it is looked at, and kept only by what counts: a reveal costs its author nothing."""
    with room_for(spec.blob_bytes) as file, file:
        fetch(store, digest, file, spec.blob_bytes)
        judged, dtype = judge(view(file, spec.blob_bytes)), update_dtype(spec.update)
        if isinstance(judged, Verdict):
            return judged
        return FileVector(file, dtype) if spec.privacy == "open" else keep(judged.data, dtype)
