"""Masks: streams of 32-bit words that hide an update.

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
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from deepledger.protocol.formats.packing import Words

BLOCK: Final = 1 << 15
"""Coordinates that are worked on at once."""

_AES_BLOCK: Final = 16
_ZEROS: Final = bytes(4 * BLOCK)


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
