"""What whoever runs a role is told, whichever role: the base of every notice, and those that all roles share.

A role calls its `observe` with one frozen dataclass per thing that matters; the command line makes lines, JSON and
metrics of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.protocol.chain.events import Phase
from deepledger.protocol.chain.ledger import Receipt
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.job.phases import deadline, has_bond
from deepledger.protocol.types import Address, JobId, RoundNumber, Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Acted(Notice):
    """A transaction of ours is on the chain."""

    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Notice):
    """Something is wrong and is being tried again, or will be wrong soon."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Notice):
    """The state of the open round, whenever it changes."""

    round: RoundNumber
    attempt: int | None  # None while no round is open
    phase: Phase
    masked: bool  # participants release shares in the place of revealing
    ends: Seconds | None  # chain time at which the phase ends by itself
    serving: Address
    bonded: bool  # whether it may serve
    seated: int
    least: int  # so many have to be seated for a round to open
    commits: int
    reveals: int


def waiting(follower: Follower) -> Waiting:
    job, attempt = follower.job, follower.job.attempt
    return Waiting(
        job=job.job,
        round=job.round,
        attempt=attempt.attempt if attempt else None,
        phase=follower.phase(),
        masked=job.terms.masked,
        ends=deadline(job, follower.now()),
        serving=job.coordinator,
        bonded=has_bond(job, job.coordinator),
        seated=len(job.participants),
        least=job.terms.min_participants,
        commits=len(attempt.commits) if attempt else 0,
        reveals=len(attempt.reveals) if attempt else 0,
    )
