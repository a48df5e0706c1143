"""What a participant's record on chain says about it: `trail` folds it, so everybody has the same."""

from __future__ import annotations

FULL = 1_000_000
"""Parts per million: what everybody starts with."""
MEMORY = 4
"""Each round moves a reputation a fourth of the way: to full if the update was accepted, to nothing if not."""


def after(value: int, *, accepted: bool) -> int:
    """A reputation after one more round in which the participant revealed, or unmasked. Rounds without a reveal do not
    count: the contract deals with absence itself. Nor do rounds in which nobody was accepted, nor those of a masked job
    in which the participant was not, see `trail`.
    """
    return value + (FULL * accepted - value) // MEMORY
