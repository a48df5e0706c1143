"""Holding a trail against the contract's rules: every event must be one that the calls before it give, and all of them.

The calls are read off the events that carry their arguments; everything else (amounts, seats, windows, who lost a seat
and why, what was credited) is derived by `rules.py` and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise

from deepledger.auditor.findings import Finding, Kind
from deepledger.auditor.rules import Rules
from deepledger.protocol.chain.events import (
    BondReleased,
    CoordinatorReplaced,
    Departure,
    DisclosureDue,
    Event,
    JobCreated,
    JobEnded,
    Left,
    Outcome,
    PenaltyTaken,
    RoundOpened,
    RoundStarved,
    Settled,
    Shared,
    Withdrawn,
)
from deepledger.protocol.chain.ledger import Head
from deepledger.protocol.types import Address, RoundNumber

MOST_FINDINGS = 20
"""After so many the trail and the rules have parted; more would only say so again."""

_SUBJECTS = ("participant", "account", "sponsor")
_AMOUNTS = ("amount", "stake", "pot", "penalty", "share", "refund")


def out_of_place(events: Sequence[Event], head: Head) -> Iterator[Finding]:
    """Events that no chain can have in this order."""
    for before, after in pairwise(events):
        a, b = before.at, after.at
        if b <= a:
            yield _rule("events stand in chain order", after, f"block {b.block}", f"not before block {a.block}")
        elif b.timestamp < a.timestamp:
            yield _rule("time does not run backwards", after, f"at {b.timestamp}", f"not before {a.timestamp}")
        elif a.block == b.block and (a.block_hash, a.timestamp) != (b.block_hash, b.timestamp):
            yield _rule("a block has one hash and one time", after, f"{b.block_hash} at {b.timestamp}",
                        f"{a.block_hash} at {a.timestamp}")  # fmt: skip
        elif a.block != b.block and a.transaction == b.transaction:
            yield _rule("a transaction is in one block", after, f"block {b.block}", f"block {a.block}")
    for event in events:
        at = event.at
        late = at.block > head.number or at.timestamp > head.timestamp
        if late or (at.block == head.number and at.block_hash != head.hash):
            yield _rule("nothing stands after the newest block", event, f"block {at.block} at {at.timestamp}",
                        f"block {head.number} at {head.timestamp}")  # fmt: skip
            return


def hold_against(rules: Rules, events: Sequence[Event]) -> Iterator[Finding]:
    """Perform the calls of a trail, which begins with the job's creation; yield where the events are others."""
    position = 0
    while position < len(events):
        end = position + 1
        while end < len(events) and events[end].at.transaction == events[position].at.transaction:
            end += 1
        rest = events[position:end]
        call = _call(rest, first=position == 0)
        if call is None:
            yield _not_due(rules, rest[0])
            position += 1
            continue
        number = RoundNumber(rules.number)
        expected, breaches = rules.perform(call, call.at)
        for breach in breaches:
            kind = Kind.COMMITMENT if "opens its commitment" in breach.rule else Kind.RULE
            yield Finding(
                kind, f"broken: {breach.rule}", breach.claimed, breach.derived, call.at, number, _subject(call)
            )
        used = 0
        for wanted in expected:
            found = next((i for i in range(used, len(rest)) if _key(rest[i]) == _key(wanted)), None)
            if found is None:
                yield Finding(
                    _kind(wanted), "an event that the ledger must emit here is withheld", "no such event",
                    _described(wanted), wanted.at, number, _subject(wanted),
                )  # fmt: skip
                continue
            for extra in rest[used:found]:
                yield _not_due(rules, extra)
            yield from _compared(rest[found], wanted, number)
            used = found + 1
        position += max(used, 1)


def _call(events: Sequence[Event], *, first: bool) -> Event | None:
    """The event that carries the arguments of the call which the first of a transaction's `events` is from."""
    for index, event in enumerate(events):
        match event:
            case JobCreated():
                return event if first else None
            case PenaltyTaken():
                continue
            case Left(departure=Departure.VOLUNTARY) if index == 0:
                return event
            case Left():
                continue
            case Settled() | RoundStarved():
                return event
            case JobEnded(outcome=Outcome.WITHDRAWN) | DisclosureDue(outcome=Outcome.WITHDRAWN):
                return event
            case JobEnded() | DisclosureDue() | RoundOpened() | Shared():
                break
            case _:
                if index == 0:
                    return event
                break
    # A lone departure: whatever it says, somebody left.
    return events[0] if isinstance(events[0], Left) else None


def _compared(claimed: Event, derived: Event, number: RoundNumber) -> Iterator[Finding]:
    for field in fields(derived):
        if field.name in ("at", "job"):
            continue
        said, is_ = getattr(claimed, field.name), getattr(derived, field.name)
        if said != is_:
            name = type(derived).__name__
            kind = Kind.MONEY if field.name in _AMOUNTS else Kind.RULE
            explanation = f"the {field.name} of {name} does not follow from what happened before"
            yield Finding(kind, explanation, _value(said), _value(is_), claimed.at, number, _subject(derived))


def _not_due(rules: Rules, event: Event) -> Finding:
    explanation = "an event that nothing before it gives rise to"
    number = RoundNumber(rules.number)
    return Finding(_kind(event), explanation, _described(event), "no such event", event.at, number, _subject(event))


def _rule(rule: str, event: Event, claimed: str, derived: str) -> Finding:
    return Finding(Kind.RULE, f"broken: {rule}", claimed, derived, event.at, None, _subject(event))


def _kind(event: Event) -> Kind:
    return Kind.MONEY if isinstance(event, (Shared, PenaltyTaken, BondReleased, Withdrawn)) else Kind.RULE


def _key(event: Event) -> tuple[object, ...]:
    """What an event is about: events of one transaction with the same key are the same event."""
    named = not isinstance(event, (Settled, CoordinatorReplaced))  # one each; who it was is compared
    return type(event), _subject(event) if named else None


def _subject(event: Event) -> Address | None:
    names = [name for name in (*_SUBJECTS, "coordinator") if hasattr(event, name)]
    return getattr(event, names[0]) if names else None


def _described(event: Event) -> str:
    values = [
        f"{field.name} {_value(getattr(event, field.name))}"
        for field in fields(event)
        if field.name not in ("at", "job", "terms")
    ]
    return f"{type(event).__name__}: {', '.join(values)}"


def _value(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
