"""What the coordinator read, over HTTP: read-only, and every answer says from which block it is.

Nothing here has to be believed: it is what anybody reads from the chain and the blob store, in a handier form.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from functools import lru_cache
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from deepledger.coordinator import schemas as say
from deepledger.coordinator.blobs import serve_blobs
from deepledger.coordinator.schemas import Problem, Seen
from deepledger.protocol.blobs import cid_of
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Event
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.errors import BadInput, DeepledgerError
from deepledger.protocol.formats.evaluation import values
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.spec import MAX_SPEC_BYTES, JobSpec, parse_spec
from deepledger.protocol.job.follow import Follower
from deepledger.protocol.types import Digest, JobId

_MOST_JOBS = 256  # followed at once
_MOST_BLOBS = 64  # parsed ones kept, of each kind
_BLOCKS = 10_000  # in which events are looked for at once
_UNUSED = Digest(bytes(32))  # nobody has a blob with this digest

JobNumber = Annotated[int, Path(ge=1, lt=1 << 256, description="The job's number on chain.")]
RoundIndex = Annotated[int, Path(ge=0, lt=1 << 24, description="Counts from 0.")]
Offset = Annotated[int, Query(ge=0, lt=1 << 63, description="How many to pass over.")]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
After = Annotated[
    str,
    Query(
        pattern=r"^\d{1,18}(\.\d{1,9})?$",
        description="Only what comes after this: a block (12), or one event by block and log index (12.3).",
    ),
]


class _Trails:
    """Follows the jobs that were asked for, as of the newest block. The chain is asked by one thread at a time."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._followers: OrderedDict[int, Follower] = OrderedDict()
        self._lock = threading.Lock()

    def height(self) -> tuple[Head, int]:
        """The newest block, and how many jobs there are."""
        with self._lock:
            return self.reader.head(), self.reader.job_count()

    def see(self, job: int) -> Seen:
        with self._lock:
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
            return Seen(follower.job, follower.head, follower.phase())

    def events(self, seen: Seen, *, after: tuple[int, int], limit: int) -> list[Event]:
        """At most `limit`, later than block and log index `after`."""
        found: list[Event] = []
        first = max(after[0], seen.job.created.at.block)
        while len(found) < limit and first <= seen.head.number:
            last = min(first + _BLOCKS - 1, seen.head.number)
            with self._lock:
                batch = self.reader.events(first, last, job=seen.job.job)
            found += [event for event in batch if (event.at.block, event.at.log_index) > after]
            first = last + 1
        return found[:limit]


def build_app(reader: Reader, store: BlobStore, *, local: BlobStore | None = None) -> FastAPI:
    """Raises nothing by itself; chain and store trouble become status 502, unknown jobs and rounds 404.

    `local`: where blobs are that strangers may ask for, `store` unless it would go and get them from elsewhere.
    """
    trails = _Trails(reader)
    app = FastAPI(
        title="deepledger coordinator",
        description=__doc__ or "",
        version=version("deepledger"),
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        responses={502: {"model": Problem, "description": "The chain or the blob store cannot be used."}},
    )
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such job or round."}}

    @lru_cache(_MOST_BLOBS)
    def spec_of(digest: Digest) -> JobSpec:
        return parse_spec(store.read(digest, limit=MAX_SPEC_BYTES))

    @lru_cache(_MOST_BLOBS)
    def report_of(digest: Digest) -> Report:
        return parse_report(store.read(digest, limit=MAX_REPORT_BYTES))

    @app.exception_handler(DeepledgerError)
    def trouble(_: Request, error: DeepledgerError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=502)

    @app.get("/", include_in_schema=False)
    def root() -> dict[str, str]:
        return {"description": app.openapi_url or "", "health": "/health", "jobs": "/jobs"}

    @app.get(
        "/health",
        summary="Whether chain and store answer, and how far the chain is",
        responses={503: {"model": say.Health, "description": "One of them does not."}},
    )
    def health(response: Response) -> say.Health:
        troubles, head, jobs = [], None, None
        try:
            head, jobs = trails.height()
        except DeepledgerError as error:
            troubles.append(str(error))
        try:
            store.unpin(_UNUSED)  # changes nothing, and needs the store to answer
        except DeepledgerError as error:
            troubles.append(str(error))
        if troubles:
            response.status_code = 503
        return say.Health(
            healthy=not troubles,
            troubles=troubles,
            version=app.version,
            chain_id=reader.chain_id,
            contract=reader.address,
            jobs=jobs,
            block=say.block(head) if head else None,
            block_age=max(0, int(time.time()) - head.timestamp) if head else None,
        )

    @app.get("/jobs", summary="Jobs, in the order in which they were created")
    def jobs(offset: Offset = 0, limit: Limit = 50) -> say.JobsResponse:
        head, total = trails.height()
        shown = [trails.see(number) for number in range(offset + 1, min(offset + limit, total) + 1)]
        return say.JobsResponse(block=say.block(head), total=total, jobs=[say.job_summary(seen) for seen in shown])

    @app.get("/jobs/{job}", summary="One job", responses=unknown)
    def job(job: JobNumber) -> say.JobResponse:
        seen = trails.see(job)
        return say.JobResponse(block=say.block(seen.head), job=say.job_summary(seen))

    @app.get("/jobs/{job}/spec", summary="What participants agreed to, checked against its digest", responses=unknown)
    def spec(job: JobNumber) -> say.SpecResponse:
        seen = trails.see(job)
        digest = seen.job.terms.spec_digest
        return say.SpecResponse(block=say.block(seen.head), cid=cid_of(digest), spec=spec_of(digest))

    @app.get("/jobs/{job}/privacy", summary="Who reads updates, and what noise keeps", responses=unknown)
    def privacy(job: JobNumber) -> say.PrivacyResponse:
        seen = trails.see(job)
        return say.privacy(seen, spec_of(seen.job.terms.spec_digest))

    @app.get("/jobs/{job}/participants", summary="Who takes part, and has earned what", responses=unknown)
    def participants(job: JobNumber) -> say.ParticipantsResponse:
        seen = trails.see(job)
        return say.ParticipantsResponse(block=say.block(seen.head), participants=say.participant_summaries(seen.job))

    @app.get("/jobs/{job}/rounds", summary="Settled rounds", responses=unknown)
    def rounds(job: JobNumber, offset: Offset = 0, limit: Limit = 50) -> say.RoundsResponse:
        seen = trails.see(job)
        shown = seen.job.history[offset : offset + limit]
        return say.RoundsResponse(
            block=say.block(seen.head), total=seen.job.round, rounds=[say.settled_round(over) for over in shown]
        )

    @app.get("/jobs/{job}/rounds/{number}", summary="One round, settled or open: updates and pay", responses=unknown)
    def one_round(job: JobNumber, number: RoundIndex) -> say.RoundResponse:
        seen = trails.see(job)
        attempt = seen.job.attempt
        if attempt is not None and attempt.round == number:
            return say.RoundResponse(block=say.block(seen.head), round=say.open_round(attempt))
        if number >= seen.job.round:
            raise HTTPException(404, f"round {number} of job {job} is not open yet")
        return say.RoundResponse(block=say.block(seen.head), round=say.settled_round(seen.job.history[number]))

    @app.get(
        "/jobs/{job}/rounds/{number}/report",
        summary="The coordinator's report, checked against its digest",
        responses=unknown,
    )
    def report(job: JobNumber, number: RoundIndex) -> say.ReportResponse:
        seen = trails.see(job)
        if number >= seen.job.round:
            raise HTTPException(404, f"round {number} of job {job} is not settled")
        digest = seen.job.history[number].settled.report_digest
        report, metrics = report_of(digest), spec_of(seen.job.terms.spec_digest).validation.metrics
        results = values(report.evaluation, metrics)
        return say.ReportResponse(block=say.block(seen.head), cid=cid_of(digest), results=results, report=report)

    @app.get("/jobs/{job}/events", summary="The trail, in the chain's order", responses=unknown)
    def events(job: JobNumber, after: After = "0", limit: Limit = 100) -> say.EventsResponse:
        number, _, index = after.partition(".")
        seen = trails.see(job)
        found = trails.events(seen, after=(int(number), int(index) if index else 1 << 62), limit=limit + 1)
        shown = [say.event_summary(event) for event in found[:limit]]
        following = f"{shown[-1].block}.{shown[-1].log_index}" if len(found) > limit else None
        return say.EventsResponse(block=say.block(seen.head), events=shown, next=following)

    serve_blobs(app, local or store)
    return app
