"""The contract's rules once more, in Python: may this event follow on that state?

With an honest RPC node nothing here can fail, since the contract enforces it. It is how a lying node is found out.
"""

from __future__ import annotations

from collections.abc import Iterator

from deepledger.protocol.chain.events import (
    Committed,
    CoordinatorReplaced,
    Departure,
    Event,
    JobEnded,
    Joined,
    Left,
    Outcome,
    PenaltyTaken,
    Phase,
    Revealed,
    RoundOpened,
    RoundStarved,
    Settled,
)
from deepledger.protocol.commitment import Slot, commitment_for
from deepledger.protocol.trail import Job, phase_at
from deepledger.protocol.types import Address


def broken(job: Job, event: Event, *, chain_id: int, contract: Address) -> Iterator[tuple[str, str, str]]:
    """(rule, claimed, derived) for each rule that `event` breaks in the state before it."""
    phase, attempt, terms = phase_at(job, event.at.timestamp), job.attempt, job.terms
    match event:
        case Committed():
            yield from _phase("commit", phase, Phase.COMMITTING)
            yield from _same("only seated participants commit", event.participant in job.participants, True)
            yield from _same("commits are to the open round", event.round, job.round)
            again = attempt is not None and attempt.has_committed(event.participant)
            yield from _same("nobody commits twice in an attempt", again, False)
        case Revealed():
            yield from _phase("reveal", phase, Phase.REVEALING)
            committed = {commit.participant: commit.commitment for commit in (attempt.commits if attempt else ())}
            slot = Slot(chain_id, contract, job.job, event.round, event.participant)
            opened = commitment_for(slot, digest=event.digest, root=event.root, salt=event.salt)
            claimed = committed.get(event.participant)
            yield from _same("a reveal opens its commitment", claimed.hex() if claimed else "none", opened.hex())
            again = attempt is not None and attempt.has_revealed(event.participant)
            yield from _same("nobody reveals twice", again, False)
        case Settled():
            yield from _phase("settlement", phase, Phase.SETTLING, Phase.OVERDUE)
            yield from _same("the serving coordinator settles", event.coordinator, job.coordinator)
            yield from _same("settlements are of the open round", event.round, job.round)
            seats = {job.participants[r.participant].seat for r in (attempt.reveals if attempt else ())
                     if r.participant in job.participants}  # fmt: skip
            accepted = {seat for seat in range(64) if event.accepted >> seat & 1}
            yield from _same("nobody is paid who did not reveal", sorted(accepted - seats), [])
            yield from _same("there is one score per accepted seat", len(event.scores), len(accepted))
        case RoundOpened():
            ends = (
                event.at.timestamp + terms.commit_window,
                event.at.timestamp + terms.commit_window + terms.reveal_window,
            )
            yield from _same("a round's windows are the job's", (event.commit_end, event.reveal_end), ends)
            yield from _same("rounds open in order", event.round, job.round)
            yield from _same("a round opens with enough seated", len(job.participants) >= terms.min_participants, True)
        case RoundStarved():
            yield from _phase("restart", phase, Phase.STARVED)
        case CoordinatorReplaced():
            yield from _phase("replacement", phase, Phase.OVERDUE)
            yield from _same("the serving coordinator is replaced", event.coordinator, job.coordinator)
        case Joined():
            yield from _same("nobody joins a job that is over", phase is Phase.OVER, False)
            yield from _same("nobody sits twice", event.participant in job.participants, False)
            taken = {seat.seat for seat in job.participants.values()}
            free = next(seat for seat in range(65) if seat not in taken)
            yield from _same("the lowest free seat is taken", event.seat, free)
        case Left(departure=Departure.VOLUNTARY):
            outstanding = attempt is not None and attempt.has_committed(event.participant)
            yield from _same("nobody leaves with a commitment outstanding", outstanding, False)
        case PenaltyTaken():
            silent = attempt is not None and attempt.has_committed(event.participant)
            silent = silent and attempt is not None and not attempt.has_revealed(event.participant)
            yield from _same("a penalty is for a commitment that was not revealed", silent, True)
        case JobEnded(outcome=Outcome.COMPLETED):
            yield from _same("a job is completed after its last round", job.round, terms.rounds)
        case _:
            return


def _phase(what: str, phase: Phase, *allowed: Phase) -> Iterator[tuple[str, str, str]]:
    if phase not in allowed:
        yield f"a {what} is in its time window", phase.name.lower(), " or ".join(each.name.lower() for each in allowed)


def _same(rule: str, claimed: object, derived: object) -> Iterator[tuple[str, str, str]]:
    if claimed != derived:
        yield rule, str(claimed), str(derived)
