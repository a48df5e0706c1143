"""Which blobs a job's audit needs: whoever carries these elsewhere, or has them pinned, has the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from typing_extensions import Buffer

from deepledger.auditor.audit import audit
from deepledger.auditor.findings import Audit
from deepledger.protocol.blobs.store import BlobStore, LendsFiles
from deepledger.protocol.chain.events import Revealed, Settled
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BlobCorrupt, BlobMissing
from deepledger.protocol.formats.report import MAX_REPORT_BYTES
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.types import Digest, JobId


@dataclass(frozen=True, slots=True)
class Reads:
    """What an audit read."""

    audit: Audit
    sizes: dict[Digest, int]  # bytes of each blob, in the order in which they were read
    missing: dict[Digest, str]  # why each that is not there, or is another, cannot be had


def blobs_of(reader: Reader, store: BlobStore, job: JobId) -> Reads:
    """Audits the job, but for evaluations, and reads besides what only some audits need: those who evaluate, and those
    to whom updates are sealed. Raises as `audit`.
    """
    noted = _Noted(store)
    found = audit(reader, noted, job)
    if found.spec is not None:
        for digest, limit in _besides(found, found.spec):
            if digest not in noted.sizes and digest not in noted.missing:
                noted.look(digest, limit)
    return Reads(found, noted.sizes, noted.missing)


def _besides(found: Audit, spec: JobSpec) -> Iterator[tuple[Digest, int]]:
    """With how many bytes each may have."""
    yield spec.validation_digest, spec.validation.bytes
    if spec.model.frozen is not None:
        yield Digest(bytes.fromhex(spec.model.frozen.digest)), spec.model.frozen.bytes
    for event in found.events:
        if isinstance(event, Revealed):
            yield event.digest, spec.blob_bytes
        elif isinstance(event, Settled):
            yield event.model_digest, spec.model_bytes
            yield event.report_digest, MAX_REPORT_BYTES


class _Noted:
    """A store that notes what was read from it."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.sizes: dict[Digest, int] = {}
        self.missing: dict[Digest, str] = {}

    def put(self, data: Buffer) -> Digest:
        return self._store.put(data)

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        self._noting(digest, lambda: self._store.read_into(digest, buffer))
        self._had(digest, memoryview(buffer).nbytes)

    def read(self, digest: Digest, *, limit: int) -> bytes:
        data: list[bytes] = []
        self._noting(digest, lambda: data.append(self._store.read(digest, limit=limit)))
        self._had(digest, len(data[0]))
        return data[0]

    def hold(self, digest: Digest, size: int) -> BinaryIO | None:
        files: list[BinaryIO | None] = []
        if isinstance(self._store, LendsFiles):
            hold = self._store.hold
            self._noting(digest, lambda: files.append(hold(digest, size)))
        if not files or files[0] is None:
            return None
        self._had(digest, size)
        return files[0]

    def pin(self, digest: Digest) -> None:
        self._store.pin(digest)

    def unpin(self, digest: Digest) -> None:
        self._store.unpin(digest)

    def look(self, digest: Digest, limit: int) -> None:
        with suppress(BlobMissing, BlobCorrupt):  # it is noted
            self.read(digest, limit=limit)

    def _noting(self, digest: Digest, read: Callable[[], None]) -> None:
        try:
            read()
        except (BlobMissing, BlobCorrupt) as error:
            if digest not in self.sizes:
                self.missing[digest] = str(error)
            raise

    def _had(self, digest: Digest, size: int) -> None:
        self.sizes[digest] = size
        self.missing.pop(digest, None)  # it was read again: longer, perhaps
