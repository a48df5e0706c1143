"""A pinning service: the IPFS Pinning Service API in front of a Kubo daemon, which really fetches and keeps.

`tests/integration/test_pinning.py` holds it against Kubo's own client, too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "sesame"


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, daemon) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.daemon, self.pins, self.asked = daemon, {}, []
        self.lock, self.work = threading.Lock(), ThreadPoolExecutor(2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/psa"

    def status(self, number: str) -> dict:
        pin, state = self.pins[number]
        return {
            "requestid": number, "status": state, "created": "2026-11-29T12:00:00Z", "pin": pin,
            "delegates": json.loads(self.daemon.rpc("id"))["Addresses"],
        }  # fmt: skip

    def take(self, pin: dict) -> str:
        with self.lock:
            number = str(len(self.pins))
            self.pins[number] = (pin, "queued")
        self.work.submit(self._fetch, number)
        return number

    def _fetch(self, number: str) -> None:
        pin, _ = self.pins[number]
        self.pins[number] = (pin, "pinning")
        for origin in pin.get("origins") or []:
            with suppress(RuntimeError):
                self.daemon.ipfs("swarm", "connect", origin)
        try:
            self.daemon.ipfs("pin", "add", "--timeout=20s", pin["cid"])
            self.pins[number] = (pin, "pinned")
        except RuntimeError:
            self.pins[number] = (pin, "failed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self):
        place, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if not self._is_allowed():
            return
        if (number := place.removeprefix("/psa/pins/")) in self.server.pins:
            self._say(200, self.server.status(number))
            return
        if place != "/psa/pins":
            self._say(404, {"error": {"reason": "NOT_FOUND"}})
            return
        cids = {each for value in query.get("cid", []) for each in value.split(",")}
        states = {each for value in query.get("status", ["pinned"]) for each in value.split(",")}
        if len(cids) > 10:
            self._say(400, {"error": {"reason": "BAD_REQUEST", "details": "more than ten CIDs"}})
            return
        found = [
            number
            for number, (pin, state) in self.server.pins.items()
            if (not cids or pin["cid"] in cids) and state in states
        ]
        limit = int(query.get("limit", ["10"])[0])
        self._say(200, {"count": len(found), "results": [self.server.status(number) for number in found[:limit]]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._is_allowed():
            pin = json.loads(body)
            self.server.asked.append(pin)
            self._say(202, self.server.status(self.server.take(pin)))

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._say(401, {"error": {"reason": "UNAUTHORIZED", "details": "Access token is missing or invalid"}})
        return False

    def _say(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def run_service(daemon) -> Iterator[Service]:
    with Service(daemon) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.work.shutdown(
                wait=False, cancel_futures=True
            )  # what nobody has is looked for until the daemon stops
