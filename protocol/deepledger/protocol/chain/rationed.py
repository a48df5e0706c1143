"""A node that is asked for strangers, too, and no more often than its owner can spare."""

from __future__ import annotations

import threading
import time
from typing import Any

from deepledger.protocol.chain.rpc import Request, Rpc


class Ration:
    """Requests that may be made: so many at once, after a while in which none were, and so many a second."""

    def __init__(self, *, at_once: int, a_second: float) -> None:
        self._at_once, self._a_second = at_once, a_second
        self._left, self._since = float(at_once), time.monotonic()
        self._counting = threading.Lock()

    def take(self, requests: int) -> None:
        """Returns once so many may be made."""
        with self._counting:
            now = time.monotonic()
            self._left = min(self._left + (now - self._since) * self._a_second, self._at_once) - requests
            self._since = now
            wait = -self._left / self._a_second
        time.sleep(max(wait, 0.0))


class Rationed:
    """An `Rpc` that keeps to a ration, which others may keep to with it."""

    def __init__(self, rpc: Rpc, ration: Ration) -> None:
        self._rpc, self._ration = rpc, ration
        self.place, self.asked = rpc.place, rpc.asked

    @property
    def trips(self) -> int:
        return self._rpc.trips

    @property
    def batches(self) -> bool:
        return self._rpc.batches

    def call(self, method: str, *params: Any) -> Any:
        self._ration.take(1)
        return self._rpc.call(method, *params)

    def batch(self, *requests: Request) -> list[Any]:
        self._ration.take(len(requests))
        return self._rpc.batch(*requests)

    def each(self, method: str, *params: Any) -> list[Any]:
        self._ration.take(1)
        return self._rpc.each(method, *params)

    def elsewhere(self) -> None:
        self._rpc.elsewhere()

    def close(self) -> None:
        self._rpc.close()
