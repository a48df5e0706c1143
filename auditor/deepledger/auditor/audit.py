"""Deriving a whole training run again from the chain and the blob store, and comparing it with what was settled."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from typing_extensions import Buffer

from deepledger.auditor.books import Books
from deepledger.auditor.findings import Audit, AuditedRound, Finding, Kind
from deepledger.auditor.rounds import audit_round
from deepledger.auditor.rules import broken
from deepledger.protocol.agreement import fetch_model, fetch_spec
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.chain.events import Event
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt, BlobMissing, ChainNonsense
from deepledger.protocol.evaluation import Bench, prepare_bench
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.task import find_source
from deepledger.protocol.trail import Job, apply
from deepledger.protocol.types import Digest, JobId
from deepledger.protocol.vectors import ModelVector

Progress = Callable[[str, int, int], None]
"""(what, how much is done, of how much)"""


def audit(
    reader: Reader,
    store: BlobStore,
    job: JobId,
    *,
    tasks: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Audit:
    """Audit a job up to the newest block. `tasks` are places to look for the pinned task source, for the evaluation.

    Raises `BadInput` for an unknown job, and if chain or store cannot be reached; every lie is a finding, not an error.
    """
    tell: Progress = progress or (lambda *_: None)
    head = reader.head()
    events = reader.events(reader.created_in(job), head.number, job=job)
    findings: list[Finding] = []
    state = _replay(events, reader, findings, tell)
    counted = _Counted(store)
    spec = _spec(state, counted, findings)
    rounds: list[AuditedRound] = []
    status = "not checked because the spec cannot be had"
    if spec is not None:
        bench, status = _bench(counted, spec, tasks, findings)
        model = _first_model(state, spec, counted, findings)
        for number, over in enumerate(state.history):
            tell("rounds", number, len(state.history))
            audited, model = audit_round(
                state,
                over,
                model,
                spec=spec,
                store=counted,
                chain_id=reader.chain_id,
                contract=reader.address,
                bench=bench,
                findings=findings,
            )
            rounds.append(audited)
        tell("rounds", len(state.history), len(state.history))
    return Audit(
        job=state,
        head=head,
        events=tuple(events),
        rounds=tuple(rounds),
        findings=tuple(findings),
        blobs=counted.blobs,
        bytes=counted.bytes,
        evaluation=status,
    )


def _replay(events: Sequence[Event], reader: Reader, findings: list[Finding], progress: Progress) -> Job:
    """Fold the events, checking each against the contract's rules and every transaction's money."""
    state: Job | None = None
    books = Books()
    done = 0
    for _, group in groupby(events, key=lambda event: event.at.transaction):
        transaction = list(group)
        before = state
        for event in transaction:
            if state is not None:
                for rule, claimed, derived in broken(state, event, chain_id=reader.chain_id, contract=reader.address):
                    kind = Kind.COMMITMENT if "opens its commitment" in rule else Kind.RULE
                    findings.append(Finding(kind, f"broken: {rule}", claimed, derived, event.at, state.round))
            state = _applied(state, event, findings)
        for what, claimed, derived, event in books.transaction(before, transaction):
            findings.append(Finding(Kind.MONEY, f"wrong amount: {what}", claimed, derived, event.at, None))
        done += len(transaction)
        progress("events", done, len(events))
    if state is None:
        raise ChainNonsense("the chain reports no events of this job; use another RPC endpoint")
    return state


def _applied(state: Job | None, event: Event, findings: list[Finding]) -> Job:
    try:
        return apply(state, event)
    except (ChainNonsense, ValueError) as error:
        if state is None:
            raise
        name = type(event).__name__
        findings.append(
            Finding(Kind.RULE, f"an event that cannot follow: {error}", name, "no such event", event.at, None)
        )
        return state


def _spec(job: Job, store: BlobStore, findings: list[Finding]) -> JobSpec | None:
    claimed, at = job.terms.spec_digest.hex(), job.created.at
    try:
        return fetch_spec(store, job.terms)
    except (BlobMissing, BlobCorrupt) as error:
        findings.append(Finding(Kind.BLOB, "the spec cannot be had", claimed, str(error), at, None))
    except BadSpec as error:
        findings.append(Finding(Kind.SPEC, "the spec is not valid", claimed, str(error), at, None))
    return None


def _first_model(job: Job, spec: JobSpec, store: BlobStore, findings: list[Finding]) -> ModelVector | None:
    terms, at = job.terms, job.created.at
    try:
        model = fetch_model(store, terms.model_digest, spec)
    except (BlobMissing, BlobCorrupt) as error:
        findings.append(
            Finding(Kind.BLOB, "the first model cannot be had", terms.model_digest.hex(), str(error), at, None)
        )
        return None
    root = chunk_root(model.data.cast("B"), bits=32)
    if root != terms.model_root:
        what = "the first model does not have the chunk root that the job names"
        findings.append(Finding(Kind.MODEL, what, terms.model_root.hex(), root.hex(), at, None))
    return model


def _bench(store: BlobStore, spec: JobSpec, tasks: Sequence[Path], findings: list[Finding]) -> tuple[Bench | None, str]:
    """What evaluations are redone with, or why they are not. The validation set is fetched either way."""
    try:
        store.read_into(spec.validation_digest, np.empty(spec.validation.bytes, np.uint8).data)
    except (BlobMissing, BlobCorrupt) as error:
        what = "the validation set cannot be had"
        findings.append(Finding(Kind.BLOB, what, spec.validation.digest, str(error), None, None))
        return None, f"not checked because {what}"
    if importlib.util.find_spec("torch") is None:
        return None, "not checked because torch is not installed"
    try:
        source = find_source(spec.task, tasks)
    except BadInput as error:
        return None, f"not checked: {error}"
    return prepare_bench(store, spec, source), "checked"


class _Counted:
    """A store that counts what it served."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.blobs = self.bytes = 0

    def put(self, data: Buffer) -> Digest:
        return self._store.put(data)

    def read_into(self, digest: Digest, buffer: Buffer) -> None:
        self._store.read_into(digest, buffer)
        self._count(memoryview(buffer).nbytes)

    def read(self, digest: Digest, *, limit: int) -> bytes:
        data = self._store.read(digest, limit=limit)
        self._count(len(data))
        return data

    def pin(self, digest: Digest) -> None:
        self._store.pin(digest)

    def unpin(self, digest: Digest) -> None:
        self._store.unpin(digest)

    def _count(self, size: int) -> None:
        self.blobs += 1
        self.bytes += size
