"""Hears of new blocks as they are made: eth_subscribe over WebSocket, in a background thread.

The feed never decides anything: it rings a bell. A reader that finds the bell silent for too long, or the connection
gone, asks over HTTP, so a node without WebSocket costs latency and nothing else.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from deepledger.protocol.chain import wire
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.errors import ChainError

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_MOST_BYTES = 1 << 20


class HeadFeed:
    """`ticket` counts what happened: heads pushed, connections made and lost."""

    def __init__(self, url: str | None, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._bell = threading.Condition()
        self._ticket = 0
        self._newest: Head | None = None
        self._live = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._socket: Any = None

    def start(self) -> None:
        with self._bell:
            if self._url is None or self._thread is not None or self._stop.is_set():
                return
            self._thread = threading.Thread(target=self._run, args=(self._url,), name="deepledger-heads", daemon=True)
            self._thread.start()

    def look(self) -> tuple[int, Head | None, bool]:
        """Ticket; the newest head pushed since the connection was made; whether there is one."""
        with self._bell:
            return self._ticket, self._newest, self._live

    def block(self, ticket: int, timeout: float) -> None:
        """Until something happened after `ticket`."""
        with self._bell:
            self._bell.wait_for(lambda: self._ticket != ticket, timeout)

    def close(self) -> None:
        self._stop.set()
        socket, thread = self._socket, self._thread
        if socket is not None:
            socket.close()
        if thread is not None:
            thread.join(self._timeout)

    def _ring(self, newest: Head | None, *, live: bool) -> None:
        with self._bell:
            self._ticket += 1
            self._newest = newest
            self._live = live
            self._bell.notify_all()

    def _run(self, url: str) -> None:
        from websockets.exceptions import WebSocketException

        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            # Whatever goes wrong, polling goes on meanwhile.
            with suppress(OSError, WebSocketException, ValueError, EOFError, ChainError):
                self._listen(url)
            was_live = self.look()[2]
            self._ring(None, live=False)
            pause = _FIRST_PAUSE if was_live else min(pause * 2, _LONGEST_PAUSE)
            self._stop.wait(pause)

    def _listen(self, url: str) -> None:
        from pydantic_core import from_json  # bounds nesting, which json.loads does not once web3 is imported
        from websockets.sync.client import connect

        with connect(url, open_timeout=self._timeout, close_timeout=1, max_size=_MOST_BYTES) as socket:
            self._socket = socket
            socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}))
            subscription = None
            # A head may be pushed before the answer to the subscription arrives.
            while not self._stop.is_set():
                message = wire.fields(from_json(socket.recv()), "a notification")
                if message.get("id") == 1:
                    if not isinstance(message.get("result"), str):
                        return  # no subscriptions here
                    subscription = message["result"]
                    self._ring(None, live=True)
                elif message.get("method") == "eth_subscription":
                    params = wire.fields(message.get("params"), "a notification")
                    if subscription in (None, params.get("subscription")):
                        self._ring(wire.head(params.get("result"), "a notification"), live=True)


def websocket_url(url: str) -> str:
    """Same host, port and path as the RPC."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme={"http": "ws", "https": "wss"}[parts.scheme]))
