"""What a participant does next: a pure function of the job, the time on chain, and what it has done itself."""

from __future__ import annotations

from enum import Enum, auto

from deepledger.protocol.chain.events import Phase
from deepledger.protocol.job.phases import phase_at, successor
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.types import Address, Seconds

TURN = Seconds(2)
"""Whoever may move a stuck job on does so in turn, so that not everybody pays for the same transaction."""


class Step(Enum):
    PREPARE = auto()  # load task and data, which nothing needs but training: what is committed to is opened first
    JOIN = auto()
    LEAVE = auto()  # to join again
    COMMIT = auto()  # train if there is no update yet, then commit to it
    PUBLISH = auto()  # put the revealed update into the blob store again
    REVEAL = auto()
    RESTART = auto()
    REPLACE = auto()
    FINISH = auto()
    WAIT = auto()


def next_step(
    job: Job,
    me: Address,
    now: Seconds,
    *,
    prepared: bool,
    unpublished: bool,
    spared: bool = False,
    raced: bool = False,
) -> Step:
    """`prepared`: task and data are loaded; `unpublished`: the update this node has revealed in the open round is not
    in the store yet; `spared`: it commits to nothing in the open attempt; `raced`: it took its seat without mask keys
    for all who sat before.
    """
    phase = phase_at(job, now)
    attempt = job.attempt
    if phase is Phase.OVER:
        return Step.FINISH
    if me not in job.participants:
        if job.disclosure_end is not None:
            return Step.FINISH
        if not prepared:
            return Step.PREPARE
        return Step.JOIN if may_join(job, me, now) else Step.WAIT
    if must_reveal(job, me, now):
        return Step.REVEAL if phase is Phase.REVEALING else Step.WAIT
    if attempt is not None and attempt.has_revealed(me) and unpublished:
        return Step.PUBLISH
    if not prepared and job.disclosure_end is None:
        return Step.PREPARE
    if raced and job.disclosure_end is None and (attempt is None or not attempt.has_committed(me)):
        return Step.LEAVE
    if phase is Phase.COMMITTING and attempt is not None and not attempt.has_committed(me):
        return Step.WAIT if spared or not may_commit(job, attempt, me) else Step.COMMIT
    if phase is Phase.STARVED and attempt is not None and now >= starved_since(attempt) + _turn(job, me):
        return Step.RESTART
    if phase is Phase.OVERDUE and now >= overdue_since(job) + _turn(job, me):
        return Step.REPLACE
    return Step.WAIT


def must_reveal(job: Job, me: Address, now: Seconds) -> bool:
    """Whether a commitment of ours is open, and stopping now would cost the penalty."""
    attempt = job.attempt
    if attempt is None or not attempt.has_committed(me) or attempt.has_revealed(me):
        return False
    if attempt.counted is not None and not attempt.counted.counted >> job.participants[me].seat & 1:
        return False
    return phase_at(job, now) in (Phase.COMMITTING, Phase.COUNTING, Phase.REVEALING)


def may_join(job: Job, me: Address, now: Seconds) -> bool:
    """Whether a seat that is taken now can be kept. Who comes back is excused for no attempt: where it is too late to
    commit, or nearly, the seat would be lost again with this one. In a masked job nobody misses what it came too late
    for.
    """
    if me not in job.departures or job.terms.masked:
        return True
    attempt, phase = job.attempt, phase_at(job, now)
    in_time = attempt is not None and now < attempt.commit_end - job.terms.commit_window // 2
    return phase is Phase.WAITING or (phase is Phase.COMMITTING and in_time)


def may_commit(job: Job, attempt: Attempt, me: Address) -> bool:
    """Masks are shared among those who are seated when an attempt opens: who joins later waits for the next one."""
    return not job.terms.masked or me in attempt.awaited


def missed(job: Job, me: Address) -> int:
    """Attempts in a row, the last ones, that it did not commit in: as many as the contract counts against its seat, or,
    of who has joined since, more.
    """
    over = [*job.abandoned, *(settled.opened for settled in job.history)]
    over.sort(key=lambda attempt: (attempt.round, attempt.attempt), reverse=True)
    acted = Attempt.has_revealed if job.terms.masked else Attempt.has_committed
    return next((count for count, attempt in enumerate(over) if acted(attempt, me)), len(over))


def starved_since(attempt: Attempt) -> Seconds:
    return attempt.reveal_end if attempt.sufficient else attempt.commit_end


def overdue_since(job: Job) -> Seconds:
    """When to replace a coordinator that does not settle or disclose. If that would end the job, it gets half a window
    more.
    """
    window, end = job.terms.settle_window, job.disclosure_end
    if end is None:
        assert job.attempt is not None  # noqa: S101 (else nothing is overdue)
        end = Seconds(job.attempt.reveal_end + window)
    return Seconds(end + (window // 2 if successor(job) is None else 0))


def _turn(job: Job, me: Address) -> Seconds:
    return Seconds(TURN * sorted(seat.seat for seat in job.participants.values()).index(job.participants[me].seat))
