"""Masks: streams of 32-bit words that hide an update, and vectors mod 2^m packed to m bits.

A mask is AES-256 in counter mode from a counter of zero, which hardware does at gigabytes per second, under the key
SHA-256("deepledger: mask" ‖ seed), read as little-endian words. Adding words mod 2^32 adds mod 2^m as well, so that
nothing is cut off before the end. Everything goes block by block, so that it stays in the cache and memory does not
grow with how many masks there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector

Words = npt.NDArray[np.uint32]

BLOCK: Final = 1 << 15
"""Coordinates that are worked on at once; a multiple of `_GROUP`."""

_AES_BLOCK: Final = 16
_ZEROS: Final = bytes(4 * BLOCK)
_GROUP: Final = 32  # coordinates that fill whole 32-bit words, whatever m is


def key_stream(key: bytes, length: int) -> bytes:
    """AES-256 in counter mode from zero: for one use of each 32-byte key."""
    return Cipher(AES(key), CTR(bytes(_AES_BLOCK))).encryptor().update(bytes(length))


def add_masks(total: Words, *, plus: Iterable[bytes], minus: Iterable[bytes] = (), start: int = 0) -> None:
    """Add to `total`, in place, coordinates `start` … of the masks of some seeds, and take away those of others.

    `start` is a multiple of 4.
    """
    signed = [(np.add, _mask_key(seed)) for seed in plus] + [(np.subtract, _mask_key(seed)) for seed in minus]
    buffer = bytearray(4 * min(BLOCK, len(total)) + _AES_BLOCK)
    for first in range(0, len(total), BLOCK):
        part = total[first : first + BLOCK]
        words, zeros = np.frombuffer(buffer, "<u4", len(part)), memoryview(_ZEROS)[: 4 * len(part)]
        counter = ((start + first) * 4 // _AES_BLOCK).to_bytes(_AES_BLOCK)
        for operation, key in signed:
            Cipher(AES(key), CTR(counter)).encryptor().update_into(zeros, buffer)
            operation(part, words, out=part)


def _mask_key(seed: bytes) -> bytes:
    return sha256(b"deepledger: mask" + seed).digest()


def packed_bytes(coordinates: int, bits: int) -> int:
    return -(-coordinates * bits // 8)


def pack(vector: Words, bits: int) -> bytes:
    """The low `bits` of every word, shape (d,), one after the other, the lowest first."""
    groups = -(-len(vector) // _GROUP)
    columns = np.zeros((_GROUP, groups), np.uint32)  # column c of a group lies at its bit c·bits
    padded = np.zeros(groups * _GROUP, np.uint32)
    np.bitwise_and(vector, np.uint32((1 << bits) - 1), out=padded[: len(vector)])
    columns[:] = padded.reshape(groups, _GROUP).T
    words = np.zeros((bits, groups), np.uint32)
    for column in range(_GROUP):
        word, shift = divmod(column * bits, 32)
        words[word] |= columns[column] << np.uint32(shift)
        if shift + bits > 32:
            words[word + 1] |= columns[column] >> np.uint32(32 - shift)
    return words.T.astype("<u4").tobytes()[: packed_bytes(len(vector), bits)]


def unpack(data: Buffer, bits: int, *, coordinates: int) -> Words:
    """What was packed. Raises `BadVector` for another length than theirs; every such string is a vector."""
    view = memoryview(data).cast("B")
    check_packed(view, bits, coordinates=coordinates)
    groups = -(-coordinates // _GROUP)
    whole = np.zeros(groups * 4 * bits, np.uint8)
    whole[: len(view)] = view
    words = np.ascontiguousarray(whole.view("<u4").reshape(groups, bits).T)
    columns = np.empty((_GROUP, groups), np.uint32)
    for column in range(_GROUP):
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
