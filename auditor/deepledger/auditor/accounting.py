"""Every wei of a job in one place: escrow, stakes, bonds or credits. The money of TrainingLedger.sol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from deepledger.protocol.types import Address, Wei


@dataclass(slots=True)
class Accounts:
    escrow: int = 0
    stakes: dict[Address, int] = field(default_factory=dict)
    bonds: dict[Address, int] = field(default_factory=dict)
    credits: Counter[Address] = field(default_factory=Counter)

    @property
    def held(self) -> int:
        """What the contract holds for this job, in wei."""
        return self.escrow + sum(self.stakes.values()) + sum(self.bonds.values()) + self.credits.total()

    def deposit_budget(self, amount: int) -> None:
        self.escrow += amount

    def deposit_stake(self, participant: Address, amount: int) -> None:
        self.stakes[participant] = amount

    def deposit_bond(self, coordinator: Address, amount: int) -> None:
        self.bonds[coordinator] = amount

    def take_penalty(self, participant: Address, amount: int) -> None:
        self.stakes[participant] -= amount
        self.escrow += amount

    def return_stake(self, participant: Address) -> Wei:
        stake = self.stakes.pop(participant)
        self.credits[participant] += stake
        return Wei(stake)

    def return_bond(self, coordinator: Address, *, penalty: int = 0) -> Wei:
        """The penalty goes into escrow; the rest is credited."""
        rest = self.bonds.pop(coordinator, 0) - penalty
        self.credits[coordinator] += rest
        self.escrow += penalty
        return Wei(rest)

    def pay(self, account: Address, amount: int) -> None:
        """Out of the escrow, into which penalties go first."""
        self.escrow -= amount
        self.credits[account] += amount

    def close(self, sponsor: Address) -> Wei:
        """What is left in escrow goes to the sponsor."""
        rest, self.escrow = self.escrow, 0
        self.credits[sponsor] += rest
        return Wei(rest)

    def withdraw(self, account: Address) -> Wei:
        return Wei(self.credits.pop(account, 0))
