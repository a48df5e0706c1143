"""What the coordinator read, over HTTP: read-only, and every answer says from which block it is.

Nothing here has to be believed: it is what anybody reads from the chain and the blob store, in a handier form.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from deepledger.protocol.agreement import fetch_spec
from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Event
from deepledger.protocol.chain.follow import Follower
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.errors import BadInput, DeepledgerError
from deepledger.protocol.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.rewards import shares
from deepledger.protocol.trail import SettledRound
from deepledger.protocol.types import JobId

T = TypeVar("T")

_MOST_JOBS = 256  # followed at once

JobNumber = Annotated[int, Path(ge=1, lt=1 << 256, description="The job's number on chain.")]
RoundIndex = Annotated[int, Path(ge=0, lt=1 << 24, description="Counts from 0.")]
Offset = Annotated[int, Query(ge=0, description="How many to pass over.")]
Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]


class Block(BaseModel):
    """The newest block of which this answer knows."""

    number: int
    hash: str
    timestamp: int


class Health(BaseModel):
    block: Block
    chain_id: int
    contract: str
    jobs: int


class JobSummary(BaseModel):
    job: int
    sponsor: str
    coordinator: str
    phase: str
    outcome: str | None
    round: int
    rounds: int
    participants: int
    reward: str
    stake: str
    spec: str
    model: str


class JobAnswer(BaseModel):
    block: Block
    job: JobSummary


class JobsAnswer(BaseModel):
    block: Block
    jobs: list[JobSummary]


class Paid(BaseModel):
    participant: str
    seat: int
    score: int
    amount: str


class RoundSummary(BaseModel):
    round: int
    transaction: str
    coordinator: str
    model: str
    report: str
    pot: str
    committed: int
    revealed: int
    paid: list[Paid]


class RoundsAnswer(BaseModel):
    block: Block
    rounds: list[RoundSummary]


class RoundAnswer(BaseModel):
    block: Block
    round: RoundSummary


class ReportAnswer(BaseModel):
    block: Block
    cid: str
    report: Report


class ParticipantSummary(BaseModel):
    participant: str
    seat: int
    samples: int


class ParticipantsAnswer(BaseModel):
    block: Block
    participants: list[ParticipantSummary]


class EventsAnswer(BaseModel):
    block: Block
    events: list[dict[str, Any]]


class SpecAnswer(BaseModel):
    block: Block
    cid: str
    spec: dict[str, Any]


class _Desk:
    """Follows the jobs that were asked for. web3's connection is used by one thread at a time."""

    def __init__(self, reader: Reader, store: BlobStore) -> None:
        self.reader, self.store = reader, store
        self._followers: OrderedDict[int, Follower] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, question: Callable[[], T]) -> T:
        with self._lock:
            return question()

    def follow(self, job: int) -> Follower:
        follower = self._followers.pop(job, None)
        if follower is None:
            try:
                follower = Follower(self.reader, JobId(job))
            except BadInput as error:
                raise HTTPException(404, str(error)) from None
        else:
            follower.update()
        self._followers[job] = follower
        if len(self._followers) > _MOST_JOBS:
            self._followers.popitem(last=False)
        return follower


def build_app(reader: Reader, store: BlobStore) -> FastAPI:
    """Raises nothing by itself; chain and store trouble become status 502, unknown jobs and rounds 404."""
    desk = _Desk(reader, store)
    app = FastAPI(title="deepledger coordinator", description=__doc__ or "", version="0.1.0")

    @app.exception_handler(DeepledgerError)
    def trouble(_: Request, error: DeepledgerError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=502)

    @app.get("/health", summary="Whether the chain answers, and how far it is")
    def health() -> Health:
        head, jobs = desk.ask(lambda: (reader.head(), reader.job_count()))
        return Health(block=_block(head), chain_id=reader.chain_id, contract=reader.address, jobs=jobs)

    @app.get("/jobs", summary="Jobs, in the order in which they were created")
    def jobs(offset: Offset = 0, limit: Limit = 50) -> JobsAnswer:
        def question() -> JobsAnswer:
            numbers = range(offset + 1, min(offset + limit, reader.job_count()) + 1)
            return JobsAnswer(block=_block(reader.head()), jobs=[_job(desk.follow(number)) for number in numbers])

        return desk.ask(question)

    @app.get("/jobs/{job}", summary="One job")
    def job(job: JobNumber) -> JobAnswer:
        follower = desk.ask(lambda: desk.follow(job))
        return JobAnswer(block=_block(follower.head), job=_job(follower))

    @app.get("/jobs/{job}/spec", summary="What participants agreed to")
    def spec(job: JobNumber) -> SpecAnswer:
        def question() -> SpecAnswer:
            follower = desk.follow(job)
            found = fetch_spec(store, follower.job.terms).model_dump(mode="json")
            return SpecAnswer(block=_block(follower.head), cid=cid_of(follower.job.terms.spec_digest), spec=found)

        return desk.ask(question)

    @app.get("/jobs/{job}/participants", summary="Who is seated now")
    def participants(job: JobNumber) -> ParticipantsAnswer:
        follower = desk.ask(lambda: desk.follow(job))
        seats = sorted(follower.job.participants.values(), key=lambda seat: seat.seat)
        return ParticipantsAnswer(
            block=_block(follower.head),
            participants=[
                ParticipantSummary(participant=seat.address, seat=seat.seat, samples=seat.samples) for seat in seats
            ],
        )

    @app.get("/jobs/{job}/rounds", summary="Settled rounds")
    def rounds(job: JobNumber, offset: Offset = 0, limit: Limit = 50) -> RoundsAnswer:
        follower = desk.ask(lambda: desk.follow(job))
        shown = follower.job.history[offset : offset + limit]
        return RoundsAnswer(block=_block(follower.head), rounds=[_round(over) for over in shown])

    @app.get("/jobs/{job}/rounds/{number}", summary="One settled round, and who was paid what")
    def one_round(job: JobNumber, number: RoundIndex) -> RoundAnswer:
        follower = desk.ask(lambda: desk.follow(job))
        return RoundAnswer(block=_block(follower.head), round=_round(_settled(follower, number)))

    @app.get("/jobs/{job}/rounds/{number}/report", summary="The coordinator's report, checked against its digest")
    def report(job: JobNumber, number: RoundIndex) -> ReportAnswer:
        def question() -> ReportAnswer:
            follower = desk.follow(job)
            digest = _settled(follower, number).settled.report_digest
            found = parse_report(store.read(digest, limit=MAX_REPORT_BYTES))
            return ReportAnswer(block=_block(follower.head), cid=cid_of(digest), report=found)

        return desk.ask(question)

    @app.get("/jobs/{job}/events", summary="The trail, in the chain's order")
    def events(job: JobNumber, after: Offset = 0, limit: Limit = 100) -> EventsAnswer:
        """`after`: only events of later blocks."""

        def question() -> EventsAnswer:
            follower = desk.follow(job)
            first = max(after + 1, follower.job.created.at.block)
            found = reader.events(first, follower.head.number, job=JobId(job))[:limit]
            return EventsAnswer(block=_block(follower.head), events=[_event(event) for event in found])

        return desk.ask(question)

    return app


def _block(head: Head) -> Block:
    return Block(number=head.number, hash=head.hash, timestamp=head.timestamp)


def _job(follower: Follower) -> JobSummary:
    job = follower.job
    return JobSummary(
        job=job.job,
        sponsor=job.created.sponsor,
        coordinator=job.coordinator,
        phase=follower.phase().name.lower(),
        outcome=job.outcome.name.lower() if job.outcome is not None else None,
        round=job.round,
        rounds=job.terms.rounds,
        participants=len(job.participants),
        reward=str(job.terms.reward),
        stake=str(job.terms.stake),
        spec=cid_of(job.terms.spec_digest),
        model=cid_of(job.model_digest),
    )


def _settled(follower: Follower, number: int) -> SettledRound:
    if number >= len(follower.job.history):
        raise HTTPException(404, f"round {number} of job {follower.job.job} is not settled")
    return follower.job.history[number]


def _round(over: SettledRound) -> RoundSummary:
    settled = over.settled
    by_seat = {seat.seat: seat.address for seat in over.participants.values()}
    accepted = [seat for seat in range(64) if settled.accepted >> seat & 1]
    paid = zip(accepted, settled.scores, shares(settled.pot, settled.scores), strict=True)
    return RoundSummary(
        round=over.opened.round,
        transaction=settled.at.transaction,
        coordinator=settled.coordinator,
        model=cid_of(settled.model_digest),
        report=cid_of(settled.report_digest),
        pot=str(settled.pot),
        committed=len(over.opened.commits),
        revealed=len(over.opened.reveals),
        paid=[
            Paid(participant=by_seat[seat], seat=seat, score=score, amount=str(amount)) for seat, score, amount in paid
        ],
    )


def _event(event: Event) -> dict[str, Any]:
    names = [field.name for field in fields(event) if field.name not in ("at", "job", "terms")]
    values = {name: getattr(event, name) for name in names}
    return {
        "event": type(event).__name__,
        "block": event.at.block,
        "transaction": event.at.transaction,
        "timestamp": event.at.timestamp,
        **{name: "0x" + value.hex() if isinstance(value, bytes) else str(value) for name, value in values.items()},
    }
