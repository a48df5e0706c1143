"""Every wei of a job, event by event: escrow, forfeits, stakes, bonds, credits. Mirrors TrainingLedger.sol's money.

Amounts are derived from the rules and compared with the events; what the events say is then taken as given, so that
one wrong amount is named once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deepledger.protocol.chain.events import (
    BondPosted,
    BondReleased,
    CoordinatorReplaced,
    Credited,
    Event,
    JobCreated,
    JobEnded,
    Joined,
    Left,
    PenaltyTaken,
    Settled,
    Withdrawn,
)
from deepledger.protocol.rewards import shares
from deepledger.protocol.trail import Job
from deepledger.protocol.types import Address, Wei

Mismatch = tuple[str, str, str, Event]
"""(rule, claimed, derived, the event that claims it)"""


@dataclass(slots=True)
class Books:
    escrow: int = 0
    forfeits: int = 0
    stakes: dict[Address, int] = field(default_factory=dict)
    bonds: dict[Address, int] = field(default_factory=dict)
    credits: Counter[Address] = field(default_factory=Counter)
    earned: Counter[Address] = field(default_factory=Counter)  # all that was ever credited beyond own deposits

    def transaction(self, before: Job | None, events: Sequence[Event]) -> Iterator[Mismatch]:
        """Book the events of one transaction; `before` is the job before it."""
        due: Counter[Address] = Counter()  # what the rules credit in this transaction
        for event in events:
            yield from self._book(before, event, due)
        paid: Counter[Address] = Counter()
        for event in events:
            if isinstance(event, Credited):
                paid[event.account] += event.amount
                self.credits[event.account] += event.amount
                self.earned[event.account] += event.amount
        for account in sorted(set(due) | set(paid)):
            if due[account] != paid[account]:
                yield f"credit of {account}", f"{paid[account]} wei", f"{due[account]} wei", events[0]

    def _book(self, before: Job | None, event: Event, due: Counter[Address]) -> Iterator[Mismatch]:
        terms = before.terms if before is not None else None
        match event:
            case JobCreated(terms=created):
                self.escrow = created.rounds * created.reward
            case Joined() if terms is not None:
                self.stakes[event.participant] = terms.stake
            case BondPosted() if terms is not None:
                yield from _check("bond", event.amount, terms.bond, event)
                self.bonds[event.coordinator] = event.amount
            case BondReleased():
                yield from _check("bond given back", event.amount, self.bonds.pop(event.coordinator, 0), event)
                self.credits[event.coordinator] += event.amount
            case PenaltyTaken() if terms is not None:
                yield from _check("penalty", event.amount, terms.reveal_penalty, event)
                self.stakes[event.participant] = self.stakes.get(event.participant, 0) - event.amount
                self.forfeits += event.amount
            case Left():
                yield from _check("stake given back", event.stake, self.stakes.pop(event.participant, 0), event)
                self.credits[event.participant] += event.stake
            case Settled() if before is not None and terms is not None:
                yield from _check("pot", event.pot, terms.reward + self.forfeits, event)
                divided = shares(event.pot, event.scores)
                by_seat = {seat.seat: seat.address for seat in before.participants.values()}
                accepted = [seat for seat in range(64) if event.accepted >> seat & 1]
                for seat, share in zip(accepted, divided, strict=False):
                    due[by_seat.get(seat, Address("nobody"))] += share
                if sum(event.scores):
                    self.escrow -= terms.reward
                    self.forfeits = event.pot - sum(divided)
            case CoordinatorReplaced() if before is not None and terms is not None:
                yield from _check("late penalty", event.penalty, terms.settle_penalty, event)
                self.bonds[event.coordinator] = self.bonds.get(event.coordinator, 0) - event.penalty
                self.forfeits += _equally(Wei(event.penalty), _revealers(before), due)
            case JobEnded() if before is not None:
                seated = [seat for seat in before.participants if seat in self.stakes]
                rest = self.escrow + _equally(Wei(self.forfeits), _revealers(before) or seated, due)
                if rest:
                    due[before.created.sponsor] += rest
                self.escrow = self.forfeits = 0
            case Withdrawn():
                yield from _check("withdrawal", event.amount, self._owed(event, due), event)
                self.credits[event.account] = 0
            case _:
                return

    def _owed(self, event: Withdrawn, due: Counter[Address]) -> int:
        return self.credits[event.account] + due[event.account]

    @property
    def held(self) -> int:
        """What the contract holds for this job, in wei."""
        return self.escrow + self.forfeits + sum(self.stakes.values()) + sum(self.bonds.values()) + self.credits.total()


def _revealers(job: Job) -> list[Address]:
    return [reveal.participant for reveal in job.attempt.reveals] if job.attempt is not None else []


def _equally(amount: Wei, heirs: Sequence[Address], due: Counter[Address]) -> int:
    """Divide among heirs; returns what is left over."""
    if not heirs:
        return amount
    for heir in heirs:
        due[heir] += amount // len(heirs)
    return amount % len(heirs)


def _check(what: str, claimed: int, derived: int, event: Event) -> Iterator[Mismatch]:
    if claimed != derived:
        yield what, f"{claimed} wei", f"{derived} wei", event
