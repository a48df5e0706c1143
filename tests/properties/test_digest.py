"""A blob's digest does not depend on how its bytes arrive, and is that of the tree as the specifications put it."""

from __future__ import annotations

from hashlib import sha256, shake_128
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepledger.protocol.blobs import RunningDigest, cid_of, digest_from_cid, digest_of
from deepledger.protocol.blobs import digest as module

DATA = memoryview(shake_128(b"any").digest(35 * module.CHUNK))  # long enough for several threads

edges = st.sampled_from(
    [0, 1, 127, 128, module.CHUNK - 1, module.CHUNK, module.CHUNK + 1, 2 * module.CHUNK, 32 * module.CHUNK]
)
sizes = st.one_of(edges, st.integers(0, len(DATA)))


@settings(max_examples=60)
@given(size=sizes, cuts=st.lists(st.one_of(edges, st.integers(0, len(DATA))), max_size=8))
def test_pieces_and_whole_have_one_digest(size, cuts):
    bounds = [0, *sorted(min(cut, size) for cut in cuts), size]
    running = RunningDigest()
    for start, end in pairwise(bounds):
        running.update(DATA[start:end])
    assert running.digest() == digest_of(DATA[:size])


@settings(max_examples=60)
@given(size=sizes)
def test_the_digest_is_that_of_the_plain_tree(size):
    assert digest_of(DATA[:size]) == plain_digest(DATA[:size])


@pytest.mark.usefixtures("compiled_hashes")
@settings(max_examples=30)
@given(size=sizes)
def test_the_compiled_digest_is_that_of_the_plain_tree(size):
    from deepledger.protocol.kernels.blob_leaves import leaf_digests

    with patch.multiple(module, FAST_FROM=16 * module.CHUNK, _fast=lambda: leaf_digests):
        assert digest_of(DATA[:size]) == plain_digest(DATA[:size])


@given(digest=st.binary(min_size=32, max_size=32))
def test_every_digest_has_one_cid(digest):
    assert digest_from_cid(cid_of(digest)) == digest


def plain_digest(data):
    """The root's digest, with every node put together as a whole; UnixFS calls its fields 1 to 4 Type, Data, filesize
    and blocksizes.
    """
    nodes = [(leaf(data[start : start + module.CHUNK])) for start in range(0, max(len(data), 1), module.CHUNK)]
    while len(nodes) > 1:
        nodes = [inner(nodes[start : start + module.LINKS]) for start in range(0, len(nodes), module.LINKS)]
    return nodes[0][0]


def leaf(chunk):
    content = field(2, bytes(chunk)) if len(chunk) else b""
    return node(field(1, 2) + content + field(3, len(chunk)), [], len(chunk))


def inner(children):
    sizes = [length for _, _, length in children]
    return node(field(1, 2) + field(3, sum(sizes)) + b"".join(field(4, size) for size in sizes), children, sum(sizes))


def node(file, children, length):
    """Digest, size with everything below, length of the data below; dag-pb puts the links first."""
    encoded = b"".join(
        field(2, field(1, b"\x01\x70\x12\x20" + digest) + field(2, b"") + field(3, size))
        for digest, size, _ in children
    ) + field(1, file)
    return sha256(encoded).digest(), len(encoded) + sum(size for _, size, _ in children), length


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number):
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)
