"""What a coordinator tells whoever watches it: one frozen dataclass per thing that matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepledger.protocol.chain.events import Outcome
from deepledger.protocol.roles.notices import Acted, Notice
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.types import Address, Digest, RoundNumber, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Notice):
    """Spec, task, model and validation set are here and fit together."""

    name: str
    round: RoundNumber
    rounds: int
    results: Mapping[str, float | None]  # of the current model, by metric; None: not finite


@dataclass(frozen=True, slots=True, kw_only=True)
class BondPosted(Acted):
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesCounted(Acted):
    """Of a masked round: which updates its sum is made of is fixed."""

    round: RoundNumber
    counted: int
    committed: int
    least: int  # fewer than these cannot be unmasked, and the round is opened again


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateJudged(Notice):
    round: RoundNumber
    judged: Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSettled(Acted):
    round: RoundNumber
    attempt: int
    accepted: int  # updates
    revealed: int
    results: Mapping[str, float | None]  # of the model after, by metric; None: not finite
    model_digest: Digest
    report_digest: Digest
    seconds: float  # from the end of revealing, as seen here, to the settlement in a block


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRestarted(Acted):
    round: RoundNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class TookOver(Acted):
    round: RoundNumber
    predecessor: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed(Acted):
    """The key of the withheld validation set is on the chain, and the job over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BondReleased(Acted):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Acted):
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Notice):
    outcome: Outcome | None  # None: replaced by the next coordinator, and the job goes on
