"""Aggregation rules as their papers write them: loops over Python's integers and fractions, nothing clever.

Rows are lists of integers in the model's unit. Factors that are roots are rounded down to multiples of 1 / FIXED_ONE,
as the specification of the integer rules says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from deepledger.protocol.formats.rules import FIXED_ONE, AggregationRule
from deepledger.protocol.settlement.aggregation.context import Context

Numbers = Sequence[int]


@dataclass(frozen=True)
class Update:
    participant: str
    weight: int
    values: Numbers


def mean_after(updates: Sequence[Update], rule: AggregationRule, context: Context) -> list[Fraction]:
    """What a rule adds to each coordinate, before rounding."""
    if rule.rule != "weighted_mean":
        updates = [Update(each.participant, 1, each.values) for each in updates]
    if rule.bucket_size > 1:
        updates = buckets(updates, rule.bucket_size, context)
    return globals()[rule.rule](updates, rule, context)


def buckets(updates: Sequence[Update], size: int, context: Context) -> list[Update]:
    drawn = sorted(updates, key=lambda update: context.lot("bucket", update.participant))
    made = []
    for first in range(0, len(drawn), size):
        part = drawn[first : first + size]
        mean = [round(value) for value in weighted_mean(part)]
        made.append(Update(part[0].participant, sum(update.weight for update in part), mean))
    return made


def weighted_mean(updates: Sequence[Update], *_: object) -> list[Fraction]:
    total = sum(update.weight for update in updates)
    return [
        Fraction(sum(update.weight * value for update, value in zip(updates, column, strict=True)), total)
        for column in columns(updates)
    ]


def median(updates: Sequence[Update], *_: object) -> list[Fraction]:
    found = []
    for column in columns(updates):
        ordered, half = sorted(column), len(column) // 2
        found.append(Fraction(ordered[half] + ordered[-half - 1], 2))
    return found


def trimmed_mean(updates: Sequence[Update], rule: AggregationRule, _: Context) -> list[Fraction]:
    drop = len(updates) * rule.trim_percent // 100
    kept = [sorted(column)[drop : len(column) - drop] for column in columns(updates)]
    return [Fraction(sum(values), len(values)) for values in kept]


def multi_krum(updates: Sequence[Update], rule: AggregationRule, context: Context) -> list[Fraction]:
    byzantine = len(updates) * rule.byzantine_percent // 100

    def score(update: Update) -> int:
        distances = sorted(square(minus(update.values, other.values)) for other in updates if other is not update)
        return sum(distances[: max(len(updates) - byzantine - 2, 1)])

    best = sorted(updates, key=lambda update: (score(update), context.lot("krum", update.participant)))
    return weighted_mean(best[: len(updates) - byzantine])


def centered_clipping(updates: Sequence[Update], rule: AggregationRule, context: Context) -> list[Fraction]:
    centre = [0] * len(updates[0].values) if context.drift is None else context.drift.tolist()
    radius = Fraction(rule.radius) * 2**context.model.fraction_bits
    pulled = []
    for update in updates:
        away = minus(update.values, centre)
        far = square(away) > int(radius**2)
        factor = root_down(Fraction(int(radius**2), square(away))) if far else Fraction(1)
        pulled.append([factor * value for value in away])
    return [value + sum(column) / len(updates) for value, column in zip(centre, zip(*pulled, strict=True), strict=True)]


def fltrust(updates: Sequence[Update], rule: AggregationRule, context: Context) -> list[Fraction]:
    if context.trusted is None:
        return median(updates)
    trusted = context.trusted[0 : len(updates[0].values)].tolist()
    trust = {}
    for index, update in enumerate(updates):
        along = sum(a * b for a, b in zip(update.values, trusted, strict=True))
        trust[index] = (
            root_down(Fraction(along**2, square(update.values) * square(trusted))) if along > 0 else Fraction(0)
        )
    result = [Fraction(0)] * len(trusted)
    for index, update in enumerate(updates):
        if trust[index]:
            scale = root_down(Fraction(square(trusted), square(update.values)))
            factor = down(trust[index] * scale / sum(trust.values()))
            result = [total + factor * value for total, value in zip(result, update.values, strict=True)]
    return result


def dnc_by_svd(updates: Sequence[Update], byzantine: int) -> list[Update]:
    """Who is left of one iteration over all coordinates."""
    matrix = np.array([update.values for update in updates], np.float64)
    matrix -= matrix.mean(axis=0)
    _, _, right = np.linalg.svd(matrix)
    scores = (matrix @ right[0]) ** 2
    return [updates[index] for index in sorted(np.argsort(scores)[: len(updates) - byzantine])]


def columns(updates: Sequence[Update]) -> list[tuple[int, ...]]:
    return list(zip(*(update.values for update in updates), strict=True))


def minus(one: Numbers, other: Numbers) -> list[int]:
    return [a - b for a, b in zip(one, other, strict=True)]


def square(values: Numbers) -> int:
    return sum(value * value for value in values)


def down(value: Fraction) -> Fraction:
    return Fraction(value * FIXED_ONE // 1, FIXED_ONE)


def root_down(value: Fraction) -> Fraction:
    """The largest multiple of 1 / FIXED_ONE whose square is at most `value`, by halving."""
    least, most = 0, FIXED_ONE
    while Fraction(most, FIXED_ONE) ** 2 <= value:
        most *= 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if Fraction(middle, FIXED_ONE) ** 2 <= value else (least, middle)
    return Fraction(least, FIXED_ONE)
