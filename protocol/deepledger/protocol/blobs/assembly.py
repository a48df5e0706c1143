"""A blob put together from the blocks of its file, in whatever order they come, each checked on the way.

A block belongs where its hash says. The tree above the data has one shape for a length (see `digest`), and any other is
refused: nothing that a stranger's block says can make the tree deep, endless, or longer than the blob may be.

Specifications: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn

from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import ADD, CHUNK, LINKS, byte_view, cid_of, digest_of
from deepledger.protocol.errors import BlobCorrupt
from deepledger.protocol.types import Digest

MOST_BLOCK: Final = CHUNK + 64
"""Bytes of a block at most: a leaf's. A full node above has less than 10 KB."""

DAG_PB: Final = bytes([0x01, 0x70, 0x12, 0x20])
_RAW_LEAVES: Final = "its leaves are raw, as Helia and `ipfs add --cid-version=1` make them"
_CIDS_0: Final = "its links are CIDs of version 0, as `ipfs add` makes them"
_OTHER_SIZES: Final = "its pieces have other sizes than 256 KiB, or it is no file"
_NO_FILE: Final = "a block of it is no part of a UnixFS file"
_VERSION_0: Final = b"\x12\x20"
_RAW: Final = bytes([0x01, 0x55, 0x12, 0x20])


class Assembly:
    """The blob with a digest, as far as its blocks have come.

    With `buffer` the blob is to have exactly its length and goes into it; else it may have `limit` bytes.
    """

    def __init__(self, digest: Digest, *, buffer: memoryview | None = None, limit: int = 0) -> None:
        self.digest = digest
        self._buffer, self._limit = buffer, limit
        self._missing: dict[Digest, list[_Place]] = {}
        self._known: dict[Digest, _Node] = {}  # the same piece may occur again, and come only once
        self._has_root = False

    def missing(self) -> Digest | None:
        """A block that is known to be needed; None if the blob is whole."""
        if not self._has_root:
            return self.digest
        return next(iter(self._missing), None)

    def add(self, block: bytes) -> bool:
        """Whether the block is needed; what is not is left out. Raises `BlobCorrupt` where the blob cannot be right."""
        digest = Digest(sha256(block).digest())
        if not self._has_root:
            if digest != self.digest:
                return False
            node = self._parsed(block)
            self.room(node.size)
            self._has_root = True
            self._place(digest, node, _Place(0, node.size, height=_height(node.size)))
            return True
        places = self._missing.pop(digest, None)
        if places is None:
            return False
        node = self._parsed(block)
        for place in places:
            self._place(digest, node, place)
        return True

    def whole(self) -> memoryview:
        """The blob, once nothing is missing. Raises `BlobCorrupt` if its bytes have another digest."""
        assert self.missing() is None and self._buffer is not None  # noqa: S101, PT018
        if digest_of(self._buffer) != self.digest:
            self._elsewise("its blocks say other things than the sizes of what they hold")
        return self._buffer

    @property
    def size(self) -> int:
        """Bytes that the blob has, or may have as long as that is not known."""
        return self._limit if self._buffer is None else len(self._buffer)

    def room(self, size: int) -> memoryview:
        """Where the blob goes, if it may have that size. Raises `BlobCorrupt` else."""
        if self._buffer is None:
            if size > self._limit:
                raise BlobCorrupt(f"blob {cid_of(self.digest)} has {size} bytes, more than {self._limit}")
            self._buffer = memoryview(bytearray(size))
        elif size != len(self._buffer):
            raise BlobCorrupt(f"blob {cid_of(self.digest)} has {size} bytes, not {len(self._buffer)}")
        return self._buffer

    def _place(self, digest: Digest, node: _Node, place: _Place) -> None:
        assert self._buffer is not None  # noqa: S101
        below = _below(place)
        if node.size != place.length or node.sizes != [each.length for each in below]:
            self._elsewise(_OTHER_SIZES)
        if place.height == 0:
            piece = self._buffer[place.start : place.start + place.length]
            piece[:] = node.data
            node = replace(node, data=piece)  # and let go of the block
        self._known[digest] = node
        for link, each in zip(node.links, below, strict=True):
            if link in self._known:
                self._place(link, self._known[link], each)
            else:
                self._missing.setdefault(link, []).append(each)

    def _parsed(self, block: bytes) -> _Node:
        try:
            return _parsed(memoryview(block))
        except _Foreign as error:
            self._elsewise(str(error))

    def _elsewise(self, why: str) -> NoReturn:
        raise BlobCorrupt(foreign(self.digest, why))


def foreign(digest: Digest, why: str) -> str:
    return f"what is served as blob {cid_of(digest)} is laid out otherwise than ours: {why}. Add the file with `{ADD}`"


def why_foreign(root: bytes) -> str | None:
    """In what the file with that root is laid out otherwise than ours, as far as the root shows it."""
    try:
        node = _parsed(memoryview(root))
    except _Foreign as error:
        return str(error)
    ours = [each.length for each in _below(_Place(0, node.size, height=_height(node.size)))]
    return None if node.sizes == ours else _OTHER_SIZES


class _Place(NamedTuple):
    """Where a node belongs."""

    start: int  # in the blob
    length: int  # bytes of the blob in it and below
    height: int  # above the leaves


@dataclass(frozen=True, slots=True)
class _Node:
    size: int  # bytes of the blob in it and below
    data: memoryview
    links: list[Digest]
    sizes: list[int]  # of what is behind each link


class _Foreign(ValueError):
    """A node that is none of ours; says why."""


def _height(length: int) -> int:
    height, most = 0, CHUNK
    while most < length:
        height, most = height + 1, most * LINKS
    return height


def _below(place: _Place) -> list[_Place]:
    """The nodes that a node links to; none for a leaf."""
    if place.height == 0:
        return []
    height, end = place.height - 1, place.start + place.length
    step = CHUNK * LINKS**height
    return [_Place(start, min(step, end - start), height) for start in range(place.start, end, step)]


def _parsed(block: memoryview) -> _Node:
    """A dag-pb node that holds a UnixFS file or a part of one. Raises `_Foreign`."""
    try:
        return _read(block)
    except _Foreign:
        raise
    except ValueError:
        raise _Foreign(_NO_FILE) from None


def _read(block: memoryview) -> _Node:
    links, file = [], None
    for tag, value in _fields(block):
        if tag == 0x12:
            links.append(_linked(_bytes(value)))
        elif tag == 0x0A and file is None:
            file = _bytes(value)
        else:
            raise ValueError("no PBNode")
    if file is None:
        raise ValueError("no data")
    kind, data, size, sizes = None, memoryview(b""), None, []
    for tag, value in _fields(file):
        if tag == 0x08:
            kind = value
        elif tag == 0x12:
            data = _bytes(value)
        elif tag == 0x18:
            size = value
        elif tag == 0x20 and isinstance(value, int):
            sizes.append(value)
        else:
            raise ValueError("no UnixFS file of ours")
    if kind != 2 or not isinstance(size, int) or len(sizes) != len(links) or len(data) + sum(sizes) != size:
        raise ValueError("no UnixFS file of ours")
    return _Node(size, data, links, sizes)


def _linked(link: memoryview) -> Digest:
    for tag, value in _fields(link):
        if tag == 0x0A:
            cid = bytes(_bytes(value))
            if cid.startswith(_RAW):
                raise _Foreign(_RAW_LEAVES)
            if cid.startswith(_VERSION_0) and len(cid) == 34:
                raise _Foreign(_CIDS_0)
            if cid.startswith(DAG_PB) and len(cid) == 36:
                return Digest(cid[4:])
    raise ValueError("no link of ours")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Tag and value of each field of a protobuf message: varints as numbers, the rest as bytes."""
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        value, position = varint(message, position)
        if tag & 7 == 0:
            yield tag, value
        elif tag & 7 == 2 and position + value <= len(message):
            yield tag, message[position : position + value]
            position += value
        else:
            raise ValueError("not protobuf")


def varint(data: Buffer, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises `ValueError` if it does not."""
    view, number = byte_view(data), 0
    for shift in range(0, 63, 7):
        if position >= len(view):
            break
        byte = view[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number without end")
