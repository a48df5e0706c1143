"""One settled round, derived again from its public inputs and compared with what was settled."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from deepledger.auditor.findings import AuditedRound, Finding, Kind
from deepledger.auditor.remeasure import remeasure
from deepledger.auditor.sources import GONE, Claims, Find, Underivable, say
from deepledger.protocol.blobs.store import BlobStore
from deepledger.protocol.errors import BadInput, BadSpec, StateError
from deepledger.protocol.evaluation.bench import Bench, agrees
from deepledger.protocol.evaluation.evaluators import Evaluator
from deepledger.protocol.formats.evaluation import Evaluation
from deepledger.protocol.formats.report import MAX_REPORT_BYTES, Report, parse_report
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import ModelVector
from deepledger.protocol.job.fetch import fetch_model
from deepledger.protocol.job.state import Job, SettledRound
from deepledger.protocol.settlement.inputs import revealed_in
from deepledger.protocol.settlement.reporting import build_report
from deepledger.protocol.settlement.rewards import by_seat
from deepledger.protocol.settlement.settle import Settlement, settle
from deepledger.protocol.types import Address

_FOLLOWING = ("updates", "saturated", "forgotten", "coalitions")
"""Fields of a report that follow from the updates."""


def audit_round(
    job: Job,
    over: SettledRound,
    before: ModelVector | None,
    *,
    spec: JobSpec,
    store: BlobStore,
    chain_id: int,
    contract: Address,
    bench: Bench | None,
    evaluator: Evaluator | None,
    findings: list[Finding],
) -> tuple[AuditedRound, ModelVector | None]:
    """`before` is the model that the chain says was before; returns the one that it says came after, if it is there."""
    settled = over.settled

    def find(kind: Kind, explanation: str, claimed: str, derived: str) -> None:
        findings.append(
            Finding(kind, explanation, claimed, derived, settled.at, over.opened.round, settled.coordinator)
        )

    report = _report(over, store, find)
    claimed_after = _claimed_model(over, spec, store, find)
    evaluation, unchecked = None, None
    if bench is not None and claimed_after is not None:
        evaluation, unchecked = _evaluate(bench, claimed_after, report)
    derived, believed, remeasured = False, 0, None
    if before is not None and all(reveal.participant in over.participants for reveal in over.opened.reveals):
        revealed = revealed_in(job, over.opened, over.participants, spec)
        claims = Claims(store, spec, report, evaluator, find)
        after, settlement = before.copy(), None
        with suppress(Underivable):
            settlement = settle(spec, after, revealed, claims)
        believed = claims.believed
        complete = settlement is not None and not claims.incomplete
        derived = complete and not believed
        if derived:
            with suppress(StateError):
                remeasured = remeasure(spec, before, revealed, claims, over)
        unchecked = unchecked or claims.unchecked
        if settlement is not None and complete:
            _compare_money(settlement, over, find)
            _compare_model(after, claimed_after, find)
        if settlement is not None and report is not None:
            _compare_report(report, settlement, job, over, find, chain_id, contract, complete=complete)
    if report is not None and evaluation is not None and not agrees(report.evaluation, evaluation, spec.validation):
        find(
            Kind.EVALUATION,
            "the validation result in the report is not that of the settled model",
            say(report.evaluation),
            say(evaluation),
        )
    return AuditedRound(over, report, derived, believed, remeasured, evaluation, unchecked), claimed_after


def _evaluate(bench: Bench, model: ModelVector, report: Report | None) -> tuple[Evaluation | None, str | None]:
    """The result, or why there is none."""
    try:
        return bench.try_out(model), None
    except BadInput as error:
        if report is not None and report.evaluation == bench.worst:
            return bench.worst, None  # it failed there, too
        return None, str(error)


def _report(over: SettledRound, store: BlobStore, find: Find) -> Report | None:
    try:
        return parse_report(store.read(over.settled.report_digest, limit=MAX_REPORT_BYTES))
    except GONE as error:
        find(Kind.BLOB, "the report cannot be had", over.settled.report_digest.hex(), str(error))
    except BadSpec as error:
        find(Kind.REPORT, "the report cannot be read", over.settled.report_digest.hex(), str(error))
    return None


def _claimed_model(over: SettledRound, spec: JobSpec, store: BlobStore, find: Find) -> ModelVector | None:
    try:
        model = fetch_model(store, over.settled.model_digest, spec)
    except GONE as error:
        find(Kind.BLOB, "the settled model cannot be had", over.settled.model_digest.hex(), str(error))
        return None
    root = chunk_root(model.data.cast("B"), bits=32)
    if root != over.settled.model_root:
        find(
            Kind.MODEL,
            "the settled chunk root is not that of the settled model",
            over.settled.model_root.hex(),
            root.hex(),
        )
    return model


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


def _compare_model(after: ModelVector, claimed: ModelVector | None, find: Find) -> None:
    if claimed is None or np.array_equal(after, claimed):
        return
    wrong = np.flatnonzero(after != claimed)
    first = int(wrong[0])
    find(
        Kind.MODEL,
        f"the settled model is not the aggregate of the accepted updates: {len(wrong)} of {len(after)} coordinates "
        f"differ, the first is coordinate {first}",
        str(int(claimed[first])),
        str(int(after[first])),
    )


def _compare_report(
    report: Report,
    settlement: Settlement,
    job: Job,
    over: SettledRound,
    find: Find,
    chain_id: int,
    contract: Address,
    *,
    complete: bool,
) -> None:
    expected = build_report(
        job,
        over.opened,
        settlement,
        chain_id=chain_id,
        contract=contract,
        model_before=(over.model_digest, over.model_root),
        model_after=(over.settled.model_digest, over.settled.model_root),
        evaluation=report.evaluation,
    )
    for name in type(report).model_fields:
        claimed, derived = getattr(report, name), getattr(expected, name)
        if name not in _FOLLOWING and claimed != derived:
            find(Kind.REPORT, f"the report's {name} is not the chain's", str(claimed), str(derived))
    if not complete:
        return
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
