"""What a round would have paid by the results that were got here.

Within a job's tolerances a coordinator may claim others. Nobody can prove it wrong, but what that moves can be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from typing_extensions import Buffer

from deepledger.auditor.findings import Remeasured
from deepledger.auditor.sources import Claims
from deepledger.protocol.errors import StateError
from deepledger.protocol.formats.evaluation import Coalition, Evaluation
from deepledger.protocol.formats.metrics import relative
from deepledger.protocol.formats.policies import ContributionRewards
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, ModelVector
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.settlement.aggregation.stack import Vector
from deepledger.protocol.settlement.coalitions import Coalitions
from deepledger.protocol.settlement.inputs import Contribution, Earlier, MaskedUpdate, Revealed
from deepledger.protocol.settlement.rewards import by_seat, shares
from deepledger.protocol.settlement.settle import settle
from deepledger.protocol.types import Address, Digest, Wei


@dataclass(frozen=True, slots=True)
class _Again:
    """`settlement.Sources` of a round that was derived with `claims`, with what was got here for what was claimed."""

    claims: Claims

    def update(self, contribution: Contribution) -> Vector | Verdict:
        return self.claims.updates[contribution]

    def masked(self, contribution: Contribution, cohort: Cohort) -> MaskedUpdate | Verdict:  # noqa: ARG002 (known)
        return self.claims.masks[contribution]

    def release(self, contribution: Contribution, cohort: Cohort) -> Buffer | None:  # noqa: ARG002 (known)
        return self.claims.releases[contribution]

    def earlier_update(self, earlier: Earlier) -> Vector | None:
        return self.claims.earlier[earlier]

    def earlier_model(self, digest: Digest) -> ModelVector:
        return self.claims.earlier_model(digest)

    def outcome(self, _coalitions: Coalitions, accepted: Coalition, _after: ModelVector) -> Evaluation | None:
        """As it was got here, where it was asked for: since it was said to have diverged, or pay follows from it."""
        return self.claims.results.get(accepted)

    def evaluate(self, coalitions: Coalitions, wanted: Sequence[Coalition]) -> Sequence[Evaluation]:
        """Raises `StateError` where the task fails here only: that says nothing of the model."""
        derived = self.claims.derived(coalitions, wanted)
        if any(each not in derived for each in wanted):
            raise StateError("not every model can be evaluated here")
        return [derived[each] for each in wanted]


def remeasure(
    spec: JobSpec, before: Blocks, revealed: Revealed, claims: Claims, over: SettledRound
) -> Remeasured | None:
    """None where nothing was evaluated. `claims` has the results of all coalitions that were asked for.

    Raises `StateError` where others are asked for now, and cannot be evaluated here.
    """
    if not claims.results:
        return None
    paying = spec.rewards.metric if isinstance(spec.rewards, ContributionRewards) else "loss"
    names = {"loss", paying}
    differences = claims.differences()
    largest = {name: max((relative(*_both(name, pair)) for pair in differences), default=0.0) for name in names}
    excess: dict[Address, int] = {}
    if differences:
        sources = _Again(claims)
        again = settle(spec, np.empty(len(before), "<i4"), revealed, sources, outcome=sources.outcome, before=before)
        paid = _shares(over.settled.pot, over.settled.accepted, over.settled.scores)
        due = _shares(over.settled.pot, again.accepted, again.scores)
        excess = {
            seat.address: more
            for seat in over.participants.values()
            if (more := paid.get(seat.seat, 0) - due.get(seat.seat, 0))
        }
    return Remeasured(
        differences=largest,
        pot=over.settled.pot,
        excess=excess,
    )


def _both(name: str, pair: tuple[Evaluation, Evaluation]) -> tuple[Fraction, Fraction]:
    claimed, got = pair
    return claimed.exact(name), got.exact(name)


def _shares(pot: Wei, accepted: int, scores: Sequence[int]) -> Mapping[int, int]:
    """By seat, in wei."""
    return by_seat(accepted, shares(pot, scores))
