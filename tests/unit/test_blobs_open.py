"""URLs of blob stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deepledger.protocol.blobs import open_store
from deepledger.protocol.blobs.car import CarStore
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.blobs.gateway import GatewayStore
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
        "http://",
        "https://user:secret@host/ipfs",
        "https://host/ipfs?x=1",
        "https://host:port/ipfs",
        "http://[::1",
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


@pytest.mark.parametrize(
    ("url", "behind"),
    [
        ("https://gateway.example", "https://gateway.example/ipfs"),
        ("https://gateway.example/ipfs/", "https://gateway.example/ipfs"),
        ("http://127.0.0.1:8000/blobs", "http://127.0.0.1:8000/blobs"),
        ("http://[::1]:8000/blobs", "http://[::1]:8000/blobs"),
    ],
)
def test_gateways(url, behind):
    store = open_store(url)
    assert isinstance(store, GatewayStore)
    assert store.url == behind
    store.close()


def test_car_files(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    (tmp_path / "folder.car").mkdir()
    for path in (tmp_path / "run", tmp_path / "not there.car"):
        assert isinstance(open_store(str(path)), CarStore)
    assert isinstance(open_store(str(tmp_path / "folder.car")), DirectoryStore)


def test_kubos_own_port_is_taken_for_what_it_is():
    with pytest.raises(BadInput, match=r"give ipfs\+http://127.0.0.1:5001"):
        open_store("http://127.0.0.1:5001")


def test_credentials_go_to_the_daemon_that_they_are_for(monkeypatch):
    given = {}
    monkeypatch.setattr(
        "deepledger.protocol.blobs.ipfs.authorization_of", lambda credentials: given.setdefault(credentials, "x")
    )
    near, far = "ipfs+http://near:5001", "/dns/far/tcp/5001/http"
    for urls, credentials, expected in (
        ([near], "bearer:one", ["bearer:one"]),
        ([near, "https://gateway.example"], "bearer:one", ["bearer:one"]),
        ([near, far], f"{near} bearer:one\n{far}  basic:ann:two words\n", ["bearer:one", "basic:ann:two words"]),
        ([near, far], f"{far} bearer:two", ["bearer:two"]),
        ([near, far], None, []),
    ):
        given.clear()
        open_store(*urls, credentials=credentials).close()
        assert list(given) == expected
    with pytest.raises(BadInput, match="a line for each"):
        open_store(near, far, credentials="bearer:one")


def test_who_has_to_write_needs_a_store_that_can_be_written(tmp_path):
    with pytest.raises(BadInput, match="an IPFS daemon or a folder, too"):
        open_store("https://gateway.example", str(tmp_path / "run.car"), writes=True)
    open_store("https://gateway.example", str(tmp_path), writes=True).close()


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
