"""What a participant's record on chain says about it: a pure function of the trail, so everybody has the same."""

from __future__ import annotations

from collections.abc import Iterable

from deepledger.protocol.trail import SettledRound
from deepledger.protocol.types import Address

FULL = 1_000_000
"""Parts per million: what everybody starts with."""
MEMORY = 4
"""Each round moves a reputation a fourth of the way: to full if the update was accepted, to nothing if not."""


def reputation(history: Iterable[SettledRound], participant: Address) -> int:
    """In parts per million. Rounds without a reveal do not count: the contract deals with absence itself."""
    value = FULL
    for over in history:
        seat = over.participants.get(participant)
        if seat is None or not over.opened.has_revealed(participant):
            continue
        value = after(value, accepted=bool(over.settled.accepted >> seat.seat & 1))
    return value


def after(value: int, *, accepted: bool) -> int:
    """A reputation after one more round."""
    return value + (FULL * accepted - value) // MEMORY
