"""A job as its events tell it: every role folds the same events into the same state and decides from that.

Phases follow from counters and time, as in TrainingLedger.sol; `phase_at` is the same function in Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    Committed,
    CommittedMasked,
    CoordinatorReplaced,
    Counted,
    Departure,
    DisclosureDue,
    Event,
    JobCreated,
    JobEnded,
    Joined,
    Left,
    PenaltyTaken,
    Revealed,
    RoundOpened,
    RoundStarved,
    Settled,
    Unmasked,
    ValidationDisclosed,
)
from deepledger.protocol.errors import ChainNonsense
from deepledger.protocol.formats.spec import threshold
from deepledger.protocol.job.phases import seats_committed, seats_revealed
from deepledger.protocol.job.reputation import FULL, after
from deepledger.protocol.job.state import Attempt, Job, Participant, SettledRound
from deepledger.protocol.types import Address, Seconds, Wei


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
            if any(event.key) != job.terms.masked:
                raise _nonsense(event, "a participant brings a key where the job is masked, and nowhere else")
            seat = Participant(
                event.participant, event.seat, event.samples, job.terms.stake, event.key, event.at.transaction
            )
            gone = {address: how for address, how in job.departures.items() if address != event.participant}
            return replace(job, participants={**job.participants, event.participant: seat}, departures=gone)
        case Left():
            if event.participant not in job.participants:
                raise _nonsense(event, "it had no seat")
            if job.attempt is not None and _is_held(job, job.attempt, event):
                raise _nonsense(event, "it committed, or revealed, in the open round")
            stay = {address: seat for address, seat in job.participants.items() if address != event.participant}
            gone = {**job.departures, event.participant: event.departure}
            job = replace(job, participants=stay, departures=gone)
            if job.attempt is None:
                return job
            attempt = replace(job.attempt, gone=job.attempt.gone | {event.participant})
            job = replace(job, attempt=attempt)
            # No deadline comes sooner because somebody leaves: revealing ends as announced.
            if not _is_complete(job, event.at.timestamp):
                return job
            return replace(job, attempt=replace(attempt, commit_end=event.at.timestamp))
        case PenaltyTaken():
            fined = job.participants.get(event.participant)
            if fined is None or fined.stake < event.amount:
                raise _nonsense(event, "it had no seat, or a smaller stake")
            fined = replace(fined, stake=Wei(fined.stake - event.amount))
            return replace(job, participants={**job.participants, event.participant: fined})
        case RoundOpened():
            if job.attempt is not None or _is_ending(job) or event.round != job.round:
                raise _nonsense(event, "no such round can be opened")
            return replace(job, attempt=_opened(job, event))
        case RoundStarved():
            if _open(job, event).reveals:
                raise _nonsense(event, "somebody revealed in it, and is owed a settlement")
            return replace(job, attempt=None, abandoned=(*job.abandoned, _open(job, event)))
        case Committed():
            attempt = _open(job, event)
            if job.terms.masked:
                raise _nonsense(event, "in a masked round only masked updates are committed to")
            if event.participant not in job.participants or attempt.has_committed(event.participant):
                raise _nonsense(event, "the participant has no seat, or committed before")
            job, now = replace(job, attempt=replace(attempt, commits=(*attempt.commits, event))), event.at.timestamp
            if not _is_complete(job, now):
                return job
            end = Seconds(now + job.terms.reveal_window)
            return replace(job, attempt=replace(_open(job, event), commit_end=now, reveal_end=end))
        case CommittedMasked():
            attempt = _masked(job, event)
            if attempt.counted is not None or attempt.has_committed(event.participant):
                raise _nonsense(event, "the attempt is counted, or the participant committed before")
            if event.participant not in attempt.awaited:
                raise _nonsense(event, "the participant was not seated when the attempt opened")
            job, now = replace(job, attempt=replace(attempt, commits=(*attempt.commits, event))), event.at.timestamp
            if not _is_complete(job, now):
                return job
            return replace(job, attempt=replace(_open(job, event), commit_end=now, reveal_end=now))
        case Counted():
            attempt = _masked(job, event)
            if attempt.counted is not None:
                raise _nonsense(event, "the attempt is counted already")
            if event.counted & ~seats_committed(job, attempt):
                raise _nonsense(event, "it counts seats that did not commit")
            if bool(event.reveal_end) != (event.counted.bit_count() >= attempt.least):
                raise _nonsense(event, "an attempt is void where too few are counted, and only there")
            return replace(job, attempt=replace(attempt, counted=event, reveal_end=event.reveal_end))
        case Unmasked():
            attempt = _masked(job, event)
            counted = attempt.counted
            if counted is None or not counted.reveal_end or event.participant not in job.participants:
                raise _nonsense(event, "the attempt is not counted, or the participant has no seat")
            if not counted.counted >> job.participants[event.participant].seat & 1:
                raise _nonsense(event, "the participant is not counted")
            if attempt.has_revealed(event.participant):
                raise _nonsense(event, "the participant unmasked before")
            attempt = replace(attempt, reveals=(*attempt.reveals, event))
            if len(attempt.reveals) == counted.counted.bit_count():
                attempt = replace(attempt, reveal_end=event.at.timestamp)
            return replace(job, attempt=attempt)
        case Revealed():
            attempt = _open(job, event)
            if job.terms.masked:
                raise _nonsense(event, "nothing is revealed in a masked round")
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
            if not event.deadline and job.attempt is None and job.outcome is None and event.round == job.round:
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
    """The reputations of who revealed, after the round. Where nobody was accepted, or nobody of a masked round's group,
    all failed for one reason, perhaps one participant's: that says nothing of anybody, and they stay.
    """
    if not over.settled.accepted:
        return {}
    seats = {reveal.participant: over.participants[reveal.participant].seat for reveal in over.opened.reveals}
    accepted = {address: bool(over.settled.accepted >> seat & 1) for address, seat in seats.items()}
    return {
        address: after(over.reputations.get(address, FULL), accepted=was)
        for address, was in accepted.items()
        if was or over.opened.counted is None
    }


def _is_ending(job: Job) -> bool:
    return job.disclosure_end is not None or job.outcome is not None


def _opened(job: Job, event: RoundOpened) -> Attempt:
    least: int = job.terms.min_participants
    cohort: tuple[Participant, ...] = ()
    if job.terms.masked:
        cohort = tuple(sorted(job.participants.values(), key=lambda seat: seat.seat))
        least = max(least, threshold(len(cohort)))
    return Attempt(
        event.round,
        event.attempt,
        event.commit_end,
        event.reveal_end,
        least=least,
        opened_in=event.at.block_hash,
        cohort=cohort,
    )


def _is_held(job: Job, attempt: Attempt, event: Left) -> bool:
    """Whether what it did in the open attempt keeps the participant seated: a reveal always, a commitment unless it is
    the penalty that unseats it. Whoever committed and is not counted is free.
    """
    voluntary = event.departure is Departure.VOLUNTARY
    committed = bool(seats_committed(job, attempt) >> job.participants[event.participant].seat & 1)
    return attempt.has_revealed(event.participant) or (voluntary and committed)


def _masked(job: Job, event: CommittedMasked | Counted | Unmasked) -> Attempt:
    """The open attempt, which is masked, and which `event` belongs to."""
    attempt = _open(job, event)
    if not job.terms.masked:
        raise _nonsense(event, "the job is not masked")
    if not isinstance(event, Unmasked) and event.attempt != attempt.attempt:
        raise _nonsense(event, f"attempt {attempt.attempt} is open, not {event.attempt}")
    return attempt


def _open(
    job: Job,
    event: Committed | CommittedMasked | Counted | Revealed | Unmasked | RoundStarved | Settled | CoordinatorReplaced,
) -> Attempt:
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


def _is_complete(job: Job, now: Seconds) -> bool:
    """Whether committing ends now: everybody who can has committed, and they are enough."""
    attempt = job.attempt
    if attempt is None or now >= attempt.commit_end:
        return False
    awaited = attempt.awaited if job.terms.masked else job.participants
    return len(attempt.commits) >= max(len(awaited), attempt.least)
