"""What a node tells whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.protocol.types import RoundNumber, Wei


@dataclass(frozen=True, slots=True)
class TookSeat:
    seat: int
    stake: Wei
    gas: int


@dataclass(frozen=True, slots=True)
class Trained:
    round: RoundNumber
    seconds: float
    clipped: bool  # the norm bound was reached
    saturated: int  # coordinates that did not fit


@dataclass(frozen=True, slots=True)
class CommittedUpdate:
    round: RoundNumber
    transaction: str
    gas: int


@dataclass(frozen=True, slots=True)
class RevealedUpdate:
    round: RoundNumber
    transaction: str
    gas: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RoundOver:
    round: RoundNumber
    took_part: bool
    accepted: bool
    earned: Wei


@dataclass(frozen=True, slots=True)
class Poked:
    """This node moved a stuck job on."""

    what: str
    transaction: str
    gas: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that may pass; the node tries again."""

    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    withdrawn: Wei  # stake and earnings, paid to the account


Happening = TookSeat | Trained | CommittedUpdate | RevealedUpdate | RoundOver | Poked | Trouble | Finished
