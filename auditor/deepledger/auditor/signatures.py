"""Holding a trail against what people signed: a log is the node's word, and the transaction that made it its signer's.

A node that alters one log (a settled digest, two commitments) could make an honest coordinator look like a liar. So
before anybody is accused, each call that carries arguments is fetched, its signer recovered and its calldata compared.
In which order transactions stand, and that they did not revert, nobody signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from deepledger.auditor.findings import Finding, Kind, Unsigned
from deepledger.protocol.chain.events import (
    Committed,
    CommittedMasked,
    Counted,
    Event,
    JobCreated,
    Joined,
    Revealed,
    Settled,
    Unmasked,
)
from deepledger.protocol.chain.ledger import Reader, SignedCall
from deepledger.protocol.chain.signed import held_against

_CALLS = {
    JobCreated: ("createJob", "sponsor"),
    Joined: ("join", "participant"),
    Committed: ("commit", "participant"),
    CommittedMasked: ("commitMasked", "participant"),
    Counted: ("count", "coordinator"),
    Revealed: ("reveal", "participant"),
    Unmasked: ("unmask", "participant"),
    Settled: ("settle", "coordinator"),
}
"""Events whose fields are what somebody sent, by the function and the field that says who."""

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Signatures:
    altered: tuple[Finding, ...]  # events that are not what was signed
    unsigned: tuple[Unsigned, ...]  # another contract may have called, or nothing is shown that could be checked


def signatures(reader: Reader, events: Sequence[Event]) -> Signatures:
    """Raises `ChainNonsense` where the node shows what cannot be, and `ChainUnreachable`."""
    altered: list[Finding] = []
    unsigned: list[Unsigned] = []
    for event, call in _signed(reader, [event for event in events if type(event) in _CALLS]):
        function, subject = _CALLS[type(event)]
        said = {field.name: getattr(event, field.name) for field in fields(event)}
        held = held_against(reader, call, function=function, who=said[subject], said=said)
        if held.unsigned is not None:
            unsigned.append(Unsigned(function, said[subject], event.at, held.unsigned))
        altered += [_altered(event, claimed, signed) for claimed, signed in held.unlike]
    return Signatures(tuple(altered), tuple(unsigned))


def _signed(reader: Reader, events: Sequence[Event]) -> Iterator[tuple[Event, SignedCall | None]]:
    for start in range(0, len(events), _AT_ONCE):
        part = events[start : start + _AT_ONCE]
        yield from zip(part, reader.signed(tuple(event.at.transaction for event in part)), strict=True)


def _altered(event: Event, claimed: str, signed: str) -> Finding:
    what = f"{type(event).__name__} is not what was signed: the node alters it, and nobody else can be accused"
    return Finding(Kind.RULE, what, claimed, signed, event.at, None)
