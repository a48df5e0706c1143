"""Chunk roots against RFC 9162's own recursive definition; the fast version against the plain one."""

from __future__ import annotations

from hashlib import sha256
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats import roots
from deepledger.protocol.formats.roots import chunk_root, plain_root, tree_hash


def recursive_hash(entries: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word for word."""
    if not entries:
        return sha256().digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return sha256(b"\x01" + recursive_hash(entries[:split]) + recursive_hash(entries[split:])).digest()


@given(data=st.binary(min_size=1, max_size=6000), bits=st.sampled_from([8, 16, 32]))
def test_chunk_root_is_the_rfc_tree_over_chunks(data: bytes, bits: int) -> None:
    size = 32 * bits
    assert chunk_root(data, bits=bits) == recursive_hash([data[i : i + size] for i in range(0, len(data), size)])


@given(entries=st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_tree_hash_is_the_rfc_tree(entries: list[bytes]) -> None:
    assert tree_hash([sha256(b"\x00" + entry).digest() for entry in entries]) == recursive_hash(entries)


SIZES = [1, 255, 1023 * 512, 1024 * 512 - 1, 1024 * 512, 1024 * 512 + 1, 1025 * 512, 2048 * 512, 3 * 1024 * 512 + 777]


@pytest.mark.usefixtures("compiled_hashes")
@pytest.mark.parametrize(("size", "chunk"), list(product([*SIZES, 5 * 1024 * 1024 + 3], [256, 512, 1024])))
def test_the_compiled_root_is_the_plain_root(size: int, chunk: int) -> None:
    data = memoryview(np.random.default_rng(size).bytes(size))
    with patch.object(roots, "FAST_FROM", 0):
        assert chunk_root(data, bits=chunk // 32) == plain_root(data, chunk=chunk)
