"""Blobs on their way to whoever asks over HTTP, bounded: a few at once, each in a file of its own and for its own time.

Whoever reads here has to check what it gets against the digest, as with any store.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from deepledger.protocol.blobs.digest import digest_from_cid
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.types import Digest

MOST_BLOB_BYTES: Final = 1 << 30
_AT_ONCE: Final = 8  # blobs on their way to those who asked
_IN_MEMORY: Final = 1 << 20  # bytes of each; what is larger goes through a temporary file
_PIECE: Final = 1 << 18
_PATIENCE, _SLOWEST = 60, 65_536  # seconds, and bytes a second, within which a blob is to be taken


class Busy(Exception):
    """Others are being served: to be asked again."""


@dataclass(frozen=True, slots=True)
class Served:
    digest: Digest
    file: IO[bytes]
    size: int  # bytes
    seconds: float  # in which it is to be taken

    def pieces(self) -> Iterator[bytes]:
        while piece := self.file.read(_PIECE):
            yield piece


class Serving:
    """A store's blobs for strangers; `reading`: how many of them may be whole in memory at once."""

    def __init__(self, store: BlobStore, *, reading: int) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._reading = threading.BoundedSemaphore(reading)

    @contextmanager
    def blob(self, cid: str) -> Iterator[Served]:
        """Holds a place inside. Raises `BadInput` for what is no CID, `Busy`, and as the store does."""
        digest = digest_from_cid(cid)
        if not self._places.acquire(blocking=False):
            raise Busy("too many blobs are being served: ask again")
        try:
            with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
                with self._reading:
                    file.write(self._store.read(digest, limit=MOST_BLOB_BYTES))
                size = file.tell()
                file.seek(0)
                yield Served(digest, file, size, _PATIENCE + size / _SLOWEST)
        finally:
            self._places.release()
