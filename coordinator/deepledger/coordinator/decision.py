"""What a coordinator does next: a pure function of the job and the time, so that a restart forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.protocol.chain.events import Phase
from deepledger.protocol.trail import Attempt, Job, phase_at
from deepledger.protocol.types import Address, Seconds


@dataclass(frozen=True, slots=True)
class PostBond:
    pass


@dataclass(frozen=True, slots=True)
class Settle:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Restart:
    """Open a starved round again."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Take over from a coordinator that missed its deadline."""


@dataclass(frozen=True, slots=True)
class ReleaseBond:
    pass


@dataclass(frozen=True, slots=True)
class Wait:
    phase: Phase


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do but to withdraw: the job is over, or went on without us."""


Step = PostBond | Settle | Restart | Replace | ReleaseBond | Wait | Finish


def next_step(job: Job, me: Address, now: Seconds) -> Step:
    """`me` is on the job's list of coordinators; `now` is the chain's time."""
    phase = phase_at(job, now)
    if phase is Phase.OVER:
        return ReleaseBond() if me in job.bonded and job.terms.bond else Finish()
    if job.created.coordinators.index(me) < job.serving:
        return Finish()  # succession only moves down the list
    if not has_bond(job, me):
        return PostBond()
    match phase:
        case Phase.STARVED:
            return Restart()
        case Phase.SETTLING | Phase.OVERDUE if serves(job, me) and job.attempt is not None:
            return Settle(job.attempt)
        case Phase.OVERDUE if successor(job) == me:
            return Replace()
        case _:
            return Wait(phase)


def serves(job: Job, me: Address) -> bool:
    return job.coordinator == me


def has_bond(job: Job, coordinator: Address) -> bool:
    """In a job without a bond everyone on the list may serve at once."""
    return coordinator in job.bonded or job.terms.bond == 0


def successor(job: Job) -> Address | None:
    """The next one on the list that may serve, as `replaceCoordinator` picks it."""
    rest = job.created.coordinators[job.serving + 1 :]
    return next((coordinator for coordinator in rest if has_bond(job, coordinator)), None)
