"""Following one job: fold what the chain reports, and know what time it is there.

What a node shows may lack something: an index lags, a balancer passes us on. So what was folded is held against what
the contract itself says, and against our own receipts. What cannot be is read again from the last point that was
proved, then from the job's creation, then at another endpoint.

Deadlines are the chain's, so the clock is the chain's too: the newest block's timestamp, run on with this machine's
monotonic clock. A wrong wall clock cannot make anybody miss a deadline.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from deepledger.protocol.chain.abi import terms_hash
from deepledger.protocol.chain.events import Event, Phase
from deepledger.protocol.chain.ledger import Head, Reader, Receipt, Snapshot
from deepledger.protocol.errors import ChainError, ChainNonsense, ChainUnreachable, NoLedger
from deepledger.protocol.job.phases import deadline, phase_at, seats_committed
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import replay
from deepledger.protocol.types import JobId, Seconds

_PATIENCE: Final = 60.0
_PROVE_EVERY: Final = 15.0  # seconds, where something happens
_OWN_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class _Point:
    """A job as of a block."""

    head: Head
    job: Job


class Follower:
    """The present state of a job, kept up to date by `update`."""

    def __init__(self, reader: Reader, job: JobId) -> None:
        """Reads the trail so far. Raises `BadInput` if there is no such job."""
        self._reader = reader
        self._id = job
        self._first_block = reader.created_in(job)
        self._folded: deque[_Sign] = deque(maxlen=_OWN_KEPT)  # of the latest events
        self._proved: _Point | None = None
        self._proof_due = 0.0  # of the monotonic clock
        self.head = reader.head()
        self._time = max(self.head.now, reader.pending_time())  # an idle chain's newest block may be old
        self._seen = self._changed = time.monotonic()
        self.job = self._fold(self.head, None)

    def update(self, *, timeout: float = 0) -> Job:
        """The job after at most `timeout` seconds of waiting for a new block; at once if there already is one.

        Raises `ChainUnreachable` where the trail cannot be, however it is read; it may be another time.
        """
        pause, silence = self._rest()
        head = self._reader.wait(self.head, timeout=timeout, pause=pause, silence=silence)
        if head == self.head:
            return self.job
        seen = time.monotonic()
        before = _Point(self.head, self.job)
        # If the chain was re-organised, what was folded may not have happened.
        extends = head.number > before.head.number and self._leads_to(before.head, head)
        job = self._fold(head, before if extends else None)
        # Only now, all at once: a node that fails in between must not make us pass over events.
        if job != self.job:
            self._changed = seen
        self.job, self.head, self._time, self._seen = job, head, head.now, seen
        return job

    def _leads_to(self, before: Head, head: Head) -> bool:
        if head.number == before.number + 1 and head.parent is not None:
            return head.parent == before.hash
        return self._reader.is_canonical(before)

    def doubt(self) -> None:
        """Hold the job against what the contract says before anything more is made of it."""
        self.job = self._fold(self.head, None)

    def reach(self, receipt: Receipt) -> Job:
        """The job once the block of an own transaction is folded in. Raises `ChainNonsense` if it never is, and
        `ChainUnreachable` if its events are not shown.
        """
        until = time.monotonic() + _PATIENCE
        while self.head.number < receipt.block:
            before = self.head.number
            self.update(timeout=1.0)
            if self.head.number > before:
                until = time.monotonic() + _PATIENCE
            if time.monotonic() > until:
                raise ChainNonsense(f"block {receipt.block} was reported and then not seen again; is the node in sync?")
        if not self._has(receipt):
            self.doubt()
            if not self._has(receipt) and self._is_there(receipt):
                self._reader.elsewhere()
                raise ChainUnreachable(
                    f"the node does not show what transaction {receipt.transaction} did in block {receipt.block}; "
                    "looking again"
                )
        return self.job

    def _rest(self) -> tuple[float, float]:
        """Seconds to leave the node alone, without a subscription and with one: whoever has waited long may hear of
        something a tenth later, and nobody by more than a part of the job's shortest window too late.
        """
        terms, waited = self.job.terms, time.monotonic() - self._changed
        shortest = min(terms.commit_window, terms.reveal_window, terms.settle_window)
        return min(waited, shortest) / 10, min(waited, shortest) / 2

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

    def _fold(self, head: Head, base: _Point | None) -> Job:
        """The job as of `head`, from `base` where there is one; else from further back, and in the end elsewhere."""
        prove = base is None or time.monotonic() >= self._proof_due
        doubt: ChainError | None = None
        for start, elsewhere in self._starts(base, head):
            if elsewhere:
                self._reader.elsewhere()
            try:
                job = self._read(start, head)
                if prove or doubt is not None:
                    self._prove(job, head)
            except (ChainNonsense, NoLedger) as error:
                doubt = error
            else:
                return job
        raise ChainUnreachable(f"{doubt}; reading it again") from doubt

    def _starts(self, base: _Point | None, head: Head) -> Iterator[tuple[_Point | None, bool]]:
        """Where to read from, one after the other, of which None is the job's creation, and whether at another endpoint
        than before.
        """
        if base is not None:
            yield base, False
        proved, highest = self._proved, head.number if base is None else base.head.number - 1
        if proved is not None and proved.head.number <= highest and self._reader.is_canonical(proved.head):
            yield proved, False
        yield None, False
        yield None, True

    def _read(self, start: _Point | None, head: Head) -> Job:
        first = self._first_block if start is None else start.head.number + 1
        after = None if start is None else start.head.hash
        events = self._reader.events(first, head.number, job=self._id, after=after)
        job = replay(events, None if start is None else start.job)
        if job is None:
            jobs = self._reader.job_count()  # raises `NoLedger` where nothing answers
            raise ChainNonsense(
                f"the chain no longer reports the creation of job {self._id}, and its contract has {jobs} jobs: "
                "perhaps the chain was begun anew"
            )
        self._folded.extend(map(_sign, events))
        return job

    def _prove(self, job: Job, head: Head) -> None:
        """Raises `ChainNonsense` where the contract says otherwise than its events."""
        said = self._reader.snapshot(self._id, head)
        if said is None:
            return
        folded = snapshot_of(job, head)
        if said != folded:
            wrong = [each.name for each in fields(Snapshot) if getattr(said, each.name) != getattr(folded, each.name)]
            raise ChainNonsense(
                f"events of job {self._id} are missing up to block {head.number}: the contract has another "
                f"{' and '.join(wrong).replace('_', ' ')} than they add up to"
            )
        self._proved, self._proof_due = _Point(head, job), time.monotonic() + _PROVE_EVERY

    def _has(self, receipt: Receipt) -> bool:
        own = {_sign(event) for event in receipt.events if event.job == self._id}
        return own <= set(self._folded)

    def _is_there(self, receipt: Receipt) -> bool:
        """Whether its block is; the chain may have taken it back."""
        at = receipt.events[0].at
        return self._reader.is_canonical(Head(at.block, at.block_hash, at.timestamp, at.timestamp))


_Sign = tuple[str, str, type[Event]]


def _sign(event: Event) -> _Sign:
    """What it is known by in a receipt and among a block's logs. Not its index: Ganache 7.9 counts the logs of a
    transaction in the one, and those of the block in the other.
    """
    return event.at.block_hash, event.at.transaction, type(event)


def snapshot_of(job: Job, head: Head) -> Snapshot:
    """What the contract must say of a job if this is all that happened up to `head`."""
    attempt, seats = job.attempt, {address: 1 << member.seat for address, member in job.participants.items()}
    return Snapshot(
        phase=phase_at(job, head.timestamp),
        round=job.round,
        coordinator=job.serving,
        seats=sum(seats.values()),
        terms_hash=terms_hash(job.created),
        committed=seats_committed(job, attempt) if attempt else 0,
        revealed=sum(seats.get(each.participant, 0) for each in attempt.reveals) if attempt else 0,
        model_digest=job.model_digest,
        validation_key=job.validation_key or bytes(32),
    )
