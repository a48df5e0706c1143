"""The blobs of the coordinator's store over HTTP: for a page in a browser, and for auditors without an IPFS daemon.

Whoever reads here has to check what it gets against the digest, as with any store. What is served is bounded: a few
blobs at once, each in a file of its own on the way, and whoever takes one too slowly is cut off.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Annotated, Any, Final

from anyio import move_on_after
from fastapi import FastAPI, HTTPException, Path
from fastapi.responses import StreamingResponse

from deepledger.coordinator.schemas import Problem
from deepledger.protocol.blobs import cid_of, digest_from_cid
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobMissing

MOST_BLOB_BYTES: Final = 1 << 30
_AT_ONCE: Final = 8  # blobs on their way to those who asked
_IN_MEMORY: Final = 1 << 20  # bytes of each; what is larger goes through a temporary file
_PIECE: Final = 1 << 18
_PATIENCE, _SLOWEST = 60, 65_536  # seconds, and bytes a second, within which a blob is to be taken

Cid = Annotated[str, Path(max_length=128, description="The blob's CID, bafybei…")]


def serve_blobs(app: FastAPI, store: BlobStore) -> None:
    """Adds the route. Only what `store` has by itself is served if it was opened so, see `open_store`."""
    slots = threading.BoundedSemaphore(_AT_ONCE)
    reading = threading.Lock()  # one whole blob at a time is in memory

    @app.get(
        "/blobs/{cid}",
        summary="A blob's bytes, to be checked against its digest",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            404: {"model": Problem, "description": "No such blob is here."},
            503: {"model": Problem, "description": "Others are being served: ask again."},
        },
    )
    def blob(cid: Cid) -> StreamingResponse:
        with ExitStack() as held:
            try:
                digest = digest_from_cid(cid)
                if not slots.acquire(blocking=False):
                    raise HTTPException(503, "too many blobs are being served: ask again", {"Retry-After": "1"})
                held.callback(slots.release)
                file = held.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY))
                with reading:
                    file.write(store.read(digest, limit=MOST_BLOB_BYTES))
            except (BadInput, BlobMissing, BlobCorrupt) as error:
                raise HTTPException(404, str(error)) from None
            return _Served(file, etag=cid_of(digest), held=held.pop_all())


class _Served(StreamingResponse):
    """Holds the file, and the place of who is served, until it is sent or its time is over."""

    def __init__(self, file: IO[bytes], *, etag: str, held: ExitStack) -> None:
        size = file.tell()
        file.seek(0)
        headers = {
            "Content-Length": str(size),
            "Etag": f'"{etag}"',
            "Cache-Control": "public, max-age=29030400, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": "attachment",
            "Access-Control-Allow-Origin": "*",  # anybody may have what anybody's page asks for
        }
        super().__init__(_pieces(file), headers=headers, media_type="application/octet-stream")
        self._held, self._seconds = held, _PATIENCE + size / _SLOWEST

    async def __call__(self, *arguments: Any) -> None:
        with self._held, move_on_after(self._seconds):
            await super().__call__(*arguments)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
