"""What deepledger asks of a blob store: a few methods, whatever serves them.

A store is not trusted. What it returns is checked against the digest before anybody sees it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import Digest


class BlobStore(Protocol):
    """Blobs by digest. Every method raises `StoreUnreachable` when the store cannot be reached."""

    def put(self, data: Buffer) -> Digest:
        """Store and pin `data`; the digest is computed here, and the store's own answer must agree with it.

        Raises `BlobCorrupt` when it does not. Putting the same bytes twice is harmless.
        """

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        """Fill the writable `buffer` with the blob, which must be exactly as long.

        Never reads more than one byte past `len(buffer)`. Raises `BlobMissing` when nobody serves it in time and
        `BlobCorrupt` when what is served is shorter, longer or different; the buffer's content is then undefined.
        """

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """The blob, if it has at most `limit` bytes. Raises as `read_into`."""

    def pin(self, digest: Digest) -> None:
        """Keep a blob that is there, fetching it if need be."""

    def unpin(self, digest: Digest) -> None:
        """Let a blob go; no error if it was not pinned."""


class ReadOnly:
    """The part of a `BlobStore` that cannot be written to; `name` is what the user calls it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def put(self, data: Buffer) -> Digest:
        del data
        raise self._refusal()

    def pin(self, digest: Digest) -> None:
        del digest
        raise self._refusal()

    def unpin(self, digest: Digest) -> None:
        del digest
        raise self._refusal()

    def _refusal(self) -> BadInput:
        return BadInput(
            f"blobs can only be read from {self._name}: name, with --store, an IPFS daemon or a folder to write them to"
        )


@runtime_checkable
class LendsFiles(Protocol):
    """A store that has blobs as files on this machine, to read them where they lie."""

    def hold(self, digest: Digest, size: int) -> BinaryIO | None:
        """A blob's own file, checked; None where others may write to it."""


@runtime_checkable
class HoldsFiles(LendsFiles, Protocol):
    """What a store can do besides whose blobs are files on this machine, see `DirectoryStore`."""

    def aside(self, size: int) -> AbstractContextManager[BinaryIO]:
        """A new file of `size` bytes that is to be adopted once it is filled; without that it is gone afterwards."""

    def adopt(self, path: Path) -> Digest | None:
        """Take a file as a blob without writing its bytes again; None where that cannot be."""
