"""What the contract says happened, one frozen dataclass per Solidity event."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from deepledger.protocol.types import Address, Digest, JobId, Root, RoundNumber, Seconds, Wei


class Phase(IntEnum):
    """As `Phase` in ITrainingLedger.sol."""

    WAITING = 0
    COMMITTING = 1
    COUNTING = 2
    REVEALING = 3
    SETTLING = 4
    STARVED = 5
    OVERDUE = 6
    DISCLOSING = 7
    OVER = 8


class Departure(IntEnum):
    VOLUNTARY = 0
    MISSING = 1
    EXHAUSTED = 2


class Outcome(IntEnum):
    COMPLETED = 0
    WITHDRAWN = 1
    ABANDONED = 2


@dataclass(frozen=True, slots=True)
class JobTerms:
    """What a sponsor fixes on chain, as `JobTerms` in ITrainingLedger.sol. Amounts in wei, windows in seconds."""

    spec_digest: Digest
    model_digest: Digest
    model_root: Root
    rounds: int
    min_participants: int
    max_participants: int
    miss_limit: int
    commit_window: Seconds
    reveal_window: Seconds
    settle_window: Seconds
    masked: bool = field(default=False, kw_only=True)  # nobody sees a single update, only the weighted sum
    reward: Wei
    stake: Wei
    reveal_penalty: Wei
    bond: Wei
    settle_penalty: Wei
    validation_lock: bytes = bytes(32)  # keccak256 of the validation set's key; zero: the set is public
    admission: bytes = bytes(32)  # Merkle root of the accounts that may join, see `formats/admission.py`; zero: anyone

    @property
    def withheld(self) -> bool:
        """Whether the validation set is, until its key is disclosed."""
        return any(self.validation_lock)

    @property
    def restricted(self) -> bool:
        """Whether only accounts on a list may join."""
        return any(self.admission)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where on the chain an event stands. Ordered as the chain orders events."""

    block: int
    log_index: int
    block_hash: str
    transaction: str  # hash, 0x…
    timestamp: Seconds  # of the block


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    at: Position
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCreated(Event):
    sponsor: Address
    terms: JobTerms
    coordinators: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BondPosted(Event):
    coordinator: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class BondReleased(Event):
    coordinator: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Event):
    participant: Address
    seat: int
    samples: int
    key: bytes  # 32: X25519 in a masked job, zero in any other


@dataclass(frozen=True, slots=True, kw_only=True)
class Left(Event):
    participant: Address
    seat: int
    departure: Departure
    stake: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    round: RoundNumber
    attempt: int
    commit_end: Seconds
    reveal_end: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStarved(Event):
    round: RoundNumber
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    round: RoundNumber
    participant: Address
    commitment: bytes  # 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed(Event):
    round: RoundNumber
    participant: Address
    digest: Digest
    root: Root
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedMasked(Event):
    round: RoundNumber
    attempt: int
    participant: Address
    digest: Digest  # of the letters

    @property
    def commitment(self) -> bytes:
        """What it committed to, as that of an open round."""
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(Event):
    round: RoundNumber
    attempt: int
    coordinator: Address
    counted: int  # bit i: seat i
    reveal_end: Seconds  # 0: too few, the attempt is void


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked(Event):
    round: RoundNumber
    participant: Address
    digest: Digest  # of what it released


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyTaken(Event):
    round: RoundNumber
    participant: Address
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Event):
    round: RoundNumber
    coordinator: Address
    model_digest: Digest
    model_root: Root
    report_digest: Digest
    accepted: int  # bit i: seat i
    scores: tuple[int, ...]  # of the accepted seats, ascending
    pot: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(Event):
    seats: int  # bit i: seat i
    share: Wei  # what each of them was credited


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorReplaced(Event):
    round: RoundNumber
    coordinator: Address
    successor: Address | None
    penalty: Wei
    deadline: Seconds  # when the successor is to have settled or disclosed; 0: nothing is due from it yet


@dataclass(frozen=True, slots=True, kw_only=True)
class DisclosureDue(Event):
    outcome: Outcome  # with which the job ends once the key is disclosed
    disclosure_end: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationDisclosed(Event):
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    outcome: Outcome
    refund: Wei  # what was left in escrow, credited to the sponsor


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Event):
    account: Address
    amount: Wei
