"""Deriving a whole training run again from the chain and the blob store, and comparing it with what was settled."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from typing_extensions import Buffer

from deepledger.auditor.counts import check_count
from deepledger.auditor.evaluating import Evaluating, Patience
from deepledger.auditor.findings import Audit, AuditedRound, Finding, Kind, Unsigned
from deepledger.auditor.key_blobs import wrong_key_blobs
from deepledger.auditor.participant_noise import participant_noise
from deepledger.auditor.proofs import with_proofs
from deepledger.auditor.replay import MOST_FINDINGS, hold_against, out_of_place
from deepledger.auditor.rounds import Model, audit_round
from deepledger.auditor.rules import Rules
from deepledger.auditor.signatures import Signatures, signatures
from deepledger.auditor.sources import misfit
from deepledger.auditor.statements import statements
from deepledger.protocol.bfv.program import program
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.blobs.store import BlobStore, LendsFiles
from deepledger.protocol.chain.events import Event, JobCreated, Joined
from deepledger.protocol.chain.ledger import Head, Reader
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt, BlobMissing, ChainNonsense, OutOfTime
from deepledger.protocol.evaluation.bench import Bench, bench_with
from deepledger.protocol.evaluation.task import find_source
from deepledger.protocol.evaluation.validation import fetch_validation
from deepledger.protocol.evaluation.withheld import check_seals
from deepledger.protocol.formats.model import Frozen
from deepledger.protocol.formats.report import MAX_CHAIN_ID
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import MAX_SPEC_BYTES, JobSpec
from deepledger.protocol.formats.vectors import ModelVector
from deepledger.protocol.job.fetch import check_keys, fetch_frozen, fetch_spec, hold_model, is_admitted
from deepledger.protocol.job.follow import snapshot_of
from deepledger.protocol.job.state import Job
from deepledger.protocol.job.trail import apply
from deepledger.protocol.privacy.opening import opener
from deepledger.protocol.settlement.inputs import Place
from deepledger.protocol.types import Digest, JobId

Progress = Callable[[str, int, int], None]
"""(what, how much is done, of how much)"""

_MOST_BLOCKS = 1 << 31  # four a second for 17 years: more would only be asked for, range by range, for ever
_PATIENCE = 600.0  # seconds
_NOT_YET = "not checked yet: the validation set is withheld until the job closes"
_NEVER = "not checked: the validation set was withheld, and nobody has disclosed its key"
_ACCOUNTS = ("participant", "account", "coordinator", "sponsor")


def audit(
    reader: Reader,
    store: BlobStore,
    job: JobId,
    *,
    tasks: Sequence[Path] = (),
    task: Path | None = None,
    workers: int = 1,
    secret: bytes | None = None,
    apart: Callable[[str], None] | None = None,
    patience: float | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit a job up to the newest block. `tasks` are places to look for the pinned task source, for the evaluation.

    `secret` is an account's secret key, with which sealed updates are read.

    `task` is a source that must be the pinned one. `workers` processes share what is to be evaluated. With `apart`,
    which is told when that ends, nothing is evaluated in this process, so that a task cannot end it, and what takes
    more than `patience` seconds for one model is given up: by default, what the job leaves for settling a whole round,
    and ten minutes at least.

    Raises `BadInput` for an unknown job, `TaskMismatch` for another `task`, and if chain or store cannot be reached;
    every lie is a finding, not an error.
    """
    tell: Progress = progress or (lambda *_: None)
    if reader.chain_id > MAX_CHAIN_ID:
        raise ChainNonsense(f"the node says that this is chain {reader.chain_id}, and no report can; use another one")
    head = reader.head()
    if head.number > _MOST_BLOCKS:
        raise ChainNonsense(
            f"the node says that block {head.number} is the newest, and no chain has so many; use another"
        )
    events = reader.events(reader.created_in(job), head.number, job=job)
    findings: list[Finding] = []
    notes: list[str] = []
    state, rules = _replay(events, head, reader, findings, tell)
    if not any(finding.kind is Kind.RULE for finding in findings):
        findings += _tail(state, head, reader, notes)
    counted = _Counted(store)
    spec = _spec(state, counted, findings)
    rounds: list[AuditedRound] = []
    status = "not checked because the spec cannot be had"
    if spec is not None:
        findings += intruders(events, spec)
        if task is not None:
            find_source(spec.task, [task])
        unfit: list[Finding] = []
        ended = threading.Event()
        most = max(state.terms.settle_window, _PATIENCE) if patience is None else patience
        waits = Patience(most, ended, apart or (lambda _: None))
        begin = partial(_bench, state, counted, spec, [task, *tasks] if task else tasks, unfit, apart, waits)
        with closing(Evaluating(begin, workers=workers, apart=apart is not None, ended=ended)) as evaluating:
            so_far = len(findings)
            model: Model | None = _first_model(state, spec, counted, findings)
            compared = evaluating.submit(_first_of_task, evaluating, model)
            before = [f"the job takes nearly any result for right: {each}" for each in spec.loose]
            after = [*wrong_key_blobs(events, spec, store), *statements(state, spec, store)]
            after += participant_noise(state, spec, store)
            read = opener(spec, chain_id=reader.chain_id, contract=reader.address, job=job, secret=secret)
            if spec.privacy == "encrypted":
                try:
                    program()
                except BadInput as error:
                    read = None
                    after.append(f"sums were not opened: {error}")
            room: ModelVector = np.empty(spec.model.coordinates, np.int32)
            for number, over in enumerate(state.history):
                tell("rounds", number, len(state.history))
                audited, model = audit_round(
                    state,
                    over,
                    model,
                    np.empty_like(room) if model is room else room,
                    spec=spec,
                    store=counted,
                    chain_id=reader.chain_id,
                    contract=reader.address,
                    evaluating=evaluating,
                    findings=findings,
                    open=read,
                )
                rounds.append(audited)
            notes += [*before, *compared.result(), *after]
            status = evaluating.status()
            findings[so_far:so_far] = unfit
        if spec.masks is not None:  # what was counted too small was counted, too, and cost others their seats
            place = Place(reader.chain_id, reader.address, job)
            for attempt in (*state.abandoned, *([state.attempt] if state.attempt is not None else [])):
                check_count(state, attempt, spec, counted, place, findings)
        tell("rounds", len(state.history), len(state.history))
    if any(finding.kind.accuses or finding.kind is Kind.BLOB for finding in findings):
        findings = _signed(findings, signatures(reader, events))
    if any(finding.kind.accuses for finding in findings):
        findings = with_proofs(reader, events, findings)
    return Audit(
        job=state,
        head=head,
        events=tuple(events),
        rounds=tuple(rounds),
        findings=tuple(findings),
        blobs=counted.blobs,
        bytes=counted.bytes,
        spec=spec,
        evaluation=_evaluated(rounds) if status == "checked" else status,
        held=rules.accounts.held,
        notes=tuple(notes),
    )


def _replay(
    events: Sequence[Event], head: Head, reader: Reader, findings: list[Finding], progress: Progress
) -> tuple[Job, Rules]:
    """Fold the events, and hold them against the contract's rules and its present accounts."""
    if not events or not isinstance(events[0], JobCreated):
        raise ChainNonsense("the chain does not report the creation of this job; use another RPC endpoint")
    rules = Rules(events[0].job, chain_id=reader.chain_id, contract=reader.address, least_window=reader.least_window())
    broken = chain(out_of_place(events, head), hold_against(rules, events))
    findings += islice(broken, MOST_FINDINGS)
    if next(broken, None) is not None:
        what = "the trail goes on to break the rules; only the first places are listed"
        findings.append(Finding(Kind.RULE, what, "more such events", "none", findings[-1].at, None))
    if not findings:
        findings += _credits(rules, events, head, reader)
    state: Job | None = None
    for number, event in enumerate(events):
        try:
            state = apply(state, event)
        except (ChainNonsense, ValueError) as error:
            if state is None:
                raise
            if not findings:
                findings.append(
                    Finding(Kind.RULE, f"an event that cannot follow: {error}", type(event).__name__, "none", event.at,
                            state.round)
                )  # fmt: skip
        if number % 64 == 0:
            progress("events", number, len(events))
    progress("events", len(events), len(events))
    assert state is not None  # noqa: S101 (there is an event, and it did not raise)
    return state, rules


def _credits(rules: Rules, events: Sequence[Event], head: Head, reader: Reader) -> Iterator[Finding]:
    """Whether the contract owes everybody what the trail says: an end that was withheld shows here."""
    accounts = {getattr(event, name) for event in events for name in _ACCOUNTS if hasattr(event, name)}
    owed = {account: reader.credit(rules.job, account) for account in sorted(accounts)}
    wrong = {account: amount for account, amount in owed.items() if amount != rules.accounts.credits[account]}
    newest = reader.head()
    if not wrong or (newest != head and reader.events(head.number + 1, newest.number, job=rules.job)):
        return  # or it goes on meanwhile
    what = "the contract owes an account another amount than its events say: some are withheld"
    for account, amount in wrong.items():
        derived = f"{rules.accounts.credits[account]} wei"
        yield Finding(Kind.MONEY, what, f"{amount} wei", derived, events[-1].at, None, account)


def _tail(job: Job, head: Head, reader: Reader, notes: list[str]) -> Iterator[Finding]:
    """Whether the contract itself is where its events lead: the latest ones may be withheld, or not be indexed yet."""
    said = reader.snapshot(job.job, head)
    if said is None:
        notes.append(
            f"the node does not show the contract's state as of block {head.number}: whether the trail goes on cannot "
            "be told; ask another one"
        )
        return
    told = snapshot_of(job, head)
    what = f"the contract's own state at block {head.number} is not what its events add up to: some are withheld"
    for field in fields(said):
        claimed, derived = getattr(told, field.name), getattr(said, field.name)
        if claimed != derived:
            name = field.name.replace("_", " ")
            yield Finding(Kind.RULE, f"{what} ({name})", _shown(claimed), _shown(derived), job.last, None)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _signed(findings: Sequence[Finding], found: Signatures) -> list[Finding]:
    """Where the node alters what was signed, nobody is accused by what follows from it."""
    if found.altered:
        return [*found.altered, *(finding for finding in findings if not finding.kind.accuses)]
    return [_with_signers(finding, found.unsigned) for finding in findings]


def _with_signers(finding: Finding, unsigned: Sequence[Unsigned]) -> Finding:
    if not finding.kind.accuses or finding.at is None:
        return finding
    # What is derived rests on all that came before, and not on the settlement alone; its own call is named first.
    rests_on = sorted((each for each in unsigned if each.at <= finding.at), key=lambda each: each.at, reverse=True)
    return replace(finding, signed=not rests_on, unsigned=tuple(rests_on))


def _spec(job: Job, store: BlobStore, findings: list[Finding]) -> JobSpec | None:
    claimed, at = job.terms.spec_digest.hex(), job.created.at
    try:
        spec = fetch_spec(store, job.terms)
    except (BlobMissing, BlobCorrupt) as error:
        findings.append(
            _unfit(job, store, job.terms.spec_digest, MAX_SPEC_BYTES, error, what="the spec", kind=Kind.SPEC)
        )
    except BadSpec as error:
        findings.append(Finding(Kind.SPEC, "the spec is not valid", claimed, str(error), at, None, job.created.sponsor))
    else:
        try:
            check_keys(spec, job.created.coordinators)
            check_seals(spec)
        except BadSpec as error:
            what = "not every coordinator can open the validation set and the updates"
            findings.append(Finding(Kind.SPEC, what, claimed, str(error), at, None, job.created.sponsor))
        return spec
    return None


def _unfit(
    job: Job, store: BlobStore, digest: Digest, fits: int, error: Exception, *, what: str, kind: Kind
) -> Finding:
    """A blob that the sponsor named and that cannot be had; its own lie if what has that digest cannot be one."""
    at, sponsor = job.created.at, job.created.sponsor
    wrong = misfit(store, digest, fits=fits) if isinstance(error, BlobCorrupt) else None
    if wrong is not None:
        return Finding(kind, f"what the job names cannot be {what}", digest.hex(), wrong, at, None, sponsor)
    return Finding(Kind.BLOB, f"{what} cannot be had", digest.hex(), str(error), at, None)


def intruders(events: Sequence[Event], spec: JobSpec) -> Iterator[Finding]:
    """Who joined without being on the list of which the terms hold the root: the contract lets nobody."""
    for event in events:
        if isinstance(event, Joined) and not is_admitted(spec, event.participant):
            listed = f"one of the {len(spec.admitted)} accounts that the sponsor admits"
            yield Finding(Kind.RULE, "who may not join was let in", event.participant, listed, event.at, None)


def _first_model(job: Job, spec: JobSpec, store: BlobStore, findings: list[Finding]) -> FileVector | None:
    terms, at = job.terms, job.created.at
    try:
        model = hold_model(store, terms.model_digest, spec)
    except (BlobMissing, BlobCorrupt) as error:
        findings.append(
            _unfit(job, store, terms.model_digest, spec.model_bytes, error, what="the first model", kind=Kind.MODEL)
        )
        return None
    root = chunk_root(model.data, bits=32)
    if root != terms.model_root:
        what = "the first model does not have the chunk root that the job names"
        findings.append(Finding(Kind.MODEL, what, terms.model_root.hex(), root.hex(), at, None, job.created.sponsor))
    return model


def _first_of_task(evaluating: Evaluating, model: Model | None) -> list[str]:
    """Not a lie: torch may initialise otherwise elsewhere, and a sponsor may begin with weights of its own."""
    bench = evaluating.bench()
    if bench is None or model is None:
        return []
    try:
        wrong = bench.differs_from_first(model)
    except (BadInput, OutOfTime) as error:
        return [f"the first model cannot be compared with the task's: {error}"]
    if not wrong:
        return []
    return [
        f"the first model is not what the task's build_model makes here with the job's seed: {wrong:,} of "
        f"{len(model):,} coordinates differ"
    ]


def _bench(
    job: Job,
    store: BlobStore,
    spec: JobSpec,
    tasks: Sequence[Path],
    findings: list[Finding],
    apart: Callable[[str], None] | None,
    waits: Patience,
) -> tuple[Bench | None, str]:
    """What evaluations are redone with, or why they are not. The validation set is fetched either way."""
    source, why_not, key = None, "not checked because torch is not installed", job.validation_key
    withheld = spec.validation.withheld
    try:
        if importlib.util.find_spec("torch") is not None:
            source = find_source(spec.task, tasks)
    except BadInput as error:
        why_not = f"not checked: {error}"
    try:
        if withheld is not None and key is None:
            store.read_into(spec.validation_digest, np.empty(spec.validation.bytes, np.uint8).data)
            return None, _NOT_YET if job.outcome is None else _NEVER
        try:
            validation = fetch_validation(store, spec, key)
        except BadSpec as error:
            what = "the withheld validation set is not what the spec says"
            pinned = withheld.salted_digest if withheld is not None else ""
            findings.append(Finding(Kind.SPEC, what, pinned, str(error), job.created.at, None, job.created.sponsor))
            return None, f"not checked because {what}"
        if source is not None:
            fetch = partial(_frozen, store)
            return bench_with(spec, source, validation, fetch=fetch, apart=apart, waits=waits), "checked"
    except _NotHere as error:
        what = "the frozen entries of the model cannot be had"
        findings.append(Finding(Kind.BLOB, what, str(error.digest), str(error), job.created.at, None))
        return None, f"not checked because {what}"
    except BadSpec as error:  # the pinned task itself does not fit
        what = "the task that the spec pins makes another model than the spec says"
        findings.append(
            Finding(Kind.SPEC, what, spec.task.sha256, str(error), job.created.at, None, job.created.sponsor)
        )
        return None, f"not checked because {what}"
    except (BlobMissing, BlobCorrupt) as error:
        findings.append(
            _unfit(job, store, spec.validation_digest, spec.validation.bytes, error, what="the validation set",
                   kind=Kind.SPEC)
        )  # fmt: skip
        return None, "not checked because the validation set cannot be had"
    except (BadInput, OutOfTime) as error:
        why_not = f"not checked: {error}"
    return None, why_not


class _NotHere(Exception):
    """The frozen entries of a model, which are a blob of their own."""

    def __init__(self, digest: str, why: str) -> None:
        super().__init__(why)
        self.digest = digest


def _frozen(store: BlobStore, frozen: Frozen) -> bytes:
    try:
        return fetch_frozen(store, frozen)
    except (BlobMissing, BlobCorrupt) as error:
        raise _NotHere(frozen.digest, str(error)) from None


def _evaluated(rounds: Sequence[AuditedRound]) -> str:
    done = sum(each.evaluation is not None and each.unchecked is None for each in rounds)
    if done == len(rounds):
        return "checked"
    why = next((f": {each.unchecked} (round {each.over.opened.round})" for each in rounds if each.unchecked), "")
    return f"checked in {done} of {len(rounds)} rounds{why}"


class _Counted:
    """A store that counts what it served. May be shared between threads."""

    def __init__(self, store: BlobStore) -> None:
        self._store, self._counting = store, threading.Lock()
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

    def hold(self, digest: Digest, size: int) -> BinaryIO | None:
        file = self._store.hold(digest, size) if isinstance(self._store, LendsFiles) else None
        if file is not None:
            self._count(size)
        return file

    def pin(self, digest: Digest) -> None:
        self._store.pin(digest)

    def unpin(self, digest: Digest) -> None:
        self._store.unpin(digest)

    def _count(self, size: int) -> None:
        with self._counting:
            self.blobs += 1
            self.bytes += size
