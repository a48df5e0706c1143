"""Which of a round's updates are copies, of one another or of what was public before, and who copied whom.

Two updates are copies if they are far nearer to each other than to what others do: their distance, 1 - cosine, is a
small part of the median one. Noise that is added to a copy must be a fifth of its length to hide that.

With momentum, or data that differ, everybody's updates are alike from round to round. So one's own earlier update is
held against how near others stay to their own; and since somebody could send what an honest participant may be expected
to send next, nearness alone does not say who copied:

- Nobody copies what it is farther from than from its own past.
- Of two that were hidden from one another, the one to blame follows the other's past and not its own: the accepted
  update that is nearest to it is the other's. If that says nothing, who committed last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deepledger.protocol.settlement.aggregation.stack import Row, Vector
from deepledger.protocol.settlement.similarity import ONE, Cosines, upper_median
from deepledger.protocol.types import Address

_LEAST_COMPANY = 3  # others, below which nobody can say that one stays unusually near to one's own past


class Known(NamedTuple):
    """An update that everybody could read before this round's were committed to."""

    participant: Address
    vector: Vector


@dataclass(slots=True)
class Copies:
    """By index of the row."""

    likeness: dict[int, tuple[int, Address]] = field(default_factory=dict)  # how near the nearest one is, see `Signs`
    hidden: dict[int, bool] = field(default_factory=dict)  # of copies: whether the original was hidden then

    def of(self, candidates: Sequence[int]) -> Copies:
        """What is said of some rows."""
        return Copies(
            {index: self.likeness[index] for index in candidates if index in self.likeness},
            {index: self.hidden[index] for index in candidates if index in self.hidden},
        )


@dataclass(frozen=True, slots=True)
class _Updates:
    rows: Sequence[Row | Known]  # to be judged; then known ones
    cosine: Cosines
    candidates: Sequence[int]  # rows to be judged
    accepted: Sequence[int]  # known rows
    past: Mapping[int, Sequence[int]]  # by candidate: its own among `accepted`

    def is_own(self, index: int, other: int) -> bool:
        return self.rows[index].participant == self.rows[other].participant

    def likeness(self, index: int, other: int) -> int | None:
        """How far it is from `other`, of how far the others are from that, or from their own past if it is `index`'s.
        Parts per million; None: nothing to say.
        """
        others = [third for third in self.candidates if third not in (index, other)]
        if other in self.past[index]:
            usual, least = [self._to_past(third) for third in others if self.past[third]], _LEAST_COMPANY
        else:
            usual, least = [self.cosine[third][other] for third in others], 1
        if len(usual) < least or (distance := ONE - upper_median(usual)) <= 0:
            return None
        return (ONE - self.cosine[index][other]) * ONE // distance

    def follows(self, row: int, other: int) -> bool:
        """Whether the accepted update that is nearest to it is `other`'s."""
        nearest = max((at for at in self.accepted if at != row), key=lambda at: self.cosine[row][at], default=None)
        return nearest is not None and self.is_own(nearest, other)

    def public(self, index: int) -> Iterator[int]:
        """Known rows that it may be a copy of."""
        yield from (at for at in self.accepted if at in self.past[index] or not self._explains(index, at))

    def hidden(self, index: int, originals: Sequence[int]) -> Iterator[int]:
        """Rows of this round that it may be a copy of."""
        yield from (other for other in originals if not self._explains(index, other))

    def _to_past(self, index: int) -> int:
        return max(self.cosine[index][at] for at in self.past[index])

    def _explains(self, index: int, other: int) -> bool:
        """Whether its own past explains it better than `other`."""
        return bool(self.past[index]) and self._to_past(index) > self.cosine[index][other]


def find_copies(
    rows: Sequence[Row | Known], cosine: Cosines, *, candidates: Sequence[int], order: Sequence[int], limit: int
) -> Copies:
    """`rows` are those to be judged, of which `candidates` may be copies, and then the known ones, newest first;
    `order` is that of commitments; `limit` is the likeness, in parts per million, below which an update is a copy.
    """
    accepted = [at for at, row in enumerate(rows) if isinstance(row, Known)]
    updates = _Updates(
        rows=rows,
        cosine=cosine,
        candidates=candidates,
        accepted=accepted,
        past={
            index: [at for at in accepted if rows[at].participant == rows[index].participant] for index in candidates
        },
    )
    copies = Copies()

    def original_of(index: int, others: Sequence[int]) -> int | None:
        found = [(like, other) for other in others if (like := updates.likeness(index, other)) is not None]
        if not found:
            copies.likeness.pop(index, None)
            return None
        like, other = min(found, key=lambda each: each[0])
        copies.likeness[index] = like, rows[other].participant
        return other if like < limit else None

    originals: list[int] = []
    for index in (index for index in order if index in updates.past):
        public = list(updates.public(index))
        while (other := original_of(index, [*public, *updates.hidden(index, originals)])) is not None:
            if other in originals and updates.follows(other, index) and not updates.follows(index, other):
                copies.hidden[other] = True
                copies.likeness[other] = copies.likeness[index][0], rows[index].participant
                originals.remove(other)
            else:
                copies.hidden[index] = other in originals
                break
        else:
            originals.append(index)
    return copies
