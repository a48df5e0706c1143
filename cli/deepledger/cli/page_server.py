"""Serves the dashboard's page to browsers on this machine, with the chain and the blobs that it asks for.

One origin for all three, so that a laptop needs no gateway and no node that allows pages of others to ask it. Nothing
is signed or sent: only reading methods reach the node. What other pages in the same browser ask is refused, and what is
served is bounded, in connections and in blobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, TypeAlias

from deepledger.cli.page import HEADERS, MOST_QUESTION_BYTES, Answer, Page
from deepledger.protocol.blobs.serving import Busy, Serving
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.rpc import Rpc
from deepledger.protocol.errors import BadInput, BlobError, BlobMissing, DeepledgerError, StateError
from deepledger.protocol.types import Address

_CONNECTIONS: Final = 64  # each has a thread
_READING: Final = 3  # blobs that may be whole in memory at once; some stores are waited for
_LINKED: Final = {"/", "/index.html"}  # where links of other pages may lead


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of the page itself."""

    method: str
    path: str  # with its query
    headers: dict[str, str]
    body: bytes


More: TypeAlias = Callable[[Asked], Answer | None]


@contextmanager
def serving(
    folder: Path, contract: Address, rpc: Rpc, store: BlobStore, *, port: int, more: More = lambda _: None
) -> Iterator[str]:
    """Serves on loopback as long as the context lasts; gives the URL. Raises `StateError` if the port cannot be had.

    `more` may answer what its own page asks; it is asked first.
    """
    handler = type(
        "Handler",
        (_Handler,),
        {
            "page": Page(folder, contract, rpc, blobs="blobs/"),
            "blobs": Serving(store, reading=_READING),
            "more": staticmethod(more),
        },
    )
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

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._places = threading.BoundedSemaphore(_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, *_: object) -> None:
        """A browser that goes away in the middle of an answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    page: Page
    blobs: Serving
    more: More
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds of silence
    wbufsize = 1 << 16  # else head and body are sent apart, and the second waits for an acknowledgement
    server_version = "deepledger"
    sys_version = ""

    def do_GET(self) -> None:
        if self._is_ours():
            asked, path = Asked("GET", self.path, dict(self.headers.items()), b""), self.path.partition("?")[0]
            if found := self.more(asked):
                self._send(*found)
            elif path.startswith("/blobs/"):
                self._send_blob(path.removeprefix("/blobs/"))
            else:
                self._send(*self._found(path))

    def _found(self, path: str) -> Answer:
        if path == "/source.json":
            return self.page.source()
        return self.page.file(path) or (HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        kind, length = self.headers.get("Content-Type", ""), self.headers.get("Content-Length", "")
        if kind.partition(";")[0] != "application/json":
            self._refuse(HTTPStatus.NOT_FOUND, "only JSON is taken")
        elif not length.isdecimal() or int(length) > MOST_QUESTION_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the question has no length, or is too long")
        else:
            body = self.rfile.read(int(length))
            if found := self.more(Asked("POST", self.path, dict(self.headers.items()), body)):
                self._send(*found)
                return
            if self.path != "/rpc":
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"JSON-RPC is taken at /rpc")
                return
            try:
                self._send(*self.page.ask(body))
            except (ValueError, TypeError, RecursionError, DeepledgerError):
                self._refuse(HTTPStatus.BAD_REQUEST, "that is no JSON-RPC")

    def _is_ours(self) -> bool:
        """Whether the page itself asks: not another name for this address, not a page from elsewhere, whose browser
        tells no origin where it fetches an image, but the site.
        """
        port = self.server.server_port  # type: ignore[attr-defined]
        places = {f"127.0.0.1:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        ours = (
            self.headers.get("Host") in places
            and (origin is None or origin.removeprefix("http://") in places)
            and (site in ("same-origin", "none") or self.path.partition("?")[0] in _LINKED)
        )
        if not ours:
            self._refuse(HTTPStatus.FORBIDDEN, "only the dashboard's own page may ask")
        return ours

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what the question goes on with is not read
        self._send(status, "text/plain; charset=utf-8", why.encode())

    def _send_blob(self, cid: str) -> None:
        text = "text/plain; charset=utf-8"
        try:
            with self.blobs.blob(cid) as served:
                end = time.monotonic() + served.seconds
                self._begin(HTTPStatus.OK, "application/octet-stream", served.size)
                for piece in served.pieces():
                    if time.monotonic() > end:
                        self.close_connection = True
                        return
                    self.wfile.write(piece)
        except Busy as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, text, str(error).encode())
        except (BadInput, BlobMissing) as error:
            self._send(HTTPStatus.NOT_FOUND, text, str(error).encode())
        except BlobError as error:
            self._send(HTTPStatus.BAD_GATEWAY, text, str(error).encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self._begin(status, kind, len(data))
        self.wfile.write(data)

    def _begin(self, status: HTTPStatus, kind: str, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
