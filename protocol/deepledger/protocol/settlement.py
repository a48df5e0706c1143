"""Settling a round: a pure function of public inputs.

    settle(spec, model before, contributions, their updates) -> model after, verdicts, scores

The coordinator runs it and publishes the result; the auditor runs it on the same inputs and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import Buffer

from deepledger.protocol.aggregation import Aggregator, aggregator
from deepledger.protocol.merkle import chunk_root
from deepledger.protocol.rewards import score
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.trail import Attempt, Job, Participant
from deepledger.protocol.types import Address, Digest, Root
from deepledger.protocol.vectors import ModelVector, UpdateVector, as_update, sum_of_squares


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    COPY = "copy"  # these bytes were committed to before
    UNAVAILABLE = "unavailable"  # no blob of the right length with this digest could be had
    WRONG_ROOT = "wrong root"  # the bytes do not have the chunk root that was revealed
    NORM_EXCEEDED = "norm exceeded"  # the L2 norm is over the job's bound


@dataclass(frozen=True, slots=True)
class Contribution:
    """A revealed update, before anybody looked at its bytes."""

    participant: Address
    seat: int
    weight: int  # declared samples, at most the spec's max_samples
    digest: Digest
    root: Root
    copy_of: Address | None  # who committed to the same bytes before


@dataclass(frozen=True, slots=True)
class Judged:
    contribution: Contribution
    verdict: Verdict
    score: int  # 0 unless accepted


@dataclass(frozen=True, slots=True)
class Settlement:
    judged: tuple[Judged, ...]  # one per reveal, by ascending seat
    saturated: int  # model coordinates held at the ends of int32

    @property
    def accepted(self) -> int:
        """Bit i: the update of seat i was accepted."""
        return sum(1 << judged.contribution.seat for judged in self.judged if judged.verdict is Verdict.ACCEPTED)

    @property
    def scores(self) -> tuple[int, ...]:
        """Of the accepted updates, by ascending seat."""
        return tuple(judged.score for judged in self.judged if judged.verdict is Verdict.ACCEPTED)


Fetch = Callable[[Contribution], UpdateVector | Verdict]
"""An update that passed `inspect`, or the verdict that it did not."""


def contributions(
    job: Job, attempt: Attempt, participants: Mapping[Address, Participant], spec: JobSpec
) -> tuple[Contribution, ...]:
    """What was revealed in `attempt`, by ascending seat, with copies marked.

    An update is a copy if somebody committed to the same bytes earlier in this attempt, or anybody revealed them
    before: in an earlier round, or, unless it was the same participant, in an attempt at this round that starved.
    """
    first: dict[Digest, Address] = {}
    for over in job.history[: attempt.round]:
        for reveal in over.opened.reveals:
            first.setdefault(reveal.digest, reveal.participant)
    own: dict[Digest, Address] = {}
    for starved in job.abandoned:
        if (starved.round, starved.attempt) < (attempt.round, attempt.attempt):
            for reveal in starved.reveals:
                (own if starved.round == attempt.round else first).setdefault(reveal.digest, reveal.participant)
    committed_at = {commit.participant: commit.at for commit in attempt.commits}
    found = []
    for reveal in sorted(attempt.reveals, key=lambda reveal: committed_at[reveal.participant]):
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


@dataclass(frozen=True, slots=True)
class Folded:
    """A round's updates, judged and aggregated; the model before is all that is missing."""

    judged: tuple[Judged, ...]  # one per reveal, by ascending seat
    rule: Aggregator

    def into(self, model: ModelVector) -> Settlement:
        """Turn `model`, in place, into the model after."""
        return Settlement(judged=self.judged, saturated=self.rule.advance(model))


def fold(spec: JobSpec, revealed: Sequence[Contribution], fetch: Fetch) -> Folded:
    """Judge every contribution, and aggregate what is accepted. Updates are fetched one at a time."""
    rule = aggregator(spec)
    judged = []
    for contribution in revealed:
        update = Verdict.COPY if contribution.copy_of is not None else fetch(contribution)
        if isinstance(update, Verdict):
            judged.append(Judged(contribution, update, 0))
            continue
        rule.add(update, weight=contribution.weight)
        judged.append(Judged(contribution, Verdict.ACCEPTED, score(spec.rewards, weight=contribution.weight)))
        del update  # before the next one is fetched
    return Folded(judged=tuple(judged), rule=rule)


def settle(spec: JobSpec, model: ModelVector, revealed: Sequence[Contribution], fetch: Fetch) -> Settlement:
    """Judge every contribution and turn `model`, in place, into the model after.

    Who has little memory calls `fold` and then, with the model fetched only now, `into`: an update and the model are
    then never in memory together.
    """
    return fold(spec, revealed, fetch).into(model)
