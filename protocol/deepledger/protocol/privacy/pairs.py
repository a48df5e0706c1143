"""Which two of a count have no mask in common, and who may therefore not be counted: seen by all from the letters.

A pair's seed has one hash in the letters of both. Where the two differ, one of them lies or has no secret with the
other (hybrid keys, see `hybrid_keys.py`): their masks do not cancel, and both seeds are called for, as those with who
is not counted are. What hides an update is then one mask less. However many may be hostile must not cut the others into
parts of which each shows its own sum: that is what `may_lack` allows for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.spec import threshold
from deepledger.protocol.privacy.cohort import HOLDERS, Cohort
from deepledger.protocol.privacy.masked_updates import Letters

Apart = frozenset[tuple[int, int]]
"""Pairs of seats, both ways about."""


def apart_in(cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters]) -> Apart:
    """Those of whose letters are there."""
    hashes = {
        seat: dict(zip(cohort.neighbours(seat), letters[seat].secret_hashes[1:], strict=True))
        for seat in counted
        if seat in letters
    }
    return frozenset(
        (one, other)
        for one, found in hashes.items()
        for other, known in found.items()
        if other in hashes and hashes[other][one] != known
    )


def may_lack(cohort: Cohort, seat: int, counted: Collection[int]) -> int:
    """How many masks with others that are summed, `counted`, a member may lack: ⌊(k − c) / 2⌋ of k, where c may be
    hostile.

    Where the k + 1 − c that are left without those fall apart, one part has at most half of them, and everybody in it
    lacks all others, (k + 1 − c) / 2 at least. Nor may a member lack so many that fewer holders than a threshold are
    left. In a large cohort, where few are neighbours, nobody may lack any.
    """
    if len(cohort.members) > HOLDERS:
        return 0
    others = len(set(cohort.neighbours(seat)) & set(counted))
    return max(0, min((others - cohort.tolerated) // 2, len(counted) - cohort.threshold))


def may_lack_of(members: int) -> int:
    """As `may_lack`, where so many members are neighbours of each other, and all are counted."""
    tolerated = members - threshold(members)
    return max(0, min((members - 1 - tolerated) // 2, tolerated))


def sound(cohort: Cohort, seats: Collection[int], letters: Mapping[int, Letters]) -> frozenset[int]:
    """Those of `seats`, all with letters, that can be counted together: whoever lacks most masks is left out, of
    several the highest seat, until nobody lacks too many of whose group there is a sum.
    """
    kept, apart = set(seats), apart_in(cohort, seats, letters)
    while summed := _summed(cohort, kept):
        lacking = dict.fromkeys(summed, 0)
        for one, other in apart:
            if one in summed and other in summed:
                lacking[one] += 1
        if all(lacks <= may_lack(cohort, seat, summed) for seat, lacks in lacking.items()):
            break
        kept.remove(max(summed, key=lambda seat: (lacking[seat], seat)))
    return frozenset(kept)


def _summed(cohort: Cohort, counted: Collection[int]) -> frozenset[int]:
    try:
        return cohort.summed(counted)
    except BadInput:
        return frozenset()  # a count of which nothing is unmasked


def check_sound(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], *, doubting: bool = False
) -> Apart:
    """The pairs of those in sums that are apart. Raises `BadInput` where somebody lacks more masks than it may.

    `doubting`: whose letters are not there may be apart from everybody.
    """
    counted = _summed(cohort, counted)
    apart = apart_in(cohort, counted, letters)
    unread = set(counted) - letters.keys() if doubting else set()
    for seat in sorted(set(counted) & letters.keys()):
        lacks = sum((seat, other) in apart or other in unread for other in cohort.neighbours(seat))
        if lacks > may_lack(cohort, seat, counted):
            raise BadInput(
                f"seat {seat} has no mask in common with {lacks} others that are counted: too little would hide its "
                "update"
            )
    return apart
