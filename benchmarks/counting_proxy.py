"""Passes a chain's JSON-RPC on and counts what is asked; `websocket=False`: as a node that has no WebSocket."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

_PIECE = 1 << 16


class CountingProxy:
    """A context; `calls` counts methods that were asked for, those of a batch one by one."""

    def __init__(self, target: str, *, websocket: bool) -> None:
        parts = urlsplit(target)
        self._target, self._websocket = (parts.hostname or "127.0.0.1", parts.port or 80), websocket
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.calls = 0

    def __enter__(self) -> CountingProxy:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._server.accept()
                threading.Thread(target=self._pass_on, args=(ours,), daemon=True).start()

    def _pass_on(self, ours: socket.socket) -> None:
        with suppress(OSError), ours, socket.create_connection(self._target) as theirs:
            threading.Thread(target=self._back, args=(theirs, ours), daemon=True).start()
            upgraded = False
            while piece := ours.recv(_PIECE):
                upgraded = upgraded or b"upgrade: websocket" in piece.lower()
                if upgraded and not self._websocket:
                    ours.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    return
                self.calls += piece.count(b'"method"')  # what a WebSocket sends is masked, and none of it is counted
                theirs.sendall(piece)

    def _back(self, theirs: socket.socket, ours: socket.socket) -> None:
        with suppress(OSError):
            while piece := theirs.recv(_PIECE):
                ours.sendall(piece)
            ours.shutdown(socket.SHUT_WR)
