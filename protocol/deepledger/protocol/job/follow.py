"""Following one job: fold what the chain reports, and know what time it is there.

Deadlines are the chain's, so the clock is the chain's too: the newest block's timestamp, run on with this machine's
monotonic clock. A wrong wall clock cannot make anybody miss a deadline.
"""

from __future__ import annotations

import time

from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.job.phases import deadline, phase_at
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import replay
from deepledger.protocol.types import JobId, Seconds

_PATIENCE = 60.0


class Follower:
    """The present state of a job, kept up to date by `update`."""

    def __init__(self, reader: Reader, job: JobId) -> None:
        """Reads the trail so far. Raises `BadInput` if there is no such job."""
        self._reader = reader
        self._id = job
        self._first_block = reader.created_in(job)
        self.head = reader.head()
        self._time = max(self.head.now, reader.pending_time())  # an idle chain's newest block may be old
        self._seen = time.monotonic()
        self.job = self._replay(self.head)

    def update(self, *, timeout: float = 0) -> Job:
        """The job after at most `timeout` seconds of waiting for a new block; at once if there already is one."""
        head = self._reader.wait(self.head, timeout=timeout)
        if head == self.head:
            return self.job
        before, seen = self.head, time.monotonic()
        if head.number > before.number and self._reader.is_canonical(before):
            events = self._reader.events(before.number + 1, head.number, job=self._id)
            job = replay(events, self.job) or self.job
        else:  # the chain was re-organised: what was folded may not have happened
            job = self._replay(head)
        # Only now, all at once: a node that fails in between must not make us pass over events.
        self.job, self.head, self._time, self._seen = job, head, head.now, seen
        return job

    def reach(self, block: int) -> Job:
        """The job once `block`, which holds an own transaction, is folded in. Raises `ChainNonsense` if it never is."""
        until = time.monotonic() + _PATIENCE
        while self.head.number < block:
            before = self.head.number
            self.update(timeout=1.0)
            if self.head.number > before:
                until = time.monotonic() + _PATIENCE
            if time.monotonic() > until:
                raise ChainNonsense(f"block {block} was reported and then not seen again; is the node in sync?")
        return self.job

    def now(self) -> Seconds:
        """Seconds since the epoch, by the chain's clock."""
        return Seconds(int(self._time + time.monotonic() - self._seen))

    def phase(self) -> Phase:
        return phase_at(self.job, self.now())

    def patience(self, most: float = 30.0) -> float:
        """Seconds until the phase ends by itself, at most `most`: how long to wait for a block before looking again."""
        end = deadline(self.job, self.now())
        if end is None:
            return most
        left = end - (self._time + time.monotonic() - self._seen)
        return float(min(max(left, 0.0) + 0.2, most))

    def _replay(self, head: Head) -> Job:
        job = replay(self._reader.events(self._first_block, head.number, job=self._id))
        if job is None:
            raise ChainNonsense(f"the chain no longer reports the creation of job {self._id}")
        return job
