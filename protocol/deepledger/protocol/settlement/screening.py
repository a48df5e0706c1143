"""Telling useful work from copies, noise and attacks: an exact function of a round's updates and some evaluations.

Every sign is measured against the other updates of the round, so that a job needs no idea of what is normal. A sign
that is found costs the pay of this round and nothing more: the chain could not prove it. What gets through is written
in docs/contributions.md; backdoors do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import isqrt

from deepledger.protocol.formats.model import LayoutEntry
from deepledger.protocol.formats.policies import Screening
from deepledger.protocol.formats.verdicts import Sign, Signs
from deepledger.protocol.settlement.aggregation.stack import Row, Stack, gram
from deepledger.protocol.settlement.copies import Copies, Known, find_copies
from deepledger.protocol.settlement.similarity import ONE, Cosines, cosines, cosines_with, profiles, upper_median
from deepledger.protocol.types import Address

HUNDREDTH = ONE // 100
_IDLE = HUNDREDTH  # of the median norm: less is the model sent back
_AGAINST = 20 * HUNDREDTH  # cosine with the others, below the negative of which an output is pushed against them
_MOST_OUTPUTS = 1000
_LEAST_COMPANY = 3  # updates, below which nothing can be called unusual
_LEAST_HARM = 2000  # millionths of max(1, |loss|): less is what honest updates near the end of training do, too
_FAR = 10**15  # beyond this a length is not measured

Losses = Callable[[Sequence[int]], Sequence[int]]
"""In millionths: the losses of the models that the plain means of some coalitions (bit masks of seats) make."""


@dataclass(slots=True)
class Screened:
    """By index of the row."""

    norms: dict[int, int] = field(default_factory=dict)
    likeness: dict[int, tuple[int, Address]] = field(default_factory=dict)
    profiles: dict[int, int] = field(default_factory=dict)
    alignments: dict[int, int] = field(default_factory=dict)
    harms: dict[int, int] = field(default_factory=dict)
    found: dict[int, Sign] = field(default_factory=dict)

    def signs(self, index: int) -> Signs:
        likeness, like = self.likeness.get(index, (None, None))
        return Signs(
            norm=self.norms.get(index),
            likeness=likeness,
            like=like,
            profile=self.profiles.get(index),
            alignment=self.alignments.get(index),
            harm=self.harms.get(index),
        )


@dataclass(frozen=True, slots=True)
class Remembered:
    """By index of the row: what was found by who knew earlier updates that are gone now."""

    copies: Copies
    scaled: Collection[int]


def screen(
    stack: Stack,
    known: Sequence[Known],
    screening: Screening,
    *,
    order: Sequence[int],
    layout: Sequence[LayoutEntry],
    losses: Losses,
    margin: Callable[[int], int],
    remembered: Remembered | None = None,
) -> Screened:
    """Look at updates that passed the checks of their bytes.

    `known` is newest first; `order` are the rows of `stack` in the order in which they were committed to; `margin` is
    how far two machines' losses near the given one may differ. What hangs on earlier updates is taken from `remembered`
    where that is given.
    """
    screened = Screened()
    if not stack.rows:
        return screened
    rows: Sequence[Row | Known] = (*stack.rows, *known)
    products = gram([each.vector for each in rows], stack.length)
    stack.remember(tuple(row[: len(stack)] for row in products[: len(stack)]))
    _find_idle(screened, stack)
    cosine = cosines(products)
    candidates, limit = _left(screened, stack), screening.copy_percent * HUNDREDTH
    if remembered is None:
        copies = find_copies(rows, cosine, candidates=candidates, order=order, limit=limit)
    else:
        copies = remembered.copies.of(candidates)
    screened.likeness.update(copies.likeness)
    for index, hidden in copies.hidden.items():
        screened.found[index] = Sign.COLLUDING if hidden else Sign.NEAR_COPY
    left = _left(screened, stack)
    if len(left) < _LEAST_COMPANY:
        return screened
    accepted = [at for at, row in enumerate(rows) if isinstance(row, Known)]
    longest = max((products[at][at] for at in accepted), default=0)
    _find_noise(screened, stack, screening, left, longest, may_be=left if remembered is None else remembered.scaled)
    _find_opposed(screened, stack, screening, cosine, order, layout, losses, margin)
    return screened


def overstated(signs: Signs, weight: int, weights: Sequence[int]) -> bool:
    """Who declares at least twice the median and moved the model less than the median update has taken fewer steps than
    its samples would make it. Only a hint: where data differ, honest updates do that, too.
    """
    return signs.norm is not None and signs.norm < ONE and weight >= 2 * upper_median(weights)


def _left(screened: Screened, stack: Stack) -> list[int]:
    return [index for index in range(len(stack)) if index not in screened.found]


def _find_idle(screened: Screened, stack: Stack) -> None:
    """What moves nothing, or far less than the median update that moves anything."""
    squares = [stack.gram[index][index] for index in range(len(stack))]
    moving = [square for square in squares if square]
    usual = isqrt(upper_median(moving)) if moving else 1
    for index, square in enumerate(squares):
        screened.norms[index] = norm = min(isqrt(square) * ONE // usual, _FAR)
        if not square or (norm < _IDLE and len(moving) >= _LEAST_COMPANY):
            screened.found[index] = Sign.UNCHANGED


def _find_noise(
    screened: Screened,
    stack: Stack,
    screening: Screening,
    left: Sequence[int],
    longest: int,
    *,
    may_be: Collection[int],
) -> None:
    """What is far longer than the others, if it `may_be`, and what moves everything alike.

    Who still learns when others have nothing left to learn is far longer than they are, but not half as long again as
    what was accepted in the rounds before, the squared length of which is `longest` at the most.
    """
    alike = profiles([stack.rows[index].vector for index in left], stack.length)
    for place, index in enumerate(left):
        screened.profiles[index] = upper_median([value for other, value in enumerate(alike[place]) if other != place])
        longer = index in may_be and 4 * stack.gram[index][index] > 9 * longest
        if longer and screened.norms[index] > screening.scaled_percent * HUNDREDTH > 0:
            screened.found[index] = Sign.SCALED
        elif screening.profile_percent and screened.profiles[index] < screening.profile_percent * HUNDREDTH:
            screened.found[index] = Sign.NOISE


def _find_opposed(
    screened: Screened,
    stack: Stack,
    screening: Screening,
    cosine: Cosines,
    order: Sequence[int],
    layout: Sequence[LayoutEntry],
    losses: Losses,
    margin: Callable[[int], int],
) -> None:
    """What points against the others, or does harm: the most harmful first (of equal ones, who committed last), until
    nobody is found any more.

    Direction alone proves nothing: where data differ, the update that differs most may be the most useful one. And
    where the others do not agree, as near the end of training, when everybody's updates turn against everybody's, there
    is nothing that one could be turned against.
    """
    places = {index: place for place, index in enumerate(order)}
    majority = len(_left(screened, stack)) // 2 + 1
    while len(left := _left(screened, stack)) >= max(_LEAST_COMPANY, majority + 1):
        for index in left:
            screened.alignments[index] = upper_median([cosine[index][other] for other in left if other != index])
        opposed = [
            index
            for index in left
            if screened.alignments[index] <= -screening.opposed_percent * HUNDREDTH < 0
            and upper_median([cosine[i][j] for i, j in combinations((each for each in left if each != index), 2)]) > 0
        ]
        suspects = left if screening.harm_percent else opposed
        if not suspects:
            return
        everybody = sum(1 << stack.rows[index].seat for index in left)
        whole, *without = losses([everybody, *(everybody & ~(1 << stack.rows[index].seat) for index in suspects)])
        guilty: list[tuple[int, int, int]] = []
        for index, rest in zip(suspects, without, strict=True):
            screened.harms[index] = harm = whole - rest
            harmful = screening.harm_percent and harm * 100 > abs(rest) * screening.harm_percent
            least = max(margin(whole), _LEAST_HARM * max(ONE, abs(whole)) // ONE)
            if harm > least and (index in opposed or harmful):
                guilty.append((harm, places[index], index))
        if not guilty:
            return
        _, _, index = max(guilty)
        if index in opposed:
            screened.found[index] = Sign.SIGN_FLIPPED
        else:
            flips = _flips_outputs(stack.only(left), left.index(index), layout)
            screened.found[index] = Sign.LABEL_FLIPPED if flips else Sign.HARMFUL


def _flips_outputs(stack: Stack, suspect: int, layout: Sequence[LayoutEntry]) -> bool:
    """Whether some rows of the last weight matrix, which belong to one output each, move against the others' though the
    whole does not. Of many outputs only the first are looked at: nothing but the sign's name depends on them.
    """
    matrices = [entry for entry in layout if entry.kind == "trainable" and len(entry.shape) == 2 and entry.size]
    if not matrices:
        return False
    outputs, width = matrices[-1].shape[0], matrices[-1].size // matrices[-1].shape[0]
    outputs = min(outputs, _MOST_OUTPUTS)
    vectors = [each.vector for each in stack.rows]
    against = 0
    for row in range(outputs):
        start = matrices[-1].offset + row * width
        part = cosines_with(vectors, suspect, start, start + width)
        against += upper_median([value for other, value in enumerate(part) if other != suspect]) < -_AGAINST
    return 0 < against < outputs
