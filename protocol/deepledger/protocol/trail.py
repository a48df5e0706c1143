"""A job as its events tell it: every role folds the same events into the same state and decides from that.

Phases follow from counters and time, as in TrainingLedger.sol; `phase_at` is the same function in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    Committed,
    CoordinatorReplaced,
    Departure,
    DisclosureDue,
    Event,
    JobCreated,
    JobEnded,
    JobTerms,
    Joined,
    Left,
    Outcome,
    PenaltyTaken,
    Phase,
    Position,
    Revealed,
    RoundOpened,
    RoundStarved,
    Settled,
    ValidationDisclosed,
)
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.reputation import FULL, after
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in a seat."""

    address: Address
    seat: int
    samples: int  # as declared when it joined
    stake: Wei  # what is left of it


@dataclass(frozen=True, slots=True)
class Attempt:
    """An open round. Commitments and reveals are in chain order."""

    round: RoundNumber
    attempt: int
    commit_end: Seconds
    reveal_end: Seconds
    commits: tuple[Committed, ...] = ()
    reveals: tuple[Revealed, ...] = ()

    def has_committed(self, participant: Address) -> bool:
        return any(commit.participant == participant for commit in self.commits)

    def has_revealed(self, participant: Address) -> bool:
        return any(reveal.participant == participant for reveal in self.reveals)


@dataclass(frozen=True, slots=True)
class SettledRound:
    """A round that is over, with what its settlement was a function of."""

    opened: Attempt
    participants: Mapping[Address, Participant]  # seated when it was settled
    reputations: Mapping[Address, int]  # before, of who had ever revealed in a settled round
    model_digest: Digest  # before
    model_root: Root
    settled: Settled


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the events say about a job."""

    job: JobId
    created: JobCreated
    model_digest: Digest
    model_root: Root
    serving: int = 0  # index into the list of coordinators
    bonded: Mapping[Address, Seconds] = field(default_factory=dict)  # and since when
    participants: Mapping[Address, Participant] = field(default_factory=dict)  # seated now
    reputations: Mapping[Address, int] = field(default_factory=dict)  # of who ever revealed in a settled round
    attempt: Attempt | None = None  # None: waiting, disclosing, or over
    abandoned: tuple[Attempt, ...] = ()  # attempts that starved
    history: tuple[SettledRound, ...] = ()
    disclosure_end: Seconds | None = None  # set once the last round is over and the job waits for the validation key
    validation_key: bytes | None = None  # of a withheld validation set, once it is disclosed
    outcome: Outcome | None = None
    last: Position | None = None

    @property
    def terms(self) -> JobTerms:
        return self.created.terms

    @property
    def coordinator(self) -> Address:
        return self.created.coordinators[self.serving]

    @property
    def round(self) -> RoundNumber:
        return RoundNumber(len(self.history))

    def reputation(self, participant: Address) -> int:
        """In parts per million."""
        return self.reputations.get(participant, FULL)

    @property
    def validation(self) -> Literal["public", "withheld", "disclosed"]:
        """Whether everybody may read the validation set; withheld: only the coordinators, until the job closes."""
        if not self.terms.withheld:
            return "public"
        return "withheld" if self.validation_key is None else "disclosed"

    @property
    def withholds(self) -> bool:
        """Whether a round was settled with a validation set whose key is not on chain."""
        return bool(self.history) and self.terms.withheld and self.validation_key is None


def phase_at(job: Job, now: Seconds) -> Phase:
    """The phase in a block with timestamp `now`, as TrainingLedger.phaseAt."""
    attempt, terms = job.attempt, job.terms
    if job.outcome is not None:
        return Phase.OVER
    if job.disclosure_end is not None:
        return Phase.DISCLOSING if now < job.disclosure_end else Phase.OVERDUE
    if attempt is None:
        return Phase.WAITING
    if now < attempt.commit_end:
        return Phase.COMMITTING
    if len(attempt.commits) < terms.min_participants:
        return Phase.STARVED
    if now < attempt.reveal_end:
        return Phase.REVEALING
    if len(attempt.reveals) < terms.min_participants:
        return Phase.STARVED
    return Phase.SETTLING if now < attempt.reveal_end + terms.settle_window else Phase.OVERDUE


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
        case Phase.SETTLING:
            return Seconds(attempt.reveal_end + job.terms.settle_window)
        case _:
            return None


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
    """Whether the contract gives it back, as `releaseBond`: nobody is owed a settlement, or a key, by it."""
    idle = phase_at(job, now) in (Phase.WAITING, Phase.STARVED, Phase.OVER)
    return job.coordinator != coordinator or (idle and not job.withholds)


def successor(job: Job) -> Address | None:
    """The next one on the list that may serve, as `replaceCoordinator` picks it."""
    rest = job.created.coordinators[job.serving + 1 :]
    return next((coordinator for coordinator in rest if has_bond(job, coordinator)), None)


def is_vacant(job: Job, now: Seconds) -> bool:
    """In Waiting: whether it is for a bond only, and the successor may take over, as in `replaceCoordinator`."""
    heir = successor(job)
    if heir is None or has_bond(job, job.coordinator) or len(job.participants) < job.terms.min_participants:
        return False
    return now >= job.bonded[heir] + job.terms.settle_window


def replay(events: Iterable[Event], job: Job | None = None) -> Job | None:
    """Fold events, in chain order, into a job; None if there are none."""
    for event in events:
        job = apply(job, event)
    return job


def apply(job: Job | None, event: Event) -> Job:
    """The job after one more event. Raises `ChainNonsense` if the contract could not have emitted it now."""
    if job is None:
        if not isinstance(event, JobCreated):
            raise ChainNonsense(f"the trail of job {event.job} does not begin with its creation")
        if not event.coordinators:
            raise _nonsense(event, "the job has no coordinator")
        return Job(event.job, event, event.terms.model_digest, event.terms.model_root, last=event.at)
    if event.job != job.job or (job.last is not None and event.at <= job.last):
        raise ChainNonsense(f"the trail of job {job.job} is out of order at block {event.at.block}")
    return replace(_applied(job, event), last=event.at)


def _applied(job: Job, event: Event) -> Job:
    match event:
        case BondPosted():
            return replace(job, bonded={**job.bonded, event.coordinator: event.at.timestamp})
        case BondReleased():
            rest = {address: since for address, since in job.bonded.items() if address != event.coordinator}
            return replace(job, bonded=rest)
        case Joined():
            if event.participant in job.participants or event.seat in {p.seat for p in job.participants.values()}:
                raise _nonsense(event, "the seat or the participant is seated already")
            seat = Participant(event.participant, event.seat, event.samples, job.terms.stake)
            return replace(job, participants={**job.participants, event.participant: seat})
        case Left():
            if event.participant not in job.participants:
                raise _nonsense(event, "it had no seat")
            if job.attempt is not None and _is_held(job.attempt, event):
                raise _nonsense(event, "it committed, or revealed, in the open round")
            stay = {address: seat for address, seat in job.participants.items() if address != event.participant}
            return _close_committing(replace(job, participants=stay), event.at.timestamp)
        case PenaltyTaken():
            fined = job.participants.get(event.participant)
            if fined is None or fined.stake < event.amount:
                raise _nonsense(event, "it had no seat, or a smaller stake")
            fined = replace(fined, stake=Wei(fined.stake - event.amount))
            return replace(job, participants={**job.participants, event.participant: fined})
        case RoundOpened():
            if job.attempt is not None or _is_ending(job) or event.round != job.round:
                raise _nonsense(event, "no such round can be opened")
            opened = Attempt(event.round, event.attempt, event.commit_end, event.reveal_end)
            return replace(job, attempt=opened)
        case RoundStarved():
            return replace(job, attempt=None, abandoned=(*job.abandoned, _open(job, event)))
        case Committed():
            attempt = _open(job, event)
            if event.participant not in job.participants or attempt.has_committed(event.participant):
                raise _nonsense(event, "the participant has no seat, or committed before")
            attempt = replace(attempt, commits=(*attempt.commits, event))
            return _close_committing(replace(job, attempt=attempt), event.at.timestamp)
        case Revealed():
            attempt = _open(job, event)
            if not attempt.has_committed(event.participant) or attempt.has_revealed(event.participant):
                raise _nonsense(event, "the participant did not commit, or revealed before")
            if event.participant not in job.participants:
                raise _nonsense(event, "the participant has no seat any more")
            attempt = replace(attempt, reveals=(*attempt.reveals, event))
            if len(attempt.reveals) == len(attempt.commits):
                attempt = replace(attempt, reveal_end=event.at.timestamp)
            return replace(job, attempt=attempt)
        case CoordinatorReplaced(successor=successor):
            if successor is None:
                return job
            if successor not in job.created.coordinators[job.serving + 1 :]:
                raise _nonsense(event, "the successor does not come later on the job's list")
            job, now = replace(job, serving=job.created.coordinators.index(successor)), event.at.timestamp
            if job.disclosure_end is not None:
                return replace(job, disclosure_end=Seconds(now + job.terms.settle_window))
            if job.attempt is None and job.outcome is None and event.round == job.round:
                return job  # the round waited for a bond, and opens now
            return replace(job, attempt=replace(_open(job, event), reveal_end=now))
        case Settled():
            attempt = _open(job, event)
            if event.accepted & ~seats_revealed(job, attempt):
                raise _nonsense(event, "it accepts seats that did not reveal")
            if len(event.scores) != event.accepted.bit_count():
                raise _nonsense(event, "it has not one score per accepted seat")
            over = SettledRound(
                opened=attempt,
                participants=job.participants,
                reputations=job.reputations,
                model_digest=job.model_digest,
                model_root=job.model_root,
                settled=event,
            )
            return replace(
                job,
                attempt=None,
                history=(*job.history, over),
                reputations={**job.reputations, **_moved(over)},
                model_digest=event.model_digest,
                model_root=event.model_root,
            )
        case DisclosureDue():
            if _is_ending(job):
                raise _nonsense(event, "the job waits for the key already, or is over")
            if not job.withholds:
                raise _nonsense(event, "no key is missing")
            return replace(job, attempt=None, disclosure_end=event.disclosure_end)
        case ValidationDisclosed():
            if job.validation_key is not None:
                raise _nonsense(event, "the key is known already")
            return replace(job, validation_key=event.key)
        case JobEnded():
            return replace(job, attempt=None, disclosure_end=None, outcome=event.outcome)
        case JobCreated():
            raise _nonsense(event, "the job exists")
        case _:  # the rest moves money only
            return job


def _moved(over: SettledRound) -> dict[Address, int]:
    """The reputations of who revealed, after the round."""
    seats = {reveal.participant: over.participants[reveal.participant].seat for reveal in over.opened.reveals}
    return {
        address: after(over.reputations.get(address, FULL), accepted=bool(over.settled.accepted >> seat & 1))
        for address, seat in seats.items()
    }


def _is_ending(job: Job) -> bool:
    return job.disclosure_end is not None or job.outcome is not None


def _is_held(attempt: Attempt, event: Left) -> bool:
    """Whether what it did in the open attempt keeps the participant seated: a reveal always, a commitment unless it is
    the penalty that unseats it.
    """
    voluntary = event.departure is Departure.VOLUNTARY
    return attempt.has_revealed(event.participant) or (voluntary and attempt.has_committed(event.participant))


def _open(job: Job, event: Committed | Revealed | RoundStarved | Settled | CoordinatorReplaced) -> Attempt:
    """The open attempt, which `event` belongs to."""
    if job.attempt is None:
        raise _nonsense(event, "no round is open")
    if event.round != job.attempt.round:
        raise _nonsense(event, f"round {job.attempt.round} is open, not {event.round}")
    return job.attempt


def _nonsense(event: Event, why: str) -> ChainNonsense:
    return ChainNonsense(
        f"the trail of job {event.job} cannot be: {type(event).__name__} in block {event.at.block}; {why}"
    )


def _close_committing(job: Job, now: Seconds) -> Job:
    """Committing ends in the block in which the last seated participant commits, or the last other one leaves."""
    attempt = job.attempt
    if attempt is None or now >= attempt.commit_end or not attempt.commits:
        return job
    if len(attempt.commits) < len(job.participants):
        return job
    closed = replace(attempt, commit_end=now, reveal_end=Seconds(now + job.terms.reveal_window))
    return replace(job, attempt=closed)
