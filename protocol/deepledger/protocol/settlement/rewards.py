"""Who gets what share of a round's pot, in integers that the contract computes alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from deepledger.protocol.formats.metrics import Metric
from deepledger.protocol.formats.policies import ContributionRewards, EqualRewards, Rewards
from deepledger.protocol.job.state import SettledRound
from deepledger.protocol.settlement.valuation import Worths
from deepledger.protocol.types import Address, Wei

WHOLE = 1_000_000
"""What scores by contribution add up to, less rounding down."""


_LEAST = Fraction(1, 5000)
"""Of max(1, value): what updates must be worth on average, so that results which differ by the rounding of honest
machines (`evaluation.bench.ROUNDING`) move no more than a twenty-fifth of a pot.
"""


def resolution(metric: Metric, value: Fraction, *, samples: int) -> Fraction:
    """What an update must be worth on average for evaluations to tell it, where the model has this value; in units of
    the metric's scale. A sample, where samples decide.
    """
    floats = _LEAST * max(Fraction(1), abs(value)) if metric.tolerance else Fraction(0)
    return floats + (Fraction(1, max(samples, 1)) if metric.ties else Fraction(0))


def scores(
    rewards: Rewards, weights: Mapping[int, int], worths: Worths | None, *, least: Fraction = Fraction(0)
) -> dict[int, int]:
    """By seat, of accepted updates with these weights (samples) and worths; each fits uint32.

    With contributions, in parts per million: the floor alike, the rest in proportion to what is positive of the worths.
    A seat without a worth has none. Where those that did no harm are worth less than `least` on average, nobody can say
    who did what, and they share by the rule that the job states for that. If all did harm there is only the floor, and
    the contract, which divides the pot in proportion, pays all of it alike or, without a floor, keeps it in escrow.
    """
    if isinstance(rewards, EqualRewards):
        return dict.fromkeys(weights, 1)
    if not isinstance(rewards, ContributionRewards):
        return dict(weights)
    gains = {seat: max((worths or {}).get(seat, Fraction(0)), Fraction(0)) for seat in weights}
    harmless = [seat for seat, worth in (worths or {}).items() if worth >= -least and seat in weights]
    if sum(gains.values()) < least * len(harmless):
        alike = rewards.unresolved == "equal"
        gains = {seat: Fraction((1 if alike else weights[seat]) if seat in harmless else 0) for seat in weights}
    total = sum(gains.values(), Fraction(0))
    floor = Fraction(rewards.floor_percent, 100)
    return {
        seat: int(WHOLE * (floor / len(weights) + (1 - floor) * (gain / total if total else 0)))
        for seat, gain in gains.items()
    }


def shares(pot: Wei, scores: Sequence[int]) -> list[Wei]:
    """floor(pot · score / sum of scores) each, as `settle` of TrainingLedger; nothing if all scores are 0."""
    total = sum(scores)
    return [Wei(pot * score // total) if total else Wei(0) for score in scores]


def by_seat(accepted: int, scores: Sequence[int]) -> dict[int, int]:
    """The scores of a settlement by the seats that they are for: `accepted` has a bit for each."""
    return dict(zip(seats_of(accepted), scores, strict=True))


def seats_of(mask: int) -> list[int]:
    return [seat for seat in range(mask.bit_length()) if mask >> seat & 1]


@dataclass(frozen=True, slots=True)
class Pay:
    """What an accepted update earned in its round."""

    score: int
    amount: Wei


def pay(over: SettledRound) -> dict[Address, Pay]:
    """Of who was accepted in a settled round, by seat."""
    seated = {participant.seat: address for address, participant in over.participants.items()}
    scored = by_seat(over.settled.accepted, over.settled.scores)
    amounts = shares(over.settled.pot, over.settled.scores)
    return {seated[seat]: Pay(score, amount) for (seat, score), amount in zip(scored.items(), amounts, strict=True)}
