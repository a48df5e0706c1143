"""Who is not counted any more: whoever was to blame, by its shares, for a masked round."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadSpec, BlobError, BlobLate
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.state import Attempt, Job, SettledRound
from deepledger.protocol.settlement.inputs import Place
from deepledger.protocol.settlement.reading import to_blame
from deepledger.protocol.types import Address

_GLANCE = 0.5  # seconds

_Known = tuple[int, str]
"""A round that is over, as of the block that settled it."""


class Culprits:
    """Looked for by threads, of all rounds that are over.

    A store may have what that follows from late, or never, and take long to say so; a count that is missed costs the
    bond. What has been given up once is looked for again, and not waited for.
    """

    def __init__(self, store: BlobStore, spec: JobSpec, place: Place) -> None:
        self._store, self._spec, self._place = store, spec, place
        self._found: dict[_Known, frozenset[Address]] = {}
        self._looking: set[_Known] = set()
        self._trouble: dict[_Known, BlobError] = {}  # the latest
        self._given_up: set[_Known] = set()
        self._news = threading.Condition()

    def expect(self, job: Job, attempt: Attempt) -> None:
        """Begin to look at what nobody looks at yet, the latest rounds first."""
        with self._news:
            new = [
                over
                for over in reversed(job.history[: attempt.round])
                if (known := _known(over)) not in self._found and known not in self._looking
            ]
            self._looking.update(map(_known, new))
        if new:
            # A daemon: a store that hangs must not keep the process from ending.
            threading.Thread(target=self._look, args=(job, new), name="blame", daemon=True).start()

    def before(self, job: Job, attempt: Attempt, *, is_too_late: Callable[[BlobError], bool]) -> frozenset[Address]:
        """Of all rounds before an attempt. Raises `BlobError` while that is not known, and not too late."""
        self.expect(job, attempt)
        rounds = {_known(over) for over in job.history[: attempt.round]}
        with self._news:
            self._news.wait_for(lambda: rounds <= self._found.keys() | self._given_up, _GLANCE)
            for known in sorted(rounds - self._found.keys() - self._given_up):
                late = BlobLate(f"who is to blame for round {known[0]} is still being looked for")
                if not is_too_late(trouble := self._trouble.get(known, late)):
                    raise trouble
                self._given_up.add(known)
            return frozenset().union(*(self._found.get(known, frozenset()) for known in rounds))

    def _look(self, job: Job, rounds: Sequence[SettledRound]) -> None:
        try:
            for over in rounds:
                self._look_at(job, over)
        finally:  # whatever ended it, what has not been found is looked for again
            with self._news:
                self._looking.difference_update(map(_known, rounds))

    def _look_at(self, job: Job, over: SettledRound) -> None:
        known = _known(over)
        try:
            found = to_blame(self._store, job, over, self._spec, self._place)
        except BadSpec:  # the report is none, and never will be
            found = frozenset()
        except BlobError as error:
            self._trouble[known] = error
            return
        with self._news:
            self._found[known] = found
            self._news.notify_all()


def _known(over: SettledRound) -> _Known:
    return over.opened.round, over.settled.at.block_hash
