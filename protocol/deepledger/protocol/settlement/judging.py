"""The verdict on every update: by the record, by the bytes, and by what screening finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from typing_extensions import Buffer

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.roots import chunk_root
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.updates import Update, fits_norm, moves, parse_update
from deepledger.protocol.formats.verdicts import UNMEASURED, Signs, Verdict
from deepledger.protocol.job.reputation import FULL
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.privacy.opening import Open, as_it_is
from deepledger.protocol.privacy.sealed_updates import BadlySealed
from deepledger.protocol.settlement.aggregation.stack import Row, Stack, Vector
from deepledger.protocol.settlement.copies import Copies, Known
from deepledger.protocol.settlement.inputs import Contribution, Revealed
from deepledger.protocol.settlement.screening import Losses, Remembered, Screened, overstated, screen
from deepledger.protocol.settlement.similarity import ONE
from deepledger.protocol.settlement.sources import Sources
from deepledger.protocol.types import Address, Digest


@dataclass(frozen=True, slots=True)
class Judged:
    contribution: Contribution
    verdict: Verdict
    score: int  # 0 unless accepted
    signs: Signs = UNMEASURED
    overstated: bool = False  # declared many samples and trained like one that has few; of no consequence
    group: int | None = None  # the lowest seat of that in whose sum it is, in a masked round

    @property
    def row(self) -> int:
        """The seat that what it is part of has in the stack: its own, or its group's."""
        return self.contribution.seat if self.group is None else self.group


def inspect(blob: Buffer, contribution: Contribution, spec: JobSpec, *, open: Open = as_it_is) -> Update | Verdict:
    """Judge a revealed blob, which has the right digest and length. Returns the update, a view of it where it is open,
    if it passes.
    """
    if chunk_root(blob, bits=spec.update.bits) != contribution.root:
        return Verdict.WRONG_ROOT
    try:
        update = parse_update(open(blob, contribution.participant), spec)
    except BadlySealed:
        return Verdict.BADLY_SEALED
    except BadVector:
        return Verdict.MALFORMED
    if not fits_norm(update, spec):
        return Verdict.NORM_EXCEEDED
    return update if moves(update, spec) else Verdict.UNCHANGED


def inspect_all(spec: JobSpec, revealed: Revealed, sources: Sources) -> tuple[list[Judged], list[Row]]:
    """Every contribution with what its record and its bytes say about it, and the updates that pass."""
    judged, rows = [], []
    least = spec.screening.remove_percent * FULL // 100 if spec.screening else 0
    for contribution in revealed.contributions:
        update: Vector | Verdict
        if contribution.copy_of is not None:
            update = Verdict.COPY
        elif contribution.reputation < least:
            update = Verdict.REMOVED
        else:
            update = sources.update(contribution)
        if isinstance(update, Verdict):
            judged.append(Judged(contribution, update, 0))
        else:
            judged.append(Judged(contribution, Verdict.ACCEPTED, 0))
            rows.append(Row(contribution.seat, contribution.participant, contribution.weight, update))
    return judged, rows


def without_copies(spec: JobSpec, judged: Sequence[Judged], rows: Sequence[Row]) -> tuple[list[Judged], list[Row]]:
    """For sealed updates, which may be the same where their blobs are not: who committed first keeps it."""
    committed, length = {each.contribution.seat: each.contribution.committed for each in judged}, spec.model.coordinates
    kept: list[Row] = []
    copies: dict[int, Address] = {}
    for row in sorted(rows, key=lambda row: committed[row.seat]):
        author = next((other.participant for other in kept if _are_equal(row.vector, other.vector, length)), None)
        if author is None:
            kept.append(row)
        else:
            copies[row.seat] = author
    return [_as_copy(each, copies.get(each.contribution.seat)) for each in judged], [
        row for row in rows if row.seat not in copies
    ]


def _are_equal(one: Vector, other: Vector, length: int) -> bool:
    """Most differ in the first block."""
    parts = (slice(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK))
    return all(np.array_equal(one[part], other[part]) for part in parts)


def _as_copy(judged: Judged, author: Address | None) -> Judged:
    if author is None:
        return judged
    return replace(judged, contribution=replace(judged.contribution, copy_of=author), verdict=Verdict.COPY)


def recall(revealed: Revealed, sources: Sources) -> tuple[list[Known], list[Digest]]:
    """Earlier updates, and which of them nobody serves any more."""
    known, forgotten = [], []
    for earlier in revealed.earlier:
        update = sources.earlier_update(earlier)
        if update is None:
            forgotten.append(earlier.digest)
        else:
            known.append(Known(earlier.participant, update))
    return known, forgotten


def judge_by_signs(
    spec: JobSpec,
    stack: Stack,
    known: Sequence[Known],
    judged: Sequence[Judged],
    losses: Losses,
    *,
    told: Mapping[int, Judged] | None = None,
) -> tuple[Stack, list[Judged]]:
    """The updates in which no sign was found, and the verdicts with what was measured.

    `told`, by seat, is what somebody says who knew more earlier updates: what hangs on these is taken from it.

    Signs are looked for in what is trained: noise in statistics, which are on another scale, would hide a copy.
    """
    assert spec.screening is not None  # noqa: S101 (the caller looked)
    metrics = spec.validation.metrics
    committed = {each.contribution.seat: each.contribution.committed for each in judged}
    places = {row.seat: index for index, row in enumerate(stack.rows)}
    screened = screen(
        stack.section(0, spec.model.trained),
        known,
        spec.screening,
        order=sorted(range(len(stack)), key=lambda index: committed[stack.rows[index].seat]),
        layout=spec.model.layout if "accuracy" in metrics else (),  # no labels, none flipped
        losses=losses,
        margin=lambda loss: int(2 * Fraction(metrics["loss"].tolerance) * max(ONE, abs(loss))),
        remembered=None if told is None else _remembered({places[seat]: told[seat] for seat in places if seat in told}),
    )
    weights = [row.weight for row in stack.rows]
    return stack.only(index for index in range(len(stack)) if index not in screened.found), [
        _with_signs(each, screened, places.get(each.contribution.seat), weights) for each in judged
    ]


def _remembered(told: Mapping[int, Judged]) -> Remembered:
    copies = Copies()
    for index, each in told.items():
        if each.signs.likeness is not None and each.signs.like is not None:
            copies.likeness[index] = each.signs.likeness, each.signs.like
        if each.verdict in (Verdict.NEAR_COPY, Verdict.COLLUDING):
            copies.hidden[index] = each.verdict is Verdict.COLLUDING
    return Remembered(copies, {index for index, each in told.items() if each.verdict is Verdict.SCALED})


def _with_signs(judged: Judged, screened: Screened, index: int | None, weights: Sequence[int]) -> Judged:
    if index is None:
        return judged
    signs = screened.signs(index)
    verdict = Verdict(screened.found[index]) if index in screened.found else judged.verdict
    return replace(judged, verdict=verdict, signs=signs, overstated=overstated(signs, weights[index], weights))
