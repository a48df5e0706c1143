"""The sums of a masked or encrypted round of which not all can be read: see `unread`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from deepledger.auditor.sources import UNREAD, Claims
from deepledger.auditor.told import Told
from deepledger.protocol.formats.report import Unclipped
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.unmasking import NOTHING
from deepledger.protocol.settlement.aggregation.stack import Row
from deepledger.protocol.settlement.inputs import MaskedUpdate, Revealed
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.settlement.summing import Unmasked, read_mean, sum_all

Sums = tuple[Sequence[Judged], Sequence[Row], Unclipped | None]
"""As of `summing.sum_all`; the row of a sum that cannot be read is `UNREAD`."""
_NO_SUM = frozenset({Verdict.SKIPPED, Verdict.BAD_SHARES, Verdict.BADLY_SHARED, Verdict.NORM_EXCEEDED, Verdict.TOO_FEW})
"""What can be said of who was there, and whose group has no sum."""


def sums_unopened(spec: JobSpec, revealed: Revealed, told: Told, claims: Claims) -> Sums:
    """Where all is there, and sums cannot be opened here."""
    return sum_all(spec, revealed, claims, read=partial(_sum_told, {each.verdict for each in told.values()}))


def sums_told(spec: JobSpec, revealed: Revealed, told: Told, claims: Claims) -> Sums:
    """Where updates, releases or the report are gone. A sum that some of the releases make is the one that all make:
    where there is said to be one, it is made of those that are there, if they suffice.
    """
    cohort = revealed.cohort
    assert cohort is not None  # noqa: S101 (the caller looked)
    summed = {
        cohort.group_of(each.contribution.seat)
        for each in told.values()
        if each.verdict in (Verdict.ACCEPTED, Verdict.DIVERGED) and each.contribution.seat in cohort.by_seat
    }
    if not _may_have_sums(cohort, revealed, claims) or 2 * len(summed) <= len(cohort.groups):
        summed = set()
    judged, rows, unclipped = sum_all(spec, revealed, claims, read=partial(_sum_of, summed if claims.readable else ()))
    had = {row.seat: row for row in rows}
    counted = {each.contribution.seat for each in judged}
    found = [
        had.get(group[0]) or _unread(cohort, counted.intersection(group))
        for group in cohort.groups
        if group[0] in summed
    ]
    return [_as_told(each, told, claims, summed) for each in judged], found, unclipped


def _unread(cohort: Cohort, counted: Collection[int]) -> Row:
    weight = sum(cohort.member(seat).weight for seat in counted)
    lowest = cohort.group_of(next(iter(counted)))
    return Row(lowest, cohort.member(lowest).participant, weight, UNREAD)


def _may_have_sums(cohort: Cohort, revealed: Revealed, claims: Claims) -> bool:
    """Whether all that was counted may have been there, and enough may have been released."""
    shown = sum(claims.releases.get(each) not in (None, NOTHING) for each in revealed.contributions)
    return shown + len(claims.unread | claims.unreleased) >= cohort.threshold and all(
        each.participant in claims.unread or isinstance(claims.masks.get(each), MaskedUpdate)
        for each in revealed.contributions
    )


def _as_told(judged: Judged, told: Told, claims: Claims, summed: Collection[int]) -> Judged:
    """A counted update with what is said of it, where what is gone can be the reason: of a group with a sum, all are
    accepted but who was silent or showed bad shares.
    """
    contribution = judged.contribution
    who, said = contribution.participant, told.get(contribution.participant, judged).verdict
    if judged.group is None or (judged.verdict is Verdict.UNAVAILABLE and who not in claims.unread):
        return judged  # it is not of the cohort, or said not to be had
    if _was_silent(judged, claims):
        verdict = Verdict.SILENT
    elif said in (Verdict.SILENT, Verdict.UNAVAILABLE):
        verdict = said
    elif judged.group not in summed:
        verdict = said if said in _NO_SUM else Verdict.SKIPPED
    elif said is Verdict.BAD_SHARES and (claims.unread or who in claims.unreleased or judged.verdict is said):
        verdict = said
    else:
        verdict = Verdict.ACCEPTED
    return replace(judged, verdict=verdict)


def _was_silent(judged: Judged, claims: Claims) -> bool:
    """By its record, or by what it released."""
    contribution = judged.contribution
    if contribution.released is None:
        return True
    gone = contribution.participant in claims.unreleased or contribution not in claims.releases
    return not gone and claims.releases[contribution] in (None, NOTHING)


def _sum_of(summed: Collection[int], unmasked: Unmasked, group: Sequence[int]) -> Row | Verdict:
    """As `summing.ReadSum`, of some groups only."""
    return read_mean(unmasked, group) if group[0] in summed else Verdict.SKIPPED


def _sum_told(verdicts: Collection[Verdict], unmasked: Unmasked, group: Sequence[int]) -> Row | Verdict:
    """As `summing.ReadSum`, without the vectors: why there is no sum is known where keys lack, and told otherwise."""
    if not unmasked.rebuilt.counted:
        return Verdict.TOO_FEW
    if not unmasked.rebuilt.complete or Verdict.SKIPPED in verdicts:
        return Verdict.SKIPPED
    return Verdict.NORM_EXCEEDED if Verdict.NORM_EXCEEDED in verdicts else unmasked.row(group, UNREAD)
