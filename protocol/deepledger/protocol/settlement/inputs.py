"""What a round's settlement is a function of, from the job's trail: who revealed what, and what was known before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from typing_extensions import Buffer

from deepledger.protocol.blobs.digest import digest_of
from deepledger.protocol.chain import events
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.job.state import Attempt, Job, Participant, SettledRound
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member, cohort_of, weights
from deepledger.protocol.privacy.masked_updates import Letters
from deepledger.protocol.types import Address, Digest, JobId, Root

NO_ROOT = Root(bytes(32))
"""Of masked updates, of which nothing is shown on chain but the digest."""


class Place(NamedTuple):
    """Where a job is: masks, seals and commitments are good for no other."""

    chain_id: int
    contract: Address
    job: JobId


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
    released: Digest | None = None  # in a masked round: of the shares that it released


class Earlier(NamedTuple):
    """An update that everybody could read before this round's were committed to."""

    participant: Address
    digest: Digest


@dataclass(frozen=True, slots=True, eq=False)
class MaskedUpdate:
    """As its author published it."""

    letters: Letters
    vector: Buffer  # packed; a mapped file


@dataclass(frozen=True, slots=True)
class Revealed:
    """What a round's settlement is a function of, besides the spec and the bytes of blobs."""

    contributions: tuple[Contribution, ...]  # by ascending seat; in a masked round, those that are counted
    seed: bytes  # 32; nobody knows it before the last reveal; of a masked round, before the last commitment
    earlier: tuple[Earlier, ...] = ()  # as far as the job's screening remembers, newest first
    model_before_last: Digest | None = None  # of the round before; None in the first round
    cohort: Cohort | None = None  # of a masked round

    @property
    def seats(self) -> int:
        """Bit i: seat i has revealed, or released."""
        shown = (each for each in self.contributions if self.cohort is None or each.released is not None)
        return sum(1 << contribution.seat for contribution in shown)


def revealed_in(
    job: Job,
    attempt: Attempt,
    participants: Mapping[Address, Participant],
    spec: JobSpec,
    *,
    place: Place | None = None,
) -> Revealed:
    """`participants`: who is seated when `attempt` is settled; `place`: where, which masks are bound to."""
    if spec.masks is not None:
        assert place is not None  # noqa: S101 (whoever settles a masked round knows)
        return _counted_in(job, attempt, spec, place)
    history = job.history[: attempt.round]
    seed = sha256(f"{job.job}|{attempt.round}|{attempt.attempt}".encode())
    for reveal in sorted(attempt.openings, key=lambda reveal: participants[reveal.participant].seat):
        seed.update(reveal.digest + reveal.salt)
    return Revealed(
        contributions=contributions(job, attempt, participants, spec),
        seed=seed.digest(),
        earlier=earlier_than(job, attempt, spec),
        model_before_last=history[-1].model_digest if history else None,
    )


def cohort_in(attempt: Attempt, spec: JobSpec, place: Place) -> Cohort:
    """Who masks together in an attempt, and with what weights. Raises `BadInput` where they cannot."""
    masks = spec.masks
    assert masks is not None  # noqa: S101 (the caller looked)
    samples = [min(member.samples, spec.max_samples) for member in attempt.cohort]
    return cohort_of(
        (
            Member(seat.seat, seat.address, seat.key, weight)
            for seat, weight in zip(attempt.cohort, weights(samples, masks.weight_bits), strict=True)
        ),
        hybrid=masks.hybrid,
        encrypted=spec.privacy == "encrypted",
        context=MaskContext(place.chain_id, place.contract, place.job, attempt.round, attempt.attempt),
        update_bits=spec.update.bits,
        drawn_from=bytes.fromhex(attempt.opened_in.removeprefix("0x")),
        most_groups=masks.groups,
        least=masks.least,
    )


def lot(attempt: Attempt) -> bytes:
    """What nobody knew who committed in a masked attempt: the hash of the block that has the last commitment."""
    return bytes.fromhex(attempt.commits[-1].at.block_hash.removeprefix("0x")) if attempt.commits else b""


def _counted_in(job: Job, attempt: Attempt, spec: JobSpec, place: Place) -> Revealed:
    released = {each.participant: each.digest for each in attempt.reveals}
    counted = attempt.counted.counted if attempt.counted is not None else 0
    found = (each for each in masked_contributions(job, attempt, spec) if counted >> each.seat & 1)
    return Revealed(
        contributions=tuple(replace(each, released=released.get(each.participant)) for each in found),
        seed=sha256(f"{job.job}|{attempt.round}|{attempt.attempt}".encode() + lot(attempt)).digest(),
        cohort=cohort_in(attempt, spec, place),
    )


def masked_contributions(job: Job, attempt: Attempt, spec: JobSpec) -> tuple[Contribution, ...]:
    """What was committed to in a masked attempt, by ascending seat, whether or not it is counted."""
    settled = attempt.round < job.round
    reputations = job.history[attempt.round].reputations if settled else job.reputations
    seats = {seat.address: seat for seat in attempt.cohort}
    found = [
        Contribution(
            participant=commit.participant,
            seat=seats[commit.participant].seat,
            weight=min(seats[commit.participant].samples, spec.max_samples),
            digest=Digest(commit.commitment),
            root=NO_ROOT,
            copy_of=None,
            committed=rank,
            reputation=reputations.get(commit.participant, FULL),
        )
        for rank, commit in enumerate(attempt.commits)
        if commit.participant in seats
    ]
    return tuple(sorted(found, key=lambda contribution: contribution.seat))


def earlier_than(job: Job, attempt: Attempt, spec: JobSpec) -> tuple[Earlier, ...]:
    """What was accepted in the rounds that screening remembers, newest first. Attempts that starved showed nothing."""
    oldest = max(0, attempt.round - spec.remembered_rounds)
    remembered = reversed(job.history[oldest : attempt.round])
    return tuple(Earlier(each.participant, each.digest) for over in remembered for each in _accepted(over))


def _accepted(over: SettledRound) -> list[events.Revealed]:
    """By ascending seat."""
    seats = {reveal.participant: over.participants.get(reveal.participant) for reveal in over.opened.openings}
    found = {seat.seat: reveal for reveal in over.opened.openings if (seat := seats[reveal.participant]) is not None}
    return [found[seat] for seat in sorted(found) if over.settled.accepted >> seat & 1]


@lru_cache(1)
def _zeros(length: int) -> Digest:
    """The digest of the update that changes nothing."""
    return digest_of(bytes(length))


def contributions(
    job: Job, attempt: Attempt, participants: Mapping[Address, Participant], spec: JobSpec
) -> tuple[Contribution, ...]:
    """What was revealed in `attempt`, by ascending seat, with copies marked.

    An update is a copy if somebody committed to the same bytes earlier in this attempt, or anybody revealed them in an
    earlier round. Zeros, which are nobody's work, are no copy of anybody's.
    """
    looked_for = {reveal.digest for reveal in attempt.openings}
    first: dict[Digest, Address] = {}
    for over in job.history[: attempt.round]:
        for reveal in over.opened.openings:
            if reveal.digest in looked_for:
                first.setdefault(reveal.digest, reveal.participant)
    own: dict[Digest, Address] = {}
    settled = attempt.round < job.round
    reputations = job.history[attempt.round].reputations if settled else job.reputations
    committed_at = {commit.participant: commit.at for commit in attempt.commits}
    found = []
    for rank, reveal in enumerate(sorted(attempt.openings, key=lambda reveal: committed_at[reveal.participant])):
        earlier = first.get(reveal.digest) or own.get(reveal.digest, reveal.participant)
        copied = reveal.digest in first or earlier != reveal.participant
        if copied and reveal.digest == _zeros(spec.update_bytes):
            copied = False
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
