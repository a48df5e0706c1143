"""What the dashboard's server passes on, and to whom: only to its own page, and only what reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import Any

import pytest

from deepledger.cli import page as page_module
from deepledger.cli import page_server
from deepledger.cli.options import Store
from deepledger.cli.page import page_folder
from deepledger.cli.page_server import serving
from deepledger.protocol.blobs import cid_of, digest_of
from deepledger.protocol.blobs import serving as blobs_serving
from deepledger.protocol.blobs.directory import DirectoryStore
from deepledger.protocol.chain.rpc import NodeRefused
from deepledger.protocol.errors import BadInput, ChainUnreachable, StateError, StoreUnreachable
from tests.conftest import ROOT

CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
REFUSAL = b"only the dashboard's own page may ask"


class Rpc:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.away = False

    def batch(self, *requests: Any) -> list[Any]:
        if self.away:
            raise ChainUnreachable("the node is away")
        self.asked += requests
        refused = NodeRefused("execution reverted", code=3, data="0x12")
        return [refused if method == "eth_call" else "0x7a69" for method, _ in requests]


class Client:
    def __init__(self, url: str, rpc: Rpc, store: DirectoryStore) -> None:
        self.rpc, self.store, self.port = rpc, store, int(url.rpartition(":")[2])

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self._exchange("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._exchange("POST", path, sent, {"Content-Type": "application/json", **headers})

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in headers:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "assets/app.js").write_text("1")
    (tmp_path / "secret").write_text("not for the page")
    rpc, store = Rpc(), DirectoryStore(tmp_path / "store")
    with serving(folder, CONTRACT, rpc, store, port=0) as url:  # type: ignore[arg-type]
        yield Client(url, rpc, store)


def test_it_serves_the_page_and_nothing_beside_it(client):
    status, headers, data = client.get("/?rpc=http://127.0.0.1:1")
    assert (status, headers["Content-Type"], data) == (200, "text/html; charset=utf-8", b"<!doctype html>")
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert client.get("/assets/app.js")[1]["Content-Type"] == "text/javascript"
    for path in ("/../secret", "/assets/../../secret", "/%2e%2e/secret", "//secret", "/assets", "/nothing"):
        assert client.get(path)[0] == 404, path
    assert json.loads(client.get("/source.json")[2]) == {"rpc": "rpc", "contract": CONTRACT, "blobs": "blobs/"}


def test_it_serves_blobs_by_their_cid(client):
    digest = client.store.put(b"a blob")
    assert client.get(f"/blobs/{cid_of(digest)}")[::2] == (200, b"a blob")
    assert client.get(f"/blobs/{cid_of(digest_of(b'another'))}")[0] == 404
    assert client.get("/blobs/../page/index.html")[0] == 404
    (client.store.path / cid_of(digest)).write_bytes(b"altered")
    status, _, why = client.get(f"/blobs/{cid_of(digest)}")
    assert status == 502
    assert b"was altered" in why


def test_it_passes_on_what_reads_and_nothing_that_sends(client):
    one = {"jsonrpc": "2.0", "id": 7, "method": "eth_chainId", "params": []}
    assert json.loads(client.post("/rpc", one)[2]) == {"jsonrpc": "2.0", "id": 7, "result": "0x7a69"}
    several = [
        {"id": 1, "method": "eth_sendRawTransaction", "params": ["0x"]},
        {"id": 2, "method": "eth_chainId"},
        {"id": 3, "method": "eth_call", "params": [{"to": CONTRACT.lower()}, "latest"]},
        {"id": 4, "method": "personal_unlockAccount"},
    ]
    answers = json.loads(client.post("/rpc", several)[2])
    assert [answer["id"] for answer in answers] == [1, 2, 3, 4]
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32601, None, 3, -32601]
    assert answers[2]["error"]["data"] == "0x12"
    assert {method for method, _ in client.rpc.asked} == {"eth_chainId", "eth_call"}


def test_it_passes_nothing_on_about_other_contracts(client):
    other = "0x" + "12" * 20
    asked: list[Any] = [
        ("eth_call", [{"to": other}, "latest"]), ("eth_call", [{}, "latest"]), ("eth_call", ["latest"]),
        ("eth_call", []), ("eth_getCode", [other, "latest"]), ("eth_getLogs", [{"fromBlock": "0x0"}]),
        ("eth_getLogs", [{"address": [CONTRACT, other]}]),
        ("eth_call", [{"to": CONTRACT}, "latest", {CONTRACT: {"code": "0x5b600056"}}]),
        ("debug_traceTransaction", ["0x12"]),
    ]  # fmt: skip
    answers = json.loads(client.post("/rpc", [{"id": 1, "method": name, "params": given} for name, given in asked])[2])
    assert [answer["error"]["code"] for answer in answers] == [-32601] * len(asked)
    assert client.rpc.asked == []


@pytest.mark.parametrize(
    "body", [b"", b"x", b"1", b"[]", b"[1]", b"[" * 100_000, b'{"method": "eth_call", "params": 1}', b'{"method": []}']
)
def test_what_is_no_question_is_refused(client, body):
    assert client.post("/rpc", body)[0] == 400
    assert client.rpc.asked == []


def test_questions_without_end_are_refused(client):
    assert client.post("/rpc", b"{}", **{"Content-Length": str(1 << 40)})[0] == 413
    assert client.post("/rpc", [{"method": "eth_chainId"}] * 1001)[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.org"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},  # an image, say: no origin is told
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    ],
)
def test_other_pages_in_the_same_browser_get_nothing(client, headers):
    question = {"id": 1, "method": "eth_chainId"}
    assert client.get("/source.json", **headers)[0] == 403
    assert client.get(f"/blobs/{cid_of(client.store.put(b'a blob'))}", **headers)[::2] == (403, REFUSAL)
    assert client.post("/rpc", question, **headers)[0] == 403
    assert client.post("/rpc", question, **{"Content-Type": "text/plain"})[0] == 404, "no question without a preflight"
    assert client.rpc.asked == []


def test_its_own_page_is_answered(client):
    place = f"localhost:{client.port}"
    assert client.get("/source.json", Host=place, Origin=f"http://{place}")[0] == 200
    for site in ("same-origin", "none"):
        assert client.get(f"/blobs/{cid_of(client.store.put(b'a blob'))}", **{"Sec-Fetch-Site": site})[0] == 200


def test_links_of_other_pages_lead_to_it(client):
    assert client.get("/?rpc=x", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200


def test_few_blobs_are_served_at_once_and_places_become_free(client, monkeypatch):
    go_on = threading.Event()
    place, read = f"/blobs/{cid_of(client.store.put(b'a blob'))}", client.store.read

    def waits(*arguments: Any, **how: Any) -> bytes:
        go_on.wait()
        return read(*arguments, **how)

    monkeypatch.setattr(client.store, "read", waits)
    with ThreadPoolExecutor(9) as others:
        waiting = [others.submit(client.get, place) for _ in range(9)]
        refused = next(as_completed(waiting)).result()
        go_on.set()
        assert (refused[0], refused[1]["Retry-After"]) == (503, "1")
        assert sorted(each.result()[0] for each in waiting) == [200] * 8 + [503]
    assert client.get(place)[0] == 200


def test_who_takes_a_blob_too_slowly_is_cut_off(client, monkeypatch):
    """The limit is none at all here, so that nothing depends on how fast a machine is."""
    place = f"/blobs/{cid_of(client.store.put(bytes(3 << 20)))}"
    monkeypatch.setattr(blobs_serving, "_PATIENCE", -1e9)
    with pytest.raises(IncompleteRead):
        client.get(place)
    monkeypatch.setattr(blobs_serving, "_PATIENCE", 60)
    assert len(client.get(place)[2]) == 3 << 20


def test_connections_are_bounded_and_places_become_free(client):
    held = [HTTPConnection("127.0.0.1", client.port) for _ in range(page_server._CONNECTIONS)]
    for each in held:
        each.request("GET", "/")
        each.getresponse().read()
    with pytest.raises((RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        client.get("/")
    for each in held:
        each.close()
    while True:  # their threads end in their own time
        with suppress(RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            assert client.get("/")[0] == 200
            break


def test_a_node_that_is_away(client):
    client.rpc.away = True
    status, _, why = client.post("/rpc", {"id": 1, "method": "eth_chainId"})
    assert (status, why) == (502, b"the node is away")


def test_a_port_that_is_taken(client, tmp_path):
    with (
        pytest.raises(StateError, match=f"port {client.port} cannot be had"),
        serving(tmp_path / "page", CONTRACT, client.rpc, client.store, port=client.port),
    ):
        pass


def test_a_page_that_is_not_built_says_how(monkeypatch, tmp_path):
    monkeypatch.setattr(page_module, "__file__", str(tmp_path / "cli/deepledger/cli/page.py"))
    with pytest.raises(BadInput, match=re.escape("run `make dashboard` in the checkout")):
        page_folder()


@pytest.mark.parametrize(
    ("stores", "says"),
    [
        ("{0}/none", "there is no blob folder {0}/none"),
        ("{0}/none.car", "the CAR file {0}/none.car cannot be read"),
        ("ipfs+http://127.0.0.1:9", "no IPFS daemon answers"),
        ("http://127.0.0.1:9/blobs", "no gateway answers at http://127.0.0.1:9/blobs"),
        ("{0}/none ipfs+http://127.0.0.1:9", "there is no blob folder {0}/none"),
    ],
)
def test_a_store_that_is_not_there_is_refused(stores, says, tmp_path):
    with pytest.raises(StoreUnreachable, match=re.escape(says.format(tmp_path))):
        Store(stores.format(tmp_path).split()).reading()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_another_one_stands_in_for_is_said_to_be_away(tmp_path, capsys):
    assert Store([f"{tmp_path}/none", str(tmp_path)]).reading()
    assert f"warning: there is no blob folder {tmp_path}/none" in capsys.readouterr().err


@pytest.mark.parametrize("node", [None, "exit 1"], ids=["none", "too old"])
def test_make_says_what_builds_the_page(tmp_path, node):
    """Before anything is fetched or built."""
    for name in ("make", "sh", "echo"):
        (tmp_path / name).symlink_to(shutil.which(name))
    if node:
        for name, does in (("npm", "exit 0"), ("node", node)):
            (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
            (tmp_path / name).chmod(0o755)
    done = subprocess.run(["make", "node"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Node.js 20.19 or newer and its npm: install both" in done.stderr
