"""The leaves of large blobs, sixteen at once. `digest` is the plain version."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.cores import in_parts
from deepledger.protocol.kernels.sha256_lanes import (
    LANES,
    START,
    WIDE,
    Words,
    compression,
    first_carry,
    last_block,
    load,
)

WORTHWHILE = WIDE
"""Else hashlib is faster, which uses the CPU's instructions for SHA-256."""

_HEAD = 10
_compress = compression(_HEAD)


def leaf_digests(data: memoryview, *, chunk: int, head: bytes, tail: bytes) -> list[bytes]:
    """SHA-256 of head ‖ chunk ‖ tail for the chunks of `data`, of which there are a multiple of sixteen."""
    if len(head) != _HEAD:
        raise ValueError(f"compiled for {_HEAD} bytes before a chunk, not {len(head)}")
    view = np.frombuffer(data.toreadonly(), np.uint8)
    digests = np.empty((len(view) // chunk, 8), np.uint32)
    frame = START, first_carry(head), last_block(_HEAD, chunk, tail)

    def work(start: int, stop: int) -> None:
        _leaves(view, start, stop, chunk, frame, np.empty((27, LANES), np.uint32), digests)

    in_parts(work, len(digests), step=LANES)
    return [digest.tobytes() for digest in digests.astype(">u4")]


@kernel
def _leaves(
    data: npt.NDArray[np.uint8],
    first: int,
    stop: int,
    chunk: int,
    frame: tuple[Words, Words, Words],
    scratch: Words,
    digests: Words,
) -> None:
    initial, head, end = frame
    state, carry, message = scratch[:8], scratch[8:11], scratch[11:]
    for leaf in range(first, stop, LANES):
        state[:] = initial
        carry[:] = head
        for block in range(leaf * chunk, (leaf + 1) * chunk, 64):
            load(data, block, chunk, message)
            _compress(state, carry, message)
        _compress(state, carry, end)
        digests[leaf : leaf + LANES] = state.T
