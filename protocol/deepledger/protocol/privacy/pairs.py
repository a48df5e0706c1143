"""Which two of a count have no mask in common, and who may therefore not be counted: seen by all from the letters.

A pair's seed has one hash in the letters of both. Where the two differ, one of them lies or has no secret with the
other (hybrid keys, see `hybrid_keys.py`): their masks do not cancel, and both seeds are called for, as those with who
is not counted are. What hides an update is then one mask less. Nobody may be cut off from the others by that: see
`may_lack`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256

from deepledger.protocol.errors import BadInput
from deepledger.protocol.privacy.cohort import HOLDERS, Cohort
from deepledger.protocol.privacy.masked_updates import Letters

Apart = frozenset[tuple[int, int]]
"""Pairs of seats, both ways about."""


def apart_in(cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters]) -> Apart:
    """Those of whose letters are there. Where updates are encrypted, nobody has anything in common with another."""
    if cohort.encrypted:
        return frozenset()
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
    """How many masks with others that are counted a member may lack of whose group there is a sum.

    So many that a threshold t of holders is left, itself among them, in whatever groups. With X25519 keys that is all:
    whoever is apart from an honest one is hostile, and a mask with it hides nothing. With hybrid keys two honest ones
    may be apart, and t − 1 who pool what they know must not be able to cut anybody off: of k neighbours,
    ⌊(k + 1 − t) / 2⌋ may lack. For where the k + 2 − t that are left without those fall apart, one part has at most
    half of them, and everybody in it lacks all others, (k + 2 − t) / 2 at least. In a large cohort, where few are
    neighbours, nobody may lack any.
    """
    spare = max(0, len(counted) - cohort.threshold)
    if not cohort.hybrid:
        return spare
    if len(cohort.members) > HOLDERS:
        return 0
    near = len(set(cohort.neighbours(seat)) & set(counted))
    return min(spare, max(0, near + 1 - cohort.threshold) // 2)


def sound(
    cohort: Cohort, seats: Collection[int], letters: Mapping[int, Letters], *, draw: bytes = b""
) -> frozenset[int]:
    """Those of `seats`, all with letters, that can be counted together: whoever lacks most masks is left out, until
    nobody lacks too many of whose group there is a sum. Of several a lot decides, by `draw`, which nobody knew when it
    committed: of two that say otherwise of each other, nobody can tell which one lies.
    """
    kept, apart = set(seats), apart_in(cohort, seats, letters)
    while summed := _summed(cohort, kept):
        lacking = dict.fromkeys(summed, 0)
        for one, other in apart:
            if one in summed and other in summed:
                lacking[one] += 1
        if all(lacks <= may_lack(cohort, seat, kept) for seat, lacks in lacking.items()):
            break
        kept.remove(max(summed, key=lambda seat: (lacking[seat], sha256(draw + seat.to_bytes(4)).digest())))
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
    apart, telling = telling_too_much(cohort, counted, letters, doubting=doubting)
    for why in telling.values():
        raise BadInput(why)
    return apart


def telling_too_much(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], *, doubting: bool = False
) -> tuple[Apart, Mapping[int, str]]:
    """As `check_sound`; and of each group in which somebody lacks more masks than it may, why its sum is not made."""
    summed = _summed(cohort, counted)
    apart = apart_in(cohort, summed, letters)
    unread = summed - letters.keys() if doubting else set()
    telling: dict[int, str] = {}
    for seat in sorted(summed & letters.keys()):
        lacks = sum((seat, other) in apart or other in unread for other in cohort.neighbours(seat))
        if lacks > (most := may_lack(cohort, seat, counted)):
            telling.setdefault(
                cohort.group_of(seat),
                f"seat {seat} has no mask in common with {lacks} others that are counted, and may lack {most} for them "
                "to count together",
            )
    return apart, telling
