"""Serves the dashboard's page to browsers on this machine, with the chain and the blobs that it asks for.

One origin for all three, so that a laptop needs no gateway and no node that allows pages of others to ask it. Nothing
is signed or sent: only reading methods reach the node. What other pages in the same browser send is refused.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json  # bounds nesting; web3 lifts Python's limit, so that json.loads would crash

from deepledger.protocol.blobs.digest import digest_from_cid
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.rpc import NodeRefused, Rpc
from deepledger.protocol.errors import BadInput, BlobError, BlobMissing, ChainError, DeepledgerError, StateError
from deepledger.protocol.types import Address

MOST_BLOB_BYTES: Final = 1 << 30
_MOST_QUESTION_BYTES: Final = 1 << 20
_MOST_QUESTIONS: Final = 1000
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
}  # fmt: skip
_READING: Final = {
    "eth_blockNumber", "eth_call", "eth_chainId", "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getCode",
    "eth_getLogs", "eth_getTransactionReceipt",
}  # fmt: skip
_ABOUT: Final = {"eth_call": "to", "eth_getCode": None, "eth_getLogs": "address"}
"""What names the contract in the first parameter of what may be asked about no other."""
_REFUSED: Final = -32601


def page_folder() -> Path:
    """Where the built page is: in the installed package, or in the checkout. Raises `BadInput` if it is not built."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "dashboard", here.parents[3] / "dashboard" / "dist"):
        if (folder / "index.html").is_file():
            return folder
    raise BadInput(
        "the dashboard's page is not built: run `make dashboard` in the checkout, which takes Node.js 20.19 or newer "
        "and npm, or install a wheel that was made after it"
    )


@contextmanager
def serving(folder: Path, contract: Address, rpc: Rpc, store: BlobStore, *, port: int) -> Iterator[str]:
    """Serves on loopback as long as the context lasts; gives the URL. Raises `StateError` if the port cannot be had."""
    handler = type("Handler", (_Handler,), {"page": _Page(folder, contract, rpc, store)})
    try:
        server = _Server(("127.0.0.1", port), handler)
    except OSError as error:
        raise StateError(f"port {port} cannot be had: {error.strerror}; choose another --port") from None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="dashboard")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A browser that goes away in the middle of an answer is no news."""


class _Page:
    """What is served, by path."""

    def __init__(self, folder: Path, contract: Address, rpc: Rpc, store: BlobStore) -> None:
        self._files = {
            f"/{path.relative_to(folder).as_posix()}": (_TYPES.get(path.suffix, "application/octet-stream"), path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        self._files["/"] = self._files["/index.html"]
        self._contract, self._rpc, self._store = contract, rpc, store
        self._asking = threading.Lock()  # there is one connection

    def get(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path in self._files:
            kind, file = self._files[path]
            return HTTPStatus.OK, kind, file.read_bytes()
        if path == "/source.json":
            source = {"rpc": "rpc", "contract": self._contract, "blobs": "blobs/"}
            return HTTPStatus.OK, "application/json", json.dumps(source).encode()
        if path.startswith("/blobs/"):
            return self._blob(path.removeprefix("/blobs/"))
        return HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page"

    def _blob(self, cid: str) -> tuple[HTTPStatus, str, bytes]:
        try:
            data = self._store.read(digest_from_cid(cid), limit=MOST_BLOB_BYTES)
        except (BadInput, BlobMissing) as error:
            return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", str(error).encode()
        except BlobError as error:
            return HTTPStatus.BAD_GATEWAY, "text/plain; charset=utf-8", str(error).encode()
        return HTTPStatus.OK, "application/octet-stream", data

    def ask(self, body: bytes) -> tuple[HTTPStatus, str, bytes]:
        """Passes JSON-RPC on, one question or several. Raises `ValueError` for what is none."""
        asked = from_json(body)
        questions = asked if isinstance(asked, list) else [asked]
        if not 0 < len(questions) <= _MOST_QUESTIONS or not all(map(_is_question, questions)):
            raise ValueError("not JSON-RPC")
        allowed = [each for each in questions if self._reads(each)]
        requests = [(each["method"], list(each.get("params") or [])) for each in allowed]
        try:
            with self._asking:
                outcomes = self._rpc.batch(*requests) if requests else []
        except ChainError as error:
            return HTTPStatus.BAD_GATEWAY, "text/plain; charset=utf-8", str(error).encode()
        found = iter(outcomes)
        answers = [_answer(each, next(found)) if self._reads(each) else _refusal(each) for each in questions]
        told = answers if isinstance(asked, list) else answers[0]
        return HTTPStatus.OK, "application/json", json.dumps(told).encode()

    def _reads(self, question: dict[str, Any]) -> bool:
        """Whether it only reads, and of no other contract."""
        method, params = question["method"], question.get("params") or [None]
        if method not in _ABOUT:
            return method in _READING
        name, asked = _ABOUT[method], params[0]
        if name is not None:
            asked = asked.get(name) if isinstance(asked, dict) else None
        return isinstance(asked, str) and asked.lower() == self._contract.lower()


def _is_question(each: Any) -> bool:
    return isinstance(each, dict) and isinstance(each.get("method"), str) and isinstance(each.get("params") or [], list)


def _answer(question: dict[str, Any], outcome: Any) -> dict[str, Any]:
    answer = {"jsonrpc": "2.0", "id": question.get("id")}
    if isinstance(outcome, NodeRefused):
        return answer | {"error": {"code": outcome.code, "message": str(outcome), "data": outcome.data}}
    return answer | {"result": outcome}


def _refusal(question: dict[str, Any]) -> dict[str, Any]:
    error = {"code": _REFUSED, "message": "only what reads of this contract is passed on"}
    return {"jsonrpc": "2.0", "id": question.get("id"), "error": error}


class _Handler(BaseHTTPRequestHandler):
    page: _Page
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds of silence
    wbufsize = 1 << 16  # else head and body are sent apart, and the second waits for an acknowledgement
    server_version = "deepledger"
    sys_version = ""

    def do_GET(self) -> None:
        if self._is_ours():
            self._send(*self.page.get(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        kind, length = self.headers.get("Content-Type", ""), self.headers.get("Content-Length", "")
        if self.path != "/rpc" or kind.partition(";")[0] != "application/json":
            self._refuse(HTTPStatus.NOT_FOUND, "only JSON-RPC is taken, at /rpc")
        elif not length.isdecimal() or int(length) > _MOST_QUESTION_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the question has no length, or is too long")
        else:
            body = self.rfile.read(int(length))
            try:
                self._send(*self.page.ask(body))
            except (ValueError, TypeError, RecursionError, DeepledgerError):
                self._refuse(HTTPStatus.BAD_REQUEST, "that is no JSON-RPC")

    def _is_ours(self) -> bool:
        """Whether the page itself asks: not another name for this address, not a page from elsewhere."""
        port = self.server.server_port  # type: ignore[attr-defined]
        places = {f"127.0.0.1:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        ours = self.headers.get("Host") in places and (origin is None or origin.removeprefix("http://") in places)
        if not ours:
            self._refuse(HTTPStatus.FORBIDDEN, "only the dashboard's own page may ask")
        return ours

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what the question goes on with is not read
        self._send(status, "text/plain; charset=utf-8", why.encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
