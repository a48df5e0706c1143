"""A settled round of which not all can be read: updates or sums are sealed, and not to us, or blobs are gone.

What cannot be read may have been anything, so what is said of it is taken as given, and so is what is said of others if
that may be the reason for it: what screening found, who copied it, what coalitions measured with it, whether its group
has a sum. All that follows from it is derived again: every other verdict, who made the model diverge, scores, pay, and
the model, where whatever is in it can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from deepledger.auditor.findings import Kind
from deepledger.auditor.reach import too_far
from deepledger.auditor.sources import UNREAD, Claims, Find, Underivable
from deepledger.auditor.told import BY_CONTENTS, Told, by_others
from deepledger.auditor.unread_sums import sums_told, sums_unopened
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.report import Report
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, ModelVector, load
from deepledger.protocol.formats.verdicts import UNMEASURED, Verdict
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Revealed
from deepledger.protocol.settlement.judging import Judged, inspect_all, judge_by_signs, recall, without_copies
from deepledger.protocol.settlement.settle import Results, Settlement, apart, context_in, is_trusted, left_out, scored
from deepledger.protocol.settlement.valuation import mask_of
from deepledger.protocol.types import Digest


def settlement_told(
    spec: JobSpec,
    revealed: Revealed,
    told: Told,
    report: Report | None,
    claims: Claims,
    find: Find,
    *,
    before: Blocks,
    after: ModelVector,
    settled: Blocks | None,
) -> tuple[Settlement | None, bool]:
    """What was settled, if what is `told` of what cannot be read is right, or None where scores do not follow from it;
    and whether the model does: then it is in `after`, and else the one that was `settled`, if it can be had, is held
    against how far it can be. Raises `Underivable`.
    """
    unclipped, guessed = None, report is None or bool(claims.unread)
    if revealed.cohort is None:
        judged, rows = _judged(spec, revealed, told, claims, guessed=guessed)
        shift = spec.model.fraction_bits - spec.update.fraction_bits
    else:
        sums, shift = sums_told if guessed or claims.unreleased else sums_unopened, 0
        judged, rows, unclipped = sums(spec, revealed, told, claims)
    load(before, into=after)
    trusted, others = apart(spec, rows)
    drift = None if claims.driftless else revealed.model_before_last
    context = context_in(spec, after, replace(revealed, model_before_last=drift), claims, trusted)
    stack = Stack(tuple(row for row in others if row.vector is not UNREAD), spec.model.coordinates, shift)
    known, ruled = mask_of(row.seat for row in stack.rows), not claims.driftless and not _is_unread(trusted)

    def makes(coalition: Coalition) -> bool:
        return not coalition.seats & ~known and (ruled or coalition.plain or not coalition.seats)

    results = _results(claims, Coalitions(spec, before, stack, context), makes)
    if spec.screening is not None and not guessed:

        def losses(masks: Sequence[int]) -> list[int]:
            found = results([Coalition(mask, plain=True) for mask in masks])
            return [evaluation.millionths["loss"] for evaluation in found]

        given = {each.contribution.seat: each for each in told.values()} if claims.unremembered else None
        _, judged = judge_by_signs(spec, stack, recall(revealed, claims)[0], judged, losses, told=given)
    if report is not None:
        judged = _without_blamed(spec, judged, report, results)
    seats = _in_model(spec, judged)
    follows, saturated, read = makes(Coalition(seats)), 0, stack.of_seats(seats)
    if follows:
        saturated = advance(after, read, spec.aggregation, context)
    elif settled is not None:
        gone = sum(row.weight for row in others if (seats & ~known) >> row.seat & 1)
        if (times := too_far(spec, before, settled, read, gone=gone)) is not None:
            what = "the settled model is no mean of the accepted updates, whatever was in those that cannot be read"
            find(
                Kind.MODEL,
                what,
                f"{times:.3g} times as long as updates may be, or longer",
                "no longer than they may be",
            )
    try:
        judged = scored(spec, judged, results, seed=revealed.seed)
    except Underivable:
        return None, follows
    if report is None:
        return Settlement(tuple(judged), saturated, evaluations={}, forgotten=()), follows
    if report.clip is not None and any(map(_is_unread, rows)):
        unclipped = report.clip.unclipped
    return Settlement(
        judged=tuple(judged),
        saturated=saturated if follows else report.saturated,
        evaluations=report.evaluations(),
        forgotten=tuple(Digest(bytes.fromhex(digest)) for digest in report.forgotten),
        unclipped=unclipped,
    ), follows


def _is_unread(row: Row | None) -> bool:
    return row is not None and row.vector is UNREAD


def _in_model(spec: JobSpec, judged: Sequence[Judged]) -> int:
    """Bit i: the row of seat i is in the model."""
    accepted = (each for each in judged if each.verdict is Verdict.ACCEPTED)
    return mask_of({each.row for each in accepted if not is_trusted(spec, each.contribution.participant)})


def _without_blamed(spec: JobSpec, judged: Sequence[Judged], report: Report, results: Results) -> Sequence[Judged]:
    """By results as of `_results`, where the model after is said to have diverged."""
    seats = _in_model(spec, judged)
    if not seats:
        return judged
    diverged = any(update.verdict is Verdict.DIVERGED for update in report.updates)
    outcome = results([Coalition(seats)])[0] if diverged else report.evaluation
    if not outcome.diverged or results([Coalition(0)])[0].diverged:
        return judged
    return left_out(judged, seats, results)


def _results(claims: Claims, coalitions: Coalitions, makes: Callable[[Coalition], bool]) -> Results:
    """Of coalitions whose models can be made here as they are claimed and held against what is got here; of others as
    they are claimed.
    """
    asked: dict[Coalition, Evaluation] = {}

    def results(wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        new = [each for each in dict.fromkeys(wanted) if each not in asked]
        if made := [each for each in new if claims.readable and makes(each)]:
            asked.update(zip(made, claims.evaluate(coalitions, made), strict=True))
        asked.update(claims.believe([each for each in new if each not in asked]))
        return [asked[each] for each in wanted]

    return results


def _judged(
    spec: JobSpec, revealed: Revealed, told: Told, claims: Claims, *, guessed: bool
) -> tuple[Sequence[Judged], Sequence[Row]]:
    """`guessed`: the verdicts on updates that passed all checks of their own are as told, as far as they can be."""
    judged, rows = inspect_all(spec, revealed, claims)
    copies = {
        each.contribution.seat
        for each in told.values()
        if each.verdict is Verdict.COPY and each.contribution.copy_of in claims.unread
    }
    if spec.privacy == "sealed" and claims.readable:
        read = [row for row in rows if not _is_unread(row) and row.seat not in copies]
        judged, read = without_copies(spec, judged, read)
        rows = [*read, *filter(_is_unread, rows)]
    if not guessed:
        return judged, rows
    others = by_others(spec)

    def can_be(each: Judged) -> frozenset[Verdict]:
        if each.contribution.participant in claims.unread:
            return others | BY_CONTENTS
        return others if each.contribution.seat in copies else others - {Verdict.COPY}

    return [_as_told(each, told.get(each.contribution.participant), can_be(each), spec) for each in judged], rows


def _as_told(judged: Judged, told: Judged | None, can_be: Collection[Verdict], spec: JobSpec) -> Judged:
    """An update that passed all checks that could be made, with what is said of it, if that is of what it `can_be`. One
    that diverged passed these, too; that it was not there, nobody can refute.
    """
    if judged.verdict is not Verdict.ACCEPTED or told is None or told.verdict not in {*can_be, Verdict.UNAVAILABLE}:
        return judged
    verdict = Verdict.ACCEPTED if told.verdict is Verdict.DIVERGED else told.verdict
    if verdict is not Verdict.COPY:
        told = replace(told, contribution=judged.contribution)
    if spec.screening is None:
        told = replace(told, signs=UNMEASURED, overstated=False)
    return replace(told, verdict=verdict)
