"""How many blocks a node lets itself be asked about at once: learned from what it refuses, and kept."""

from __future__ import annotations

import re
from typing import Final

from deepledger.protocol.chain.http import OversizedAnswer, Overtaxed
from deepledger.protocol.chain.rpc import METHOD_NOT_FOUND, NodeRefused

_NAMED: Final = (  # as providers put it
    re.compile(r"(?:up to|limited to|max(?:imum)?)\D{0,40}?([\d,]+)\D{0,3}block", re.I),
    re.compile(r"(?:limit|max(?:imum)?|exceed)\D{0,20}block range\D{0,10}([\d,]+)", re.I),
    re.compile(r"block range\D{0,40}?(?:limit|up to|max|exceed|over|than)\D{0,30}?([\d,]+)", re.I),
    re.compile(r"(?:limited to|ranges? over|more than|exceeds?)\D{0,40}?([\d,]+)\D{0,3}(?:block|range)", re.I),
)
_WORKS: Final = re.compile(r"\[\s*(0x[0-9a-f]+)\s*,\s*(0x[0-9a-f]+)\s*\]", re.I)  # a range that it would answer
_LONGEST_HOLD: Final = 256
_FEW_BLOCKS: Final = 100
_AT_ONCE: Final = 16


class Width:
    """`now` blocks are asked for; more once that has worked a few times, and ever less often where it fails."""

    def __init__(self, most: int) -> None:
        self.now = most
        self._most = most
        self._worked = 0
        self._hold = 1
        self._growing = False

    def split(self, first: int, last: int, *, batches: bool) -> list[tuple[int, int]]:
        """The ranges to ask for next, from `first` on: several in one batch where each may be of few blocks only."""
        several = batches and self.now <= _FEW_BLOCKS and not self._growing
        starts = range(first, min(first + (_AT_ONCE if several else 1) * self.now, last + 1), self.now)
        return [(start, min(start + self.now - 1, last)) for start in starts]

    def refused(self, width: int, why: str) -> None:
        named = named_width(why)
        if named is not None and named < width:
            self.now = self._most = named
        else:
            self.now = max(1, width // 2)
        if self._growing:
            self._hold = min(2 * self._hold, _LONGEST_HOLD)
        self._growing, self._worked = False, 0

    def answered(self, width: int) -> None:
        if width < self.now:
            return  # the rest of a range says nothing of a whole one
        if self._growing:
            self._growing, self._hold = False, max(1, self._hold // 2)
        self._worked += 1
        if self._worked >= self._hold and self.now < self._most:
            self.now, self._worked, self._growing = min(2 * self.now, self._most), 0, True


def named_width(why: str) -> int | None:
    """The width in blocks that a refusal says would do."""
    if works := _WORKS.search(why):
        first, last = (int(bound, 16) for bound in works.groups())
        return last - first + 1 if last >= first else None
    if "result" in why.lower():
        return None  # so many logs, not blocks
    for pattern in _NAMED:
        if named := pattern.search(why):
            return int(named.group(1).replace(",", "") or 0) or None
    return None


def may_be_too_wide(error: Exception) -> bool:
    """Whether a smaller range may be answered."""
    if isinstance(error, NodeRefused):
        return not (error.code == METHOD_NOT_FOUND or error.is_rate_limit)
    return isinstance(error, OversizedAnswer | Overtaxed)
