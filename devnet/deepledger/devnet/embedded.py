"""Runs the embedded chain's server in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time

from deepledger.devnet.errors import needs_extra
from deepledger.devnet.ports import listening_socket
from deepledger.protocol.errors import StateError


class EmbeddedServer:
    """Serves from construction until `stop`."""

    def __init__(self, *, host: str, port: int) -> None:
        with needs_extra():
            import uvicorn

            from deepledger.devnet.server import BODY_LIMIT, application
        self._listening: socket.socket = listening_socket(host, port)
        self.port: int = self._listening.getsockname()[1]
        app, self._close = application()
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                ws="websockets-sansio",
                ws_max_size=BODY_LIMIT,
                ws_ping_interval=None,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}, name="devnet-server", daemon=True
        )
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                self.stop()
            self.check()
            time.sleep(0.005)

    def check(self) -> None:
        if not self._thread.is_alive():
            raise StateError("the embedded devnet's server has ended by itself: what it logged says why")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._close()
        self._listening.close()
