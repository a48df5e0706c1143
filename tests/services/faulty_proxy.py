"""A JSON-RPC proxy that does to answers what nodes and balancers of public providers do: one `Fault` for each.

    with faulty_proxy("http://127.0.0.1:8545") as proxy:
        proxy.faults.append(lacking_logs(times=2))

A fault meets a request or leaves it alone; those that come first in the list are met first.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
Answer = dict[str, Any]
Forward = Callable[[Request], Answer]
Meet = Callable[[Request, Forward], "Answer | None"]  # None: not met


class Status(Exception):
    """Answered by a gateway, for all that was asked at once."""

    def __init__(self, code: int, **headers: str) -> None:
        super().__init__(code)
        self.code, self.headers = code, headers


class Dropped(Exception):
    """The connection is closed without an answer."""


@dataclass
class Fault:
    name: str
    meet: Meet
    times: float = float("inf")  # it is met so often, then no more
    met: int = 0

    def __call__(self, request: Request, forward: Forward) -> Answer | None:
        if self.met >= self.times:
            return None
        try:
            answer = self.meet(request, forward)
        except (Status, Dropped):
            self.met += 1
            raise
        self.met += answer is not None
        return answer


def lacking_logs(*, times: float = 1, by_hash: bool = False) -> Fault:
    """An index of logs that lags: none are shown, though their block is; `by_hash`: not for a single block either."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] != "eth_getLogs" or ("blockHash" in request["params"][0] and not by_hash):
            return None
        answer = forward(request)
        return answer | {"result": []} if answer.get("result") else None

    return Fault("lacking logs", meet, times)


def without_event(topic: str, *, times: float = 1) -> Fault:
    """One kind of event is not shown."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] != "eth_getLogs":
            return None
        answer = forward(request)
        logs = answer.get("result") or []
        shown = [log for log in logs if log["topics"][0] != topic]
        return None if len(shown) == len(logs) else answer | {"result": shown}

    return Fault("without an event", meet, times)


def no_receipts_of_blocks() -> Fault:
    return refusing(
        "no receipts of blocks", "eth_getBlockReceipts", lambda _: True, code=-32601, message="method not found"
    )


def behind(blocks: int = 1, *, times: float = 1) -> Fault:
    """A balancer passes on to a node that lags."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] != "eth_getBlockByNumber" or request["params"][0] != "latest":
            return None
        newest = int(forward(request)["result"]["number"], 16)
        return forward(request | {"params": [hex(max(newest - blocks, 0)), False]})

    return Fault("behind", meet, times)


def stale_count(*, times: float = 1) -> Fault:
    """The number of an account's transactions is one behind."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] != "eth_getTransactionCount":
            return None
        answer = forward(request)
        return answer | {"result": hex(max(int(answer["result"], 16) - 1, 0))}

    return Fault("stale count", meet, times)


def losing_answers(method: str = "eth_sendRawTransaction", *, times: float = 1) -> Fault:
    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] == method:
            forward(request)
            raise Dropped
        return None

    return Fault("losing answers", meet, times)


def answering(status: int, *, method: str | None = None, times: float = 1, **headers: str) -> Fault:
    """A gateway's answer, with `headers` (an underscore stands for a hyphen)."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if method in (None, request["method"]):
            raise Status(status, **{name.replace("_", "-"): value for name, value in headers.items()})
        return None

    return Fault(f"answering {status}", meet, times)


def narrow(width: int, *, status: int | None = None, message: str = "block range is too wide") -> Fault:
    """No logs of more than `width` blocks at once; `status`: a gateway gives up instead of the node refusing."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        asked = request["params"][0] if request["method"] == "eth_getLogs" else {}
        if "fromBlock" not in asked or int(asked["toBlock"], 16) - int(asked["fromBlock"], 16) < width:
            return None
        if status is not None:
            raise Status(status)
        return refused(message)

    return Fault("narrow", meet)


def without_pending() -> Fault:
    """No block to come is known."""
    return refusing(
        "without pending",
        None,
        lambda request: "pending" in request["params"],
        message="pending block is not available",
    )


def standing_still() -> Fault:
    """What would happen now is tried as of the last block, as Ganache does."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        if request["method"] not in ("eth_estimateGas", "eth_getBlockByNumber") or "pending" not in request["params"]:
            return None
        return forward(request | {"params": ["latest" if each == "pending" else each for each in request["params"]]})

    return Fault("standing still", meet)


def asking_an_l1_fee() -> Fault:
    return refusing(
        "asking an L1 fee",
        "eth_sendRawTransaction",
        lambda _: True,
        message="insufficient funds for l1Cost + gas * price + value: balance 1, tx cost 2, overshot 1",
    )


def null(method: str, *, times: float) -> Fault:
    """What is there is not found."""

    def meet(request: Request, forward: Forward) -> Answer | None:
        return {"result": None} if request["method"] == method else None

    return Fault(f"null for {method}", meet, times)


def refused(message: str, *, code: int = -32000, data: Any = None) -> Answer:
    return {"error": {"code": code, "message": message} | ({} if data is None else {"data": data})}


def refusing(
    name: str, method: str | None, met: Callable[[Request], bool], *, message: str, code: int = -32000
) -> Fault:
    def meet(request: Request, forward: Forward) -> Answer | None:
        return refused(message, code=code) if method in (None, request["method"]) and met(request) else None

    return Fault(name, meet)


@dataclass
class FaultyProxy:
    target: str
    faults: list[Fault] = field(default_factory=list)
    batches: bool = True
    asked: list[Request] = field(default_factory=list)
    trips: int = 0
    url: str = ""

    def of(self, method: str) -> list[Request]:
        return [each for each in self.asked if each["method"] == method]

    def one(self, request: Request) -> Answer:
        self.asked.append(request)
        for fault in list(self.faults):
            answer = fault(request, self._forward)
            if answer is not None:
                return {"jsonrpc": "2.0", "id": request["id"]} | {
                    key: value for key, value in answer.items() if key in ("result", "error")
                }
        return self._forward(request)

    def answer(self, body: bytes) -> Any:
        request = json.loads(body)
        self.trips += 1
        if not isinstance(request, list):
            return self.one(request)
        if not self.batches:
            return {"jsonrpc": "2.0", "id": None} | refused("batch requests are not supported", code=-32600)
        return [self.one(each) for each in request]

    def _forward(self, request: Request) -> Answer:
        call = urllib.request.Request(
            self.target, data=json.dumps(request).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(call) as answer:
            return json.load(answer)


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            status, headers, body = 200, {}, b""
            try:
                body = json.dumps(proxy.answer(self.rfile.read(int(self.headers["Content-Length"])))).encode()
            except Status as gateway:
                status, headers = gateway.code, gateway.headers
            except (Dropped, OSError):  # a node that is away is a fault, too
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever asked has gone
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
