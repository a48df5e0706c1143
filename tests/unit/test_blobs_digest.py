"""Digests against what Kubo 0.43 said; tests/integration/test_kubo.py asks it again."""

from __future__ import annotations

from hashlib import shake_128

import numpy as np
import pytest

from deepledger.protocol.blobs import RunningDigest, cid_of, digest_from_cid, digest_of
from deepledger.protocol.blobs.digest import CHUNK, LINKS, byte_view
from deepledger.protocol.errors import BadInput

# ipfs add -Q --cid-version=1 --raw-leaves=false --chunker=size-262144, of the first bytes of SHAKE128("deepledger")
KNOWN = {
    0: "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y",
    1: "bafybeihyez3qptodpykilrvev35onqpbus5b3fgh3stiban4cvrieh34pm",
    CHUNK - 1: "bafybeicf375tm6sgxu2rw4ij4tfqbk7eytodqdih6fuqvplfur6en5qhfm",
    CHUNK: "bafybeigywoauek2mgbsljxmfxgrwccul44zdblbttva3tjjdeolkhh5gya",
    CHUNK + 1: "bafybeiapcski6mqys6h5yriszwlcvevtr7627jc5ryvfvg7py46i6dveke",
    2 * CHUNK: "bafybeighuasdli4rxrjnotfd6dkdvhr4amsxqsv7gegl2ikchylom5nj64",
    LINKS * CHUNK: "bafybeiea4m42esswbzwlp53xwwv2ym2p3qlhahia27l7krfdyakbojvg5m",
    LINKS * CHUNK + 1: "bafybeieuzqc43s2bzywrqozcs6npwu5gu4z62i7eun4iuu2tcl3idokte4",
}


@pytest.mark.parametrize("size", KNOWN)
def test_digests_are_those_of_kubo(size):
    data = shake_128(b"deepledger").digest(size)
    assert cid_of(digest_of(data)) == KNOWN[size]
    running = RunningDigest()
    for start in range(0, size, 100_000):
        running.update(data[start : start + 100_000])
    assert cid_of(running.digest()) == KNOWN[size]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (5,), (20, 7)])
def test_an_array_is_its_bytes(shape):
    array = np.full(shape, 7, np.int32)
    assert digest_of(array) == digest_of(array.tobytes())
    assert bytes(byte_view(array)) == array.tobytes()


def test_the_array_is_seen_and_not_copied():
    array = np.zeros(4, np.int32)
    view = byte_view(array)
    array[0] = 1
    assert view[0] == 1


def test_a_running_digest_may_be_asked_midway():
    running = RunningDigest()
    assert running.digest() == digest_of(b"")
    running.update(b"one")
    assert running.digest() == digest_of(b"one")
    running.update(b"two")
    assert running.digest() == digest_of(b"onetwo")


EMPTY = cid_of(digest_of(b""))


def test_a_cid_and_its_digest_are_one():
    digest = digest_of(b"deepledger")
    assert cid_of(digest).startswith("bafybei")
    assert len(cid_of(digest)) == 59
    assert digest_from_cid(cid_of(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafybei",
        KNOWN[0].upper(),
        KNOWN[0] + "a",
        KNOWN[0][:-1] + "z",  # the same bytes with a stray bit in the padding
        KNOWN[0].replace("y", "1"),
        " " + KNOWN[0],
        KNOWN[0] + "\n",
        "é" * 59,
        "Qm" + "0" * 44,
    ],
)
def test_other_cids_are_refused(text):
    with pytest.raises(BadInput, match="59 characters"):
        digest_from_cid(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
            f"CIDv0.* {EMPTY}.* larger one with `ipfs add --cid-version=1",
        ),
        (
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "raw leaf, as Helia.* add the file with `ipfs add",
        ),
        (digest_of(b"").hex(), f"a digest, whose CID is {EMPTY}"),
        ("0x" + digest_of(b"").hex(), f"a digest, whose CID is {EMPTY}"),
    ],
)
def test_cids_that_others_make_are_told_with_what_to_do(text, says):
    with pytest.raises(BadInput, match=says):
        digest_from_cid(text)


def test_a_digest_has_32_bytes():
    with pytest.raises(ValueError, match="32 bytes"):
        cid_of(b"short")
