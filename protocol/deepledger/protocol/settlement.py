"""Settling a round: a pure function of public inputs.

    settle(spec, model before, what was revealed, evaluations) -> model after, verdicts, scores

The coordinator runs it and publishes the result; the auditor runs it on the same inputs and compares. Evaluations are
floating point, so they are inputs, too: the coordinator makes them, the report lists them, and everything that follows
from them is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.aggregation import advance
from deepledger.protocol.aggregation.context import Context
from deepledger.protocol.aggregation.stack import Row, Scaled, Stack, Vector
from deepledger.protocol.chain import events
from deepledger.protocol.copies import Known
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.reputation import FULL
from deepledger.protocol.rewards import scores
from deepledger.protocol.screening import UNMEASURED, Losses, Screened, Sign, Signs, overstated, screen
from deepledger.protocol.similarity import ONE
from deepledger.protocol.spec import CenteredClipping, ContributionRewards, FLTrust, JobSpec, WeightedMean
from deepledger.protocol.task import Evaluation
from deepledger.protocol.trail import Attempt, Job, Participant, SettledRound
from deepledger.protocol.types import Address, Digest, Root
from deepledger.protocol.valuation import MOST_EXACT, Worths, worths
from deepledger.protocol.vectors import ModelVector, UpdateVector, as_update, sum_of_squares

MOST_SHOWN = 2
"""Updates of one participant that screening knows from attempts that starved."""


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    COPY = "copy"  # these bytes were committed to before
    UNAVAILABLE = "unavailable"  # no blob of the right length with this digest could be had
    WRONG_ROOT = "wrong root"  # the bytes do not have the chunk root that was revealed
    NORM_EXCEEDED = "norm exceeded"  # the L2 norm is over the job's bound
    REMOVED = "removed"  # the reputation is below what the job asks for
    # What the job's screening finds: each sign is a verdict.
    NEAR_COPY = Sign.NEAR_COPY
    COLLUDING = Sign.COLLUDING
    UNCHANGED = Sign.UNCHANGED
    NOISE = Sign.NOISE
    SCALED = Sign.SCALED
    SIGN_FLIPPED = Sign.SIGN_FLIPPED
    LABEL_FLIPPED = Sign.LABEL_FLIPPED
    HARMFUL = Sign.HARMFUL


@dataclass(frozen=True, slots=True)
class Contribution:
    """A revealed update, before anybody looked at its bytes."""

    participant: Address
    seat: int
    weight: int  # declared samples, at most the spec's max_samples
    digest: Digest
    root: Root
    copy_of: Address | None  # who committed to the same bytes before
    committed: int = 0  # how many committed earlier in this attempt
    reputation: int = FULL  # parts per million, before this round


@dataclass(frozen=True, slots=True)
class Judged:
    contribution: Contribution
    verdict: Verdict
    score: int  # 0 unless accepted
    signs: Signs = UNMEASURED
    overstated: bool = False  # declared many samples and trained like one that has few; of no consequence


class Coalition(NamedTuple):
    """Some of a round's updates, and how they are put together: by the job's rule, or as their plain mean."""

    seats: int  # bit i: the update of seat i
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    judged: tuple[Judged, ...]  # one per reveal, by ascending seat
    saturated: int  # model coordinates held at the ends of int32
    evaluations: Mapping[Coalition, Evaluation]  # that were asked for, in this order
    forgotten: tuple[Digest, ...]  # earlier updates that copies could not be looked for in

    @property
    def accepted(self) -> int:
        """Bit i: the update of seat i was accepted."""
        return sum(1 << judged.contribution.seat for judged in self.judged if judged.verdict is Verdict.ACCEPTED)

    @property
    def scores(self) -> tuple[int, ...]:
        """Of the accepted updates, by ascending seat."""
        return tuple(judged.score for judged in self.judged if judged.verdict is Verdict.ACCEPTED)


class Earlier(NamedTuple):
    """An update that everybody could read before this round's were committed to."""

    participant: Address
    digest: Digest
    shown: int | None = None  # in which of the job's attempts that starved; None: accepted in a round that was settled


@dataclass(frozen=True, slots=True)
class Revealed:
    """What a round's settlement is a function of, besides the spec and the bytes of blobs."""

    contributions: tuple[Contribution, ...]  # by ascending seat
    seed: bytes  # 32; nobody knows it before the last reveal
    earlier: tuple[Earlier, ...] = ()  # as far as the job's screening remembers, newest first
    model_before_last: Digest | None = None  # of the round before; None in the first round

    @property
    def seats(self) -> int:
        """Bit i: seat i has revealed."""
        return sum(1 << contribution.seat for contribution in self.contributions)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Coalitions:
    """What the model of any coalition of a round is made from: one for each settlement."""

    spec: JobSpec
    before: ModelVector  # shape (d,)
    stack: Stack
    context: Context

    def model_of(self, coalition: Coalition) -> ModelVector:
        """Shape (d,). That of nobody is the model before."""
        model = self.before.copy()
        rule = WeightedMean() if coalition.plain else self.spec.aggregation
        stack = self.stack.of_seats(coalition.seats)
        advance(model, stack.unweighted() if coalition.plain else stack, rule, self.context)
        return model


class Sources(Protocol):
    """What `settle` asks for."""

    def update(self, contribution: Contribution) -> Vector | Verdict:
        """An update that passed `inspect`, or the verdict that it did not."""

    def earlier_update(self, earlier: Earlier) -> Vector | None:
        """None if it cannot be had any more, or never could."""

    def earlier_model(self, digest: Digest) -> ModelVector: ...

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Of the models of some coalitions, on the validation set."""


def revealed_in(job: Job, attempt: Attempt, participants: Mapping[Address, Participant], spec: JobSpec) -> Revealed:
    """`participants`: who is seated when `attempt` is settled."""
    history = job.history[: attempt.round]
    seed = sha256(f"{job.job}|{attempt.round}|{attempt.attempt}".encode())
    for reveal in sorted(attempt.reveals, key=lambda reveal: participants[reveal.participant].seat):
        seed.update(reveal.digest + reveal.salt)
    return Revealed(
        contributions=contributions(job, attempt, participants, spec),
        seed=seed.digest(),
        earlier=_earlier(job, attempt, spec),
        model_before_last=history[-1].model_digest if history else None,
    )


def _earlier(job: Job, attempt: Attempt, spec: JobSpec) -> tuple[Earlier, ...]:
    """What was revealed in attempts that starved, then what was accepted in rounds.

    Of the former everybody's first `MOST_SHOWN` and, were there still more, the oldest: so that whatever others show
    afterwards, nobody's own update is forgotten first.
    """
    if not spec.remembered_rounds:
        return ()
    oldest = max(0, attempt.round - spec.remembered_rounds)
    shown: dict[Digest, Earlier] = {}
    count: Counter[Address] = Counter()
    for number, starved in enumerate(job.abandoned):
        if (oldest, 0) <= (starved.round, starved.attempt) < (attempt.round, attempt.attempt):
            for reveal in starved.reveals:
                if reveal.digest not in shown and count[reveal.participant] < MOST_SHOWN:
                    count[reveal.participant] += 1
                    shown[reveal.digest] = Earlier(reveal.participant, reveal.digest, number)
    found = list(shown.values())[: MOST_SHOWN * job.terms.max_participants][::-1]
    for over in reversed(job.history[oldest : attempt.round]):
        found += [Earlier(reveal.participant, reveal.digest) for reveal in _accepted(over)]
    return tuple(found)


def _accepted(over: SettledRound) -> list[events.Revealed]:
    """By ascending seat."""
    seats = {reveal.participant: over.participants.get(reveal.participant) for reveal in over.opened.reveals}
    found = {seat.seat: reveal for reveal in over.opened.reveals if (seat := seats[reveal.participant]) is not None}
    return [found[seat] for seat in sorted(found) if over.settled.accepted >> seat & 1]


def contributions(
    job: Job, attempt: Attempt, participants: Mapping[Address, Participant], spec: JobSpec
) -> tuple[Contribution, ...]:
    """What was revealed in `attempt`, by ascending seat, with copies marked.

    An update is a copy if somebody committed to the same bytes earlier in this attempt, or anybody revealed them
    before: in an earlier round, or, unless it was the same participant, in an attempt at this round that starved.
    """
    looked_for = {reveal.digest for reveal in attempt.reveals}
    first: dict[Digest, Address] = {}
    for over in job.history[: attempt.round]:
        for reveal in over.opened.reveals:
            if reveal.digest in looked_for:
                first.setdefault(reveal.digest, reveal.participant)
    own: dict[Digest, Address] = {}
    for starved in job.abandoned:
        if (starved.round, starved.attempt) < (attempt.round, attempt.attempt):
            for reveal in starved.reveals:
                (own if starved.round == attempt.round else first).setdefault(reveal.digest, reveal.participant)
    settled = attempt.round < job.round
    reputations = job.history[attempt.round].reputations if settled else job.reputations
    committed_at = {commit.participant: commit.at for commit in attempt.commits}
    found = []
    for rank, reveal in enumerate(sorted(attempt.reveals, key=lambda reveal: committed_at[reveal.participant])):
        earlier = first.get(reveal.digest) or own.get(reveal.digest, reveal.participant)
        copied = reveal.digest in first or earlier != reveal.participant
        own.setdefault(reveal.digest, reveal.participant)
        seat = participants[reveal.participant]
        found.append(
            Contribution(
                participant=reveal.participant,
                seat=seat.seat,
                weight=min(seat.samples, spec.max_samples),
                digest=reveal.digest,
                root=reveal.root,
                copy_of=earlier if copied else None,
                committed=rank,
                reputation=reputations.get(reveal.participant, FULL),
            )
        )
    return tuple(sorted(found, key=lambda contribution: contribution.seat))


def inspect(data: Buffer, contribution: Contribution, spec: JobSpec) -> UpdateVector | Verdict:
    """Judge the bytes of an update, which have the right digest and length. Returns a view of them if they pass."""
    if chunk_root(data, bits=spec.update.bits) != contribution.root:
        return Verdict.WRONG_ROOT
    update = as_update(data, spec)
    if sum_of_squares(update) > spec.update.square_limit:
        return Verdict.NORM_EXCEEDED
    return update


def settle(spec: JobSpec, model: ModelVector, revealed: Revealed, sources: Sources) -> Settlement:
    """Judge every contribution, value what is accepted, and turn `model`, in place, into the model after."""
    asked: dict[Coalition, Evaluation] = {}
    judged, rows = _inspected(spec, revealed, sources)
    trusted, players = _apart(spec, rows)
    context = _context(spec, model, revealed, sources, trusted)
    stack = Stack(tuple(players), spec.model.coordinates, spec.model.fraction_bits - spec.update.fraction_bits)
    coalitions = Coalitions(spec, model, stack, context)

    def results(wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        new = [coalition for coalition in dict.fromkeys(wanted) if coalition not in asked]
        if new:
            asked.update(zip(new, sources.evaluate(coalitions, new), strict=True))
        return [asked[coalition] for coalition in wanted]

    forgotten: list[Digest] = []
    if spec.screening is not None:

        def losses(masks: Sequence[int]) -> list[int]:
            found = results([Coalition(mask, plain=True) for mask in masks])
            return [evaluation.loss_millionths for evaluation in found]

        known, forgotten = _remembered(revealed, sources)
        stack, judged = _screened(spec, stack, known, judged, losses)
    worth: Worths | None = None
    rewards = spec.rewards
    if isinstance(rewards, ContributionRewards) and stack.rows:

        def value(masks: Sequence[int]) -> list[int]:
            found = results([Coalition(mask) for mask in masks])
            return [_value(evaluation, rewards.metric) for evaluation in found]

        worth = worths(rewards, [row.seat for row in stack.rows], value, seed=revealed.seed)
    accepted = [each.contribution for each in judged if each.verdict is Verdict.ACCEPTED]
    earned = scores(rewards, {each.seat: each.weight for each in accepted}, worth)
    saturated = advance(model, stack, spec.aggregation, context)
    return Settlement(
        judged=tuple(replace(each, score=earned.get(each.contribution.seat, 0)) for each in judged),
        saturated=saturated,
        evaluations=asked,
        forgotten=tuple(forgotten),
    )


def _inspected(spec: JobSpec, revealed: Revealed, sources: Sources) -> tuple[list[Judged], list[Row]]:
    """Every contribution with what its record and its bytes say about it, and the updates that pass."""
    judged, rows = [], []
    least = spec.screening.remove_percent * FULL // 100 if spec.screening else 0
    for contribution in revealed.contributions:
        update: Vector | Verdict
        if contribution.copy_of is not None:
            update = Verdict.COPY
        elif contribution.reputation < least:
            update = Verdict.REMOVED
        else:
            update = sources.update(contribution)
        if isinstance(update, Verdict):
            judged.append(Judged(contribution, update, 0))
        else:
            judged.append(Judged(contribution, Verdict.ACCEPTED, 0))
            rows.append(Row(contribution.seat, contribution.participant, contribution.weight, update))
    return judged, rows


def _apart(spec: JobSpec, rows: Sequence[Row]) -> tuple[Row | None, Sequence[Row]]:
    """The update that FLTrust measures the others by is not one of them."""
    if not isinstance(spec.aggregation, FLTrust):
        return None, rows
    name = spec.aggregation.trusted.lower()
    trusted = next((row for row in rows if row.participant.lower() == name), None)
    return trusted, [row for row in rows if row is not trusted]


def _context(spec: JobSpec, model: ModelVector, revealed: Revealed, sources: Sources, trusted: Row | None) -> Context:
    drift = None
    if isinstance(spec.aggregation, CenteredClipping) and revealed.model_before_last is not None:
        drift = np.subtract(model, sources.earlier_model(revealed.model_before_last), dtype=np.int64)
    shift = spec.model.fraction_bits - spec.update.fraction_bits
    return Context(
        seed=revealed.seed,
        fraction_bits=spec.model.fraction_bits,
        drift=drift,
        trusted=None if trusted is None else Scaled(trusted.vector, shift),
    )


def _remembered(revealed: Revealed, sources: Sources) -> tuple[list[Known], list[Digest]]:
    """Earlier updates, and which of them nobody serves any more."""
    known, forgotten = [], []
    for earlier in revealed.earlier:
        update = sources.earlier_update(earlier)
        if update is None:
            forgotten.append(earlier.digest)
        else:
            known.append(Known(earlier.participant, update, earlier.shown))
    return known, forgotten


def _screened(
    spec: JobSpec, stack: Stack, known: Sequence[Known], judged: Sequence[Judged], losses: Losses
) -> tuple[Stack, list[Judged]]:
    """The updates in which no sign was found, and the verdicts with what was measured."""
    assert spec.screening is not None  # noqa: S101 (the caller looked)
    committed = {each.contribution.seat: each.contribution.committed for each in judged}
    screened = screen(
        stack,
        known,
        spec.screening,
        order=sorted(range(len(stack)), key=lambda index: committed[stack.rows[index].seat]),
        layout=spec.model.layout,
        losses=losses,
        margin=lambda loss: int(2 * Fraction(spec.validation.loss_tolerance) * max(ONE, loss)),
    )
    places = {row.seat: index for index, row in enumerate(stack.rows)}
    weights = [row.weight for row in stack.rows]
    return stack.only(index for index in range(len(stack)) if index not in screened.found), [
        _with_signs(each, screened, places.get(each.contribution.seat), weights) for each in judged
    ]


def _with_signs(judged: Judged, screened: Screened, index: int | None, weights: Sequence[int]) -> Judged:
    if index is None:
        return judged
    signs = screened.signs(index)
    verdict = Verdict(screened.found[index]) if index in screened.found else judged.verdict
    return replace(judged, verdict=verdict, signs=signs, overstated=overstated(signs, weights[index], weights))


def _value(evaluation: Evaluation, metric: str) -> int:
    """In millionths."""
    if metric == "accuracy":
        return evaluation.correct * ONE // max(evaluation.samples, 1)
    return -evaluation.loss_millionths


def most_coalitions(spec: JobSpec, participants: int) -> int:
    """How many evaluations settling a round may take, besides that of the model after."""
    screening, rewards = spec.screening, spec.rewards
    flips = screening is not None and (screening.opposed_percent or screening.harm_percent)
    looked_at = (participants + 1) * (participants + 1) // 2 if flips else 0
    if not isinstance(rewards, ContributionRewards):
        return looked_at
    exact = 1 << participants if participants <= MOST_EXACT else rewards.most_evaluations
    return looked_at + (participants + 1 if rewards.measure == "leave_one_out" else exact)
