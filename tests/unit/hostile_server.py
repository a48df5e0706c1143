"""A server on this machine that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering(BaseHTTPRequestHandler):
    server: Any

    def say(self, body: bytes = b"", *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def hangs(request: Answering) -> None:
    request.server.released.wait()


@contextmanager
def served(answering: type[Answering], **state: Any) -> Iterator[Any]:
    """The server, with `state`; at the end what still `hangs` is released."""
    with ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        server.daemon_threads = True
        vars(server).update(state, released=threading.Event(), url=f"http://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server
        finally:
            vars(server)["released"].set()
            server.shutdown()
            serving.join()
