"""The models of some of a round's updates, which evaluations are made of."""

from __future__ import annotations

from dataclasses import dataclass

from deepledger.protocol.formats.evaluation import Coalition
from deepledger.protocol.formats.policies import ContributionRewards
from deepledger.protocol.formats.rules import WeightedMean
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import Blocks, ModelVector, load
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Stack
from deepledger.protocol.settlement.valuation import MOST_EXACT


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Coalitions:
    """What the model of any coalition of a round is made from: one for each settlement."""

    spec: JobSpec
    before: Blocks  # int32, shape (d,)
    stack: Stack
    context: Context

    def model_of(self, coalition: Coalition) -> ModelVector:
        """Shape (d,). That of nobody is the model before."""
        model = load(self.before)
        rule = WeightedMean() if coalition.plain else self.spec.aggregation
        stack = self.stack.of_seats(coalition.seats)
        advance(model, stack.unweighted() if coalition.plain else stack, rule, self.context)
        return model


def most_rows(spec: JobSpec, participants: int) -> int:
    """How many updates a round of so many may have that can be told apart: masks show sums of groups only."""
    return participants if spec.masks is None else min(participants, spec.masks.groups)


def most_left_out(spec: JobSpec, participants: int) -> int:
    """How many evaluations more a round may take whose model diverges: of nobody, all but each, and who is accepted."""
    return most_rows(spec, participants) + 2


def most_coalitions(spec: JobSpec, participants: int) -> int:
    """How many evaluations settling a round may take, besides that of the model after, unless that one diverges."""
    screening, rewards, participants = spec.screening, spec.rewards, most_rows(spec, participants)
    flips = screening is not None and (screening.opposed_percent or screening.harm_percent)
    looked_at = (participants + 1) * (participants + 1) // 2 if flips else 0
    if not isinstance(rewards, ContributionRewards):
        return looked_at
    exact = 1 << participants if participants <= MOST_EXACT else rewards.most_evaluations
    return looked_at + (participants + 1 if rewards.measure == "leave_one_out" else exact)
