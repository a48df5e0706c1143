"""Serving the coordinator's HTTP API beside its work: the server has a thread, the signals stay ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deepledger.cli.page import Page
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, StateError


@contextmanager
def serving(
    reader: Reader, store: BlobStore, local: BlobStore, *, page: Page | None, host: str, port: int
) -> Iterator[str]:
    """Serves as long as the context lasts; gives the URL. Raises `StateError` if the port cannot be had.

    Strangers are given the blobs that are in `local`, and the dashboard's page, if there is one.
    """
    try:
        import uvicorn

        from deepledger.cli.page_routes import serve_page
        from deepledger.coordinator.api import build_app
    except ImportError as missing:
        raise BadInput(f"--api cannot be loaded ({missing}): pip install 'deepledger[coordinator]'") from None
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise StateError(
            f"the API cannot listen on {host} port {port}: {error.strerror}; choose another --api-port"
        ) from None
    app = build_app(reader, store, local=local)
    if page is not None:
        serve_page(app, page)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="api")
    thread.start()
    try:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
