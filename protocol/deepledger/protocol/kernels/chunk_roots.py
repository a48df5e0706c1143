"""Subtrees of chunk roots, several leaves or inner nodes at once, by what the CPU does fastest. `formats.roots` has the
plain version.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.cores import in_parts
from deepledger.protocol.kernels.sha256 import BY_INSTRUCTIONS
from deepledger.protocol.kernels.sha256_instructions import STREAMS, Bytes, frame, hashing
from deepledger.protocol.kernels.sha256_lanes import (
    LANES,
    START,
    Words,
    compression,
    copy,
    first_carry,
    last_block,
    load,
)

SUBTREE: Final = 1024
"""Leaves that are hashed before their inner nodes are: a power of two, so that they are a whole subtree. Its hashes
stay in the cache, and memory does not grow with the vector."""

_LEAF: Final = first_carry(b"\x00")
_INNER: Final = first_carry(b"\x01")
_AFTER_CHILDREN: Final = last_block(1, 64)
_compress: Final = compression(1)
_hashes: Final = hashing(1)


def subtree_roots(data: memoryview, *, chunk: int) -> list[bytes]:
    """Tree hashes of every `SUBTREE` chunks of `data`, plain bytes, without the rest. `chunk`: bytes in one, a multiple
    of 64.
    """
    whole = len(data) // (SUBTREE * chunk)
    view = np.frombuffer(data.toreadonly(), np.uint8)  # one type to compile for
    return (_by_instructions if BY_INSTRUCTIONS else _in_lanes)(view, whole, chunk)


def _by_instructions(data: Bytes, whole: int, chunk: int) -> list[bytes]:
    roots = np.empty((whole, 32), np.uint8)
    leaf, inner = frame(b"\x00", chunk), frame(b"\x01", 64)

    def work(start: int, stop: int) -> None:
        _subtrees_by_instructions(data, start, stop, chunk, leaf, inner, np.empty(32 * SUBTREE, np.uint8), roots)

    in_parts(work, whole, step=1)
    return [root.tobytes() for root in roots]


@kernel
def _subtrees_by_instructions(
    data: Bytes, first: int, stop: int, chunk: int, leaf: Bytes, inner: Bytes, level: Bytes, roots: Bytes
) -> None:
    """Roots of the subtrees `first` … `stop`. Each level takes the place of the one below; a last node alone is hashed
    with what nobody reads.
    """
    for tree in range(first, stop):
        for node in range(0, SUBTREE, STREAMS):
            _hashes(data, (tree * SUBTREE + node) * chunk, chunk, leaf, level, 32 * node)
        width = SUBTREE
        while width > 1:
            width //= 2
            for node in range(0, width, STREAMS):
                _hashes(level, 64 * node, 64, inner, level, 32 * node)
        for i in range(32):
            roots[tree, i] = level[i]


def _in_lanes(data: Bytes, whole: int, chunk: int) -> list[bytes]:
    roots = np.empty((whole, 8), np.uint32)
    frame = START, _LEAF, last_block(1, chunk), _INNER, _AFTER_CHILDREN

    def work(start: int, stop: int) -> None:
        _subtrees_in_lanes(data, start, stop, chunk, frame, np.empty((25, LANES), np.uint32), _level(), _level(), roots)

    in_parts(work, whole, step=1)
    return [root.tobytes() for root in roots.astype(">u4")]


def _level() -> Words:
    return np.zeros((8, SUBTREE), np.uint32)


@kernel
def _subtrees_in_lanes(
    data: npt.NDArray[np.uint8],
    first: int,
    stop: int,
    chunk: int,
    frame: tuple[Words, Words, Words, Words, Words],
    scratch: Words,
    level: Words,
    above: Words,
    roots: Words,
) -> None:
    """Roots of the subtrees `first` … `stop`. Lanes beyond a level's width compute what nobody reads."""
    initial, leaf_head, after_chunk, inner_head, after_children = frame
    state, carry, message = scratch[:8], scratch[8:9], scratch[9:]
    for tree in range(first, stop):
        for leaf in range(0, SUBTREE, LANES):
            start = (tree * SUBTREE + leaf) * chunk
            copy(initial, state)
            copy(leaf_head, carry)
            for block in range(0, chunk, 64):
                load(data, start + block, chunk, message)
                _compress(state, carry, message)
            _compress(state, carry, after_chunk)
            copy(state, level[:, leaf : leaf + LANES])
        width = SUBTREE
        while width > 1:
            width //= 2
            for node in range(0, width, LANES):
                lanes = min(LANES, width - node)
                for word in range(8):
                    for lane in range(lanes):
                        message[word, lane] = level[word, 2 * (node + lane)]
                        message[word + 8, lane] = level[word, 2 * (node + lane) + 1]
                copy(initial, state)
                copy(inner_head, carry)
                _compress(state, carry, message)
                _compress(state, carry, after_children)
                copy(state, above[:, node : node + LANES])
            level, above = above, level
        for word in range(8):
            roots[tree, word] = level[word, 0]
