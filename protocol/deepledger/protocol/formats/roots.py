"""Chunk roots: RFC 9162 Merkle tree hashes over a vector, so that one chunk can be checked without the rest.

leaf = SHA-256(0x00 ‖ chunk), inner node = SHA-256(0x01 ‖ left ‖ right). This is the plain version; large vectors go
through `kernels.chunk_roots`, which is tested against it.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from types import ModuleType

from typing_extensions import Buffer

from deepledger.protocol.types import Root

CHUNK_COORDINATES = 256

FAST_FROM = 1 << 23
"""Bytes from which `kernels.chunk_roots` is worth its import: below, this version takes milliseconds."""


def chunk_root(data: Buffer, *, bits: int) -> Root:
    """Root over chunks of 256 coordinates of `bits` bits. `data` is not copied and not empty."""
    view = memoryview(data).cast("B")
    size = CHUNK_COORDINATES * bits // 8
    if len(view) < FAST_FROM or not (fast := _fast()):
        return plain_root(view, chunk=size)
    subtrees: list[bytes] = fast.subtree_roots(view, chunk=size)
    rest = view[len(subtrees) * fast.SUBTREE * size :]
    return tree_hash([*subtrees, plain_root(rest, chunk=size)] if rest else subtrees)


def plain_root(data: memoryview, *, chunk: int) -> Root:
    return tree_hash([hash_leaf(data[start : start + chunk]) for start in range(0, len(data), chunk)])


def tree_hash(nodes: list[bytes]) -> Root:
    """Combine leaf hashes (at least one) pairwise, level by level; an odd last node moves up unchanged.

    This is the tree of RFC 9162 section 2.1.1: the left subtree of n leaves has the largest power of two below n.
    """
    while len(nodes) > 1:
        odd = nodes[-1:] if len(nodes) % 2 else []
        nodes = [
            sha256(b"\x01" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=False)
        ] + odd
    return Root(nodes[0])


def hash_leaf(chunk: memoryview) -> bytes:
    return sha256(b"\x00" + chunk).digest()


@cache
def _fast() -> ModuleType | None:
    try:
        from deepledger.protocol.kernels import chunk_roots
    except ImportError:  # an auditor's install has no numba
        return None
    return chunk_roots
