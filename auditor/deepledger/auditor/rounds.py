"""One settled round, derived again from its public inputs and compared with what was settled."""

from __future__ import annotations

from contextlib import suppress

from deepledger.auditor.counts import check_count
from deepledger.auditor.evaluating import Evaluating
from deepledger.auditor.findings import AuditedRound, Finding, Kind
from deepledger.auditor.remeasure import remeasure
from deepledger.auditor.sources import GONE, Claims, Find, Underivable, misfit, say
from deepledger.auditor.told import told_by
from deepledger.auditor.unread import settlement_told
from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.blobs.spool import FileVector
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec, BlobCorrupt, BlobError, OutOfTime, StateError
from deepledger.protocol.evaluation.bench import agrees
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import ModelVector, difference
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.clip import clip_after
from deepledger.protocol.job.fetch import hold_model
from deepledger.protocol.job.state import Job, SettledRound
from deepledger.protocol.privacy.opening import Open, as_it_is
from deepledger.protocol.settlement.inputs import Place, revealed_in
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.rewards import by_seat
from deepledger.protocol.settlement.settle import Settlement, settle
from deepledger.protocol.types import Address

_FOLLOWING = ("updates", "saturated", "forgotten", "coalitions")
"""Fields of a report that follow from the updates."""
Model = ModelVector | FileVector
"""A model that was derived, or as it is in the store."""


def audit_round(
    job: Job,
    over: SettledRound,
    before: Model | None,
    after: ModelVector,
    *,
    spec: JobSpec,
    store: BlobStore,
    chain_id: int,
    contract: Address,
    evaluating: Evaluating,
    findings: list[Finding],
    open: Open | None = as_it_is,
) -> tuple[AuditedRound, Model | None]:
    """`open`: how updates are read; None: they are sealed, and not to us, or encrypted, and their sum cannot be opened.

    `before` is the model that the chain says was before; returns the one that it says came after, if it is there. The
    model is derived in `after`, whatever was there, and the settled one evaluated meanwhile.
    """
    settled = over.settled

    def find(kind: Kind, explanation: str, claimed: str, derived: str) -> None:
        findings.append(
            Finding(kind, explanation, claimed, derived, settled.at, over.opened.round, settled.coordinator)
        )

    report = _report(over, store, find)
    claimed_after, why_not = _claimed_model(over, spec, store)
    result = evaluating.submit(_evaluate, evaluating, claimed_after, report)
    claims: Claims | None = None
    derived, believed, remeasured = False, 0, None
    follows: Model | None = None
    if before is not None and all(reveal.participant in over.participants for reveal in over.opened.reveals):
        place = Place(chain_id, contract, job.job)
        revealed = revealed_in(job, over.opened, over.participants, spec, place=place)
        claims = Claims(store, spec, report, evaluating.evaluator, find, open=open)
        settlement, certain, whole = None, False, claims.look(revealed) and open is not None
        with suppress(Underivable):
            if whole:
                settlement = settle(spec, after, revealed, claims, outcome=claims.outcome, before=before)
                certain = _is_certain(settlement, over, claims, report)
                follows = after if certain else None
        if not certain and (not whole or claims.driftless or report is None):
            told, settlement = told_by(report, over.settled.accepted, revealed), None
            with suppress(Underivable):
                settlement, made = settlement_told(
                    spec, revealed, told, report, claims, find, before=before, after=after, settled=claimed_after
                )
                follows = after if made else None
        believed = claims.believed + claims.assumed
        derived = certain and not believed and not claims.lost
        if open is None and not over.settled.accepted:
            follows = before  # whatever was in the updates
        if settlement is not None:
            if derived and not settlement.diverged:
                with suppress(StateError):
                    remeasured = remeasure(spec, before, revealed, claims, over)
            if not claims.assumed:
                _compare_money(settlement, over, find)
            if report is not None:
                _compare_report(report, settlement, job, over, find, chain_id, contract, spec, store)
    if spec.masks is not None:
        judged = report.updates if report is not None else ()
        given_up = {Address(each.participant) for each in judged if each.verdict is Verdict.UNAVAILABLE}
        place = Place(chain_id, contract, job.job)
        check_count(job, over.opened, spec, store, place, findings, given_up=given_up)
    settled_model = _settled_model(over, claimed_after, why_not, follows, find)
    evaluation, unchecked = result.result()
    unchecked = unchecked or (None if claims is None else claims.unchecked)
    if claimed_after is None:
        evaluation, failed = evaluating.submit(_evaluate, evaluating, settled_model, report).result()
        unchecked = unchecked or failed
    metrics = spec.validation.metrics
    if report is not None and evaluation is not None and not agrees(report.evaluation, evaluation, metrics):
        find(
            Kind.EVALUATION,
            "the validation result in the report is not that of the settled model",
            say(report.evaluation, spec),
            say(evaluation, spec),
        )
    return AuditedRound(over, report, derived, open is None, believed, remeasured, evaluation, unchecked), settled_model


def _is_certain(settlement: Settlement, over: SettledRound, claims: Claims, report: Report | None) -> bool:
    """Whether what was settled otherwise is a lie. Without the report nobody knows which updates were called
    unavailable, nor by which results one was found to do harm.
    """
    if report is not None:
        return True
    dropped, taken = settlement.accepted & ~over.settled.accepted, over.settled.accepted & ~settlement.accepted
    return not dropped and not (taken and claims.assumed)


def _evaluate(
    evaluating: Evaluating, model: Model | None, report: Report | None
) -> tuple[Evaluation | None, str | None]:
    """The result, or why the task gave none."""
    bench = evaluating.bench()
    if bench is None or model is None:
        return None, None
    try:
        return bench.try_out(model), None
    except OutOfTime as error:
        return None, str(error)
    except BadInput as error:
        if report is None or report.evaluation != bench.worst:
            return None, str(error)
    try:
        bench.try_first()
    except (BadInput, OutOfTime) as error:  # it fails on whatever it is given here, which says nothing about that model
        return None, str(error)
    return bench.worst, None  # it failed there, too


def _report(over: SettledRound, store: BlobStore, find: Find) -> Report | None:
    digest = over.settled.report_digest
    try:
        return parse_report(store.read(digest, limit=MAX_REPORT_BYTES))
    except GONE as error:
        wrong = misfit(store, digest, fits=MAX_REPORT_BYTES) if isinstance(error, BlobCorrupt) else None
        if wrong is None:
            find(Kind.BLOB, "the report cannot be had", digest.hex(), str(error))
        else:
            find(Kind.REPORT, "what was settled cannot be a report", digest.hex(), wrong)
    except BadSpec as error:
        find(Kind.REPORT, "the report cannot be read", digest.hex(), str(error))
    return None


def _claimed_model(over: SettledRound, spec: JobSpec, store: BlobStore) -> tuple[Model | None, tuple[Kind, str]]:
    """The model, or why there is none and whether that is a lie."""
    digest = over.settled.model_digest
    try:
        return hold_model(store, digest, spec), (Kind.BLOB, "")
    except GONE as error:
        wrong = misfit(store, digest, fits=spec.model_bytes) if isinstance(error, BlobCorrupt) else None
        return None, (Kind.BLOB, str(error)) if wrong is None else (Kind.MODEL, wrong)


def _settled_model(
    over: SettledRound,
    claimed: Model | None,
    why_not: tuple[Kind, str],
    derived: Model | None,
    find: Find,
) -> Model | None:
    """Compare the settled model with the one that was derived, by digest where only that is there. Returns the settled
    one: the derived one if nobody serves it and the digest is that one's.
    """
    settled, kind = over.settled, why_not[0]
    if claimed is None:
        digest = settled.model_digest.hex()
        truth = None if derived is None else digest_of(derived.data.cast("B"))
        if truth == settled.model_digest:
            claimed = derived
            find(kind, "the settled model cannot be had; it is the one that was derived here", digest, why_not[1])
        elif truth is not None:
            what = "the settled model, which cannot be had, is not the aggregate of the accepted updates"
            find(Kind.MODEL, what, digest, truth.hex())
        elif kind is Kind.MODEL:
            find(kind, "what was settled cannot be a model of this job", digest, why_not[1])
        if claimed is None:
            if kind is Kind.BLOB:
                find(kind, "the settled model cannot be had", digest, why_not[1])
            return None
    elif derived is not None:
        _compare_model(derived, claimed, find)
    assert claimed is not None  # noqa: S101 (it was had, or derived)
    root = chunk_root(claimed.data.cast("B"), bits=32)
    if root != settled.model_root:
        what = "the settled chunk root is not that of the settled model"
        find(Kind.MODEL, what, settled.model_root.hex(), root.hex())
    return claimed


def _compare_money(settlement: Settlement, over: SettledRound, find: Find) -> None:
    seats = {seat.seat: seat.address for seat in over.participants.values()}
    claimed = by_seat(over.settled.accepted, over.settled.scores)
    derived = by_seat(settlement.accepted, settlement.scores)
    for seat in sorted(set(claimed) | set(derived)):
        if claimed.get(seat) != derived.get(seat):
            find(
                Kind.SCORE,
                f"{seats.get(seat, f'seat {seat}')} was paid for another score than its update has",
                str(claimed.get(seat, "not accepted")),
                str(derived.get(seat, "not accepted")),
            )


def _compare_model(after: Model, claimed: Model, find: Find) -> None:
    first, wrong = difference(after, claimed)
    if first is None:
        return
    at = slice(first, first + 1)
    find(
        Kind.MODEL,
        f"the settled model is not the aggregate of the accepted updates: {wrong} of {len(after)} coordinates "
        f"differ, the first is coordinate {first}",
        str(int(claimed[at][0])),
        str(int(after[at][0])),
    )


def _compare_report(
    report: Report,
    settlement: Settlement,
    job: Job,
    over: SettledRound,
    find: Find,
    chain_id: int,
    contract: Address,
    spec: JobSpec,
    store: BlobStore,
) -> None:
    try:
        clip = clip_after(job.history[: over.opened.round], spec, store)
    except BlobError:  # a finding of the round whose report it is
        clip = None if report.clip is None else report.clip.norm
    expected = build_report(
        job,
        over.opened,
        settlement,
        chain_id=chain_id,
        contract=contract,
        model_before=(over.model_digest, over.model_root),
        model_after=(over.settled.model_digest, over.settled.model_root),
        evaluation=report.evaluation,
        spec=spec,
        clip=clip,
    )
    for name in type(report).model_fields:
        claimed, derived = getattr(report, name), getattr(expected, name)
        if name not in _FOLLOWING and claimed != derived:
            find(Kind.REPORT, f"the report's {name} is not the chain's", str(claimed), str(derived))
    told, pinned = report.evaluation.names, spec.validation.metrics.keys()
    if told != pinned:
        what = "the report tells the settled model by other metrics than the spec pins"
        find(Kind.REPORT, what, ", ".join(sorted(told)), ", ".join(sorted(pinned)))
    if report.saturated != expected.saturated:
        find(
            Kind.REPORT,
            "the report's count of saturated coordinates is wrong",
            str(report.saturated),
            str(expected.saturated),
        )
    if report.forgotten != expected.forgotten or report.coalitions != expected.coalitions:
        find(
            Kind.REPORT,
            "the report lists other earlier updates or coalitions than the settlement asked for",
            f"{len(report.forgotten)} and {len(report.coalitions)}",
            f"{len(expected.forgotten)} and {len(expected.coalitions)}",
        )
    claims = {update.participant: update for update in report.updates}
    truths = {update.participant: update for update in expected.updates}
    for participant in sorted(set(claims) | set(truths)):
        claim, truth = claims.get(participant), truths.get(participant)
        if claim == truth:
            continue
        find(
            Kind.VERDICT,
            f"the report judges the update of {participant} otherwise than its bytes deserve",
            _say(claim.model_dump() if claim else None, truth.model_dump() if truth else None),
            _say(truth.model_dump() if truth else None, claim.model_dump() if claim else None),
        )
    if report.updates != expected.updates and claims == truths:
        find(
            Kind.REPORT,
            "the report does not have one entry per reveal, by ascending seat",
            ", ".join(f"seat {update.seat}" for update in report.updates),
            ", ".join(f"seat {update.seat}" for update in expected.updates),
        )


def _say(one: dict[str, object] | None, other: dict[str, object] | None) -> str:
    if one is None:
        return "no entry"
    return ", ".join(f"{key} {value}" for key, value in one.items() if other is None or other[key] != value)
