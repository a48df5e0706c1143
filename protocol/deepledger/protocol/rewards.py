"""Who gets what share of a round's pot, in integers that the contract computes alike."""

from __future__ import annotations

from collections.abc import Sequence

from deepledger.protocol.spec import Rewards
from deepledger.protocol.types import Wei


def score(rewards: Rewards, *, weight: int) -> int:
    """The score of an accepted update whose participant's weight is `weight` samples: fits uint32."""
    match rewards.policy:
        case "equal":
            return 1
        case "samples":
            return weight


def shares(pot: Wei, scores: Sequence[int]) -> list[Wei]:
    """floor(pot · score / sum of scores) each, as `settle` of TrainingLedger; nothing if all scores are 0."""
    total = sum(scores)
    return [Wei(pot * score // total) if total else Wei(0) for score in scores]
