"""Phases, which follow from counters and time, and what else the contract decides from a job's state.

`phase_at` is `phaseAt` of TrainingLedger.sol in Python.
"""

from __future__ import annotations

from deepledger.protocol.chain.events import (
    Phase,
)
from deepledger.protocol.job.state import Attempt, Job
from deepledger.protocol.types import Address, Seconds, Wei


def phase_at(job: Job, now: Seconds) -> Phase:
    """The phase in a block with timestamp `now`, as TrainingLedger.phaseAt."""
    attempt = job.attempt
    if job.outcome is not None:
        return Phase.OVER
    if job.disclosure_end is not None:
        return Phase.DISCLOSING if now < job.disclosure_end else Phase.OVERDUE
    if attempt is None:
        return Phase.WAITING
    if now < attempt.commit_end:
        return Phase.COMMITTING
    if not attempt.sufficient:
        return Phase.STARVED
    settle_end = attempt.reveal_end + job.terms.settle_window
    if job.terms.masked and attempt.counted is None:
        return Phase.COUNTING if now < settle_end else Phase.OVERDUE
    if now < attempt.reveal_end:
        return Phase.REVEALING
    if not attempt.reveals:
        return Phase.STARVED
    return Phase.SETTLING if now < settle_end else Phase.OVERDUE


def deadline(job: Job, now: Seconds) -> Seconds | None:
    """When the present phase ends by itself; None if it does not."""
    attempt, phase = job.attempt, phase_at(job, now)
    if phase is Phase.DISCLOSING:
        return job.disclosure_end
    if attempt is None:
        return None
    match phase:
        case Phase.COMMITTING:
            return attempt.commit_end
        case Phase.REVEALING:
            return attempt.reveal_end
        case Phase.COUNTING | Phase.SETTLING:
            return Seconds(attempt.reveal_end + job.terms.settle_window)
        case _:
            return None


def seats_committed(job: Job, attempt: Attempt) -> int:
    """Who has committed in the open attempt, or is counted in it: a bit per seat."""
    if attempt.counted is not None:
        return attempt.counted.counted
    seats = {address: 1 << member.seat for address, member in job.participants.items()}
    return sum(seats.get(commit.participant, 0) for commit in attempt.commits)


def seats_revealed(job: Job, attempt: Attempt) -> int:
    """Whose reveals are there, in the open attempt: a bit per seat."""
    return sum(1 << job.participants[reveal.participant].seat for reveal in attempt.reveals)


def has_bond(job: Job, coordinator: Address) -> bool:
    """In a job without a bond everyone on the list may serve at once."""
    return coordinator in job.bonded or job.terms.bond == 0


def bond_of(job: Job, coordinator: Address) -> Wei:
    """What it has in deposit."""
    return job.terms.bond if coordinator in job.bonded else Wei(0)


def deposit_of(job: Job, account: Address) -> Wei:
    """Its bond, and what is left of its stake."""
    seat = job.participants.get(account)
    return Wei(bond_of(job, account) + (seat.stake if seat else 0))


def bond_is_free(job: Job, coordinator: Address, now: Seconds) -> bool:
    """Whether the contract gives it back, as `releaseBond`: nobody is owed a settlement, or a key, by it, nor the next
    attempt for one that its count made void.
    """
    idle = phase_at(job, now) in (Phase.WAITING, Phase.STARVED, Phase.OVER)
    idle = idle and not (job.attempt is not None and job.attempt.void)
    return job.coordinator != coordinator or (idle and not job.withholds)


def successor(job: Job) -> Address | None:
    """The next one on the list that may serve, as the contract picks it."""
    rest = job.created.coordinators[job.serving + 1 :]
    return next((coordinator for coordinator in rest if has_bond(job, coordinator)), None)


def is_vacant(job: Job, now: Seconds) -> bool:
    """In Waiting: whether it is for a bond only, and the successor may take over, as `takeOver`."""
    heir = successor(job)
    if heir is None or has_bond(job, job.coordinator) or len(job.participants) < job.terms.min_participants:
        return False
    return now >= job.bonded[heir] + job.terms.settle_window
