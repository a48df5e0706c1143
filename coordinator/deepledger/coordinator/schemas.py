"""What the HTTP API answers: the shapes, and how they are made from what was read. Amounts in wei are decimal strings,
blobs are named by CID, roots and other hashes by 0x and hexadecimal digits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any, Literal

from pydantic import BaseModel, Field

from deepledger.protocol.blobs import cid_of
from deepledger.protocol.chain.events import CommittedMasked, Event, Phase, Unmasked
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.formats.participant_privacy import AdaptiveClip
from deepledger.protocol.formats.report import Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.job.state import Attempt, Job, Participant, SettledRound
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.settlement.rewards import pay, seats_of
from deepledger.protocol.types import Address, Wei

_WEI = {"amount", "pot", "penalty", "reward", "stake", "reveal_penalty", "bond", "settle_penalty"}
_BLOBS = {"digest", "spec_digest", "model_digest", "report_digest"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as of one block."""

    job: Job
    head: Head
    phase: Phase


class Problem(BaseModel):
    """What is wrong and, where that is known, what to do about it."""

    detail: str


class Block(BaseModel):
    """The newest block of which this answer knows."""

    number: int
    hash: str
    timestamp: int


class Response(BaseModel):
    block: Block


class Health(BaseModel):
    healthy: bool
    troubles: list[str] = Field(description="One line for each thing that does not work.")
    version: str
    chain_id: int
    contract: str
    jobs: int | None = Field(description="How many there are; null while the chain cannot be reached.")
    block: Block | None
    block_age: int | None = Field(description="Seconds since the newest block, by this machine's clock.")


class JobSummary(BaseModel):
    job: int
    sponsor: str
    coordinator: str = Field(description="The one that serves.")
    coordinators: list[str] = Field(description="In the order of succession.")
    phase: str
    outcome: str | None
    round: int = Field(description="How many rounds are settled.")
    rounds: int
    participants: int
    reward: str = Field(description="Of each round.")
    stake: str
    spec: str
    model: str
    validation: Literal["public", "withheld", "disclosed"] = Field(
        description="Who may read the validation set: everybody, the coordinators until the job closes, or by now all."
    )


class JobResponse(Response):
    job: JobSummary


class JobsResponse(Response):
    total: int
    jobs: list[JobSummary]


class Update(BaseModel):
    participant: str
    update: str
    root: str
    transaction: str


class Paid(BaseModel):
    participant: str
    seat: int
    score: int
    amount: str


class MaskedUpdate(BaseModel):
    participant: str
    letters: str = Field(description="The blob that it committed to; it names the masked vector.")
    released: str | None = Field(description="Its shares of others' masks or keys; null: it has released none.")
    transaction: str


class MaskedRound(BaseModel):
    awaited: list[str] = Field(description="Who was seated when the attempt opened, and is still.")
    counted: list[str] | None = Field(description="Whose updates are in the sum; null while nobody has counted.")
    updates: list[MaskedUpdate]


class RoundSummary(BaseModel):
    """From `transaction` on, null while the round is open."""

    round: int
    state: Literal["open", "settled"]
    attempt: int
    commit_end: int
    reveal_end: int
    committed: int
    revealed: list[Update]
    masked: MaskedRound | None = Field(description="In the place of what is revealed, in a masked job.")
    transaction: str | None = None
    timestamp: int | None = None
    coordinator: str | None = None
    model: str | None = None
    report: str | None = None
    pot: str | None = None
    paid: list[Paid] = []


class RoundsResponse(Response):
    total: int
    rounds: list[RoundSummary]


class RoundResponse(Response):
    round: RoundSummary


class ReportResponse(Response):
    cid: str
    results: dict[str, float | None] = Field(
        description="Of the model after, by each metric that the spec pins, which says which way is better; null: not "
        "finite."
    )
    report: Report


class ParticipantSummary(BaseModel):
    participant: str
    seat: int | None = Field(description="null: has left")
    samples: int
    reputation: float = Field(description="1.0 is full; falls with every update that is not accepted.")
    rounds_paid: int
    earned: str = Field(description="By settlements; penalties of others that it received are in the events.")


class ParticipantsResponse(Response):
    participants: list[ParticipantSummary]


class EventSummary(BaseModel):
    event: str
    block: int
    log_index: int
    transaction: str
    timestamp: int
    data: dict[str, Any]


class EventsResponse(Response):
    events: list[EventSummary]
    next: str | None = Field(description="Give this as `after` to go on; null: there are no more.")


class ExamplesPrivacy(BaseModel):
    """What every training has to keep of single samples: participants' word, which nobody can check."""

    noise_multiplier: float
    clip_norm: float
    delta: float


class ParticipantsPrivacy(BaseModel):
    """How little updates, or their sums, show of any one participant, if it draws noise as the job asks."""

    mechanism: Literal["local", "distributed"]
    clip_norm: float
    noise_multiplier: float
    honest: int = Field(description="Of how many participants the noise of a sum is; 1: each one's is enough alone.")
    colluders: int | None = Field(description="How many others in one sum may act together; null: any number.")
    delta: float
    adaptive: AdaptiveClip | None = Field(
        default=None, description="How the clip norm, which is the greatest then, follows what is clipped."
    )
    epsilon: float | None = Field(description="Of who took part in every round that is settled; null: infinite.")
    epsilon_of_job: float | None = Field(description="Of who takes part in all rounds.")


class PrivacyResponse(Response):
    updates: Literal["open", "sealed", "masked", "encrypted"] = Field(
        description="Who reads one participant's update: everybody, the readers in the spec, or nobody."
    )
    examples: ExamplesPrivacy | None = Field(description="null: not asked for.")
    participants: ParticipantsPrivacy | None = Field(description="null: not asked for.")


class SpecResponse(Response):
    cid: str
    spec: JobSpec


def block(head: Head) -> Block:
    return Block(number=head.number, hash=head.hash, timestamp=head.timestamp)


def job_summary(seen: Seen) -> JobSummary:
    job = seen.job
    return JobSummary(
        job=job.job,
        sponsor=job.created.sponsor,
        coordinator=job.coordinator,
        coordinators=list(job.created.coordinators),
        phase=seen.phase.name.lower(),
        outcome=job.outcome.name.lower() if job.outcome is not None else None,
        round=job.round,
        rounds=job.terms.rounds,
        participants=len(job.participants),
        reward=str(job.terms.reward),
        stake=str(job.terms.stake),
        spec=cid_of(job.terms.spec_digest),
        model=cid_of(job.model_digest),
        validation=job.validation,
    )


def privacy(seen: Seen, spec: JobSpec) -> PrivacyResponse:
    asked = spec.differential_privacy
    return PrivacyResponse(
        block=block(seen.head),
        updates=spec.privacy,
        examples=None if asked is None else ExamplesPrivacy(**asked.model_dump()),
        participants=_participants_privacy(seen.job, spec),
    )


def _participants_privacy(job: Job, spec: JobSpec) -> ParticipantsPrivacy | None:
    asked, release = spec.participant_privacy, spec.release
    if asked is None or release is None:
        return None
    shown = (epsilon_of_rounds(release, rounds=rounds, delta=asked.delta) for rounds in (job.round, job.terms.rounds))
    epsilon, epsilon_of_job = (each if isfinite(each) else None for each in shown)
    return ParticipantsPrivacy(
        **asked.model_dump(),
        colluders=spec.colluders(participants=job.terms.min_participants),
        epsilon=epsilon,
        epsilon_of_job=epsilon_of_job,
    )


def open_round(attempt: Attempt) -> RoundSummary:
    return RoundSummary(**_opened(attempt), state="open")


def settled_round(over: SettledRound) -> RoundSummary:
    settled = over.settled
    return RoundSummary(
        **_opened(over.opened),
        state="settled",
        transaction=settled.at.transaction,
        timestamp=settled.at.timestamp,
        coordinator=settled.coordinator,
        model=cid_of(settled.model_digest),
        report=cid_of(settled.report_digest),
        pot=str(settled.pot),
        paid=[
            Paid(participant=participant, seat=seat, score=score, amount=str(amount))
            for participant, seat, score, amount in _paid(over)
        ],
    )


def _opened(attempt: Attempt) -> dict[str, Any]:
    return {
        "round": attempt.round,
        "attempt": attempt.attempt,
        "commit_end": attempt.commit_end,
        "reveal_end": attempt.reveal_end,
        "committed": len(attempt.commits),
        "revealed": [
            Update(
                participant=reveal.participant,
                update=cid_of(reveal.digest),
                root="0x" + reveal.root.hex(),
                transaction=reveal.at.transaction,
            )
            for reveal in attempt.openings
        ],
        "masked": _masked(attempt),
    }


def _masked(attempt: Attempt) -> MaskedRound | None:
    if not attempt.cohort:
        return None
    released = {each.participant: cid_of(each.digest) for each in attempt.reveals if isinstance(each, Unmasked)}
    counted = None if attempt.counted is None else attempt.counted.counted
    return MaskedRound(
        awaited=[each.address for each in attempt.cohort if each.address in attempt.awaited],
        counted=None if counted is None else [each.address for each in attempt.cohort if counted >> each.seat & 1],
        updates=[
            MaskedUpdate(
                participant=each.participant,
                letters=cid_of(each.digest),
                released=released.get(each.participant),
                transaction=each.at.transaction,
            )
            for each in attempt.commits
            if isinstance(each, CommittedMasked)
        ],
    )


def participant_summaries(job: Job) -> list[ParticipantSummary]:
    """Who is seated, by seat; then who was when a round was settled and has left."""
    earned: Counter[Address] = Counter()
    rounds: Counter[Address] = Counter()
    known: dict[Address, Participant] = {}
    for over in job.history:
        known |= over.participants
        for participant, _, _, amount in _paid(over):
            earned[participant] += amount
            rounds[participant] += 1
    left = [each for address, each in known.items() if address not in job.participants]
    return [
        ParticipantSummary(
            participant=each.address,
            seat=each.seat if each.address in job.participants else None,
            samples=each.samples,
            reputation=job.reputation(each.address) / FULL,
            rounds_paid=rounds[each.address],
            earned=str(earned[each.address]),
        )
        for each in (*sorted(job.participants.values(), key=lambda each: each.seat), *left)
    ]


def _paid(over: SettledRound) -> Iterator[tuple[Address, int, int, Wei]]:
    """Participant, seat, score and amount."""
    for address, paid in pay(over).items():
        yield address, over.participants[address].seat, paid.score, paid.amount


def event_summary(event: Event) -> EventSummary:
    return EventSummary(
        event=type(event).__name__,
        block=event.at.block,
        log_index=event.at.log_index,
        transaction=event.at.transaction,
        timestamp=event.at.timestamp,
        data=_data(event),
    )


def _data(value: Any) -> dict[str, Any]:
    names = (field.name for field in fields(value) if field.name not in ("at", "job"))
    return {name: _plain(name, getattr(value, name)) for name in names}


def _plain(name: str, value: Any) -> Any:
    match value:
        case Enum():
            return value.name.lower()
        case int() if name in _WEI:
            return str(value)
        case int() if name == "accepted":
            return seats_of(value)
        case bytes():
            return cid_of(value) if name in _BLOBS else "0x" + value.hex()  # type: ignore[arg-type]
        case tuple():
            return list(value)
        case _:
            return _data(value) if is_dataclass(value) else value
