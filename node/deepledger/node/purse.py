"""What one node may still spend of its data's privacy, and what it has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from operator import itemgetter
from pathlib import Path

from deepledger.node.accountant import Accountant, Cost
from deepledger.node.journal import Charge
from deepledger.node.private_run import MayTake, any_number
from deepledger.node.spending import Budget, Spending, SpendingLedger, Spent, ledger_of, ledgers_in
from deepledger.protocol.chain.ledger import Reader
from deepledger.protocol.errors import BadInput, PrivacySpent, StateError
from deepledger.protocol.formats.participant_privacy import Release
from deepledger.protocol.formats.private_run import PrivateRun, Steps
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.privacy.skellam import epsilon_of_rounds
from deepledger.protocol.types import Address, JobId

USUAL_DELTA = 1e-5


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job will cost of the data's privacy, if every round costs as much as the one that was tried."""

    epsilon: float  # of one round by itself
    by_steps: bool  # so much is by the private steps that were tried; else by the job's noise, whatever is trained
    spent: float  # ε of the data before, in all jobs; infinite: of one update nothing is guaranteed
    updates: int  # that spent it
    rounds: int  # that are left of the job
    after: float  # ε of the data after them, with all that was spent before
    delta: float
    lasts: int | None  # so many of them the budget allows; None: there is none
    budget: float | None


@dataclass
class Purse:
    folder: Path  # of all ledgers
    data: Path
    job: str  # with chain and contract
    account: str
    epsilon: float | None  # of the budget, if there is one
    delta: float  # by which ε is told
    release: Release | None = None  # what every round of the job shows, where noise hides the participant in it
    by_steps: bool = False  # the job asks for private steps
    shared: bool = False  # the noise is that of a sum, behind which these data may stand once

    @property
    def budget(self) -> Budget | None:
        return None if self.epsilon is None else Budget(self.epsilon, self.delta)

    @cached_property
    def ledger(self) -> SpendingLedger:
        """The data are read for it, once."""
        return ledger_of(self.folder, self.data)

    @property
    def fingerprint(self) -> bytes:
        return bytes.fromhex(self.ledger.path.stem)

    @property
    def counts_job(self) -> bool:
        """Whether any data were charged for an update of this account in this job."""
        with suppress(StateError):  # as where a ledger is damaged: it is told where it is needed
            return any(_has(ledger, self.job, self.account) for ledger in ledgers_in(self.folder))
        return False

    def identify(self) -> None:
        """Before the data are loaded, where they will be charged: what is written to the file later is other data."""
        if self.budget is not None or self.release is not None or self.by_steps:
            _ = self.ledger

    def may_carry(self, last: Charge | None) -> bool:
        """Whether what an update left out may travel in the next one: what private steps bound may, as it shows no more
        however often, and else what was trained on the same data, which the next one is charged for, too. Where nothing
        bounds it and nothing was told, it may while there is no budget to hold it against.
        """
        if last is None or last.by_steps:
            return True
        if not last.data:
            return last.data is not None and self.budget is None
        return last.data == self.fingerprint

    def open(self, *, by_steps: bool = True) -> MayTake:
        """How many steps the next training may take; `by_steps` as for `charge`. Raises `PrivacySpent` where it will
        pass the budget: if noise that the job asks for does not keep it within, and it takes as many private steps as
        the last one of this job.
        """
        if self.budget is None:
            return any_number
        spent = self.ledger.read()
        left = spent.left_of(self.budget)
        if self.release is not None and left.fits((self.release,)):
            return any_number
        mine = (each.steps for each in reversed(spent.lines) if (each.job, each.account) == (self.job, self.account))
        last = next(mine, None)
        if self.release is not None and not (by_steps and (last or self.by_steps)):
            alone = epsilon_of_rounds(self.release, rounds=1, delta=self.delta)
            raise PrivacySpent(
                f"{spent.told(self.budget)}: what a round of this job shows would pass it, ε = {alone:.3g} by itself"
            )
        if last and not left.expect(last):
            raise PrivacySpent(f"{spent.told(self.budget)}: a round like the last one would pass it")
        return left.may_take

    def check(self, run: PrivateRun | None) -> None:
        """Raises `BadInput` where a training cannot be held against the budget."""
        if self.budget is None or self.release is not None or (run is not None and run.past is None):
            return
        why = "it does not call deepledger.privacy.make_private" if run is None else run.past
        raise BadInput(
            f"there is a privacy budget, and nothing is guaranteed of what train does: {why}. Mend the task's train "
            "(docs/privacy.md), or take part without --epsilon-budget"
        )

    def forecast(self, run: PrivateRun | None, *, rounds: int) -> Forecast | None:
        """By a training that was tried. None: nothing is guaranteed, neither by it nor by the job's noise.

        Raises as `check`, and `PrivacySpent` where the budget leaves no round.
        """
        self.check(run)
        ways = self._ways(run)
        if not ways or rounds < 1:
            return None
        spent = self.ledger.read()
        epsilon, costs = min(((Accountant(costs).epsilon(self.delta), costs) for costs in ways), key=itemgetter(0))
        lasts = None
        if self.budget is not None:
            lasts = _most(rounds, partial(_fits, spent, costs, self.budget))
            if not lasts:
                raise PrivacySpent(f"{spent.told(self.budget)}: one round would pass it, ε = {epsilon:.3g} by itself")
        return Forecast(
            epsilon=epsilon,
            by_steps=isinstance(costs[0], Steps),
            spent=spent.epsilon(self.delta),
            updates=len(spent.lines),
            rounds=rounds,
            after=spent.accountant.plus(_times(costs, rounds)).epsilon(self.delta) if spent.is_bounded else inf,
            delta=self.delta,
            lasts=lasts,
            budget=self.epsilon,
        )

    def _ways(self, run: PrivateRun | None) -> list[tuple[Cost, ...]]:
        """In which an update is kept private, each enough."""
        steps = [run.steps] if run is not None and run.past is None else []
        return [*steps, *([(self.release,)] if self.release is not None else [])]

    def charge(self, run: PrivateRun | None, *, commitment: bytes, round: int, by_steps: bool = True) -> Spent:
        """Before the update is kept. One that is kept private in two ways costs what is less.

        `by_steps`: all that it carries of earlier trainings was charged by their steps. What an update that was charged
        by its noise left out has none: it may travel behind noise only, which is charged again.

        Raises `PrivacySpent` as `SpendingLedger.charge`.
        """
        steps = run.steps if by_steps and run is not None and run.past is None else None
        unbounded = Spending(
            commitment=commitment.hex(),
            job=self.job,
            round=round,
            account=self.account,
            data=self.data.name,
            delta=self.delta,
            steps=None,
        )
        ways = [replace(unbounded, steps=steps)] if steps is not None or self.release is None else []
        if self.release is not None:
            ways.append(replace(unbounded, release=self.release))
        spent = self.ledger.read()
        cheapest = min(ways, key=lambda way: spent.plus(way).epsilon(self.delta)) if len(ways) > 1 else ways[0]
        return self.ledger.charge(cheapest, budget=self.budget, once=self.shared)


def purse_in(
    spec: JobSpec,
    *,
    reader: Reader,
    job: JobId,
    account: Address,
    folder: Path,
    data: Path,
    epsilon: float | None,
    delta: float | None,
) -> Purse:
    """In a job, which the ledger of ε knows with its chain and contract. Without `delta` ε is told by the job's, or by
    `USUAL_DELTA`, and a budget by no larger one: it is its operator's, and no job makes it worth less.
    """
    asked, noise = spec.differential_privacy or spec.participant_privacy, spec.participant_privacy
    most = 1.0 if epsilon is None else USUAL_DELTA
    return Purse(
        folder=folder,
        data=data,
        job=f"{reader.chain_id}-{reader.address}-{job}",
        account=account,
        epsilon=epsilon,
        delta=delta or (USUAL_DELTA if asked is None else min(asked.delta, most)),
        release=spec.release,
        by_steps=spec.differential_privacy is not None,
        shared=noise is not None and noise.mechanism == "distributed",
    )


def _has(ledger: SpendingLedger, job: str, account: str) -> bool:
    with suppress(StateError):
        return any((each.job, each.account) == (job, account) for each in ledger.read().lines)
    return False


def _times(costs: tuple[Cost, ...], rounds: int) -> tuple[Cost, ...]:
    return tuple(
        each
        for cost in costs
        for each in ([replace(cost, count=cost.count * rounds)] if isinstance(cost, Steps) else [cost] * rounds)
    )


def _fits(spent: Spent, costs: tuple[Cost, ...], budget: Budget, rounds: int) -> bool:
    return spent.is_bounded and spent.accountant.plus(_times(costs, rounds)).fits(budget.epsilon, budget.delta)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The greatest number up to `limit` that fits, where fewer always do."""
    return bisect_left(range(1, limit + 1), True, key=lambda number: not fits(number))
