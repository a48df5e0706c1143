"""What is said of contributions: by the report, or where that cannot be had by the chain. And what can be true of it
where the bytes cannot be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from deepledger.protocol.formats.report import JudgedUpdate, Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Sign, Signs, Verdict
from deepledger.protocol.settlement.inputs import Contribution, Revealed
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.types import Address

Told = Mapping[Address, Judged]

BY_BYTES = frozenset(
    {Verdict.WRONG_ROOT, Verdict.BADLY_SEALED, Verdict.MALFORMED, Verdict.NORM_EXCEEDED, Verdict.UNCHANGED}
)
"""Why an update is refused by itself, whatever the others are."""
BY_CONTENTS = BY_BYTES - {Verdict.WRONG_ROOT}
"""That is, by whoever can open it; a root is one of what was sealed."""
SIGNS = frozenset(Verdict(sign.value) for sign in Sign)


def by_others(spec: JobSpec) -> frozenset[Verdict]:
    """What can be said of an update that passed the checks of its bytes: for that, the others matter."""
    found = frozenset({Verdict.ACCEPTED, Verdict.DIVERGED})
    if spec.screening is not None:
        found |= SIGNS
    if spec.privacy == "sealed":
        found |= {Verdict.COPY}
    return found


def told_by(report: Report | None, accepted: int, revealed: Revealed) -> Told:
    """Without a report, who was not accepted may have been anything, or not there; `accepted` is the chain's."""
    if report is not None:
        said = {update.participant: update for update in report.updates}
        found = revealed.contributions
        return {each.participant: _said(each, said[each.participant]) for each in found if each.participant in said}
    absent = Verdict.UNAVAILABLE if revealed.cohort is None else Verdict.SILENT
    return {
        each.participant: Judged(each, Verdict.ACCEPTED if accepted >> each.seat & 1 else absent, 0)
        for each in revealed.contributions
    }


def _said(contribution: Contribution, told: JudgedUpdate) -> Judged:
    signs = Signs(**{field.name: getattr(told.signs, field.name) for field in fields(Signs)})
    author = Address(told.copy_of) if told.copy_of is not None else None
    return Judged(replace(contribution, copy_of=author), told.verdict, 0, signs, told.overstated)
