"""Blobs in a real Kubo daemon: the digests computed here are its CIDs, whatever the size."""

import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from deepledger.protocol.blobs import cid_of, digest_of, open_store
from deepledger.protocol.errors import BlobCorrupt, BlobError, BlobMissing

BINARY = Path(__file__).resolve().parents[1] / "services/bin/ipfs"
CHUNK = 262144
pytestmark = pytest.mark.kubo


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def kubo(tmp_path_factory):
    """A private daemon on loopback; gives (store URL, environment)."""
    if not BINARY.exists():
        if os.environ.get("DEEPLEDGER_REQUIRE_SERVICES") == "1":
            pytest.fail("Kubo is required; run tests/services/kubo/install-kubo.sh")
        pytest.skip("Kubo is not installed (tests/services/kubo/install-kubo.sh)")
    env = os.environ | {"IPFS_PATH": str(tmp_path_factory.mktemp("ipfs"))}

    def ipfs(*arguments):
        subprocess.run([BINARY, *arguments], env=env, check=True, capture_output=True)

    port = free_port()
    ipfs("init", "--profile=test")
    ipfs("config", "--json", "AutoConf.Enabled", "false")
    ipfs("config", "--json", "Bootstrap", "[]")
    ipfs("config", "--json", "Addresses.Swarm", "[]")
    ipfs("config", "Addresses.API", f"/ip4/127.0.0.1/tcp/{port}")
    ipfs("config", "Addresses.Gateway", f"/ip4/127.0.0.1/tcp/{free_port()}")
    with (tmp_path_factory.mktemp("log") / "kubo.log").open("w+") as log:
        daemon = subprocess.Popen([BINARY, "daemon", "--offline"], env=env, stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v0/version", method="POST")
                    urllib.request.urlopen(request, timeout=2).close()
                    break
                except OSError:
                    assert daemon.poll() is None, (log.seek(0), log.read())
                    time.sleep(0.1)
            yield f"ipfs+http://127.0.0.1:{port}", env
        finally:
            daemon.terminate()
            daemon.wait(30)


@pytest.mark.parametrize(
    "size", [0, 1, 255, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 174 * CHUNK, 174 * CHUNK + 1, 175 * CHUNK + 5]
)
def test_digests_are_kubos_cids(kubo, size, tmp_path):
    url, env = kubo
    data = np.random.default_rng(size).bytes(size)
    store = open_store(url)
    digest = store.put(data)
    assert digest == digest_of(data)
    path = tmp_path / "blob"
    path.write_bytes(data)
    added = subprocess.run(
        [BINARY, "add", "-Q", "--only-hash", "--cid-version=1", "--raw-leaves=false", "--chunker=size-262144", path],
        env=env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert added.stdout.strip() == cid_of(digest)
    buffer = bytearray(size)
    store.read_into(digest, buffer)
    assert buffer == data


def test_what_is_not_there_or_has_another_length(kubo):
    store = open_store(kubo[0], fetch_timeout=2)
    with pytest.raises(BlobMissing):
        store.read_into(digest_of(b"nobody has this"), bytearray(15))
    digest = store.put(b"twelve bytes")
    with pytest.raises(BlobCorrupt):
        store.read_into(digest, bytearray(11))
    with pytest.raises(BlobCorrupt):
        store.read_into(digest, bytearray(13))
    with pytest.raises(BlobCorrupt):
        store.read(digest, limit=5)


def test_a_daemon_that_is_down_or_hangs_or_talks_nonsense():
    with pytest.raises(BlobError) as down:
        open_store(f"ipfs+http://127.0.0.1:{free_port()}").put(b"x")
    assert "\n" not in str(down.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ipfs+http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BlobError):
            open_store(url, timeout=1, fetch_timeout=1).put(b"x")
        with pytest.raises(BlobError):
            open_store(url, timeout=1, fetch_timeout=1).read(digest_of(b"x"), limit=10)
