"""Blobs that others may withhold, asked for in the background: that nobody has one, a store may tell late, or never."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from deepledger.node.aside import started
from deepledger.protocol.blobs.digest import cid_of
from deepledger.protocol.errors import BlobError, BlobLate
from deepledger.protocol.types import Digest

MOMENT = 0.5  # seconds for which what is on its way is waited for, be it too late
_SOONEST, _SELDOM = 1.0, 120.0  # seconds after which what could not be had is asked for again, at first and at last

T = TypeVar("T")


@dataclass(slots=True)
class _Ask(Generic[T]):
    first: float  # when it was asked for first
    last: float
    coming: Future[T]
    failed: BlobError | None = None  # why it could not be had before

    @property
    def due(self) -> float:
        """When to ask again, if it cannot be had: after as long as it has been asked for."""
        return self.last + min(max(self.last - self.first, _SOONEST), _SELDOM)


class Asking(Generic[T]):
    """What `read` makes of blobs, which are known by their digests. Used by one thread."""

    def __init__(self, read: Callable[[Digest], T]) -> None:
        """`read` is called in threads, and raises as a store does, or what is so for ever."""
        self._read = read
        self._asks: dict[Digest, _Ask[T]] = {}

    def begin(self, digests: Iterable[Digest]) -> None:
        """All at once; and again, after a pause that doubles, with those that could not be had."""
        now = time.monotonic()
        for digest in digests:
            ask = self._asks.get(digest)
            if ask is None:
                self._asks[digest] = _Ask(now, now, self._started(digest))
            elif now >= ask.due and ask.coming.done() and isinstance(failed := ask.coming.exception(), BlobError):
                ask.last, ask.failed, ask.coming = now, failed, self._started(digest)

    def wait(self, digests: Collection[Digest], patience: float) -> None:
        """Until the answers are there, or each was asked for `patience` seconds ago or more for the first time: so who
        withholds a blob is waited for once, and then for a moment only.
        """
        self.begin(digests)
        soon = time.monotonic() + MOMENT
        for digest in digests:
            ask = self._asks[digest]
            with suppress(TimeoutError):
                ask.coming.exception(max(ask.first + patience, soon) - time.monotonic())

    def found(self, digest: Digest) -> T:
        """What was asked for. Raises what reading it did, and `BlobLate` while that has not ended."""
        ask = self._asks[digest]
        ended = ask.coming.done()
        error = ask.coming.exception() if ended else ask.failed
        if error is not None:
            raise error.with_traceback(None)
        if not ended:
            raise BlobLate(f"blob {cid_of(digest)} has not come yet")
        return ask.coming.result()

    def asked_for(self, digest: Digest) -> float:
        """Seconds since that began."""
        return time.monotonic() - self._asks[digest].first

    def forget_but(self, digests: Collection[Digest]) -> None:
        self._asks = {digest: ask for digest, ask in self._asks.items() if digest in digests}

    def _started(self, digest: Digest) -> Future[T]:
        return started(partial(self._read, digest))
