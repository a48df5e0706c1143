"""Two Kubo daemons that are peers: a participant adds to one, the coordinator reads from the other over bitswap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.errors import BlobMissing, StoreUnreachable

pytestmark = pytest.mark.kubo
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, kubo_binary: str) -> Iterator[tuple[object, object]]:
    from kubo_daemon import run_kubo

    folder = tmp_path_factory.mktemp("peers")
    with (
        run_kubo(folder / "participant", binary=kubo_binary, swarm=True) as near,
        run_kubo(folder / "coordinator", binary=kubo_binary, swarm=True) as far,
    ):
        far.connect(near)
        yield near, far


@pytest.fixture
def connected(peers):
    near, far = peers
    far.connect(near)
    return near, far


def blob(seed: int, size: int = 3 * MEBIBYTE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def has(daemon, digest) -> bool:
    """Whether the blob's root is in the daemon's own repository."""
    try:
        daemon.ipfs("block", "stat", "--offline", cid_of(digest))
    except RuntimeError:
        return False
    return True


def test_daemons_know_nobody_but_each_other(connected):
    for daemon in connected:
        listed = json.loads(daemon.rpc("swarm/peers"))["Peers"]
        assert [peer["Addr"].split("/")[2] for peer in listed] == ["127.0.0.1"]


def test_a_blob_comes_over_bitswap_and_is_pinned_where_it_is_kept(connected):
    near, far = connected
    data = blob(1)
    digest = open_store(near.api).put(data)
    reading = open_store(far.api)
    assert not has(far, digest)
    assert reading.read(digest, limit=len(data)) == data
    reading.pin(digest)
    far.ipfs("repo", "gc")
    near.stop()
    try:
        assert reading.read(digest, limit=len(data)) == data, "the participant has gone"
    finally:
        near.start()


def test_a_store_that_does_not_fetch_serves_only_what_its_daemon_has(connected):
    near, far = connected
    digest = open_store(near.api).put(b"blob")
    here = open_store(far.api, fetches=False)
    with pytest.raises(BlobMissing):
        here.read(digest, limit=4)
    assert not has(far, digest)
    open_store(far.api).read(digest, limit=4)
    assert here.read(digest, limit=4) == b"blob"


def test_collecting_garbage_takes_what_is_not_pinned_and_nothing_else(connected):
    near, far = connected
    store = open_store(near.api)
    kept, let_go = store.put(blob(2)), store.put(blob(3))
    store.unpin(let_go)
    near.ipfs("repo", "gc")
    assert has(near, kept)
    assert not has(near, let_go)
    far.ipfs("repo", "gc")
    with pytest.raises(BlobMissing, match="is connected to 1"):
        open_store(far.api, fetch_timeout=2).read(let_go, limit=3 * MEBIBYTE)


def test_a_blob_that_only_an_offline_peer_has_is_missing_until_it_is_back(connected):
    near, far = connected
    data = blob(4)
    digest = open_store(near.api).put(data)
    near.stop()
    try:
        with pytest.raises(BlobMissing, match="is connected to 0"):
            open_store(far.api, fetch_timeout=2).read(digest, limit=len(data))
    finally:
        near.start()
    far.connect(near)
    assert open_store(far.api).read(digest, limit=len(data)) == data


@pytest.mark.parametrize("kill", [False, True])
def test_a_daemon_that_was_stopped_or_killed_has_what_it_had(connected, kill):
    near, _ = connected
    store = open_store(near.api)
    data = blob(5 + kill)
    digest = store.put(data)
    near.stop(kill=kill)
    with pytest.raises(StoreUnreachable):
        store.read(digest, limit=len(data))
    near.start()
    assert store.read(digest, limit=len(data)) == data, "the same store, once the daemon is back"


def test_large_blobs_stream_with_bounded_memory(connected, tmp_path: Path):
    near, far = connected
    size = 100 * MEBIBYTE
    file = tmp_path / "blob"
    data = np.memmap(file, np.uint8, "w+", shape=size)
    data[:] = np.random.default_rng(7).integers(0, 256, size, np.uint8)
    into = np.memmap(tmp_path / "copy", np.uint8, "w+", shape=size)
    digest_of(data)  # loads compiled loops, once
    before = anonymous_memory()
    peak = Peak()
    with peak:
        digest = open_store(near.api).put(data)
        open_store(far.api).read_into(digest, into)
    assert np.array_equal(data, into)
    assert peak.value - before < 10 * MEBIBYTE


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


class Peak:
    """The greatest `anonymous_memory` seen by a thread that keeps looking."""

    def __enter__(self) -> Peak:
        import threading

        self.value, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.value = max(self.value, anonymous_memory())
