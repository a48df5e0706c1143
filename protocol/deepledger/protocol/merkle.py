"""Chunk roots: RFC 9162 Merkle tree hashes over a vector, so that one chunk can be checked without the rest.

leaf = SHA-256(0x00 ‖ chunk), inner node = SHA-256(0x01 ‖ left ‖ right). This is the plain version; large vectors go
through `merkle_fast`, which is tested against it.
"""

from __future__ import annotations

from hashlib import sha256

from typing_extensions import Buffer

from deepledger.protocol.types import Root

CHUNK_COORDINATES = 256


def chunk_root(data: Buffer, *, bits: int) -> Root:
    """Root over chunks of 256 coordinates of `bits` bits. `data` is not copied and not empty."""
    view = memoryview(data).cast("B")
    size = CHUNK_COORDINATES * bits // 8
    return tree_hash([_leaf(view[start : start + size]) for start in range(0, len(view), size)])


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


def _leaf(chunk: memoryview) -> bytes:
    leaf = sha256(b"\x00")
    leaf.update(chunk)
    return leaf.digest()
