"""What a devnet answers when it refuses a request, in the codes and words that geth uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepledger.protocol.errors import BadInput

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
EXECUTION_REVERTED = 3


class RpcRefusal(Exception):
    """Becomes the `error` member of a JSON-RPC answer."""

    def __init__(self, code: int, message: str, *, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def refused(message: str) -> RpcRefusal:
    """A transaction or call that the chain does not take."""
    return RpcRefusal(SERVER_ERROR, message)


def bad_params(message: str) -> RpcRefusal:
    return RpcRefusal(INVALID_PARAMS, message)


@contextmanager
def needs_extra() -> Iterator[None]:
    """Says which extra to install when an import inside fails."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise BadInput(
            f"the devnet needs the Python package {missing.name!r}, which is not installed: "
            "pip install 'deepledger[devnet]'"
        ) from missing
