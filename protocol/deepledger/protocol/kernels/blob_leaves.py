"""The leaves of large blobs, several at once, by what the CPU does fastest. `blobs.digest` has the plain version."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from deepledger.protocol.kernels.compiling import kernel
from deepledger.protocol.kernels.cores import in_parts
from deepledger.protocol.kernels.sha256 import BY_INSTRUCTIONS, INSTRUCTIONS, WIDE
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

WORTHWHILE: Final = WIDE or INSTRUCTIONS
"""Else hashlib is as fast."""

_HEAD: Final = 10
_compress: Final = compression(_HEAD)
_hashes: Final = hashing(_HEAD)


def leaf_digests(data: memoryview, *, chunk: int, head: bytes, tail: bytes) -> list[bytes]:
    """SHA-256 of head ‖ chunk ‖ tail for the chunks of `data`, of which there are a multiple of sixteen."""
    if len(head) != _HEAD:
        raise ValueError(f"compiled for {_HEAD} bytes before a chunk, not {len(head)}")
    view = np.frombuffer(data.toreadonly(), np.uint8)
    return (_by_instructions if BY_INSTRUCTIONS else _in_lanes)(view, chunk, head, tail)


def _by_instructions(data: Bytes, chunk: int, head: bytes, tail: bytes) -> list[bytes]:
    digests = np.empty((len(data) // chunk, 32), np.uint8)
    around = frame(head, chunk, tail)
    in_parts(
        lambda start, stop: _leaves_by_instructions(data, start, stop, chunk, around, digests), len(digests), step=LANES
    )
    return [digest.tobytes() for digest in digests]


@kernel
def _leaves_by_instructions(data: Bytes, first: int, stop: int, chunk: int, around: Bytes, digests: Bytes) -> None:
    for leaf in range(first, stop, STREAMS):
        _hashes(data, leaf * chunk, chunk, around, digests, leaf * 32)


def _in_lanes(data: Bytes, chunk: int, head: bytes, tail: bytes) -> list[bytes]:
    digests = np.empty((len(data) // chunk, 8), np.uint32)
    around = START, first_carry(head), last_block(_HEAD, chunk, tail)

    def work(start: int, stop: int) -> None:
        _leaves_in_lanes(data, start, stop, chunk, around, np.empty((27, LANES), np.uint32), digests)

    in_parts(work, len(digests), step=LANES)
    return [digest.tobytes() for digest in digests.astype(">u4")]


@kernel
def _leaves_in_lanes(
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
        copy(initial, state)
        copy(head, carry)
        for block in range(leaf * chunk, (leaf + 1) * chunk, 64):
            load(data, block, chunk, message)
            _compress(state, carry, message)
        _compress(state, carry, end)
        copy(state, digests[leaf : leaf + LANES].T)
