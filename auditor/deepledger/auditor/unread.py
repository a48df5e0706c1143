"""A settled round of a sealed job, for whoever cannot read its updates: everything but their contents.

What the report says of contents is taken as given: which updates are accepted, badly sealed or too long, what screening
found, what coalitions measured. All that follows from it is derived again: every other verdict, scores, and pay.
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
from deepledger.protocol.settlement.settle import Settlement, scored
from deepledger.protocol.types import Digest

_OF_CONTENTS = frozenset(
    {Verdict.ACCEPTED, Verdict.BADLY_SEALED, Verdict.NORM_EXCEEDED, Verdict.DIVERGED}
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
            what = "the report lacks results of coalitions that scores follow from"
            find(Kind.REPORT, what, f"{len(evaluations)} results", f"also seats {missing[0].seats:b}")
            raise Underivable
        return [evaluations[each] for each in wanted]

    return Settlement(
        judged=tuple(scored(spec, judged, results, seed=revealed.seed)),
        saturated=report.saturated,
        evaluations=evaluations,
        forgotten=tuple(Digest(bytes.fromhex(digest)) for digest in report.forgotten),
    )


def _as_told(judged: Judged, told: JudgedUpdate | None) -> Judged:
    """With what the report says of the contents of an update that passed all other checks."""
    if told is None or judged.verdict is not Verdict.ACCEPTED or told.verdict not in _OF_CONTENTS:
        return judged
    signs = Signs(**{field.name: getattr(told.signs, field.name) for field in fields(Signs)})
    return replace(judged, verdict=told.verdict, signs=signs, overstated=told.overstated)
