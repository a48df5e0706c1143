"""A time limit for a whole HTTP answer: its head, the sizes of its chunks, and its body.

A socket's timeout is one for silence: who sends a byte now and then is waited for without end, most of all where
http.client wants a line. Here each read of the socket waits no longer than what remains of the answer's time. That may
grow with what has come, where nobody knows before how much there is.
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


class Deadline:
    """So many seconds from now; with `slowest`, bytes a second, what has come adds to them."""

    def __init__(self, seconds: float, *, slowest: float = float("inf")) -> None:
        self._end, self._slowest = time.monotonic() + seconds, slowest

    def remaining(self) -> float:
        return self._end - time.monotonic()

    def has_come(self, count: int) -> None:
        """So many bytes of what was asked for, and not of what surrounds it, which may be endless."""
        self._end += count / self._slowest
        if (hear := _HEARING.get()) is not None:
            hear(count)


_DEADLINE: Final[ContextVar[Deadline | None]] = ContextVar("of the answers that are asked for", default=None)

_HEARING: Final[ContextVar[Callable[[int], None] | None]] = ContextVar("who hears of what comes", default=None)


@contextmanager
def heard_by(hear: Callable[[int], None]) -> Iterator[None]:
    """Whenever something comes inside of what is asked for, `hear` is told how many bytes."""
    token = _HEARING.set(hear)
    try:
        yield
    finally:
        _HEARING.reset(token)


@contextmanager
def answers_within(limit: float | Deadline) -> Iterator[None]:
    """Answers that begin inside are whole within so many seconds from now, wherever they are read."""
    token = _DEADLINE.set(limit if isinstance(limit, Deadline) else Deadline(limit))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


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
        self.fp = io.BufferedReader(_Reads(self.fp.detach(), sock, _DEADLINE.get() or Deadline(float("inf"))))


class _Reads(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline.remaining()
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
