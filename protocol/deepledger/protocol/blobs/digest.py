"""A blob's digest: address and integrity check in one word, computed here and not by whatever stores the blob.

It is the SHA-256 of the root node of the UnixFS file that `ipfs add --cid-version=1 --raw-leaves=false
--chunker=size-262144` builds, so that the CID follows from the digest alone. That file is a balanced tree: leaves of
256 KiB, nodes of at most 174 links, every node a dag-pb message. Only the few bytes around each leaf are made here; the
data itself is hashed where it lies.

Specifications: ipld.io/specs/codecs/dag-pb, specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Final

from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput
from deepledger.protocol.types import Digest

CHUNK: Final = 262_144
"""Bytes of data in every leaf but the last."""

LINKS: Final = 174
"""Most children of a node."""

_CID_PREFIX: Final = bytes([0x01, 0x70, 0x12, 0x20])  # CIDv1, dag-pb, sha2-256, 32 bytes
_FILE: Final = b"\x08\x02"  # UnixFS Type = File
_PARALLEL_FROM: Final = 16 * CHUNK  # below this, starting threads costs more than they save


@dataclass(frozen=True, slots=True)
class _Node:
    digest: bytes
    file_size: int  # bytes of the blob below it
    dag_size: int  # bytes of all nodes below it and its own


def byte_view(data: Buffer) -> memoryview:
    """`data` as plain bytes, not copied; numpy arrays too, also empty ones (which cannot be cast)."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")


def digest_of(data: Buffer) -> Digest:
    """The digest of a whole blob. Large ones are hashed on several cores."""
    view = byte_view(data)
    chunks = [view[start : start + CHUNK] for start in range(0, len(view) or 1, CHUNK)]
    if len(view) < _PARALLEL_FROM:
        return _root(map(_leaf, chunks))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # hashlib lets go of the GIL
        return _root(threads.map(_leaf, chunks))


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
        raise BadInput(f"{text[:80]!r} is no blob's CID: give one of 59 characters that starts with bafybei")
    return digest


def _root(leaves: Iterable[_Node]) -> Digest:
    level = list(leaves)
    while len(level) > 1:
        level = [_parent(level[start : start + LINKS]) for start in range(0, len(level), LINKS)]
    return Digest(level[0].digest)


def _leaf(chunk: Buffer) -> _Node:
    """PBNode { Data: UnixFS { Type, Data: chunk, filesize } }, hashed around the chunk."""
    size = memoryview(chunk).nbytes
    before = b"\x12" + _varint(size) if size else b""
    after = b"\x18" + _varint(size)
    head = b"\x0a" + _varint(len(_FILE) + len(before) + size + len(after)) + _FILE + before
    state = sha256(head)
    state.update(chunk)
    state.update(after)
    return _Node(state.digest(), file_size=size, dag_size=len(head) + size + len(after))


def _parent(children: Sequence[_Node]) -> _Node:
    """PBNode { Links: [PBLink { Hash, Name: "", Tsize }], Data: UnixFS { Type, filesize, blocksizes } }."""
    size = sum(child.file_size for child in children)
    links = [_field(0x0A, _CID_PREFIX + child.digest) + b"\x12\x00\x18" + _varint(child.dag_size) for child in children]
    file = b"".join(
        chain([_FILE, b"\x18", _varint(size)], *((b"\x20", _varint(child.file_size)) for child in children))
    )
    node = b"".join(_field(0x12, link) for link in links) + _field(0x0A, file)
    return _Node(sha256(node).digest(), file_size=size, dag_size=len(node) + sum(child.dag_size for child in children))


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
