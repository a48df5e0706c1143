"""URLs of blob stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepledger.protocol.blobs import open_store
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.ipfs import IpfsStore
from deepledger.protocol.errors import BadInput


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/var/blobs", "/var/blobs"),
        ("blobs", "blobs"),
        ("./a b%20c", "a b%20c"),
        ("file:///var/blobs", "/var/blobs"),
        ("file://localhost/var/blobs", "/var/blobs"),
        ("file:///a%20b", "/a b"),
        ("file:///ip4/x", "/ip4/x"),
        ("~/blobs", str(Path.home() / "blobs")),
    ],
)
def test_folders(url, path):
    store = open_store(url)
    assert isinstance(store, DirectoryStore)
    assert store.path == Path(path)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("ipfs+http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001/http"),
        ("ipfs+http://127.0.0.1", "/ip4/127.0.0.1/tcp/5001/http"),
        ("ipfs+http://kubo:5002/", "/dns/kubo/tcp/5002/http"),
        ("ipfs+https://kubo:443", "/dns/kubo/tcp/443/https"),
        ("ipfs+http://[::1]:5001", "/ip6/::1/tcp/5001/http"),
        ("/ip4/127.0.0.1/tcp/5001", "/ip4/127.0.0.1/tcp/5001"),
        ("/dns/kubo/tcp/5001/http", "/dns/kubo/tcp/5001/http"),
    ],
)
def test_ipfs(url, api):
    store = open_store(url)
    assert isinstance(store, IpfsStore)
    assert store.api == api
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "\0",
        "http://127.0.0.1:5001",
        "s3://bucket",
        "file://",
        "file:///",
        "file://elsewhere/blobs",
        "ipfs+http://",
        "ipfs+http://:5001",
        "ipfs+http://host:port",
        "ipfs+http://host:99999",
        "ipfs+http://[::1",
        "ipfs+http://host/api/v0",
        "ipfs+http://host?x=1",
        "/ip4/127.0.0.1",
        "/ip4/999.0.0.1/tcp/5001",
        "/ip4/127.0.0.1/udp/5001",
        "ipfs+http://999.0.0.1:5001",
        "ipfs+http://a b:5001",
    ],
)
def test_anything_else_is_refused_in_one_line(url):
    with pytest.raises(BadInput, match="give ") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


def test_a_password_is_not_repeated():
    with pytest.raises(BadInput) as caught:
        open_store("ipfs+http://user:secret@host:5001")
    assert "secret" not in str(caught.value)


def test_ipfshttpclient_is_loaded_only_for_ipfs():
    program = """
import sys
from deepledger.protocol.blobs import open_store
open_store("/tmp/blobs")
assert not {"ipfshttpclient", "requests"} & set(sys.modules)
open_store("ipfs+http://127.0.0.1:5001")
assert "ipfshttpclient" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
