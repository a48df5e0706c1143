"""Judging a masked round: who was counted, who released what it had to, and the sums that everybody learns.

The sum of a group takes the place of its updates: one row of a stack, their weighted mean in the model's unit, so that
aggregation, pay and evaluation are those of every other round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.bfv.program import BeyondRange
from deepledger.protocol.blobs.spool import keep
from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.formats.report import Unclipped
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import sum_of_squares
from deepledger.protocol.formats.verdicts import Verdict
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.hidden_updates import read_sum, rebuild
from deepledger.protocol.privacy.unmasking import NOTHING, NotUnmaskable, Rebuilt
from deepledger.protocol.settlement.aggregation.stack import Row, Vector
from deepledger.protocol.settlement.aggregation.step import Int64s, div_half_even
from deepledger.protocol.settlement.inputs import MaskedUpdate, Revealed
from deepledger.protocol.settlement.judging import Judged
from deepledger.protocol.settlement.sources import MaskedSources

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class MeanOfSum:
    """A weighted sum, divided by its weight, in the model's unit; rounded half to even."""

    total: Vector  # shape (d,)
    weight: int
    shift: int

    def __getitem__(self, part: slice) -> Int64s:
        return div_half_even(self.total[part].astype(np.int64) << self.shift, self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Unmasked:
    """A round whose masks or keys are rebuilt, as far as they can be: what sums are read from."""

    spec: JobSpec
    cohort: Cohort
    rebuilt: Rebuilt
    masked: Mapping[int, MaskedUpdate]  # by seat
    bits: dict[int, Unclipped]  # what stood next to the updates of a group goes there

    def weight(self, group: Sequence[int]) -> int:
        """Of those of a group that were counted."""
        return sum(self.cohort.member(seat).weight for seat in self.rebuilt.counted.intersection(group))

    def row(self, group: Sequence[int], vector: Vector) -> Row:
        return Row(group[0], self.cohort.member(group[0]).participant, self.weight(group), vector)


ReadSum = Callable[[Unmasked, Sequence[int]], Row | Verdict]
"""The mean of those of a group that were counted, or why there is none. Raises `StateError` without room."""


def sum_all(
    spec: JobSpec, revealed: Revealed, sources: MaskedSources, *, read: ReadSum | None = None
) -> tuple[list[Judged], list[Row], Unclipped | None]:
    """Every counted contribution with its verdict, and one row for each group: the mean of those that were counted;
    with an adaptive clip also how many, by their word and with noise, were within it.

    There is no row of a group that is `TOO_FEW`, of whose sum the masks cannot be taken off (everybody without fault is
    `SKIPPED`), or whose sum is longer than so many updates can be (`NORM_EXCEEDED`). Where no more than half of the
    groups are left, all of them are `SKIPPED`: a rule over the rest would withstand less than it promises.

    `read`: how else sums are read than from the vectors.
    """
    cohort, read = revealed.cohort, read or read_mean
    assert cohort is not None  # noqa: S101 (the caller looked)
    masked: dict[int, MaskedUpdate] = {}
    verdicts: dict[int, Verdict] = {}
    releases: dict[int, Buffer] = {}
    for each in revealed.contributions:
        found = sources.masked(each, cohort) if each.seat in cohort.by_seat else Verdict.SKIPPED
        if isinstance(found, Verdict):
            verdicts[each.seat] = found
            continue
        masked[each.seat] = found
        release = None if each.released is None else sources.release(each, cohort)
        if release is not None and release != NOTHING:
            releases[each.seat] = release
        else:
            verdicts[each.seat] = Verdict.SILENT  # also where nobody can have what it says that it released
    counted = [each.seat for each in revealed.contributions]
    rebuilt = _rebuilt(cohort, counted, masked, releases)
    usual = dict.fromkeys(counted, Verdict.SKIPPED)
    rows: list[Row] = []
    bits: dict[int, Unclipped] = {}
    if rebuilt is not None:
        verdicts |= dict.fromkeys(rebuilt.bad_shares, Verdict.BAD_SHARES)
        # Who is silent stays so, whatever else it did: from which releases all follows must be told.
        verdicts |= dict.fromkeys(rebuilt.badly_shared.keys() & releases.keys(), Verdict.BADLY_SHARED)
        unmasked = Unmasked(spec, cohort, rebuilt, masked, bits)
        found_in = {group[0]: read(unmasked, group) for group in cohort.groups}
        rows = [row for row in found_in.values() if isinstance(row, Row)]
        if 2 * len(rows) <= len(cohort.groups):
            rows = []
        for seat in counted:
            row = found_in[cohort.group_of(seat)]
            if not isinstance(row, Row):
                usual[seat] = row
            elif rows:
                usual[seat] = Verdict.ACCEPTED
    judged = [
        Judged(each, verdicts.get(each.seat, usual[each.seat]), 0, group=_group(cohort, each.seat))
        for each in revealed.contributions
    ]
    told = [bits[row.seat] for row in rows if row.seat in bits]
    within = Unclipped(total=sum(each.total for each in told), counted=sum(each.counted for each in told))
    return judged, rows, within if told else None


def _rebuilt(
    cohort: Cohort, counted: Sequence[int], masked: Mapping[int, MaskedUpdate], releases: Mapping[int, Buffer]
) -> Rebuilt | None:
    """What releases tell; None where the count itself was wrong."""
    if len(masked) < len(counted):
        return None
    try:
        return rebuild(cohort, counted, {seat: each.letters for seat, each in masked.items()}, releases)
    except BadInput:  # of those who are counted, nothing is to be unmasked
        return None


def read_mean(unmasked: Unmasked, group: Sequence[int]) -> Row | Verdict:
    """As `ReadSum`; the sum lies in a file, so that memory does not grow with the number of groups."""
    spec, counted = unmasked.spec, unmasked.rebuilt.counted.intersection(group)
    if not counted:
        return Verdict.TOO_FEW
    vectors = {seat: unmasked.masked[seat].vector for seat in counted}
    coordinates = spec.masked_coordinates
    try:
        whole = read_sum(unmasked.cohort, unmasked.rebuilt, vectors, coordinates=coordinates, group=group[0])
    except (NotUnmaskable, BadVector):
        return Verdict.SKIPPED
    except BeyondRange:
        return Verdict.NORM_EXCEEDED
    total, next_to = whole[: spec.model.coordinates], whole[spec.model.coordinates :]
    weight = unmasked.weight(group)
    if not _fits(total, spec, weight):
        return Verdict.NORM_EXCEEDED
    if len(next_to):
        unmasked.bits[group[0]] = Unclipped(total=int(next_to[0]), counted=len(counted))
    shift = spec.model.fraction_bits - spec.update.fraction_bits
    return unmasked.row(group, MeanOfSum(keep(total.data, total.dtype), weight, shift))


def _fits(total: Int32s, spec: JobSpec, weight: int) -> bool:
    """Whether updates within the norm bound can add up to this, in what is trained and in statistics."""
    limit, trained = weight * weight * spec.update.square_limit, spec.model.trained
    return all(sum_of_squares(part) <= limit for part in (total[:trained], total[trained:]))


def _group(cohort: Cohort, seat: int) -> int | None:
    return cohort.group_of(seat) if seat in cohort.by_seat else None
