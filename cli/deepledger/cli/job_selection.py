"""Jobs that nobody named but that list this account: which of them to settle, and which to leave for what they cost.

Anybody can make such jobs, and make them so that bonds and fees are lost. So whatever was lost stays lost: it counts
against the owner's limit for good, bonds as the chain remembers them, fees since this process began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepledger.cli import show
from deepledger.protocol.types import Address, JobId, Wei

if TYPE_CHECKING:
    from deepledger.protocol.chain.events import Event
    from deepledger.protocol.job.state import Job
    from deepledger.protocol.roles.notices import Notice

MOST_JOBS = 16
"""At a time: each holds a connection, a validation set and a model in memory, and all bonds go when memory does."""


@dataclass(slots=True)
class JobSelection:
    me: Address
    limit: Wei
    sponsors: frozenset[Address]  # whose jobs are settled; empty: everybody's
    lost: int = 0
    bonds: dict[JobId, Wei] = field(default_factory=dict)  # deposited, or about to be
    released: set[JobId] = field(default_factory=set)  # whose bond was given back, and not withdrawn
    fees: Counter[JobId] = field(default_factory=Counter)

    @property
    def spent(self) -> int:
        """What is deposited, was lost, or was paid in fees."""
        return self.lost + sum(self.bonds.values()) + self.fees.total()

    def look(self, events: Sequence[Event], jobs: Iterable[Job], running: Collection[JobId]) -> None:
        """Count again, from all that happened on the ledger."""
        from deepledger.protocol.chain.events import BondReleased, CoordinatorReplaced, Withdrawn
        from deepledger.protocol.job.phases import bond_of

        replaced = (event for event in events if isinstance(event, CoordinatorReplaced))
        self.lost = sum(event.penalty for event in replaced if event.coordinator == self.me)
        self.bonds = {
            job.job: job.terms.bond
            for job in jobs
            if bond_of(job, self.me) or (job.outcome is None and job.job in running)
        }
        self.released = set()
        for event in events:
            if isinstance(event, BondReleased) and event.coordinator == self.me and event.amount:
                self.released.add(event.job)
            elif isinstance(event, Withdrawn) and event.account == self.me:
                self.released.discard(event.job)

    def concerns(self, job: Job) -> bool:
        """Whether there is something to do in it: to settle, or to take home a bond that was left there."""
        from deepledger.coordinator.decision import is_done
        from deepledger.protocol.job.phases import bond_of

        return not is_done(job, self.me) or bool(bond_of(job, self.me)) or job.job in self.released

    def objection(self, job: Job, running: Collection[JobId]) -> str | None:
        """Why a job is not to be settled. One in which there is a bond of ours is: it would be lost."""
        if self.me in job.bonded or job.job in self.released:
            return None
        if self.sponsors and job.created.sponsor not in self.sponsors:
            return f"its sponsor {job.created.sponsor} is none of --sponsor"
        if len(running) >= MOST_JOBS:
            return f"{MOST_JOBS} others are being settled, name it to settle it all the same"
        total = Wei(self.spent + job.terms.bond)
        if total > self.limit:
            return (
                f"with its bond of {show.eth(job.terms.bond)}, {show.eth(total)} would be deposited, lost or paid in "
                "fees, more than --most-bonds"
            )
        return None

    def take(self, job: Job) -> None:
        from deepledger.coordinator.decision import is_done

        if not is_done(job, self.me):
            self.bonds[job.job] = job.terms.bond
        self.fees[job.job] += 0

    def note(self, notice: Notice) -> None:
        """Called by the threads of the jobs, each for its own."""
        from deepledger.protocol.roles.notices import Acted

        if isinstance(notice, Acted):
            self.fees[notice.job] += notice.receipt.fee

    def too_dear(self) -> list[JobId]:
        """Once the limit is reached: jobs that cost more in fees by now than leaving them would."""
        if self.spent <= self.limit:
            return []
        return [job for job, fees in self.fees.items() if fees > self.bonds.get(job, 0)]
