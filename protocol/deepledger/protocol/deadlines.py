"""A time limit for a whole HTTP answer: its head, the sizes of its chunks, and its body.

A socket's timeout is one for silence: who sends a byte now and then is waited for without end, most of all where
http.client wants a line. Here each read of the socket waits no longer than what remains of the answer's time.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from http.client import HTTPResponse
from typing import Any, Final

from requests import Session

_END: Final[ContextVar[float]] = ContextVar("end of the answers that are asked for", default=float("inf"))


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """Answers that begin inside are whole within so many seconds from now, wherever they are read."""
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def heed_deadlines(session: Session) -> None:
    """Have the session's connections, as yet to be made, keep to `answers_within`: direct ones, and through proxies."""
    adapters: Any = session.adapters.values()
    for adapter in adapters:
        _heed(adapter.poolmanager)
        adapter.proxy_manager_for = partial(_heeding_proxy, adapter.proxy_manager_for)


def _heeding_proxy(manager_for: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return _heed(manager_for(*arguments, **options))


def _heed(manager: Any) -> Any:
    manager.pool_classes_by_scheme = {each: _heeding(pool) for each, pool in manager.pool_classes_by_scheme.items()}
    return manager


def _heeding(pool: Any) -> Any:
    if pool.ConnectionCls.response_class is _Answer:
        return pool
    connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": _Answer})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Reads(self.fp.detach(), sock, _END.get()))


class _Reads(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, end: float) -> None:
        super().__init__()
        self._raw, self._sock, self._end = raw, sock, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer took too long")
        silence = self._sock.gettimeout()
        self._sock.settimeout(remaining if silence is None else min(silence, remaining))
        try:
            return self._raw.readinto(buffer)
        finally:
            self._sock.settimeout(silence)  # the connection may be used again

    def close(self) -> None:
        self._raw.close()
        super().close()
