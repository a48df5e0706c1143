"""A blob's digest: address and integrity check in one word, computed here and not by whatever stores the blob.

It is the SHA-256 of the root node of the UnixFS file that `ipfs add --cid-version=1 --raw-leaves=false
--chunker=size-262144` builds, so that the CID follows from the digest alone. That file is a balanced tree: leaves of
256 KiB, nodes of at most 174 links, every node a dag-pb message. Only the few bytes around each leaf are made here; the
data itself is hashed where it lies. This is the plain version; most of a large blob goes through
`kernels.blob_leaves`, which is tested against it.

Specifications: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from hashlib import sha256
from itertools import chain
from typing import Final, Protocol

from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput
from deepledger.protocol.kernels.cores import in_parts
from deepledger.protocol.types import Digest

CHUNK: Final = 262_144
"""Bytes of data in every leaf but the last."""

LINKS: Final = 174
"""Most children of a node."""

ADD: Final = f"ipfs add --cid-version=1 --raw-leaves=false --chunker=size-{CHUNK}"
"""What gives a file the CID that it has here."""

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_CID_PREFIX: Final = bytes([0x01, 0x70, 0x12, 0x20])  # CIDv1, dag-pb, sha2-256, 32 bytes
_FILE: Final = b"\x08\x02"  # UnixFS Type = File
_AT_ONCE: Final = 16
"""Leaves that go through `kernels.blob_leaves` together, and the fewest that are worth a thread of their own."""

FAST_FROM: Final = 32 * CHUNK
"""Bytes from which `kernels.blob_leaves` is worth its import: below, this version takes milliseconds."""


@dataclass(frozen=True, slots=True)
class _Node:
    digest: bytes
    file_size: int  # bytes of the blob below it
    dag_size: int  # bytes of all nodes below it and its own


def byte_view(data: Buffer) -> memoryview:
    """`data` as plain bytes, not copied; numpy arrays too, also empty ones (which cannot be cast)."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


class FastLeaves(Protocol):
    def __call__(self, data: memoryview, *, chunk: int, head: bytes, tail: bytes) -> list[bytes]: ...


def digest_of(data: Buffer) -> Digest:
    """The digest of a whole blob. Large ones are hashed on several cores."""
    view = byte_view(data)
    leaves: list[_Node] = []
    if len(view) >= FAST_FROM and (fast := _fast()):
        head, tail = _frame(CHUNK)
        together = len(view) - len(view) % (_AT_ONCE * CHUNK)
        digests = fast(view[:together], chunk=CHUNK, head=head, tail=tail)
        leaves, view = [_node(digest, CHUNK) for digest in digests], view[together:]
        if not view:
            return _root(leaves)
    starts = range(0, len(view) or 1, CHUNK)

    def hash_part(first: int, stop: int) -> list[_Node]:  # hashlib lets go of the GIL
        return [_leaf(view[start : start + CHUNK]) for start in starts[first:stop]]

    return _root(chain(leaves, *in_parts(hash_part, len(starts), step=_AT_ONCE)))


class RunningDigest:
    """The same digest of a blob that arrives in pieces; holds back at most one chunk."""

    __slots__ = ("_leaves", "_rest")

    def __init__(self) -> None:
        self._leaves: list[_Node] = []
        self._rest = bytearray()

    def update(self, data: Buffer) -> None:
        view = byte_view(data)
        if self._rest:
            missing = CHUNK - len(self._rest)
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) < CHUNK:
                return
            self._leaves.append(_leaf(self._rest))
            self._rest = bytearray()
        whole = len(view) - len(view) % CHUNK
        self._leaves += [_leaf(view[start : start + CHUNK]) for start in range(0, whole, CHUNK)]
        self._rest += view[whole:]

    def digest(self) -> Digest:
        """The digest of everything so far; more may follow."""
        last = [_leaf(self._rest)] if self._rest or not self._leaves else []
        return _root([*self._leaves, *last])


def cid_of(digest: Digest) -> str:
    """The blob's CID as IPFS writes it, "bafybei…"."""
    if len(digest) != 32:
        raise ValueError(f"a digest has 32 bytes, not {len(digest)}")
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().lower().rstrip("=")


def digest_from_cid(text: str) -> Digest:
    """The digest that a CID stands for; refuses every CID that deepledger would not have made."""
    try:
        raw = base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    digest = Digest(raw[len(_CID_PREFIX) :])
    if len(digest) != 32 or cid_of(digest) != text:
        raise BadInput(f"{text[:80]!r} is no blob's CID: {_what_else(text, raw)}")
    return digest


def _what_else(text: str, raw: bytes) -> str:
    """What is told of a CID that is none of ours; `raw` is what it says in base 32, if it does."""
    if re.fullmatch(r"(0x)?[0-9a-f]{64}", text):
        return f"it is a digest, whose CID is {cid_of(Digest(bytes.fromhex(text.removeprefix('0x'))))}"
    if re.fullmatch(r"Qm[1-9A-HJ-NP-Za-km-z]{44}", text):
        number = reduce(lambda value, letter: value * 58 + _BASE58.index(letter), text, 0)
        digest = Digest(number.to_bytes(34, "big")[2:])
        return (
            f"it is a CIDv0, as `ipfs add` makes them. Of a file of up to 256 KiB it is the same as {cid_of(digest)}; "
            f"add a larger one with `{ADD}`"
        )
    if raw.startswith(b"\x01\x55"):
        return f"it is of a raw leaf, as Helia and `ipfs add --cid-version=1` make them; add the file with `{ADD}`"
    return "give one of 59 characters that starts with bafybei"


def blocks_of(data: Buffer) -> Iterator[tuple[Digest, tuple[Buffer, ...]]]:
    """The blocks of a blob's file, every one before those below it: its digest, and its bytes in pieces."""
    view = byte_view(data)
    starts = range(0, len(view) or 1, CHUNK)
    levels = [[_leaf(view[start : start + CHUNK]) for start in starts]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_parent(below[start : start + LINKS]) for start in range(0, len(below), LINKS)])

    def walk(height: int, index: int) -> Iterator[tuple[Digest, tuple[Buffer, ...]]]:
        digest = Digest(levels[height][index].digest)
        if height == 0:
            chunk = view[starts[index] : starts[index] + CHUNK]
            head, tail = _frame(len(chunk))
            yield digest, (head, chunk, tail)
            return
        first = index * LINKS
        children = levels[height - 1][first : first + LINKS]
        yield digest, (_parent_block(children),)
        for child in range(first, first + len(children)):
            yield from walk(height - 1, child)

    return walk(len(levels) - 1, 0)


def _root(leaves: Iterable[_Node]) -> Digest:
    level = list(leaves)
    while len(level) > 1:
        level = [_parent(level[start : start + LINKS]) for start in range(0, len(level), LINKS)]
    return Digest(level[0].digest)


def _leaf(chunk: Buffer) -> _Node:
    size = memoryview(chunk).nbytes
    head, tail = _frame(size)
    state = sha256(head)
    state.update(chunk)
    state.update(tail)
    return _node(state.digest(), size)


def _node(digest: bytes, size: int) -> _Node:
    """A leaf of `size` bytes of data."""
    return _Node(digest, file_size=size, dag_size=size + sum(map(len, _frame(size))))


def _frame(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the data of a leaf: PBNode { Data: UnixFS { Type, Data, filesize } }."""
    before = b"\x12" + to_varint(size) if size else b""
    after = b"\x18" + to_varint(size)
    return b"\x0a" + to_varint(len(_FILE) + len(before) + size + len(after)) + _FILE + before, after


def _parent(children: Sequence[_Node]) -> _Node:
    size, node = sum(child.file_size for child in children), _parent_block(children)
    return _Node(sha256(node).digest(), file_size=size, dag_size=len(node) + sum(child.dag_size for child in children))


def _parent_block(children: Sequence[_Node]) -> bytes:
    """PBNode { Links: [PBLink { Hash, Name: "", Tsize }], Data: UnixFS { Type, filesize, blocksizes } }."""
    size = sum(child.file_size for child in children)
    links = [
        _field(0x0A, _CID_PREFIX + child.digest) + b"\x12\x00\x18" + to_varint(child.dag_size) for child in children
    ]
    file = b"".join(
        chain([_FILE, b"\x18", to_varint(size)], *((b"\x20", to_varint(child.file_size)) for child in children))
    )
    return b"".join(_field(0x12, link) for link in links) + _field(0x0A, file)


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + to_varint(len(content)) + content


def to_varint(number: int) -> bytes:
    """A number as protobuf and multiformats write it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@cache
def _fast() -> FastLeaves | None:
    try:
        from deepledger.protocol.kernels import blob_leaves
    except ImportError:  # an auditor's install has no numba
        return None
    return blob_leaves.leaf_digests if blob_leaves.WORTHWHILE else None
