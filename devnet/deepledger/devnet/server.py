"""JSON-RPC 2.0 for the embedded chain, over HTTP POST and WebSocket on one port.

py-evm is synchronous, so one worker thread owns the chain and the event loop stays free to answer, and to push a new
head the moment it is mined.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic_core import from_json  # unlike json's, its nesting is bounded
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from deepledger.devnet.chain import Block, EmbeddedChain
from deepledger.devnet.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RpcRefusal,
    bad_params,
)
from deepledger.devnet.rpc import answer
from deepledger.devnet.wire import Json, head_json

BODY_LIMIT = 2**20
"""Bytes; a contract has 24,576 at most, and as many more in hexadecimal."""
BATCH_LIMIT = 1000
BACKLOG_LIMIT = 1000
"""Messages that a WebSocket client may leave unread before it is cut off."""

log = logging.getLogger(__name__)


class Listener:
    """One WebSocket connection: its subscriptions, and what is still to be sent."""

    def __init__(self) -> None:
        self.subscriptions: set[str] = set()
        self.outbox: asyncio.Queue[str | None] = asyncio.Queue(BACKLOG_LIMIT)

    def push(self, message: str | None) -> None:
        """None ends the connection; so does a full outbox."""
        if self.outbox.full():
            while not self.outbox.empty():
                self.outbox.get_nowait()
            message = None
        self.outbox.put_nowait(message)


class Endpoint:
    """What the connections share."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devnet-chain")
        self._listeners: set[Listener] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._chain = EmbeddedChain(on_block=self._announce)

    def close(self) -> None:
        self._worker.shutdown()

    async def post(self, request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_LIMIT:
                return Response(f"the body may have {BODY_LIMIT} bytes", status_code=413)
        reply = await self._reply(bytes(body), None)
        return Response(reply or b"", media_type="application/json")

    async def connect(self, socket: WebSocket) -> None:
        await socket.accept()
        listener = Listener()
        self._listeners.add(listener)
        sender = asyncio.create_task(_send_all(listener, socket))
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                reply = await self._reply(text if text is not None else message["bytes"], listener)
                if reply is not None:
                    listener.push(reply)
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            self._listeners.discard(listener)
            sender.cancel()

    async def _reply(self, body: bytes | str, listener: Listener | None) -> str | None:
        self._loop = asyncio.get_running_loop()
        try:
            requests = from_json(body, allow_inf_nan=False)
        except ValueError:
            return _encoded(_failure(None, RpcRefusal(PARSE_ERROR, "parse error")))
        if not isinstance(requests, list):
            single = await self._answer(requests, listener)
            return None if single is None else _encoded(single)
        if not requests or len(requests) > BATCH_LIMIT:
            refusal = RpcRefusal(INVALID_REQUEST, f"a batch must have 1 to {BATCH_LIMIT} requests")
            return _encoded(_failure(None, refusal))
        answers = [done for request in requests if (done := await self._answer(request, listener)) is not None]
        return _encoded(answers) if answers else None

    async def _answer(self, request: Any, listener: Listener | None) -> Json | None:
        """None for a notification."""
        number = request.get("id") if isinstance(request, dict) else None
        try:
            if not isinstance(request, dict) or not isinstance(request.get("method"), str):
                raise RpcRefusal(INVALID_REQUEST, "invalid request")
            if isinstance(number, dict | list):
                raise RpcRefusal(INVALID_REQUEST, "the id must be a string or a number")
            method, arguments = request["method"], request.get("params") or []
            if not isinstance(arguments, list):
                raise bad_params("the parameters must be a list")
            result = await self._result(method, arguments, listener)
        except RpcRefusal as refusal:
            return _failure(number, refusal)
        except Exception:
            log.exception("a devnet request failed")
            return _failure(number, RpcRefusal(INTERNAL_ERROR, "internal error"))
        return {"jsonrpc": "2.0", "id": number, "result": result} if "id" in request else None

    async def _result(self, method: str, arguments: list[Any], listener: Listener | None) -> Any:
        if method in ("eth_subscribe", "eth_unsubscribe"):
            return _subscription(method, arguments, listener)
        return await asyncio.get_running_loop().run_in_executor(self._worker, answer, self._chain, method, arguments)

    def _announce(self, block: Block) -> None:
        """Called in the worker thread."""
        if self._loop is not None and self._listeners:
            self._loop.call_soon_threadsafe(self._push_head, head_json(block.shown))

    def _push_head(self, head: Json) -> None:
        for listener in self._listeners:
            for subscription in listener.subscriptions:
                told = {"subscription": subscription, "result": head}
                listener.push(_encoded({"jsonrpc": "2.0", "method": "eth_subscription", "params": told}))


def application() -> tuple[Starlette, Callable[[], None]]:
    """An ASGI application with a new chain, and what ends its worker thread."""
    endpoint = Endpoint()
    routes = [Route("/", endpoint.post, methods=["POST"]), WebSocketRoute("/", endpoint.connect)]
    return Starlette(routes=routes), endpoint.close


def _subscription(method: str, arguments: list[Any], listener: Listener | None) -> Any:
    if listener is None:
        raise RpcRefusal(METHOD_NOT_FOUND, "notifications not supported: subscribe over a WebSocket")
    subject = arguments[0] if len(arguments) == 1 else None
    if method == "eth_unsubscribe":
        known = isinstance(subject, str) and subject in listener.subscriptions
        listener.subscriptions -= {subject} if known else set()
        return known
    if subject != "newHeads":
        raise bad_params("this devnet has one subscription: newHeads")
    subscription = "0x" + secrets.token_hex(16)
    listener.subscriptions.add(subscription)
    return subscription


async def _send_all(listener: Listener, socket: WebSocket) -> None:
    while (message := await listener.outbox.get()) is not None:
        await socket.send_text(message)
    await socket.close(code=1013)


def _failure(number: Any, refusal: RpcRefusal) -> Json:
    error: Json = {"code": refusal.code, "message": refusal.message}
    if refusal.data is not None:
        error["data"] = refusal.data
    return {"jsonrpc": "2.0", "id": number, "error": error}


def _encoded(reply: Any) -> str:
    return json.dumps(reply, separators=(",", ":"))
