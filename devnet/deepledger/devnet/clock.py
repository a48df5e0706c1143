"""Chain time: the wall clock plus whatever a test has shifted it by, never running backwards.

Ethereum demands that timestamps rise strictly. At several blocks a second that would carry chain time away from the
clock, and with it every deadline. So, like anvil, blocks of one second share a timestamp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ChainClock:
    wall: Callable[[], float]
    """Unix time."""
    offset: int = 0
    """Seconds that chain time is ahead of the wall clock."""
    pinned: int | None = None
    """Timestamp of the next block, where a test has fixed it."""

    def next_timestamp(self, parent: int) -> int:
        """The timestamp of a block mined now on a parent with this timestamp."""
        if self.pinned is not None:
            return self.pinned
        return max(parent, int(self.wall()) + self.offset)


def shifted(clock: ChainClock, seconds: int) -> ChainClock:
    return replace(clock, offset=clock.offset + seconds)


def pinned(clock: ChainClock, timestamp: int) -> ChainClock:
    return replace(clock, pinned=timestamp)


def unpinned(clock: ChainClock) -> ChainClock:
    """After the pinned block is mined: time goes on from there."""
    if clock.pinned is None:
        return clock
    return replace(clock, offset=clock.pinned - int(clock.wall()), pinned=None)
