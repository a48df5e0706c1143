"""Integers of any number of bits, packed one after the other from the lowest bit on, rounded up to bytes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector

Words = npt.NDArray[np.uint32]

GROUP: Final = 32
"""So many fill whole 32-bit words, whatever their number of bits is: a multiple of it begins a byte."""


def packed_bytes(coordinates: int, bits: int) -> int:
    return -(-coordinates * bits // 8)


def pack(vector: Words, bits: int) -> bytes:
    """The low `bits` of every word, shape (d,), one after the other, the lowest first."""
    groups = -(-len(vector) // GROUP)
    columns = np.zeros((GROUP, groups), np.uint32)  # column c of a group lies at its bit c·bits
    padded = np.zeros(groups * GROUP, np.uint32)
    np.bitwise_and(vector, np.uint32((1 << bits) - 1), out=padded[: len(vector)])
    columns[:] = padded.reshape(groups, GROUP).T
    words = np.zeros((bits, groups), np.uint32)
    for column in range(GROUP):
        word, shift = divmod(column * bits, 32)
        words[word] |= columns[column] << np.uint32(shift)
        if shift + bits > 32:
            words[word + 1] |= columns[column] >> np.uint32(32 - shift)
    return words.T.astype("<u4").tobytes()[: packed_bytes(len(vector), bits)]


def unpack(data: Buffer, bits: int, *, coordinates: int) -> Words:
    """What was packed. Raises `BadVector` for another length than theirs; every such string is a vector."""
    view = memoryview(data).cast("B")
    check_packed(view, bits, coordinates=coordinates)
    groups = -(-coordinates // GROUP)
    whole = np.zeros(groups * 4 * bits, np.uint8)
    whole[: len(view)] = view
    words = np.ascontiguousarray(whole.view("<u4").reshape(groups, bits).T)
    columns = np.empty((GROUP, groups), np.uint32)
    for column in range(GROUP):
        word, shift = divmod(column * bits, 32)
        np.right_shift(words[word], np.uint32(shift), out=columns[column])
        if shift + bits > 32:
            columns[column] |= words[word + 1] << np.uint32(32 - shift)
    columns &= np.uint32((1 << bits) - 1)
    return columns.T.reshape(-1)[:coordinates]


def check_packed(data: memoryview, bits: int, *, coordinates: int) -> None:
    """Raises `BadVector` unless it has the length of a packed vector."""
    if data.nbytes != packed_bytes(coordinates, bits):
        raise BadVector(
            f"expected {packed_bytes(coordinates, bits)} bytes for {coordinates} coordinates of {bits} bits, got "
            f"{data.nbytes}"
        )
