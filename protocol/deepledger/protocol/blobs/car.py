"""Blobs in one file, a CAR: what IPFS tools export and import, so that a whole run can be carried and audited anywhere.

Blocks of any kind may be in it; an index of those that blobs are made of is made when the file is opened. Every block
is hashed when it is read.

Specification: ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from typing_extensions import Buffer

from deepledger.protocol.blobs.assembly import DAG_PB, MOST_BLOCK, Assembly, varint
from deepledger.protocol.blobs.digest import blocks_of, byte_view, cid_of, to_varint
from deepledger.protocol.blobs.store import ReadOnly
from deepledger.protocol.errors import BlobCorrupt, BlobMissing, StoreUnreachable
from deepledger.protocol.types import Digest

CAR_TYPE: Final = "application/vnd.ipld.car"
_VERSION_1: Final = b"\x67version\x01"  # how a header ends, being DAG-CBOR
_VERSION_2: Final = b"\xa1\x67version\x02"
_MOST_HEADER: Final = 1 << 26  # bytes: roots are listed in it
_CID: Final = len(DAG_PB) + 32


class CarStore(ReadOnly):
    """A `BlobStore` that is one file. May be shared between threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self._places: dict[Digest, tuple[int, int]] | None = None  # of blocks: start and length
        self._indexing = threading.Lock()

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        self._read(Assembly(digest, buffer=byte_view(buffer)))

    def read(self, digest: Digest, *, limit: int) -> bytes:
        return bytes(self._read(Assembly(digest, limit=limit)))

    def blobs(self) -> list[Digest]:
        """The blobs that its header lists."""
        with self._opened() as file:
            return _roots(_header(file, self.path))

    def _read(self, blob: Assembly) -> memoryview:
        with self._opened() as file:
            places = self._index(file)
            while (missing := blob.missing()) is not None:
                if missing not in places:
                    what = "no blob" if missing == blob.digest else f"no block {cid_of(missing)} of blob"
                    raise BlobMissing(f"{what} {cid_of(blob.digest)} in {self.path}")
                start, length = places[missing]
                file.seek(start)
                if not blob.add(file.read(length)):
                    raise BlobCorrupt(f"block {cid_of(missing)} in {self.path} was altered: have it exported again")
        return blob.whole()

    def _index(self, file: BinaryIO) -> dict[Digest, tuple[int, int]]:
        with self._indexing:
            if self._places is None:
                size = os.fstat(file.fileno()).st_size
                _header(file, self.path)
                places, position = {}, file.tell()
                while position < size:
                    file.seek(position)
                    head = file.read(10 + _CID)
                    try:
                        length, skipped = varint(head, 0)
                    except ValueError:
                        raise _cut_short(self.path) from None
                    start, position = position + skipped, position + skipped + length
                    if not length or position > size:
                        raise _cut_short(self.path)
                    digest = _stated(head[skipped : skipped + _CID])
                    if digest is not None and _CID <= length <= _CID + MOST_BLOCK:
                        places[digest] = start + _CID, length - _CID
                self._places = places
            return self._places

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise StoreUnreachable(f"the CAR file {self.path} cannot be read: {error.strerror}") from error


def write_car(file: BinaryIO, blobs: Sequence[Digest], read: Callable[[Digest], Buffer]) -> None:
    """A CAR whose roots are `blobs`, with each block of theirs once, where it is first needed."""
    header = b"\xa2\x65roots" + _array(len(blobs))
    header += b"".join(b"\xd8\x2a\x58\x25\x00" + DAG_PB + blob for blob in blobs) + _VERSION_1
    file.write(to_varint(len(header)) + header)
    written: set[Digest] = set()
    for blob in blobs:
        for digest, pieces in blocks_of(read(blob)):
            if digest not in written:
                written.add(digest)
                file.write(to_varint(_CID + sum(byte_view(piece).nbytes for piece in pieces)) + DAG_PB + digest)
                for piece in pieces:
                    file.write(piece)


def blocks_in(pieces: Iterable[bytes]) -> Iterator[tuple[Digest | None, bytes]]:
    """The blocks of a CAR that comes in pieces, each with the digest that it is said to have, if it is of our kind.

    Raises `BlobCorrupt` if it is no CAR, or has larger blocks than a blob is made of. Ends where the pieces do.
    """
    rest, header = bytearray(), True
    for piece in pieces:
        rest += piece
        position = 0
        while True:
            try:
                length, start = varint(rest, position)
            except ValueError:
                if len(rest) - position >= 10:
                    raise BlobCorrupt("what is served as a CAR is none") from None
                break
            if not length or length > MOST_BLOCK + _CID + 64:  # a CID of another kind may be longer
                raise BlobCorrupt("what is served as a CAR is none, or has larger blocks than our blobs")
            if len(rest) < start + length:
                break
            section, position = bytes(rest[start : start + length]), start + length
            if not header and (digest := _stated(section)) is not None:
                yield digest, section[_CID:]
            header = False
        del rest[:position]


def _stated(section: bytes) -> Digest | None:
    """The digest that a section gives its block."""
    return Digest(section[len(DAG_PB) : _CID]) if section.startswith(DAG_PB) and len(section) >= _CID else None


def _header(file: BinaryIO, path: Path) -> bytes:
    file.seek(0)
    try:
        length, start = varint(file.read(10), 0)
    except ValueError:
        length, start = 0, 0
    file.seek(start)
    header = file.read(min(length, _MOST_HEADER))
    if header == _VERSION_2:
        raise StoreUnreachable(f"{path} is a CAR of version 2: have one of version 1 made, as `ipfs dag export` does")
    if len(header) != length or not header.endswith(_VERSION_1):
        raise StoreUnreachable(f"{path} is no CAR file: `deepledger blobs export` makes one")
    return header


def _roots(header: bytes) -> list[Digest]:
    """The blobs among the roots."""
    parts = header.split(b"\xd8\x2a\x58\x25\x00" + DAG_PB)[1:]
    return [Digest(part[:32]) for part in parts]


def _array(length: int) -> bytes:
    """The head of a CBOR array."""
    if length < 24:
        return bytes([0x80 | length])
    width, code = next((w, c) for w, c in ((1, 0x98), (2, 0x99), (4, 0x9A)) if length < 1 << 8 * w)
    return bytes([code]) + length.to_bytes(width, "big")


def _cut_short(path: Path) -> StoreUnreachable:
    return StoreUnreachable(f"{path} is cut short: have it exported or copied again")
