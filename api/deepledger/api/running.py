"""A role that runs in a thread of this process, while its owner does something else."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from deepledger.api.shown import lines

if TYPE_CHECKING:
    from deepledger.api.network import Network
    from deepledger.protocol.roles.notices import Notice

_KEPT: Final = 4096  # notices
_SHOWN: Final = 12  # lines in a notebook
_LOOKS: Final = 0.2  # seconds, so that an interrupt is heard

Observe = Callable[["Notice"], None]
Role = Callable[[Observe, threading.Event], None]
"""Runs until its job is over, or the event is set; tells what happens."""

_everybody: WeakSet[Running] = WeakSet()


class Running:
    """A participant or a coordinator at work, until its job is over or this process ends: `wait` for it.

    When the process ends, it finishes its present step first. What it has committed to has to be revealed in time: the
    same call goes on where it was.
    """

    def __init__(self, name: str, role: Role, *, words: Callable[[Notice], str | None], network: Network) -> None:
        self.name = name
        self.network = network
        self._words = words
        self._notices: deque[Notice] = deque(maxlen=_KEPT)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(role,), name=name, daemon=True)
        _everybody.add(self)
        self._thread.start()

    def _run(self, role: Role) -> None:
        try:
            role(self._notices.append, self._stop)
        except BaseException as error:
            self._error = error

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """Why it ended, if that was not in order."""
        return self._error

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What it told last, as dataclasses."""
        return tuple(self._notices)

    @property
    def lines(self) -> tuple[str, ...]:
        """The same, for a person."""
        return tuple(text for notice in self.notices if (text := self._words(notice)))

    def wait(self, timeout: float | None = None) -> bool:
        """Until its job is over, or `timeout` seconds have passed; whether it has ended. Raises what ended it.

        Interrupted (Ctrl-C, or a notebook's stop button), it is asked to stop once its present step is done.
        """
        left = timeout
        try:
            while self.is_alive and (left is None or left > 0):
                self._thread.join(_LOOKS if left is None else min(_LOOKS, left))
                left = None if left is None else left - _LOOKS
        except KeyboardInterrupt:
            self._stop.set()
            raise
        if self.is_alive:
            return False
        if self._error is not None:
            raise self._error
        return True

    def stop(self) -> None:
        """Have it finish its present step, and end. Nothing is lost: the same call begins again where it was, but what
        was committed to has to be revealed in time. Raises what ended it before.
        """
        self._stop.set()
        self.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end([self])
        if kind is None and self._error is not None:
            raise self._error

    def _state(self) -> str:
        return "at work" if self.is_alive else "ended" if self._error is None else f"failed: {self._error}"

    def __repr__(self) -> str:
        return f"<{self.name}, {self._state()}>"

    def _repr_html_(self) -> str:
        return lines((f"{self.name}, {self._state()}", *self.lines[-_SHOWN:]))


@contextmanager
def ending(network: Network) -> Iterator[None]:
    """Before the network goes away, whoever still works on it is asked to stop."""
    try:
        yield
    finally:
        _end(each for each in list(_everybody) if each.network == network)


@atexit.register
def _end_all() -> None:
    _end(list(_everybody))


def _end(running: Iterable[Running]) -> None:
    left = list(running)
    for each in left:
        each._stop.set()
    for each in left:
        each._thread.join()
