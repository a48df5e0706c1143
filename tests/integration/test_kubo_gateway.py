"""Blobs through a real trustless gateway, Kubo's, and in its CAR files: nothing here speaks its RPC but the set-up."""

from __future__ import annotations

import io
import json
import os
from contextlib import closing
from hashlib import shake_128

import pytest
import requests

from deepledger.protocol.blobs import cid_of, digest_from_cid, digest_of, open_store
from deepledger.protocol.blobs.car import CarStore, write_car
from deepledger.protocol.blobs.digest import CHUNK, LINKS
from deepledger.protocol.errors import BlobCorrupt, BlobMissing

pytestmark = pytest.mark.kubo

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, LINKS * CHUNK + 1]


def blobs():
    """Of every shape that a tree has, of random bytes and of one byte again and again, so that pieces are the same."""
    for size in SIZES:
        yield shake_128(b"gateway").digest(size)
        yield bytes(size)


@pytest.fixture(scope="module")
def daemon(kubo):
    """With all of `blobs` in it."""
    with closing(open_store(kubo.api)) as store:
        for data in blobs():
            store.put(data)
    return kubo


@pytest.fixture(params=["CAR", "blocks"])
def gateway(daemon, request):
    store = open_store(daemon.gateway)
    store._has_cars = request.param == "CAR"
    yield store
    store.close()


def test_every_blob_comes_through_a_gateway(gateway):
    for data in blobs():
        buffer = bytearray(len(data))
        gateway.read_into(digest_of(data), buffer)
        assert buffer == data
    assert gateway.read(digest_of(data), limit=len(data)) == data


def test_a_name_that_the_gateway_redirects_to_a_name_below(daemon):
    gateway = daemon.gateway.replace("127.0.0.1", "localhost")
    digest = digest_of(b"\0")
    assert requests.get(f"{gateway}{cid_of(digest)}?format=car", allow_redirects=False).status_code == 301
    with closing(open_store(gateway)) as store:
        assert store.read(digest, limit=1) == b"\0"


def test_longer_or_shorter_than_expected(gateway):
    digest = digest_of(bytes(3 * CHUNK))
    for attempt in (
        lambda: gateway.read(digest, limit=3 * CHUNK - 1),
        lambda: gateway.read_into(digest, bytearray(3 * CHUNK - 1)),
        lambda: gateway.read_into(digest, bytearray(3 * CHUNK + 1)),
    ):
        with pytest.raises(BlobCorrupt, match=f"has {3 * CHUNK} bytes"):
            attempt()


def test_a_blob_nobody_has(gateway):
    with pytest.raises(BlobMissing):
        gateway.read(digest_of(os.urandom(32)), limit=100)


def test_half_a_blob(kubo, gateway):
    data = os.urandom(3 * CHUNK)
    with closing(open_store(kubo.api)) as store:
        digest = store.put(data)
        store.unpin(digest)
    second = json.loads(kubo.rpc(f"dag/get?arg={cid_of(digest)}"))["Links"][1]["Hash"]["/"]
    kubo.rpc(f"block/rm?arg={second}")
    with pytest.raises(BlobMissing, match=second):
        gateway.read(digest, limit=len(data))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--raw-leaves=true"], "leaves are raw"),
        (["--raw-leaves=false", "--chunker=size-65536"], "other sizes"),
        (["--raw-leaves=false", f"--chunker=size-{CHUNK}", "--max-file-links=2"], "other sizes"),
        (["--raw-leaves=false", f"--chunker=size-{CHUNK}", "--trickle"], "other sizes|no part of"),
    ],
)
def test_the_right_bytes_in_another_layout_are_told_with_how_to_add_them(kubo, gateway, options, why):
    data = os.urandom(5 * CHUNK)
    cid = kubo.ipfs("add", "-Q", "--cid-version=1", *options, stdin=data).decode().strip()
    with pytest.raises(BlobCorrupt, match=f"({why}).*ipfs add --cid-version=1") as caught:
        gateway.read(digest_from_cid(cid), limit=len(data))
    assert str(caught.value).isprintable()


def test_kubo_and_we_write_the_same_car(daemon):
    for data in blobs():
        digest, ours = digest_of(data), io.BytesIO()
        write_car(ours, [digest], lambda _, data=data: data)
        assert ours.getvalue() == daemon.ipfs("dag", "export", cid_of(digest))


def test_we_read_kubos_cars(daemon, tmp_path):
    for number, data in enumerate(blobs()):
        file = tmp_path / f"{number}.car"
        file.write_bytes(daemon.ipfs("dag", "export", cid_of(digest_of(data))))
        store = open_store(str(file))
        assert isinstance(store, CarStore)
        assert store.blobs() == [digest_of(data)]
        assert store.read(digest_of(data), limit=len(data)) == data


def test_kubo_imports_our_cars(kubo, tmp_path):
    data = {digest_of(blob): blob for blob in (os.urandom(CHUNK * 2 + 5), bytes(9 * CHUNK), os.urandom(10), b"")}
    with (tmp_path / "ours.car").open("wb") as file:
        write_car(file, list(data), data.__getitem__)
    kubo.ipfs("dag", "import", str(tmp_path / "ours.car"))
    for digest, blob in data.items():
        assert kubo.ipfs("cat", cid_of(digest)) == blob
