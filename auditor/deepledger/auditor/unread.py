"""A settled round of a sealed job, for whoever cannot read its updates, or of an encrypted one, for whoever cannot read
their sum: everything but contents.

What the report says of contents is taken as given: which updates are accepted, badly sealed, too long or the same as
another, what screening found, what coalitions measured; of a sum whether there is one, and what stood next to it. All
that follows from it is derived again: every other verdict, who made the model diverge, scores, and pay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial

from deepledger.auditor.findings import Kind
from deepledger.auditor.sources import UNREAD, Claims, Find, Underivable
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.report import JudgedUpdate, Report, Unclipped
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Sign, Signs, Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.unmasking import Rebuilt
from deepledger.protocol.settlement.aggregation.stack import Row
from deepledger.protocol.settlement.inputs import MaskedUpdate, Revealed
from deepledger.protocol.settlement.judging import Judged, inspect_all
from deepledger.protocol.settlement.settle import Settlement, is_trusted, left_out, scored
from deepledger.protocol.settlement.summing import sum_all
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
    if revealed.cohort is None:
        judged, _ = inspect_all(spec, revealed, claims)
        judged = [_as_told(each, told.get(each.contribution.participant)) for each in judged]
    else:
        verdicts = {each.verdict for each in report.updates}
        judged, _, _ = sum_all(spec, revealed, claims, read=partial(_sum_told, verdicts))
    evaluations = report.evaluations()

    def results(wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        if missing := [each for each in wanted if each not in evaluations]:
            what = "the report lacks results of coalitions that verdicts or scores follow from"
            find(Kind.REPORT, what, f"{len(evaluations)} results", f"also seats {missing[0].seats:b}")
            raise Underivable
        return [evaluations[each] for each in wanted]

    seats = mask_of(
        {
            each.row
            for each in judged
            if each.verdict is Verdict.ACCEPTED and not is_trusted(spec, each.contribution.participant)
        }
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
        unclipped=None if report.clip is None else report.clip.unclipped,
    )


def _sum_told(
    verdicts: Collection[Verdict],
    spec: JobSpec,  # noqa: ARG001
    cohort: Cohort,
    rebuilt: Rebuilt,
    masked: Mapping[int, MaskedUpdate],  # noqa: ARG001
    bits: dict[int, Unclipped],  # noqa: ARG001
    *,
    group: Sequence[int],
) -> Row | Verdict:
    """As `summing.ReadSum`, without the vectors: why there is no sum is known where keys lack, and told otherwise."""
    if not rebuilt.counted:
        return Verdict.TOO_FEW
    if not rebuilt.complete or Verdict.SKIPPED in verdicts:
        return Verdict.SKIPPED
    if Verdict.NORM_EXCEEDED in verdicts:
        return Verdict.NORM_EXCEEDED
    weight = sum(cohort.member(seat).weight for seat in rebuilt.counted)
    return Row(group[0], cohort.member(group[0]).participant, weight, UNREAD)


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
