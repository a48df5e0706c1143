"""Settling a round: a pure function of public inputs.

    settle(spec, model before, what was revealed, evaluations) -> model after, verdicts, scores

The coordinator runs it and publishes the result; the auditor runs it on the same inputs and compares. Evaluations are
floating point, so they are inputs, too: the coordinator makes them, the report lists them, and everything that follows
from them is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import numpy as np

from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.policies import ContributionRewards
from deepledger.protocol.formats.report import Unclipped
from deepledger.protocol.formats.rules import CenteredClipping, FLTrust
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, ModelVector, load
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Scaled, Stack
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Revealed
from deepledger.protocol.settlement.judging import Judged, inspect_all, judge_by_signs, recall, without_copies
from deepledger.protocol.settlement.rewards import resolution, scores
from deepledger.protocol.settlement.similarity import ONE
from deepledger.protocol.settlement.sources import MaskedSources, Sources
from deepledger.protocol.settlement.summing import sum_all
from deepledger.protocol.settlement.valuation import mask_of, worths
from deepledger.protocol.types import Address, Digest


@dataclass(frozen=True, slots=True)
class Settlement:
    judged: tuple[Judged, ...]  # one per reveal, by ascending seat
    saturated: int  # model coordinates held at the ends of int32
    evaluations: Mapping[Coalition, Evaluation]  # that were asked for, in this order
    forgotten: tuple[Digest, ...]  # earlier updates that copies could not be looked for in
    evaluation: Evaluation | None = None  # of the model after; None: nobody was asked
    unclipped: Unclipped | None = None  # with an adaptive clip, where there is a sum

    @property
    def diverged(self) -> bool:
        """The updates left nothing to measure and no one of them alone is to blame: the model stayed as it was."""
        return not self.accepted and any(judged.verdict is Verdict.DIVERGED for judged in self.judged)

    @property
    def accepted(self) -> int:
        """Bit i: the update of seat i was accepted."""
        return mask_of(_accepted(self.judged))

    @property
    def scores(self) -> tuple[int, ...]:
        """Of the accepted updates, by ascending seat."""
        return tuple(judged.score for judged in self.judged if judged.verdict is Verdict.ACCEPTED)


Outcome = Callable[[Coalitions, Coalition, ModelVector], Evaluation | None]
"""outcome(coalitions, accepted, model after) -> its evaluation, None where there is none. If it has diverged, the model
changes afterwards.
"""
Results = Callable[[Sequence[Coalition]], Sequence[Evaluation]]


def settle(
    spec: JobSpec,
    model: ModelVector,
    revealed: Revealed,
    sources: Sources,
    *,
    outcome: Outcome | None = None,
    before: Blocks | None = None,
) -> Settlement:
    """Judge every contribution, value what is accepted, and turn `model`, in place, into the model after.

    `before` is the model before where that is in another place, say in a file: then `model` is filled from it, once no
    update's bytes are in memory any more, and no copy is made.

    Where `outcome` says that the model after has diverged, and the one before had not, who is to blame is not accepted
    any more, see `left_out`; where nobody is accepted then, the model stays, and nobody is paid.
    """
    asked: dict[Coalition, Evaluation] = {}
    unclipped: Unclipped | None = None
    if revealed.cohort is None:
        judged, rows = inspect_all(spec, revealed, sources)
        if spec.privacy == "sealed":
            judged, rows = without_copies(spec, judged, rows)
        shift = spec.model.fraction_bits - spec.update.fraction_bits
    else:
        assert isinstance(sources, MaskedSources)  # noqa: S101 (whoever settles a masked round has what it is made of)
        (judged, rows, unclipped), shift = sum_all(spec, revealed, sources), 0
    if before is None:
        before = model.copy()
    else:
        load(before, into=model)
    trusted, others = apart(spec, rows)
    context = context_in(spec, model, revealed, sources, trusted)
    stack = Stack(tuple(others), spec.model.coordinates, shift)
    coalitions = Coalitions(spec, before, stack, context)

    def results(wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        new = [coalition for coalition in dict.fromkeys(wanted) if coalition not in asked]
        if new:
            asked.update(zip(new, sources.evaluate(coalitions, new), strict=True))
        return [asked[coalition] for coalition in wanted]

    forgotten: list[Digest] = []
    if spec.screening is not None:

        def losses(masks: Sequence[int]) -> list[int]:
            found = results([Coalition(mask, plain=True) for mask in masks])
            return [evaluation.millionths["loss"] for evaluation in found]

        known, forgotten = recall(revealed, sources)
        stack, judged = judge_by_signs(spec, stack, known, judged, losses)
    saturated, evaluation = advance(model, stack, spec.aggregation, context), None
    if outcome is not None:
        whole = Coalition(mask_of(row.seat for row in stack.rows))
        evaluation = outcome(coalitions, whole, model)
        if evaluation is not None and evaluation.diverged and whole.seats and not results([Coalition(0)])[0].diverged:
            asked[whole] = evaluation
            judged = left_out(judged, whole.seats, results)
            rest = Coalition(whole.seats & mask_of({each.row for each in judged if each.verdict is Verdict.ACCEPTED}))
            load(coalitions.before, into=model)
            saturated = advance(model, stack.of_seats(rest.seats), spec.aggregation, context)
            (evaluation,) = results([rest])
    return Settlement(
        judged=tuple(scored(spec, judged, results, seed=revealed.seed)),
        saturated=saturated,
        evaluations=asked,
        forgotten=tuple(forgotten),
        evaluation=evaluation,
        unclipped=unclipped,
    )


def scored(
    spec: JobSpec,
    judged: Sequence[Judged],
    results: Results,
    *,
    seed: bytes,
) -> list[Judged]:
    """With what every accepted update earns, by the results of the coalitions that the job's pay asks for.

    What a masked group is worth is divided alike among those in its sum: nobody can tell who of them did what, and
    samples are only declared. The part of who is not accepted is nobody's.
    """
    worth, least = None, Fraction(0)
    rewards = spec.rewards
    accepted = [each for each in judged if each.verdict is Verdict.ACCEPTED]
    players = sorted({each.row for each in accepted if not is_trusted(spec, each.contribution.participant)})
    if isinstance(rewards, ContributionRewards) and players:
        name = rewards.metric
        metric = spec.validation.metrics[name]

        def value(masks: Sequence[int]) -> list[int]:
            found = results([Coalition(mask) for mask in masks])
            return [metric.sign * floor(evaluation.exact(name) * ONE) for evaluation in found]

        found, sizes = worths(rewards, players, value, seed=seed), Counter(each.row for each in judged)
        worth = {each.contribution.seat: found[each.row] / sizes[each.row] for each in accepted if each.row in found}
        (together,) = results([Coalition(mask_of(players))])
        least = ONE * resolution(metric, together.exact(name), samples=together.samples)
        least *= Fraction(len(players), sum(sizes[player] for player in players))
    weights = {each.contribution.seat: each.contribution.weight for each in accepted}
    earned = scores(rewards, weights, worth, least=least)
    return [replace(each, score=earned.get(each.contribution.seat, 0)) for each in judged]


def left_out(judged: Sequence[Judged], seats: int, results: Results) -> list[Judged]:
    """The verdicts where all rows at `seats` (bit i: seat i) together leave a model that has diverged.

    Everyone is left out in turn, by ascending seat. Those without whom the rest does not diverge are to blame; all are,
    where no single one explains it, or those who remain would be nobody, or diverge all the same.
    """
    members = [seat for seat in range(seats.bit_length()) if seats >> seat & 1]
    without = results([Coalition(seats & ~(1 << seat)) for seat in members])
    blamed = mask_of(seat for seat, result in zip(members, without, strict=True) if not result.diverged)
    rest = seats & ~blamed
    if not blamed or not rest or results([Coalition(rest)])[0].diverged:
        return [_diverged(each) for each in judged]
    return [_diverged(each) if blamed >> each.row & 1 else each for each in judged]


def is_trusted(spec: JobSpec, participant: Address) -> bool:
    """Whether it is the one that FLTrust measures the others by."""
    return isinstance(spec.aggregation, FLTrust) and participant.lower() == spec.aggregation.trusted.lower()


def _diverged(judged: Judged) -> Judged:
    return replace(judged, verdict=Verdict.DIVERGED, score=0) if judged.verdict is Verdict.ACCEPTED else judged


def _accepted(judged: Sequence[Judged]) -> list[int]:
    """Seats, ascending."""
    return [each.contribution.seat for each in judged if each.verdict is Verdict.ACCEPTED]


def apart(spec: JobSpec, rows: Sequence[Row]) -> tuple[Row | None, Sequence[Row]]:
    """The update that FLTrust measures the others by is not one of them."""
    trusted = next((row for row in rows if is_trusted(spec, row.participant)), None)
    return trusted, [row for row in rows if row is not trusted]


def context_in(spec: JobSpec, model: ModelVector, revealed: Revealed, sources: Sources, trusted: Row | None) -> Context:
    """What the rule looks at besides updates, `model` being the one before."""
    drift = None
    if isinstance(spec.aggregation, CenteredClipping) and revealed.model_before_last is not None:
        drift = np.subtract(model, sources.earlier_model(revealed.model_before_last), dtype=np.int64)
    shift = spec.model.fraction_bits - spec.update.fraction_bits
    return Context(
        seed=revealed.seed,
        model=spec.model,
        drift=drift,
        trusted=None if trusted is None else Scaled(trusted.vector, shift),
    )
