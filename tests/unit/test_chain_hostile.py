"""Nodes that lie, hang, break off or speak something else: each is said in one line, and nothing else escapes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from web3.providers import HTTPProvider
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from deepledger.contracts import load
from deepledger.protocol.chain import abi as codec
from deepledger.protocol.chain.events import JobTerms
from deepledger.protocol.chain.http import OversizedAnswer, place
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.chain.reading import ChainReader, pace
from deepledger.protocol.chain.rpc import NodeRefused, over_http
from deepledger.protocol.chain.signing import is_nonce_ahead, is_nonce_taken
from deepledger.protocol.chain.web3_ledger import connect, connect_as, deploy
from deepledger.protocol.errors import (
    BadInput,
    ChainError,
    ChainNonsense,
    ChainUnreachable,
    InsufficientFunds,
    LedgerRejected,
    NoLedger,
    WrongChain,
)
from deepledger.protocol.types import Address, Digest, JobId, Root, Seconds, Wei

ABI = codec.ledger_abi()
ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"
HASH = "0x" + "ab" * 32
ACCOUNT = Account.from_key("0x" + "11" * 32)
ABSENT = object()
Answer = Callable[[str, list[Any]], Any]


def block(number: int = 9, **changes: Any) -> dict[str, Any]:
    return {"number": hex(number), "hash": HASH, "timestamp": "0x64", "baseFeePerGas": "0x1"} | changes


def log(**changes: Any) -> dict[str, Any]:
    """A true Withdrawn log of block 9, to be changed into a false one."""
    account = "0x" + "00" * 12 + ADDRESS[2:].lower()
    found = {
        "address": ADDRESS.lower(), "blockNumber": "0x9", "blockHash": HASH, "logIndex": "0x0", "removed": False,
        "transactionHash": "0x" + "cd" * 32, "topics": [codec.topic_of(ABI, "Withdrawn"), f"0x{1:064x}", account],
        "data": f"0x{5:064x}",
    } | changes  # fmt: skip
    return {key: value for key, value in found.items() if value is not ABSENT}


def error(message: str, *, code: int = -32000, data: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "data": data}}


class Node:
    """A small node whose answers a test replaces, by method: a result, an `error`, or a function of the parameters."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {
            "eth_chainId": "0x7a69",
            "eth_getCode": "0x" + load().deployed_bytecode.hex(),
            "eth_getBlockByNumber": block(),
            "eth_getBlockByHash": block(),
            "eth_getLogs": [log()],
            "eth_estimateGas": "0x5208",
            "eth_getTransactionCount": "0x0",
            "eth_getBalance": hex(10**20),
            "eth_maxPriorityFeePerGas": "0x1",
            "eth_call": f"0x{3:064x}",
        }
        self.raw: Callable[[BaseHTTPRequestHandler], None] | None = None  # instead of JSON-RPC
        self.asked: list[str] = []
        self.batches = True
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if node.raw is not None:
                    self.close_connection = True
                    node.raw(self)
                elif isinstance(request, list) and not node.batches:
                    reply(self, json.dumps(error("no batches")).encode())
                else:
                    several = [node.one(each) for each in request] if isinstance(request, list) else node.one(request)
                    reply(self, json.dumps(several).encode())

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def one(self, request: dict[str, Any]) -> dict[str, Any]:
        method = request["method"]
        self.asked.append(method)
        said = self.says.get(method, error("method not found", code=-32601))
        said = said(request["params"]) if callable(said) else said
        body = said if isinstance(said, dict) and "error" in said else {"result": said}
        return {"jsonrpc": "2.0", "id": request["id"]} | body

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def reply(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.stop()


@pytest.fixture
def reader(node: Node) -> Iterator[ChainReader]:
    reader = connect(node.url, ADDRESS, timeout=5)
    yield reader
    reader.close()


@pytest.fixture
def ledger(node: Node, tmp_path: Path) -> Any:
    return connect_as(node.url, ADDRESS, ACCOUNT, timeout=5, locks=tmp_path, patience=0.3)


def test_an_honest_node_is_read(node: Node, reader: ChainReader) -> None:
    (event,) = reader.events(0, 9, job=JobId(1))
    assert event.at.timestamp == 100
    assert reader.job_count() == 3


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.02)


def drip_for_ever(begun: bytes, piece: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Begins an answer, and goes on with one piece after another until nobody listens any more."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(begun)
        with suppress(OSError):
            while True:
                handler.wfile.write(piece)
                time.sleep(0.02)

    return answer


RAW: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], type[ChainError]]] = {
    "status 500": (lambda handler: reply(handler, b"oops", status=500), ChainUnreachable),
    "status 403": (lambda handler: reply(handler, b"<html>", status=403), ChainUnreachable),
    "status 302": (lambda handler: reply(handler, b"", status=302), ChainUnreachable),
    "HTML": (lambda handler: reply(handler, b"<html>hello</html>"), ChainNonsense),
    "nothing": (lambda handler: reply(handler, b""), ChainNonsense),
    "not UTF-8": (lambda handler: reply(handler, b"\xff\xfe"), ChainNonsense),
    "deep nesting": (lambda handler: reply(handler, b"[" * 1_000_000), ChainNonsense),
    "a huge number": (lambda handler: reply(handler, b'{"result": ' + b"9" * 100_000 + b"}"), ChainNonsense),
    "no result": (lambda handler: reply(handler, b'{"jsonrpc": "2.0", "id": 0}'), ChainNonsense),
    "a number": (lambda handler: reply(handler, b"5"), ChainNonsense),
    "a list": (lambda handler: reply(handler, b"[5]"), ChainNonsense),
    "an empty list": (lambda handler: reply(handler, b"[]"), ChainNonsense),
    "another's answers": (lambda handler: reply(handler, b'[{"id": 7, "result": 1}, {"id": 0}]'), ChainNonsense),
    "an error that is text": (lambda handler: reply(handler, b'{"error": "go away"}'), ChainUnreachable),
    "an odd error": (lambda handler: reply(handler, b'{"error": {"code": "x", "message": [1]}}'), ChainUnreachable),
    "cut short": (lambda handler: reply(handler, b'{"resu', length=100), ChainUnreachable),
    "dropped": (drop, ChainUnreachable),
    "not HTTP": (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"), ChainUnreachable),
    "a bad length": (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), ChainError),
    "a bad encoding": (
        lambda handler: handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
        ),
        ChainUnreachable,
    ),
    "endless headers": (lambda handler: handler.wfile.write(b"HTTP/1.1 200\r\n" + b"a: b\r\n" * 500), ChainUnreachable),
    "dripping": (drip, ChainUnreachable),
    "a head that drips": (drip_for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"y"), ChainUnreachable),
    "a chunk's size that drips": (
        drip_for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"), ChainUnreachable
    ),
    "silence": (lambda handler: time.sleep(0.6), ChainUnreachable),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_what_is_not_a_node_is_said_in_one_line(node: Node, name: str) -> None:
    node.raw, expected = RAW[name]
    with pytest.raises(expected) as caught:
        connect(node.url, ADDRESS, timeout=0.3)
    assert "\n" not in str(caught.value)
    rpc = over_http(node.url, timeout=0.3)
    with pytest.raises(ChainError):
        rpc.call("eth_chainId")
    rpc.close()


@pytest.mark.parametrize("name", ["status 500", "HTML", "no result", "dropped", "silence"])
def test_a_provider_that_is_not_ours_raises_our_errors_only(node: Node, name: str) -> None:
    node.raw, _ = RAW[name]
    with pytest.raises(ChainError):
        connect(HTTPProvider(node.url, request_kwargs={"timeout": 0.3}, exception_retry_configuration=None), ADDRESS)


def test_a_provider_that_is_not_ours_is_read(node: Node) -> None:
    reader = connect(HTTPProvider(node.url), ADDRESS)
    assert len(reader.events(0, 9)) == 1
    assert reader.head().number == 9
    reader.close()


def test_a_port_where_nobody_listens_is_said() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with pytest.raises(ChainUnreachable, match="connection refused"):
            connect(f"http://127.0.0.1:{reserved.getsockname()[1]}", ADDRESS)


def test_no_proxy_leads_to_this_machine(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert over_http(node.url, timeout=5).call("eth_chainId") == "0x7a69"
    assert over_http(node.url.replace("127.0.0.1", "localhost"), timeout=5).call("eth_chainId") == "0x7a69"


def test_a_proxy_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:1")
    with pytest.raises(ChainUnreachable, match=r"at http://node\.example through the proxy 127\.0\.0\.1:1 \(") as error:
        over_http("http://node.example", timeout=5).call("eth_chainId")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("status", [200, 302, 500])
def test_an_oversized_answer_is_not_read_to_its_end(node: Node, status: int) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", "/elsewhere")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 65536)
        except OSError:
            pass

    node.raw = flood
    rpc = over_http(node.url, timeout=5, most_bytes=1 << 20)
    with pytest.raises(OversizedAnswer, match="1 MiB"):
        rpc.call("eth_chainId")
    rpc.close()


def test_a_chunked_answer_is_read(node: Node) -> None:
    body = b'{"id": 0, "result": "0x5"}'

    def chunked(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (body[:10], body[10:], b""):
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    node.raw = chunked
    rpc = over_http(node.url, timeout=5)
    assert rpc.call("eth_chainId") == "0x5"
    rpc.close()


def test_a_connection_closed_while_idle_is_made_again(node: Node) -> None:
    rpc = over_http(node.url, timeout=5)
    node.raw = lambda handler: reply(handler, b'{"id": 0, "result": "0x5"}')  # closes without saying so
    assert [rpc.call("eth_chainId") for _ in range(3)] == ["0x5"] * 3
    rpc.close()


@pytest.mark.parametrize(
    "url", ["", "localhost:8545", "ftp://host", "http://", "http://host:port", "ws://host", "http://["]
)
def test_a_url_that_is_none_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput):
        connect(url, ADDRESS)


def test_keys_in_urls_are_not_shown() -> None:
    url = "http://user:secret@127.0.0.1:1/v3/secret?key=secret"
    assert place(url) == "http://127.0.0.1:1"
    with pytest.raises(ChainUnreachable) as caught:
        connect(url, ADDRESS)
    assert "secret" not in str(caught.value)


def test_an_error_cannot_write_to_the_terminal(node: Node) -> None:
    node.says["eth_chainId"] = error("\x1b[2J\r\nboo" + "x" * 1000)
    with pytest.raises(NodeRefused) as caught:
        connect(node.url, ADDRESS)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_node_without_batches_is_asked_one_by_one(node: Node) -> None:
    node.batches = False
    reader = connect(node.url, ADDRESS)
    assert len(reader.events(0, 9)) == 1
    reader.close()


def test_another_chain_is_named_with_the_expected_one(node: Node) -> None:
    with pytest.raises(WrongChain, match=r"31337.*11155111"):
        connect(node.url, ADDRESS, chain_id=11155111)
    with pytest.raises(WrongChain):
        deploy(node.url, ACCOUNT, chain_id=1)


def test_an_address_without_our_code_is_no_ledger(node: Node) -> None:
    node.says["eth_getCode"] = "0x"
    with pytest.raises(NoLedger, match="deepledger deploy"):
        connect(node.url, ADDRESS)
    node.says["eth_getCode"] = "0x6001"
    with pytest.raises(NoLedger, match="not the TrainingLedger"):
        connect(node.url, ADDRESS)
    for address in ("", "0x12", "ledger.eth", ADDRESS + "00"):
        with pytest.raises(BadInput):
            connect(node.url, address)


@pytest.mark.parametrize("absurd", [None, 5, True, "", "0x", "5", "0xzz", "-0x1", [], {}, "0x" + "f" * 65, 1.5])
@pytest.mark.parametrize("method", ["eth_chainId", "eth_getCode"])
def test_absurd_answers_to_the_first_questions_are_nonsense(node: Node, method: str, absurd: Any) -> None:
    node.says[method] = absurd
    with pytest.raises((ChainNonsense, NoLedger)):
        connect(node.url, ADDRESS)


LIES: dict[str, list[Any]] = {
    "another contract": [log(address="0x" + "11" * 20)],
    "no address": [log(address=ABSENT)],
    "removed": [log(removed=True)],
    "twice": [log(), log()],
    "out of order": [log(logIndex="0x1"), log(logIndex="0x0")],
    "a later block": [log(blockNumber="0xa")],
    "another job": [log(topics=[log()["topics"][0], f"0x{2:064x}", log()["topics"][2]])],
    "too few topics": [log(topics=log()["topics"][:2])],
    "unknown topic": [log(topics=[HASH, *log()["topics"][1:]])],
    "no topics": [log(topics=ABSENT)],
    "no data": [log(data=ABSENT)],
    "odd data": [log(data="0x0")],
    "short data": [log(data="0x00")],
    "no block": [log(blockNumber=ABSENT)],
    "a pending log": [log(blockNumber=None, blockHash=None, transactionHash=None)],
    "no block hash": [log(blockHash=ABSENT)],
    "a number for a hash": [log(blockHash=7)],
    "no log index": [log(logIndex=ABSENT)],
    "a text index": [log(logIndex="first")],
    "an index of 80 bits": [log(logIndex="0x" + "f" * 20)],
    "no transaction": [log(transactionHash=ABSENT)],
    "an odd timestamp": [log(blockTimestamp=[5])],
    "the year 10000": [log(blockTimestamp=hex(253_402_300_800))],
    "not a log": [5],
    "no list": "logs",  # type: ignore[dict-item]
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_logs_that_cannot_be_are_nonsense(node: Node, reader: ChainReader, name: str) -> None:
    node.says["eth_getLogs"] = LIES[name]
    with pytest.raises(ChainNonsense):
        reader.events(0, 9, job=JobId(1))


LATE = block(timestamp=hex(1 << 63))


@pytest.mark.parametrize(
    "absurd", [5, [], "0x", {}, block(hash="0x12"), block(timestamp=ABSENT), {"number": "0x9"}, LATE]
)
def test_absurd_blocks_are_nonsense(node: Node, reader: ChainReader, absurd: Any) -> None:
    if isinstance(absurd, dict):
        absurd = {key: value for key, value in absurd.items() if value is not ABSENT}
    node.says["eth_getBlockByNumber"] = absurd
    with pytest.raises(ChainNonsense):
        reader.head()
    with pytest.raises(ChainNonsense):
        reader.events(0, 9)


def test_a_block_that_the_node_does_not_have_yet_is_not_taken_for_an_empty_one(node: Node, reader: ChainReader) -> None:
    node.says |= {"eth_getBlockByNumber": None, "eth_getLogs": []}
    with pytest.raises(ChainUnreachable, match="does not have block 9"):
        reader.events(0, 9)


def test_timestamps_are_asked_for_once_per_block(node: Node, reader: ChainReader) -> None:
    other = "0x" + "ef" * 32
    node.says["eth_getLogs"] = [log(blockNumber="0x8", blockHash=other, logIndex=hex(index)) for index in range(3)] + [
        log()
    ]
    node.says["eth_getBlockByHash"] = lambda params: block(8, hash=params[0], timestamp="0x60")
    for _ in range(2):
        assert [event.at.timestamp for event in reader.events(0, 9)] == [96, 96, 96, 100]
    assert node.asked.count("eth_getBlockByHash") == 1


def test_timestamps_in_logs_are_used(node: Node, reader: ChainReader) -> None:
    node.says["eth_getLogs"] = [log(blockNumber="0x8", blockHash="0x" + "ef" * 32, blockTimestamp="0x63")]
    assert [event.at.timestamp for event in reader.events(0, 9)] == [99]
    assert "eth_getBlockByHash" not in node.asked


def test_a_range_whose_blocks_go_away_is_asked_for_again(node: Node, reader: ChainReader) -> None:
    gone = "0x" + "ef" * 32
    answers = iter([[log(blockHash=gone)], [log()]])
    node.says["eth_getBlockByHash"] = None
    node.says["eth_getLogs"] = lambda params: next(answers)
    assert [event.at.block_hash for event in reader.events(0, 9)] == [HASH]
    node.says["eth_getLogs"] = [log(blockHash=gone)]
    with pytest.raises(ChainUnreachable, match="keeps changing"):
        reader.events(0, 9)


def test_a_range_that_is_refused_is_halved(node: Node, reader: ChainReader) -> None:
    ranges = []

    def logs(params: list[Any]) -> Any:
        start, end = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if end - start >= 100:
            return error("block range is too wide")
        ranges.append((start, end))
        return []

    node.says["eth_getLogs"] = logs
    assert reader.events(0, 999) == []
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 999
    assert all(after[0] == before[1] + 1 for before, after in pairwise(ranges))


def test_a_range_that_is_refused_once_makes_only_the_next_ones_small(node: Node) -> None:
    reader = connect(node.url, ADDRESS, blocks_per_query=1000)
    spans: list[int] = []

    def logs(params: list[Any]) -> Any:
        start, end = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if start <= 300 <= end and end - start >= 10:
            return error("query returned more than 10000 results", code=-32005)
        spans.append(end - start + 1)
        return []

    node.says["eth_getLogs"] = logs
    reader.events(0, 19_999)
    assert 20_000 <= sum(spans) < 22_000, "what came after a refusal in a batch is asked for again, and no more"
    assert spans[-2] == 1000
    spans.clear()
    reader.events(1000, 1999)
    assert spans == [1000]
    reader.close()


RATE_LIMITS = {
    "as in HTTP": error("compute units exceeded", code=429),
    "of EIP-1474": error("daily request count exceeded, request rate limited", code=-32005),
    "in words": error("Too Many Requests"),
}


@pytest.mark.parametrize("name", RATE_LIMITS)
def test_a_node_that_is_asked_too_often_is_asked_again_and_not_for_less(
    node: Node, reader: ChainReader, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.rpc._FIRST_PAUSE", 0.0)
    ranges: list[tuple[str, str]] = []

    def logs(params: list[Any]) -> Any:
        ranges.append((params[0]["fromBlock"], params[0]["toBlock"]))
        return RATE_LIMITS[name] if len(ranges) < 3 else [log()]

    node.says["eth_getLogs"] = logs
    assert len(reader.events(0, 9)) == 1
    assert ranges == [("0x0", "0x9")] * 3
    ranges.clear()
    assert reader.created_in(JobId(1)) == 9
    assert ranges == [("0x0", "0x9")] * 3
    node.says["eth_getLogs"] = RATE_LIMITS[name]
    monkeypatch.setattr("deepledger.protocol.chain.rpc._PATIENCE", -1.0)
    for ask in (lambda: reader.events(0, 9), lambda: reader.created_in(JobId(1))):
        node.asked.clear()
        with pytest.raises(NodeRefused):
            ask()
        assert node.asked.count("eth_getLogs") == 1


def test_a_node_that_is_asked_too_often_is_not_taken_for_one_without_batches(
    node: Node, reader: ChainReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.rpc._PATIENCE", -1.0)
    node.raw = lambda handler: reply(handler, b"slow down", status=429)
    with pytest.raises(ChainUnreachable, match="HTTP status 429"):
        reader.events(0, 9)
    node.raw = None
    before = reader.rpc.trips
    reader.events(0, 9)
    assert reader.rpc.trips - before == 1


def test_ranges_are_bounded(node: Node) -> None:
    reader = connect(node.url, ADDRESS, blocks_per_query=10)
    node.says["eth_getLogs"] = []
    reader.events(5, 34)
    assert node.asked.count("eth_getLogs") == 3
    assert reader.events(5, 4) == []
    reader.close()


def test_a_node_that_refuses_every_range_is_given_up(node: Node, reader: ChainReader) -> None:
    node.says["eth_getLogs"] = error("no such method", code=-32601)
    with pytest.raises(NodeRefused):
        reader.events(0, 999)
    assert node.asked.count("eth_getLogs") == 1
    node.says["eth_getLogs"] = error("no")
    with pytest.raises(NodeRefused):
        reader.events(0, 999)


def test_the_creation_of_a_job_is_found_where_wide_ranges_are_refused(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepledger.protocol.chain.logs._LOOKS", (0.0,))
    reader = connect(node.url, ADDRESS, blocks_per_query=100)
    node.says["eth_getBlockByNumber"] = block(999)

    def logs(params: list[Any]) -> Any:
        start, end = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if end - start >= 50:
            return error("block range is too wide")
        return [log(blockNumber="0x9")] if start <= 9 <= end else []

    node.says["eth_getLogs"] = logs
    assert reader.created_in(JobId(1)) == 9
    for job in (0, 4, -1):
        with pytest.raises(BadInput, match="jobs 1 to 3"):
            reader.created_in(JobId(job))
    node.says["eth_getLogs"] = []
    with pytest.raises(ChainNonsense, match="0 creations"):
        reader.created_in(JobId(1))
    reader.close()


@pytest.mark.parametrize("absurd", ["0x01", 5, None, "0x" + "f" * 63])
def test_absurd_results_of_calls_are_nonsense(node: Node, reader: ChainReader, absurd: Any) -> None:
    node.says["eth_call"] = absurd
    with pytest.raises(ChainNonsense):
        reader.job_count()


def test_a_contract_that_is_gone_with_its_chain_is_said_to_be_gone(node: Node, reader: ChainReader) -> None:
    node.says["eth_call"] = "0x"
    with pytest.raises(NoLedger, match=f"no contract at {ADDRESS} on chain 31337"):
        reader.job_count()


def test_waiting_polls_where_there_is_no_websocket(node: Node, reader: ChainReader) -> None:
    after = reader.head()
    assert reader.wait(after, timeout=0.05) == after
    timer = threading.Timer(0.1, lambda: node.says.update(eth_getBlockByNumber=block(10, hash="0x" + "01" * 32)))
    timer.start()
    assert reader.wait(after, timeout=20).number == 10
    timer.join()
    assert reader.wait(after, timeout=20).number == 10, "at once: the head differs already"


def test_a_node_is_left_alone_for_as_long_as_is_asked_for_where_there_is_no_websocket(
    node: Node, reader: ChainReader
) -> None:
    after = reader.wait(reader.head(), timeout=0)
    asked = reader.rpc.asked.total()
    node.says["eth_getBlockByNumber"] = block(10)
    for _ in range(3):
        assert reader.wait(after, timeout=0.01, pause=1e6) == after
    assert reader.rpc.asked.total() == asked
    assert reader.wait(after, timeout=0, pause=1e6).number == 10, "whoever does not wait asks"


def test_waiting_notices_another_block_of_the_same_height(node: Node, reader: ChainReader) -> None:
    after = reader.head()
    node.says["eth_getBlockByNumber"] = block(hash="0x" + "01" * 32)
    assert reader.wait(after, timeout=20) == Head(9, "0x" + "01" * 32, Seconds(100), Seconds(100))


# What a node can do to a transaction.


def revert(name: str, kinds: list[str], values: list[Any]) -> dict[str, Any]:
    (selector,) = (selector for selector, entry in ABI.errors.items() if entry["name"] == name)
    return error("execution reverted", code=3, data="0x" + (selector + encode(kinds, values)).hex())


def accept(node: Node, **receipt: Any) -> list[str]:
    """Let the node take transactions; returns what it was sent."""
    sent: list[str] = []

    def take(params: list[Any]) -> str:
        sent.append(params[0])
        return name_of(params[0])

    def show(params: list[Any]) -> Any:
        shown = {
            "transactionHash": params[0], "status": "0x1", "blockNumber": "0x9", "blockHash": HASH, "gasUsed": "0x5208",
            "effectiveGasPrice": "0x2", "logs": [log()],
        } | receipt  # fmt: skip
        return {key: value for key, value in shown.items() if value is not ABSENT}

    node.says |= {"eth_sendRawTransaction": take, "eth_getTransactionReceipt": show}
    return sent


def name_of(raw: str) -> str:
    from eth_utils.crypto import keccak

    return "0x" + keccak(hexstr=raw).hex()


def test_a_transaction_takes_three_trips(node: Node, ledger: Any) -> None:
    accept(node, logs=[log(blockTimestamp="0x64"), log(address="0x" + "11" * 20, logIndex="0x1")])
    before = ledger.rpc.trips
    receipt = ledger.withdraw(JobId(1))
    assert (receipt.block, receipt.gas_used, receipt.fee) == (9, 21000, 42000)
    assert len(receipt.events) == 1, "another contract's log is not the ledger's"
    assert ledger.rpc.trips - before == 3


def test_a_refused_call_is_explained_and_not_sent(node: Node, ledger: Any) -> None:
    sent = accept(node)
    node.says["eth_estimateGas"] = revert("JobFull", ["uint8"], [8])
    with pytest.raises(LedgerRejected, match="all 8 seats") as caught:
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=1)
    assert caught.value.arguments == {"most": 8}
    node.says["eth_estimateGas"] = error("execution reverted")
    with pytest.raises(LedgerRejected, match="no reason"):
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=1)
    assert sent == []


def test_poverty_is_said_in_ether_before_anything_is_sent(node: Node, ledger: Any) -> None:
    sent = accept(node)
    node.says["eth_getBalance"] = hex(10**17)
    with pytest.raises(InsufficientFunds, match=r"has 0\.1 ETH and needs 1\.0000"):
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=10**18)
    node.says["eth_estimateGas"] = error("insufficient funds for transfer")
    with pytest.raises(InsufficientFunds, match=r"has 0\.1 ETH"):
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=10**18)
    assert sent == []
    node.says |= {"eth_estimateGas": "0x5208", "eth_getBalance": hex(10**20)}
    node.says["eth_sendRawTransaction"] = error("insufficient funds for gas * price + value")
    with pytest.raises(InsufficientFunds):
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=10**18)


@pytest.mark.parametrize("said", ["nonce too low", "replacement transaction underpriced"])
def test_a_taken_nonce_is_followed_by_the_next_one(node: Node, ledger: Any, said: str) -> None:
    from eth_account.typed_transactions import TypedTransaction
    from hexbytes import HexBytes

    accept(node)
    take = node.says["eth_sendRawTransaction"]
    nonces: list[int] = []

    def refuse_two(params: list[Any]) -> Any:
        nonces.append(TypedTransaction.from_bytes(HexBytes(params[0])).as_dict()["nonce"])
        return error(said) if len(nonces) < 3 else take(params)

    node.says |= {"eth_sendRawTransaction": refuse_two, "eth_getTransactionByHash": None}
    ledger.withdraw(JobId(1))
    assert nonces == [0, 1, 2]
    node.says["eth_sendRawTransaction"] = error(said)
    with pytest.raises(ChainUnreachable, match="in use elsewhere"):
        ledger.withdraw(JobId(1))


@pytest.mark.parametrize(
    ("said", "taken", "ahead"),
    [
        ("nonce too low: next nonce 3, tx nonce 2", True, False),
        ("Nonce too high. Expected nonce to be 3 but got 5.", False, True),
        ("Nonce too low. Expected nonce to be 3 but got 2.", True, False),
        ("the tx doesn't have the correct nonce. account has nonce of: 3 tx has nonce of: 2", True, False),
        ("the tx doesn't have the correct nonce. account has nonce of: 3 tx has nonce of: 4", False, True),
        ("transaction underpriced", False, False),
    ],
)
def test_words_for_a_nonce_are_understood(said: str, taken: bool, ahead: bool) -> None:
    refused = NodeRefused(said, code=-32000)
    assert (is_nonce_taken(refused), is_nonce_ahead(refused)) == (taken, ahead)


@pytest.mark.parametrize("said", ["already known", "nonce too low"])
def test_a_transaction_that_the_node_has_already_is_not_made_twice(node: Node, ledger: Any, said: str) -> None:
    accept(node)
    sent = 0

    def refuse(params: list[Any]) -> Any:
        nonlocal sent
        sent += 1
        return error(said)

    node.says |= {"eth_sendRawTransaction": refuse, "eth_getTransactionByHash": {}}
    ledger.withdraw(JobId(1))
    assert sent == 1


def test_a_fee_that_is_too_low_does_not_use_up_nonces(node: Node, ledger: Any) -> None:
    sent = 0

    def refuse(params: list[Any]) -> Any:
        nonlocal sent
        sent += 1
        return error("transaction underpriced: gas tip cap 1, minimum needed 5")

    node.says["eth_sendRawTransaction"] = refuse
    with pytest.raises(NodeRefused, match="underpriced"):
        ledger.withdraw(JobId(1))
    assert sent == 1


def test_a_transaction_without_receipt_is_named(node: Node, ledger: Any) -> None:
    sent = accept(node)
    for absent in (None, error("transaction indexing is in progress")):
        node.says["eth_getTransactionReceipt"] = absent
        with pytest.raises(ChainUnreachable, match="same command can be run again") as caught:
            ledger.withdraw(JobId(1))
        assert name_of(sent[-1]) in str(caught.value)


def vanishing(node: Node, *, requests: int = 1000) -> Callable[[list[Any]], Any]:
    """An answer that does not come: the node is away for so many requests."""
    node._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    left = requests

    def vanish(handler: BaseHTTPRequestHandler) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            node.raw = None
        drop(handler)

    def answer(params: list[Any]) -> Any:
        node.raw = vanish
        raise ConnectionAbortedError

    return answer


def test_a_node_that_is_away_while_a_receipt_is_awaited_may_come_back(node: Node, tmp_path: Path) -> None:
    ledger = connect_as(node.url, ADDRESS, ACCOUNT, timeout=5, locks=tmp_path, patience=60)
    sent = accept(node)
    show, vanish = node.says["eth_getTransactionReceipt"], vanishing(node, requests=6)

    def first(params: list[Any]) -> Any:
        node.says["eth_getTransactionReceipt"] = show
        return vanish(params)

    node.says["eth_getTransactionReceipt"] = first
    assert ledger.withdraw(JobId(1)).block == 9
    assert node.raw is None
    assert len(sent) == 1
    ledger.close()


def test_a_node_that_is_away_when_more_should_be_offered_may_come_back(node: Node, tmp_path: Path) -> None:
    ledger = connect_as(node.url, ADDRESS, ACCOUNT, timeout=5, locks=tmp_path, patience=60, stuck_after=0.01)
    sent = accept(node)
    show, vanish = node.says["eth_getTransactionReceipt"], vanishing(node, requests=6)

    def count(params: list[Any]) -> Any:
        if params[1] == "pending":
            return "0x0"
        node.says |= {"eth_getTransactionCount": "0x0", "eth_getTransactionReceipt": show}
        return vanish(params)

    node.says |= {"eth_getTransactionReceipt": None, "eth_getTransactionCount": count}
    assert ledger.withdraw(JobId(1)).block == 9
    assert len(sent) == 1
    ledger.close()


TERMS = JobTerms(
    spec_digest=Digest(bytes(32)), model_digest=Digest(bytes(32)), model_root=Root(bytes(32)), rounds=2,
    min_participants=1, max_participants=2, miss_limit=1, commit_window=Seconds(9), reveal_window=Seconds(9),
    settle_window=Seconds(9), reward=Wei(5), stake=Wei(0), reveal_penalty=Wei(0), bond=Wei(0), settle_penalty=Wei(0),
)  # fmt: skip
MISHAPS: dict[str, Callable[[Node], dict[str, Any]]] = {
    "lost while sending": lambda node: {"eth_sendRawTransaction": vanishing(node)},
    "nonsense while sending": lambda node: {"eth_sendRawTransaction": None},
    "lost while waiting": lambda node: {"eth_getTransactionReceipt": vanishing(node)},
    "in no block": lambda node: {"eth_getTransactionReceipt": None},
    "nonsense while waiting": lambda node: {"eth_getTransactionReceipt": 5},
    "lost while reading it": lambda node: {"eth_getBlockByHash": vanishing(node), "eth_getCode": vanishing(node)},
}


@pytest.mark.parametrize("mishap", MISHAPS)
@pytest.mark.parametrize("action", ["create a job", "deploy"])
def test_what_must_not_be_done_twice_is_named_and_not_advised(
    node: Node, ledger: Any, tmp_path: Path, action: str, mishap: str
) -> None:
    taken: list[str] = []
    accept(node, logs=[log(blockHash="0x" + "ef" * 32)], contractAddress=ADDRESS)
    node.says |= MISHAPS[mishap](node)
    send = node.says["eth_sendRawTransaction"]

    def take(params: list[Any]) -> Any:
        taken.append(name_of(params[0]))
        return send(params) if callable(send) else send

    node.says["eth_sendRawTransaction"] = take
    act, advice = {
        "create a job": (lambda: ledger.create_job(TERMS, [Address(ADDRESS)]), "deepledger job list"),
        "deploy": (lambda: deploy(node.url, ACCOUNT, timeout=5, locks=tmp_path, patience=0.3), "look it up"),
    }[action]
    with pytest.raises(ChainError) as caught:
        act()
    assert taken[-1] in str(caught.value)
    assert advice in str(caught.value)
    assert "the same command can be run again" not in str(caught.value)


def test_a_late_receipt_is_awaited(node: Node, ledger: Any) -> None:
    accept(node)
    show = node.says["eth_getTransactionReceipt"]
    asked = 0

    def late(params: list[Any]) -> Any:
        nonlocal asked
        asked += 1
        return show(params) if asked > 3 else None

    node.says["eth_getTransactionReceipt"] = late
    assert ledger.withdraw(JobId(1)).block == 9


def test_a_revert_in_the_block_is_explained(node: Node, ledger: Any) -> None:
    accept(node, status="0x0")
    there, reverted = node.says["eth_call"], revert("NothingToWithdraw", ["address"], [ADDRESS])
    for said, why in ((reverted, "nothing to withdraw"), ("0x", "cannot be explained")):
        node.says["eth_call"] = lambda params, said=said: said if "from" in params[0] else there
        with pytest.raises(LedgerRejected, match=why):
            ledger.withdraw(JobId(1))


def test_nothing_is_sent_to_where_no_contract_is_any_more(node: Node, ledger: Any) -> None:
    """A call of nothing succeeds, and what is sent with it is lost: a devnet that was started again has no contract."""
    sent = accept(node, logs=[])
    node.says["eth_call"] = "0x"
    with pytest.raises(NoLedger, match=f"there is no contract at {ADDRESS}"):
        ledger.join(JobId(1), 5, terms_hash=bytes(32), key=bytes(32), value=Wei(10**17))
    assert not sent


def test_a_transaction_that_did_nothing_is_no_success(node: Node, ledger: Any) -> None:
    accept(node, logs=[])
    with pytest.raises(ChainNonsense, match="is that still the same chain"):
        ledger.withdraw(JobId(1))


@pytest.mark.parametrize(
    "lie",
    [
        {"transactionHash": HASH}, {"status": "0x2"}, {"status": ABSENT}, {"blockNumber": None}, {"gasUsed": "much"},
        {"effectiveGasPrice": ABSENT}, {"logs": ABSENT}, {"logs": [5]}, {"logs": [log(blockNumber="0x8")]},
        {"logs": [log(), log()]},
    ],
)  # fmt: skip
def test_receipts_that_cannot_be_are_nonsense(node: Node, ledger: Any, lie: dict[str, Any]) -> None:
    accept(node, **lie)
    with pytest.raises(ChainNonsense):
        ledger.withdraw(JobId(1))


@pytest.mark.parametrize(
    ("method", "absurd"),
    [
        ("eth_estimateGas", None), ("eth_estimateGas", "0x" + "f" * 20), ("eth_getTransactionCount", -1),
        ("eth_getTransactionCount", "0x" + "f" * 20), ("eth_getBalance", "lots"), ("eth_getBlockByNumber", None),
        ("eth_maxPriorityFeePerGas", "0x" + "f" * 65), ("eth_maxPriorityFeePerGas", {}),
        ("eth_sendRawTransaction", HASH), ("eth_sendRawTransaction", None),
        ("eth_getTransactionReceipt", "0x"), ("eth_getTransactionReceipt", []),
    ],
)  # fmt: skip
def test_absurd_answers_on_the_way_are_nonsense(node: Node, ledger: Any, method: str, absurd: Any) -> None:
    accept(node)
    node.says[method] = absurd
    with pytest.raises(ChainNonsense):
        ledger.withdraw(JobId(1))


def test_a_node_lost_while_sending_leaves_the_hash(node: Node, ledger: Any) -> None:
    sent: list[str] = []

    def vanish(params: list[Any]) -> Any:
        sent.append(params[0])
        node.raw = drop
        raise ConnectionAbortedError

    node.says["eth_sendRawTransaction"] = vanish
    node._server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    with pytest.raises(ChainUnreachable, match="may be on the chain") as caught:
        ledger.withdraw(JobId(1))
    assert name_of(sent[0]) in str(caught.value)


def test_a_chain_without_base_fee_is_paid_by_gas_price(node: Node, ledger: Any) -> None:
    sent = accept(node)
    node.says |= {"eth_getBlockByNumber": block(baseFeePerGas=None), "eth_gasPrice": "0x7"}
    ledger.withdraw(JobId(1))
    assert int(sent[0][2:4], 16) >= 0xC0, "an untyped transaction"


def test_a_deployment_elsewhere_is_nonsense(node: Node, tmp_path: Path) -> None:
    accept(node, contractAddress=None)
    with pytest.raises(ChainNonsense):
        deploy(node.url, ACCOUNT, locks=tmp_path)
    accept(node, contractAddress=ADDRESS)
    node.says["eth_getCode"] = "0x00"
    with pytest.raises(NoLedger):
        deploy(node.url, ACCOUNT, locks=tmp_path)


def test_the_time_of_the_next_block_is_the_newest_ones_where_the_node_cannot_say(
    node: Node, reader: ChainReader
) -> None:
    node.says["eth_getBlockByNumber"] = lambda params: block() if params[0] == "latest" else None
    assert reader.pending_time() == 100
    node.says["eth_getBlockByNumber"] = lambda params: block() if params[0] == "latest" else error("no pending block")
    assert reader.pending_time() == 100
    node.says["eth_getBlockByNumber"] = lambda params: block(timestamp="0x65")
    assert reader.pending_time() == 101


@pytest.mark.parametrize(
    ("gaps", "seconds"),
    [
        ([12, 12, 12, 12, 12], 12), ([12, 24, 11, 12, 12], 12), ([2, 2, 2, 2, 3], 2), ([12, 999, 12, 12, 12], 12),
        ([3, 17, 8, 5, 9], 0), ([3, 4, 2, 3, 4], 0), ([3, 3, 3, 3, 0], 0), ([35, 35], 0), ([7], 0), ([], 0),
    ],
)  # fmt: skip
def test_blocks_that_come_when_somebody_acts_have_no_pace(gaps: list[int], seconds: int) -> None:
    assert pace(gaps) == seconds


def test_a_view_that_reverts_is_explained(node: Node, reader: ChainReader) -> None:
    node.says["eth_call"] = revert("UnknownJob", ["uint256"], [7])
    with pytest.raises(LedgerRejected, match="no job 7"):
        reader.credit(JobId(7), Address(ADDRESS))
    node.says["eth_call"] = error("header not found")
    with pytest.raises(NodeRefused, match="header not found"):
        reader.credit(JobId(7), Address(ADDRESS))


# What a WebSocket can send.

SUBSCRIBED = '{"id": 1, "result": "0x5"}'


def pushed(head: Any, *, subscription: str = "0x5") -> str:
    params = {"subscription": subscription, "result": head}
    return json.dumps({"method": "eth_subscription", "params": params})


@pytest.fixture
def told(node: Node) -> Iterator[Callable[..., ChainReader]]:
    """A reader whose WebSocket sends the given messages and then nothing more."""
    opened: list[Any] = []

    def make(*messages: str | bytes) -> ChainReader:
        def tell(connection: ServerConnection) -> None:
            connection.recv()
            for message in messages:
                connection.send(message)
            with suppress(ConnectionClosed):
                connection.recv()

        server = serve(tell, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        reader = connect(node.url, ADDRESS, ws_url=f"ws://127.0.0.1:{server.socket.getsockname()[1]}")
        opened.append((reader, server, thread))
        return reader

    yield make
    for reader, server, thread in opened:
        reader.close()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "messages",
    [
        [SUBSCRIBED, pushed(block(10))],
        [pushed(block(10)), SUBSCRIBED, pushed(block(11))],
        [SUBSCRIBED, pushed(block(99), subscription="0x6"), '{"method": "else"}', '{"id": 7}', pushed(block(10))],
    ],
)
def test_a_pushed_head_ends_the_wait(told: Callable[..., ChainReader], messages: list[str]) -> None:
    reader = told(*messages)
    assert reader.wait(reader.head(), timeout=60).number in (10, 11)


def test_a_subscription_that_has_pushed_a_block_is_believed_to_be_silent_for_as_long_as_is_asked_for(
    told: Callable[..., ChainReader],
) -> None:
    reader = told(SUBSCRIBED, pushed(block(10)))
    head = reader.wait(reader.head(), timeout=60)
    asked = reader.rpc.asked.total()
    for _ in range(3):
        assert reader.wait(head, timeout=0.01, pause=0, silence=1e6) == head
    assert reader.rpc.asked.total() == asked


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ['{"id": 1, "error": {"code": -32601, "message": "no subscriptions"}}'],
        ["boo"],
        [b"\xff\xfe"],
        ["[" * 100_000],
        ["[]"],
        [" " * (2 << 20)],
        [SUBSCRIBED, pushed(None)],
        [SUBSCRIBED, pushed(block(hash="0x12"))],
        [SUBSCRIBED, '{"method": "eth_subscription", "params": 5}'],
    ],
)
def test_what_a_websocket_says_wrongly_only_costs_time(
    node: Node, told: Callable[..., ChainReader], messages: list[str | bytes]
) -> None:
    reader = told(*messages)
    after = reader.head()
    assert reader.wait(after, timeout=0.2) == after
    node.says["eth_getBlockByNumber"] = block(10)
    assert reader.wait(after, timeout=60).number == 10
