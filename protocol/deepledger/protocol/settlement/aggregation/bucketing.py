"""Bucketing before any rule: updates are averaged in small groups drawn by lot (Karimireddy et al. 2022, algorithm 1).

Where data differ between participants, honest updates do, too, and a robust rule mistakes them for attacks; averages of
a few are more alike. The price: one bad update spoils its bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.settlement.aggregation.step import Int64s, div_half_even


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """The mean of some rows, weighted, in the model's unit; rounded half to even."""

    rows: tuple[Row, ...]
    shift: int

    @property
    def weight(self) -> int:
        return sum(row.weight for row in self.rows)

    def __getitem__(self, part: slice) -> Int64s:
        weighted = [np.multiply(row.vector[part], row.weight, dtype=np.int64) for row in self.rows]
        return div_half_even(np.sum(weighted, axis=0) << self.shift, self.weight)


def bucketed(stack: Stack, size: int, context: Context) -> Stack:
    """ceil(n / size) rows, each the mean of `size` updates or, in the last one, fewer. Order does not matter: who is
    with whom is drawn by lot.
    """
    drawn = sorted(stack.rows, key=lambda row: context.lot("bucket", row.participant))
    buckets = (Bucket(tuple(drawn[first : first + size]), stack.shift) for first in range(0, len(drawn), size))
    rows = tuple(replace(bucket.rows[0], weight=bucket.weight, vector=bucket) for bucket in buckets)
    return Stack(rows, stack.length, shift=0)
