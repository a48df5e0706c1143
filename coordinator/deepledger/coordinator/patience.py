"""How long a coordinator waits for what a task is to answer: as long as the answer is of use.

That a task does not answer says nothing about the model: elsewhere it may, and whoever gets a result there would call
one that was given for want of time a lie. So nothing follows from it. What hangs may do so by chance, and is ended and
asked once more while there is time for that; then it is waited for until somebody else has the round, since late
settlements count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from deepledger.coordinator import decision
from deepledger.protocol.chain.events import Phase
from deepledger.protocol.errors import ChainError, OutOfTime
from deepledger.protocol.ether import eth
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.roles.retry import Stopped
from deepledger.protocol.types import Address, Seconds

_LOADING = 60.0  # seconds that a process has to load a task, however short a job's windows are
_LOOKS = 2.0  # seconds between looks at the chain


class Patience:
    """`Waits` of a coordinator's bench. Raises `OutOfTime`, and `Stopped` once `stop` is set."""

    def __init__(self, follower: Follower, me: Address, *, warn: Callable[[str], None], stop: threading.Event) -> None:
        self._follower, self._me, self._warn, self._stop = follower, me, warn, stop
        self._said: set[tuple[str, Seconds | None]] = set()
        self._look = 0.0  # when the chain is looked at again

    def __call__(self, seconds: float, _models: int) -> bool:
        if self._stop.is_set():
            raise Stopped
        if decision.is_done(self._follower.job, self._me):
            raise OutOfTime("the task has not answered while this coordinator was the one to settle")
        end = self._end()
        if end is None:
            self._before_it_matters(seconds)
            return False
        left = end - self._follower.now()
        if left <= 0:
            self._late(seconds, end)
            return False
        return self._in_time(seconds, end, left)

    def _end(self) -> Seconds | None:
        """Of the time in which it has to settle; None: there is nothing to settle yet."""
        job = self._follower.job
        if job.attempt is None or not decision.serves(job, self._me):
            return None
        if self._follower.phase() not in (Phase.SETTLING, Phase.OVERDUE):
            return None
        return Seconds(job.attempt.reveal_end + job.terms.settle_window)

    def _before_it_matters(self, seconds: float) -> None:
        """What takes as long as a job leaves for settling is of no use to it."""
        job = self._follower.job
        most = max(job.terms.settle_window, _LOADING)
        if seconds >= most:
            raise OutOfTime(
                f"the task has not answered for {seconds:.0f} s, and job {job.job} leaves {job.terms.settle_window} s "
                "to settle a round in"
            )
        if seconds >= _LOADING / 2 and self._is_new("loading", None):
            self._warn(f"The task has not answered for {seconds:.0f} s; it is given up after {most:.0f} s.")

    def _in_time(self, seconds: float, end: Seconds, left: float) -> bool:
        """`check_window` has all work fit in half of the window twice over: a quarter is enough to ask again."""
        job = self._follower.job
        closes = f"the settle window of round {job.round} closes in {left:.0f} s"
        if seconds >= left >= job.terms.settle_window / 4 and self._is_new("again", end):
            self._warn(f"The task has not answered for {seconds:.0f} s, and {closes}: it is ended and asked again.")
            return True
        if seconds >= left / 3 and self._is_new("soon", end):
            self._warn(f"The task has not answered for {seconds:.0f} s, and {closes}.")
        return False

    def _late(self, seconds: float, end: Seconds) -> None:
        job = self._follower.job
        if seconds and self._is_new("late", end):
            cost = f", which costs {eth(job.terms.settle_penalty)} of its bond" if job.terms.bond else ""
            self._warn(
                f"The settle window of round {job.round} is over, and the task has not answered for {seconds:.0f} s. "
                f"It is waited for until another takes this coordinator's place{cost}: a late settlement counts."
            )
        if time.monotonic() >= self._look:
            self._look = time.monotonic() + _LOOKS
            with suppress(ChainError):
                self._follower.update()

    def _is_new(self, what: str, end: Seconds | None) -> bool:
        new = (what, end) not in self._said
        self._said.add((what, end))
        return new
