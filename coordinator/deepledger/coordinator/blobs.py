"""The blobs of the coordinator's store over HTTP: for a page in a browser, and for auditors without an IPFS daemon."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

from anyio import move_on_after
from fastapi import FastAPI, HTTPException, Path
from fastapi.responses import StreamingResponse

from deepledger.coordinator.schemas import Problem
from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.serving import Busy, Served, Serving
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BlobCorrupt, BlobMissing

Cid = Annotated[str, Path(max_length=128, description="The blob's CID, bafybei…")]


def serve_blobs(app: FastAPI, store: BlobStore) -> None:
    """Adds the route. Only what `store` has by itself is served if it was opened so, see `open_store`."""
    serving = Serving(store, reading=1)

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
                served = held.enter_context(serving.blob(cid))
            except Busy as error:
                raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
            except (BadInput, BlobMissing, BlobCorrupt) as error:
                raise HTTPException(404, str(error)) from None
            return _Answer(served, held=held.pop_all())


class _Answer(StreamingResponse):
    """Holds the file, and the place of who is served, until it is sent or its time is over."""

    def __init__(self, served: Served, *, held: ExitStack) -> None:
        headers = {
            "Content-Length": str(served.size),
            "Etag": f'"{cid_of(served.digest)}"',
            "Cache-Control": "public, max-age=29030400, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Disposition": "attachment",
            "Access-Control-Allow-Origin": "*",  # anybody may have what anybody's page asks for
        }
        super().__init__(served.pieces(), headers=headers, media_type="application/octet-stream")
        self._held, self._seconds = held, served.seconds

    async def __call__(self, *arguments: Any) -> None:
        with self._held, move_on_after(self._seconds):
            await super().__call__(*arguments)
