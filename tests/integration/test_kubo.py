"""IPFS through a real Kubo daemon, and its CIDs beside ours."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import shake_128

import numpy as np
import psutil
import pytest
from kubo_daemon import run_kubo

from deepledger.coordinator.verify import Verifier
from deepledger.protocol.blobs import cid_of, digest_from_cid, digest_of, open_store
from deepledger.protocol.blobs import digest as digest_module
from deepledger.protocol.blobs.digest import CHUNK, LINKS
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobMissing, StoreUnreachable
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.inputs import Contribution

pytestmark = pytest.mark.kubo

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, LINKS * CHUNK, LINKS * CHUNK + 1]
ADD = ["add", "-Q", "--cid-version=1", "--raw-leaves=false", f"--chunker=size-{CHUNK}"]


@pytest.fixture
def store(kubo):
    store = open_store(kubo.api, timeout=20, fetch_timeout=20)
    yield store
    store.close()


def is_pinned(kubo, digest):
    return cid_of(digest) in json.loads(kubo.rpc("pin/ls?type=recursive"))["Keys"]


@pytest.mark.parametrize("size", SIZES)
def test_what_we_put_kubo_has_under_our_cid(kubo, store, size):
    data = shake_128(b"put").digest(size)
    digest = store.put(data)
    assert digest == digest_of(data)
    assert kubo.ipfs("cat", cid_of(digest)) == data
    assert is_pinned(kubo, digest)


@pytest.mark.parametrize("size", SIZES)
def test_what_kubo_added_we_read_under_its_cid(kubo, store, size):
    data = shake_128(b"add").digest(size)
    digest = digest_of(data)
    assert kubo.ipfs(*ADD, stdin=data).decode().strip() == cid_of(digest)
    buffer = bytearray(size)
    store.read_into(digest, buffer)
    assert buffer == data
    assert store.read(digest, limit=size) == data


def test_a_daemon_with_authorizations_takes_its_credentials(tmp_path, kubo_binary):
    with run_kubo(tmp_path, binary=kubo_binary) as daemon:
        allowed = {"ann": {"AuthSecret": "basic:ann:sesame", "AllowedPaths": ["/api/v0"]}}
        daemon.ipfs("config", "--json", "API.Authorizations", json.dumps(allowed))
        daemon.stop()
        daemon.start()
        for credentials, mend in ((None, "name a file"), ("basic:ann:wrong", "correct the file")):
            store = open_store(daemon.api, credentials=credentials)
            with closing(store), pytest.raises(StoreUnreachable, match=mend):
                store.put(b"blob")
        with closing(open_store(daemon.api, credentials="basic:ann:sesame")) as store:
            assert store.read(store.put(b"blob"), limit=4) == b"blob"


@pytest.mark.parametrize("leaves", [4, 5, 8, 9, 27])
def test_deep_trees_have_kubos_shape(kubo, monkeypatch, leaves):
    """Three levels take 7.4 GiB at 174 links, so count in twos."""
    monkeypatch.setattr(digest_module, "LINKS", 2)
    data = os.urandom(leaves * CHUNK - 5)
    assert kubo.ipfs(*ADD, "--max-file-links=2", stdin=data).decode().strip() == cid_of(digest_of(data))


def test_a_daemons_settings_do_not_change_the_cid(kubo, store):
    changed = {"Import.UnixFSFileMaxLinks": 2, "Import.UnixFSRawLeaves": True, "Import.UnixFSChunker": "size-1024"}
    data = os.urandom(3 * CHUNK)
    try:
        for key, value in changed.items():
            kubo.ipfs("config", "--json", key, json.dumps(value))
        assert store.put(data) == digest_of(data)
    finally:
        for key in changed:
            kubo.ipfs("config", "--json", key, "null")


def test_an_array_goes_and_comes_without_detour(store):
    array = np.arange(300_000, dtype="<i4").reshape(3, -1)
    back = np.zeros_like(array)
    store.read_into(store.put(array), back)
    assert np.array_equal(array, back)


def test_a_blob_nobody_has(store):
    nobodys = digest_of(os.urandom(32))
    for attempt in (
        lambda: store.read(nobodys, limit=100),
        lambda: store.read_into(nobodys, bytearray(100)),
        lambda: store.pin(nobodys),
    ):
        with pytest.raises(BlobMissing, match=cid_of(nobodys)) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_half_a_blob(kubo, store):
    data = os.urandom(3 * CHUNK)
    digest = store.put(data)
    second = json.loads(kubo.rpc(f"dag/get?arg={cid_of(digest)}"))["Links"][1]["Hash"]["/"]
    store.unpin(digest)
    kubo.rpc(f"block/rm?arg={second}")
    with pytest.raises(BlobMissing):
        store.read_into(digest, bytearray(len(data)))
    with pytest.raises(BlobMissing):
        store.read(digest, limit=len(data))


def test_longer_or_shorter_than_expected(store):
    digest = store.put(bytes(1000))
    for attempt in (
        lambda: store.read(digest, limit=999),
        lambda: store.read_into(digest, bytearray(999)),
        lambda: store.read_into(digest, bytearray(1001)),
        lambda: store.read_into(digest, b""[:0]),
    ):
        with pytest.raises(BlobCorrupt):
            attempt()


@pytest.mark.parametrize("option", ["--raw-leaves=true", "--trickle", "--max-file-links=2"])
def test_the_right_bytes_in_another_layout_are_another_blob(kubo, store, option):
    data = os.urandom(3 * CHUNK)
    add = [setting for setting in ADD if setting.split("=")[0] not in option]
    cid = kubo.ipfs(*add, option, stdin=data).decode().strip()
    digest = digest_from_cid(cid)
    with pytest.raises(BlobCorrupt, match=r"other bytes|laid out otherwise than ours: .*ipfs add --cid-version=1"):
        store.read(digest, limit=len(data))


@pytest.mark.parametrize("size", [1, CHUNK + 1])
def test_a_cid_that_kubo_makes_unasked_is_told_with_ours(kubo, size):
    data = os.urandom(size)
    cid = kubo.ipfs("add", "-Q", stdin=data).decode().strip()
    assert cid.startswith("Qm")
    with pytest.raises(BadInput, match="CIDv0") as caught:
        digest_from_cid(cid)
    assert (cid_of(digest_of(data)) in str(caught.value)) is (size <= CHUNK)
    cid = kubo.ipfs("add", "-Q", "--cid-version=1", stdin=data[:1]).decode().strip()
    with pytest.raises(BadInput, match=r"raw leaf.*Helia.*add the file with `ipfs add "):
        digest_from_cid(cid)


def test_a_file_that_was_added_otherwise_is_told_from_a_lie(kubo, store):
    data = os.urandom(3 * CHUNK)
    for options, why in (
        (["--raw-leaves=true"], "leaves are raw"),
        (["--raw-leaves=false", "--chunker=size-65536"], "other sizes"),
    ):
        cid = kubo.ipfs("add", "-Q", "--cid-version=1", *options, stdin=data).decode().strip()
        with pytest.raises(BlobCorrupt, match=f"{why}.*ipfs add --cid-version=1"):
            store.read(digest_from_cid(cid), limit=len(data))


def test_a_folder_is_no_blob(kubo, store, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    cid = kubo.ipfs("add", "-Qr", "--cid-version=1", str(tmp_path)).decode().strip()
    digest = digest_from_cid(cid)
    with pytest.raises(BlobMissing, match="directory"):
        store.read(digest, limit=1000)


def test_pin_and_unpin(kubo, store):
    digest = store.put(os.urandom(CHUNK + 1))
    store.unpin(digest)
    assert not is_pinned(kubo, digest)
    store.unpin(digest)
    store.unpin(digest_of(os.urandom(32)))
    store.pin(digest)
    store.pin(digest)
    assert is_pinned(kubo, digest)


def test_one_store_serves_several_threads(store):
    blobs = [os.urandom(300_000 + number) for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(store.put, blobs))
        assert list(threads.map(lambda digest: store.read(digest, limit=400_000), digests)) == blobs


def test_one_thread_keeps_to_one_connection(kubo, store):
    def connections():
        return {
            found.laddr.port
            for found in psutil.Process().net_connections("tcp")
            if found.raddr and found.raddr.port == kubo.port
        }

    before = connections()
    for number in range(5):
        store.read(store.put(os.urandom(10_000 + number)), limit=20_000)
    assert len(connections() - before) == 1


def test_an_update_is_had_in_time_while_the_daemon_looks_for_what_is_nowhere(kubo, spec_of):
    """It does so for a minute: longer than a coordinator waits."""
    spec, patience = spec_of(coordinates=500_000), 20.0
    update = np.ones(spec.model.coordinates, "<i2")
    end = time.monotonic() + patience
    with closing(open_store(kubo.api)) as store:
        verifier = Verifier(
            store,
            spec,
            too_late=lambda _: time.monotonic() >= end,
            warn=lambda _: None,
            stop=threading.Event(),
            patience=patience,
        )
        reveals = [Contribution(f"0x{seat:040x}", seat, 1, os.urandom(32), bytes(32), None) for seat in range(63)]
        reveals.append(Contribution(f"0x{63:040x}", 63, 1, store.put(update), chunk_root(update, bits=16), None))
        for each in reveals:
            verifier.expect(each)
        found = [verifier.fetch(each) for each in reversed(reveals)]
        verifier.keep()
        verifier.close()
        assert is_pinned(kubo, reveals[-1].digest)
    assert not isinstance(found[0], Verdict), found[0]
    assert found[1:] == [Verdict.UNAVAILABLE] * 63
