"""The dashboard's page: its files, and the questions of JSON-RPC that it may ask of a chain.

Nothing is signed or sent: only what reads one contract reaches the node, so that whoever serves the page may serve
strangers.
"""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic_core import from_json  # bounds nesting; web3 lifts Python's limit, so that json.loads would crash

from deepledger.protocol.chain.reading import ChainReader as Reader
from deepledger.protocol.chain.rpc import NodeRefused, Rpc
from deepledger.protocol.errors import BadInput, ChainError
from deepledger.protocol.types import Address

Answer: TypeAlias = tuple[HTTPStatus, str, bytes]  # status, content type, body

MOST_QUESTION_BYTES: Final = 1 << 20
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MOST_QUESTIONS: Final = 128  # at once
_PATIENCE: Final = 20.0  # seconds for which a question waits for others
_TYPES: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
}  # fmt: skip
_READING: Final = {
    "eth_blockNumber", "eth_call", "eth_chainId", "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getCode",
    "eth_getLogs", "eth_getTransactionReceipt",
}  # fmt: skip
_ABOUT: Final = {"eth_call": "to", "eth_getCode": None, "eth_getLogs": "address"}
"""What names the contract in the first parameter of what may be asked about no other."""
_REFUSED: Final = -32601


def page_folder() -> Path:
    """Where the built page is: in the installed package, or in the checkout. Raises `BadInput` if it is not built."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "dashboard", here.parents[3] / "dashboard" / "dist"):
        if (folder / "index.html").is_file():
            return folder
    raise BadInput(
        "the dashboard's page is not built: run `make dashboard` in the checkout, which takes Node.js 20.19 or newer "
        "and npm, or install a wheel that was made after it"
    )


def built_page(reader: Reader) -> Page | None:
    """To be served with the coordinator's API, whose blobs it reads; None where it is not built."""
    try:
        return Page(page_folder(), reader.address, reader.rpc, blobs="../blobs/")
    except BadInput:
        return None


class Page:
    """`blobs`: the URL, as seen from the page, that a CID is put behind."""

    def __init__(self, folder: Path, contract: Address, rpc: Rpc, *, blobs: str) -> None:
        self._files = {
            f"/{path.relative_to(folder).as_posix()}": (_TYPES.get(path.suffix, "application/octet-stream"), path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        self._files["/"] = self._files["/index.html"]
        self._contract, self._rpc, self._blobs = contract, rpc, blobs
        self._asking = threading.Lock()  # there is one connection

    def file(self, path: str) -> Answer | None:
        """None: there is none of that name."""
        if path not in self._files:
            return None
        kind, file = self._files[path]
        return HTTPStatus.OK, kind, file.read_bytes()

    def source(self) -> Answer:
        """What the page reads from, where it is not told otherwise."""
        source = {"rpc": "rpc", "contract": self._contract, "blobs": self._blobs}
        return HTTPStatus.OK, "application/json", json.dumps(source).encode()

    def ask(self, body: bytes) -> Answer:
        """Passes JSON-RPC on, one question or several. Raises `ValueError` for what is none."""
        asked = from_json(body)
        questions = asked if isinstance(asked, list) else [asked]
        if not 0 < len(questions) <= _MOST_QUESTIONS or not all(map(_is_question, questions)):
            raise ValueError("not JSON-RPC")
        allowed = [each for each in questions if self._reads(each)]
        requests = [(each["method"], list(each.get("params") or [])) for each in allowed]
        if not self._asking.acquire(timeout=_PATIENCE):
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", b"too many ask: ask again"
        try:
            outcomes = self._rpc.batch(*requests) if requests else []
        except ChainError as error:
            return HTTPStatus.BAD_GATEWAY, "text/plain; charset=utf-8", str(error).encode()
        finally:
            self._asking.release()
        found = iter(outcomes)
        answers = [_answer(each, next(found)) if self._reads(each) else _refusal(each) for each in questions]
        told = answers if isinstance(asked, list) else answers[0]
        return HTTPStatus.OK, "application/json", json.dumps(told).encode()

    def _reads(self, question: dict[str, Any]) -> bool:
        """Whether it only reads, and of no other contract."""
        method, params = question["method"], question.get("params") or [None]
        if method not in _ABOUT:
            return method in _READING
        if len(params) > 2:
            return False  # a call may bring code that is to stand in the contract's place
        name, asked = _ABOUT[method], params[0]
        if name is not None:
            asked = asked.get(name) if isinstance(asked, dict) else None
        return isinstance(asked, str) and asked.lower() == self._contract.lower()


def _is_question(each: Any) -> bool:
    return isinstance(each, dict) and isinstance(each.get("method"), str) and isinstance(each.get("params") or [], list)


def _answer(question: dict[str, Any], outcome: Any) -> dict[str, Any]:
    answer = {"jsonrpc": "2.0", "id": question.get("id")}
    if isinstance(outcome, NodeRefused):
        return answer | {"error": {"code": outcome.code, "message": str(outcome), "data": outcome.data}}
    return answer | {"result": outcome}


def _refusal(question: dict[str, Any]) -> dict[str, Any]:
    error = {"code": _REFUSED, "message": "only what reads of this contract is passed on"}
    return {"jsonrpc": "2.0", "id": question.get("id"), "error": error}
