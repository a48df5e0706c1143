"""The dashboard's page as part of the coordinator's HTTP API, for whoever may reach that."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from deepledger.cli.page import HEADERS, MOST_QUESTION_BYTES, Answer, Page
from deepledger.protocol.errors import DeepledgerError

PLACE = "/page/"


def serve_page(app: FastAPI, page: Page) -> None:
    """Adds the page's routes below `PLACE`; blobs are the API's own."""

    @app.get(PLACE.rstrip("/"), include_in_schema=False)
    def bare() -> Response:
        return RedirectResponse(PLACE)

    @app.post(f"{PLACE}rpc", include_in_schema=False)
    async def rpc(request: Request) -> Response:
        body = bytearray()
        if request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return _refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only JSON-RPC is taken")
        async for part in request.stream():
            body += part
            if len(body) > MOST_QUESTION_BYTES:
                return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the question is too long")
        try:
            return _told(await run_in_threadpool(page.ask, bytes(body)))
        except (ValueError, TypeError, RecursionError, DeepledgerError):
            return _refused(HTTPStatus.BAD_REQUEST, "that is no JSON-RPC")

    @app.get(f"{PLACE}source.json", include_in_schema=False)
    def source() -> Response:
        return _told(page.source())

    @app.get(PLACE + "{path:path}", include_in_schema=False)
    def file(path: str) -> Response:
        found = page.file(f"/{path}")
        return _told(found) if found else _refused(HTTPStatus.NOT_FOUND, "there is no such page")


def _told(answer: Answer) -> Response:
    status, kind, data = answer
    return Response(data, status_code=status, media_type=kind, headers=HEADERS | {"Cache-Control": "no-store"})


def _refused(status: HTTPStatus, why: str) -> Response:
    return _told((status, "text/plain; charset=utf-8", why.encode()))
