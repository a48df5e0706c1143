"""The state of a job, as its events tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deepledger.protocol.chain.events import (
    Committed,
    CommittedMasked,
    Counted,
    Departure,
    JobCreated,
    JobTerms,
    Outcome,
    Position,
    Revealed,
    Settled,
    Unmasked,
)
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in a seat."""

    address: Address
    seat: int
    samples: int  # as declared when it joined
    stake: Wei  # what is left of it
    key: bytes = bytes(32)  # X25519, with which it masks; zero in an open job
    joined_by: str = ""  # hash of the transaction


@dataclass(frozen=True, slots=True)
class Attempt:
    """An open round. Commitments and reveals are in chain order."""

    round: RoundNumber
    attempt: int
    commit_end: Seconds
    reveal_end: Seconds  # 0 once a count has made it void
    least: int  # so many must commit, and in a masked attempt be counted
    opened_in: str = ""  # hash of the block
    cohort: tuple[Participant, ...] = ()  # by seat, who was seated when it opened; in masked jobs only
    commits: tuple[Committed | CommittedMasked, ...] = ()
    gone: frozenset[Address] = frozenset()  # who gave up a seat since
    counted: Counted | None = None  # in a masked attempt: whose updates are in the sum
    reveals: tuple[Revealed | Unmasked, ...] = ()

    @property
    def judged(self) -> int:
        """Of how many updates a settlement says something: those that were revealed, or are counted."""
        return len(self.reveals) if self.counted is None else self.counted.counted.bit_count()

    @property
    def sufficient(self) -> bool:
        """Whether as many as it needs committed; once it is counted, whether as many are counted."""
        taking_part = len(self.commits) if self.counted is None else self.counted.counted.bit_count()
        return taking_part >= self.least

    @property
    def void(self) -> bool:
        """Whether its coordinator has counted too few."""
        return self.counted is not None and not self.sufficient

    @property
    def openings(self) -> tuple[Revealed, ...]:
        """The reveals of an open round; none of a masked one."""
        return tuple(reveal for reveal in self.reveals if isinstance(reveal, Revealed))

    @property
    def awaited(self) -> frozenset[Address]:
        """Of a masked attempt's cohort, who may commit, or has: whoever gives up its seat takes no part any more."""
        return frozenset(member.address for member in self.cohort) - self.gone

    def has_committed(self, participant: Address) -> bool:
        return any(commit.participant == participant for commit in self.commits)

    def has_revealed(self, participant: Address) -> bool:
        return any(reveal.participant == participant for reveal in self.reveals)


@dataclass(frozen=True, slots=True)
class SettledRound:
    """A round that is over, with what its settlement was a function of."""

    opened: Attempt
    participants: Mapping[Address, Participant]  # seated when it was settled
    reputations: Mapping[Address, int]  # before, of who had ever revealed in a settled round
    model_digest: Digest  # before
    model_root: Root
    settled: Settled


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the events say about a job."""

    job: JobId
    created: JobCreated
    model_digest: Digest
    model_root: Root
    serving: int = 0  # index into the list of coordinators
    bonded: Mapping[Address, Seconds] = field(default_factory=dict)  # and since when
    participants: Mapping[Address, Participant] = field(default_factory=dict)  # seated now
    departures: Mapping[Address, Departure] = field(default_factory=dict)  # how those left who have no seat any more
    reputations: Mapping[Address, int] = field(default_factory=dict)  # of who ever revealed in a settled round
    attempt: Attempt | None = None  # None: waiting, disclosing, or over
    abandoned: tuple[Attempt, ...] = ()  # attempts that starved
    history: tuple[SettledRound, ...] = ()
    disclosure_end: Seconds | None = None  # set once the last round is over and the job waits for the validation key
    validation_key: bytes | None = None  # of a withheld validation set, once it is disclosed
    outcome: Outcome | None = None
    last: Position | None = None

    @property
    def terms(self) -> JobTerms:
        return self.created.terms

    @property
    def coordinator(self) -> Address:
        return self.created.coordinators[self.serving]

    @property
    def round(self) -> RoundNumber:
        return RoundNumber(len(self.history))

    def reputation(self, participant: Address) -> int:
        """In parts per million."""
        return self.reputations.get(participant, FULL)

    @property
    def validation(self) -> Literal["public", "withheld", "disclosed"]:
        """Whether everybody may read the validation set; withheld: only the coordinators, until the job closes."""
        if not self.terms.withheld:
            return "public"
        return "withheld" if self.validation_key is None else "disclosed"

    @property
    def withholds(self) -> bool:
        """Whether a round was settled with a validation set whose key is not on chain."""
        return bool(self.history) and self.terms.withheld and self.validation_key is None
