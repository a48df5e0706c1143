"""What a coordinator tells whoever watches it: one frozen dataclass per thing that matters."""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.protocol.chain.events import Outcome, Phase
from deepledger.protocol.chain.ledger import Receipt
from deepledger.protocol.report import Evaluation
from deepledger.protocol.settlement import Judged
from deepledger.protocol.types import Address, Digest, JobId, RoundNumber, Seconds, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Happening):
    """Spec, task, model and validation set are here and fit together."""

    name: str
    round: RoundNumber
    rounds: int
    evaluation: Evaluation  # of the current model


@dataclass(frozen=True, slots=True, kw_only=True)
class BondPosted(Happening):
    amount: Wei
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Happening):
    """The state of the open round, whenever it changes."""

    round: RoundNumber
    attempt: int | None  # None while no round is open
    phase: Phase
    ends: Seconds | None  # chain time at which the phase ends by itself
    serving: Address
    seated: int
    commits: int
    reveals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateJudged(Happening):
    round: RoundNumber
    judged: Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettled(Happening):
    round: RoundNumber
    attempt: int
    accepted: int  # updates
    revealed: int
    evaluation: Evaluation  # of the model after
    model_digest: Digest
    report_digest: Digest
    seconds: float  # from the end of revealing, as seen here, to the settlement in a block
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRestarted(Happening):
    round: RoundNumber
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class TookOver(Happening):
    round: RoundNumber
    predecessor: Address
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class BondReleased(Happening):
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Happening):
    amount: Wei
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Happening):
    outcome: Outcome | None  # None: replaced by the next coordinator, and the job goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Happening):
    """Something is wrong and is being tried again."""

    message: str
