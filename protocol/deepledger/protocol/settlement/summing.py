"""Judging a masked round: who was counted, who released what it had to, and the one sum that everybody learns.

The sum takes the place of the updates: one row of a stack, the weighted mean in the model's unit, so that aggregation,
pay and evaluation are those of every other round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import sum_of_squares
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.unmasking import NOTHING, Rebuilt, rebuild, unmask_sum
from deepledger.protocol.settlement.aggregation.stack import Row
from deepledger.protocol.settlement.aggregation.step import Int64s, div_half_even
from deepledger.protocol.settlement.inputs import MaskedUpdate, Revealed
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.settlement.sources import MaskedSources


def sum_all(spec: JobSpec, revealed: Revealed, sources: MaskedSources) -> tuple[list[Judged], list[Row]]:
    """Every counted contribution with its verdict, and one row: the mean of all that were counted. No row, and
    everybody without fault `SKIPPED`, where the masks cannot be taken off; `NORM_EXCEEDED`, where the sum is longer
    than so many updates can be.
    """
    cohort = revealed.cohort
    assert cohort is not None  # noqa: S101 (the caller looked)
    masked: dict[int, MaskedUpdate] = {}
    verdicts: dict[int, Verdict] = {}
    releases: dict[int, Buffer] = {}
    for each in revealed.contributions:
        found = sources.masked(each, cohort)
        if isinstance(found, Verdict):
            verdicts[each.seat] = found
        else:
            masked[each.seat] = found
        release = None if each.released is None else sources.release(each, cohort)
        if release is not None and release != NOTHING:
            releases[each.seat] = release
        elif each.seat in masked:
            verdicts[each.seat] = Verdict.SILENT  # also where nobody can have what it says that it released
    total, rebuilt = _total(spec, revealed, cohort, masked, releases)
    if rebuilt is not None:
        verdicts |= dict.fromkeys(rebuilt.bad_shares, Verdict.BAD_SHARES)
        verdicts |= dict.fromkeys(rebuilt.badly_shared, Verdict.BADLY_SHARED)
    rows: list[Row] = []
    usual = Verdict.SKIPPED
    if total is not None:
        weight = sum(cohort.member(each.seat).weight for each in revealed.contributions)
        if _fits(total, spec, weight):
            first = revealed.contributions[0]
            rows.append(Row(first.seat, first.participant, weight, _mean(total, spec, weight)))
            usual = Verdict.ACCEPTED
        else:
            usual = Verdict.NORM_EXCEEDED
    return [Judged(each, verdicts.get(each.seat, usual), 0) for each in revealed.contributions], rows


def _total(
    spec: JobSpec,
    revealed: Revealed,
    cohort: Cohort,
    masked: Mapping[int, MaskedUpdate],
    releases: Mapping[int, Buffer],
) -> tuple[Int64s | None, Rebuilt | None]:
    """The sum of all counted updates, and what else releases tell; neither where the count itself was wrong."""
    counted = [each.seat for each in revealed.contributions]
    if len(masked) < len(counted):
        return None, None
    letters = {seat: each.letters for seat, each in masked.items()}
    try:
        rebuilt = rebuild(cohort, counted, letters, releases)
    except BadInput:  # the count names whom the cohort does not have
        return None, None
    if not rebuilt.complete:
        return None, rebuilt
    vectors = {seat: each.vector for seat, each in masked.items()}
    try:
        return unmask_sum(cohort, rebuilt, vectors, coordinates=spec.model.coordinates), rebuilt
    except BadVector:
        return None, rebuilt


def _fits(total: Int64s, spec: JobSpec, weight: int) -> bool:
    """Whether updates within the norm bound can add up to this, in what is trained and in statistics."""
    limit, trained = weight * weight * spec.update.square_limit, spec.model.trained
    return all(_squares(part) <= limit for part in (total[:trained], total[trained:]))


def _squares(part: Int64s) -> int:
    """A masked sum fits 32 bits."""
    return sum_of_squares(part.astype(np.int32))


def _mean(total: Int64s, spec: JobSpec, weight: int) -> Int64s:
    return div_half_even(total << (spec.model.fraction_bits - spec.update.fraction_bits), weight)
