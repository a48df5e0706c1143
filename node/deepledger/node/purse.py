"""What one node may still spend of its data's privacy, and what it has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deepledger.node.private_run import MayTake, any_number
from deepledger.node.spending import Budget, Spending, SpendingLedger, Spent, ledger_of
from deepledger.protocol.errors import BadInput, PrivacySpent
from deepledger.protocol.formats.private_run import PrivateRun

USUAL_DELTA = 1e-5


@dataclass
class Purse:
    folder: Path  # of all ledgers
    data: Path
    job: str  # with chain and contract
    account: str
    epsilon: float | None  # of the budget, if there is one
    delta: float  # by which ε is told

    @property
    def budget(self) -> Budget | None:
        return None if self.epsilon is None else Budget(self.epsilon, self.delta)

    @cached_property
    def ledger(self) -> SpendingLedger:
        """The data are read for it, once."""
        return ledger_of(self.folder, self.data)

    def open(self) -> MayTake:
        """How many steps the next training may take. Raises `PrivacySpent` where it will pass the budget if it takes as
        many as the last one of this job.
        """
        if self.budget is None:
            return any_number
        spent = self.ledger.read()
        left = spent.left_of(self.budget)
        mine = (each.steps for each in reversed(spent.lines) if (each.job, each.account) == (self.job, self.account))
        if (last := next(mine, None)) and not left.expect(last):
            raise PrivacySpent(f"{spent.told(self.budget)}: a round like the last one would pass it")
        return left.may_take

    def check(self, run: PrivateRun | None) -> None:
        """Raises `BadInput` where a training cannot be held against the budget."""
        if self.budget is None or (run is not None and run.past is None):
            return
        why = "it does not call deepledger.privacy.make_private" if run is None else run.past
        raise BadInput(f"there is a privacy budget, and nothing is guaranteed of what train does: {why}")

    def charge(self, run: PrivateRun, *, commitment: bytes, round: int) -> Spent:
        """Before the commitment is sent. Raises `PrivacySpent` as `SpendingLedger.charge`."""
        spending = Spending(
            commitment=commitment.hex(),
            job=self.job,
            round=round,
            account=self.account,
            data=self.data.name,
            delta=self.delta,
            steps=run.steps if run.past is None else None,
        )
        return self.ledger.charge(spending, budget=self.budget)
