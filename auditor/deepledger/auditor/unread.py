"""A settled round of a sealed job, for whoever cannot read its updates: everything but their contents.

What the report says of contents is taken as given: which updates are accepted, badly sealed, too long or the same as
another, what screening found, what coalitions measured. All that follows from it is derived again: every other verdict,
who made the model diverge, scores, and pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from deepledger.auditor.findings import Kind
from deepledger.auditor.sources import Claims, Find, Underivable
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.report import JudgedUpdate, Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Sign, Signs, Verdict
from deepledger.protocol.settlement.inputs import Revealed
from deepledger.protocol.settlement.judging import Judged, inspect_all
from deepledger.protocol.settlement.settle import Settlement, is_trusted, left_out, scored
from deepledger.protocol.settlement.valuation import mask_of
from deepledger.protocol.types import Address, Digest

_OF_CONTENTS = frozenset(
    {Verdict.ACCEPTED, Verdict.BADLY_SEALED, Verdict.MALFORMED, Verdict.NORM_EXCEEDED, Verdict.COPY, Verdict.DIVERGED}
    | {Verdict(sign.value) for sign in Sign}
)
"""Verdicts that only a reader can tell."""


def settlement_told(spec: JobSpec, revealed: Revealed, report: Report, claims: Claims, find: Find) -> Settlement:
    """What was settled, if what `report` says of contents is right. Raises `Underivable`."""
    told = {update.participant: update for update in report.updates}
    judged, _ = inspect_all(spec, revealed, claims)
    judged = [_as_told(each, told.get(each.contribution.participant)) for each in judged]
    evaluations = report.evaluations()

    def results(wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        if missing := [each for each in wanted if each not in evaluations]:
            what = "the report lacks results of coalitions that verdicts or scores follow from"
            find(Kind.REPORT, what, f"{len(evaluations)} results", f"also seats {missing[0].seats:b}")
            raise Underivable
        return [evaluations[each] for each in wanted]

    seats = mask_of(
        each.contribution.seat
        for each in judged
        if each.verdict is Verdict.ACCEPTED and not is_trusted(spec, each.contribution.participant)
    )
    diverged = any(update.verdict is Verdict.DIVERGED for update in report.updates)
    after = results([Coalition(seats)])[0] if diverged else report.evaluation
    if seats and after.diverged and not results([Coalition(0)])[0].diverged:
        judged = left_out(judged, seats, results)
    return Settlement(
        judged=tuple(scored(spec, judged, results, seed=revealed.seed)),
        saturated=report.saturated,
        evaluations=evaluations,
        forgotten=tuple(Digest(bytes.fromhex(digest)) for digest in report.forgotten),
    )


def _as_told(judged: Judged, told: JudgedUpdate | None) -> Judged:
    """With what the report says of the contents of an update that passed all other checks. One that diverged passed
    these, too.
    """
    if told is None or judged.verdict is not Verdict.ACCEPTED or told.verdict not in _OF_CONTENTS:
        return judged
    signs = Signs(**{field.name: getattr(told.signs, field.name) for field in fields(Signs)})
    verdict = Verdict.ACCEPTED if told.verdict is Verdict.DIVERGED else told.verdict
    author = Address(told.copy_of) if verdict is Verdict.COPY and told.copy_of is not None else None
    contribution = replace(judged.contribution, copy_of=author)
    return Judged(contribution, verdict, 0, signs, told.overstated)
