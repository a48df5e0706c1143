"""What a node tells whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.node.purse import Forecast
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import PrivateRun
from deepledger.protocol.job.state import Attempt
from deepledger.protocol.roles.notices import Acted, Notice
from deepledger.protocol.types import RoundNumber, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Notice):
    """Task and data are loaded and tried, and nothing is staked yet."""

    held: int  # samples in the data, as the task counts them
    declared: int
    limit: int  # the job's: who declares more weighs and earns as this


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyForeseen(Notice):
    """What the job will cost of the data's privacy, and nothing is staked yet."""

    forecast: Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class TookSeat(Acted):
    seat: int
    stake: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained(Notice):
    round: RoundNumber
    seconds: float
    clipped: bool  # the norm bound was reached
    saturated: int  # coordinates that did not fit
    private: PrivateRun | None = None  # what training kept private; None: nothing
    release: Release | None = None  # what is shown behind noise; None: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyCharged(Notice):
    """What this node is about to commit to is in its ledger of ε."""

    round: RoundNumber
    epsilon: float  # of the data, by all that is in the ledger; infinite: nothing is guaranteed
    delta: float
    budget: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedUpdate(Acted):
    round: RoundNumber
    bytes: int  # published with it: a masked update is at once


@dataclass(frozen=True, slots=True, kw_only=True)
class RevealedUpdate(Acted):
    round: RoundNumber
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskedRound(Acted):
    """This node released what it holds of the masks of those who are counted."""

    round: RoundNumber
    counted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOver(Notice):
    round: RoundNumber
    took_part: bool
    accepted: bool
    earned: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStarved(Notice):
    """Too few took part in an attempt at a round, and it was opened again."""

    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Poked(Acted):
    """This node moved a stuck job on."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftSeat(Acted):
    """The job is over; stake and earnings may be withdrawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Acted):
    amount: Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Notice):
    withdrawn: Wei  # stake and earnings, paid to the account
