"""Unmasking: what holders release once a set was counted, and the sum that follows from it.

For every counted i a holder releases its share of b_i and of s_ij for each neighbour j that was not counted: the masks
of two who were both counted cancel in the sum (Bonawitz et al. 2017), unless they are *apart* (`pairs.py`). So never
both kinds are shown of one participant: b of who is counted, the masks that it shares with the counted of who is not.
Of a group of which too few are counted (`Cohort.summed`) nothing is released: to what follows, its members are not
counted. Every share is shown with hashes that prove it against what its author committed to, so that anybody can tell a
holder's lie from an author's.

    release   a flag for each counted author by seat of whom the holder keeps shares, then of each 0x00: shares ‖ hashes

A flag is 0x00; or 0x01, a *complaint*: the letter does not fit the hash that its author committed to; or 0x02: the
author's letters are none, or are not to be had, so that the holder cannot know from whom the author is apart; or 0x03:
in the author's group too many are apart, or may be, which is no complaint about the author.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from deepledger.protocol.errors import BadInput, BadVector
from deepledger.protocol.formats.packing import check_packed, packed_bytes, unpack
from deepledger.protocol.kernels.cores import in_parts
from deepledger.protocol.privacy.cohort import Cohort
from deepledger.protocol.privacy.mask_keys import MaskKey
from deepledger.protocol.privacy.masked_updates import (
    SHARE_BYTES,
    Letters,
    open_letter,
    own_member,
    secret_hash,
    shared_with,
    shares_in,
)
from deepledger.protocol.privacy.masks import add_masks
from deepledger.protocol.privacy.pairs import Apart, telling_too_much
from deepledger.protocol.privacy.shamir import interpolate
from deepledger.protocol.privacy.share_trees import HASH_BYTES, Step, given, leaf, proven, steps_to_prove

SHOWN: Final = b"\0"
COMPLAINT: Final = b"\1"
UNREAD: Final = b"\2"
WITHHELD: Final = b"\3"
NOTHING: Final = UNREAD
"""What is released of a set that is not to be unmasked: that its holder was there."""

_AT_ONCE: Final = 1 << 18  # coordinates: as many as make unpacking fast, which calls numpy 100 times for each block


class BadRelease(Exception):
    """The blob is no release for what was counted: its holder's fault, and everybody finds the same."""


class NotUnmaskable(Exception):
    """What was released does not make the sum known."""


@dataclass(frozen=True, slots=True)
class Called:
    """Which of an author's secrets a count calls for."""

    secrets: tuple[int, ...]  # 0 is b_i, k is s_ij with its k-th neighbour
    hashes: int  # how many prove shares of these
    steps: tuple[Step, ...]  # of the proof


@dataclass(frozen=True, slots=True)
class Shown:
    """What a holder shows of one author's letter."""

    shares: tuple[bytes, ...]  # of b_i, then of s_ij for each neighbour j that is not counted, or apart from i
    hashes: tuple[bytes, ...]  # of the other shares


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What follows from letters and releases, the same for everybody."""

    counted: frozenset[int]  # in groups whose sums may be unmasked
    own: Mapping[int, bytes]  # b_i by seat
    pairs: Mapping[tuple[int, int], bytes]  # s_ij by the seats of i, counted, and j, not counted or apart from i
    badly_shared: Mapping[int, str]  # counted seats whose letters are wrong, and how
    bad_shares: Mapping[int, str]  # seats of holders whose release is wrong, and how
    short: tuple[int, ...]  # counted seats of which too few holders released shares; nobody's proven fault
    shares: Mapping[int, bytes] = field(
        default_factory=dict
    )  # of the sum of keys, by seat, where updates are encrypted

    @property
    def complete(self) -> bool:
        """Whether all sums can be had."""
        return not self.badly_shared and not self.short

    def lacking(self, group: Collection[int]) -> tuple[int, ...]:
        """Seats of a group whose secrets could not be rebuilt: with any, its sum cannot be had."""
        return tuple(seat for seat in sorted(group) if seat in self.badly_shared or seat in self.short)


def release(
    cohort: Cohort,
    seat: int,
    counted: Collection[int],
    letters: Mapping[int, Letters],
    *,
    key: MaskKey,
) -> bytes:
    """What the holder at `seat`, counted or not, releases for the counted seats. Once for an attempt: two releases for
    different sets would show one update.

    `letters` has those of counted authors, by seat: whose are not in it has none that parse, or that could be fetched
    in time. Raises `BadInput` where the key is not that member's, or no group of the counted set is to be unmasked.
    """
    everybody, counted = counted, cohort.summed(counted)
    own_member(cohort, seat, key=key)
    apart, telling = _telling(cohort, everybody, letters, doubting=cohort.hybrid)
    flags, parts = [], []
    for author in cohort.authors(seat, counted):
        if author not in letters or cohort.group_of(author) in telling:
            flags.append(WITHHELD if author in letters else UNREAD)
            continue
        shown = _shown(
            cohort, author, letters[author], holder=seat, called=called_for(cohort, author, counted, apart), key=key
        )
        flags.append(COMPLAINT if shown is None else SHOWN)
        parts += [] if shown is None else [*shown.shares, *shown.hashes]
    return b"".join([*flags, *parts])


def _telling(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], *, doubting: bool
) -> tuple[Apart, AbstractSet[int]]:
    """The pairs that are apart, and groups whose sum would tell too much. Raises `BadInput` where that is every one."""
    apart, telling = telling_too_much(cohort, counted, letters, doubting=doubting)
    if telling.keys() == {cohort.group_of(seat) for seat in cohort.summed(counted)}:
        raise BadInput(next(iter(telling.values())))
    return apart, telling.keys()


def _shown(cohort: Cohort, author: int, letters: Letters, *, holder: int, called: Called, key: MaskKey) -> Shown | None:
    """What the holder shows of an author's letter; None if it does not open."""
    shared = shared_with(cohort, author, key=key)
    if shared is None:
        return None
    shares = open_letter(cohort, letters, holder=holder, shared=shared)
    hashes = given([leaf(share) for share in shares], called.secrets)
    shown = Shown(tuple(shares[number] for number in called.secrets), tuple(hashes))
    return shown if _fits(cohort, letters, shown, holder=holder, called=called) else None


def called_for(cohort: Cohort, author: int, counted: frozenset[int], apart: Apart = frozenset()) -> Called:
    """b_i, and s_ij for each neighbour that was not counted, or is apart from the author."""
    neighbours = enumerate(cohort.neighbours(author), start=1)
    secrets = (0, *(number for number, other in neighbours if other not in counted or (author, other) in apart))
    steps = steps_to_prove(1 + len(cohort.neighbours(author)), secrets)
    return Called(secrets, steps.count(Step.GIVEN), steps)


def _fits(cohort: Cohort, letters: Letters, shown: Shown, *, holder: int, called: Called) -> bool:
    """Whether what is shown is what its author committed to."""
    root = letters.roots[cohort.holders(letters.author).index(holder)]
    return proven(called.steps, iter(shown.shares), iter(shown.hashes)) == root


def parse_release(
    cohort: Cohort, seat: int, counted: Collection[int], blob: Buffer, *, apart: Apart = frozenset()
) -> dict[int, Shown | None]:
    """What the holder at `seat` shows of each author, or None where it shows nothing. Raises `BadRelease`."""
    counted = cohort.summed(counted)
    authors = cohort.authors(cohort.member(seat).seat, counted)
    return _parse(blob, {author: called_for(cohort, author, counted, apart) for author in authors})


def _parse(blob: Buffer, calls: Mapping[int, Called]) -> dict[int, Shown | None]:
    view = memoryview(blob).cast("B")
    found: dict[int, Shown | None] = {}
    start = len(calls)
    for author, flag in zip(calls, flags_in(view, len(calls)), strict=True):
        if flag != SHOWN:
            found[author] = None
            continue
        called = calls[author]
        stop = start + SHARE_BYTES * len(called.secrets) + HASH_BYTES * called.hashes
        if stop > view.nbytes:
            raise BadRelease(f"it ends where seat {author} is due")
        pieces = shares_in(bytes(view[start:stop]))
        found[author] = Shown(tuple(pieces[: len(called.secrets)]), tuple(pieces[len(called.secrets) :]))
        start = stop
    if start != view.nbytes:
        raise BadRelease(f"it has {view.nbytes - start} bytes more than the count calls for")
    return found


def flags_in(
    blob: memoryview, authors: int, *, known: Collection[bytes] = (SHOWN, COMPLAINT, UNREAD, WITHHELD)
) -> list[bytes]:
    """With which a release begins. Raises `BadRelease`."""
    flags = [bytes([flag]) for flag in blob[:authors]]
    if len(flags) < authors or not {*flags} <= {*known}:
        raise BadRelease("it does not begin with a flag for each author")
    return flags


def rebuild(
    cohort: Cohort, counted: Collection[int], letters: Mapping[int, Letters], releases: Mapping[int, Buffer]
) -> Rebuilt:
    """Rebuild the secrets that a count calls for, from the letters of counted authors (those that parse) and the
    releases of holders, both by seat.

    Every share is held against its author's commitment, every secret against its hash. An author is at fault where its
    secret is not that of its hash, although all shares are its own, or more holders complain about it than may be
    hostile; a holder where its release does not parse, a share is not its author's, it withholds what it could show, or
    it complains about more others than may be hostile.
    """
    everybody, counted = counted, cohort.summed(counted)
    apart, telling = _telling(cohort, everybody, letters, doubting=False)
    bad_shares: dict[int, str] = {}
    good: dict[int, dict[int, Shown]] = {author: {} for author in sorted(counted)}
    complaints: dict[int, set[int]] = {author: set() for author in sorted(counted)}
    calls = {author: called_for(cohort, author, counted, apart) for author in sorted(counted)}
    for holder, blob in sorted(releases.items()):
        try:
            heard = _heard(cohort, holder, counted, apart, blob, calls=calls, telling=telling)
        except (BadRelease, BadInput) as error:
            bad_shares[holder] = str(error)
            continue
        for author, (called, part) in heard.items():
            if part is None:
                if (author, holder) not in apart:  # who has no secret with an author cannot open its letter
                    complaints[author].add(holder)
            elif author not in letters or not _fits(cohort, letters[author], part, holder=holder, called=called):
                bad_shares.setdefault(holder, f"its shares of seat {author} are not those that its author committed to")
            elif called == calls[author]:
                good[author][holder] = part

    badly_shared, liars = blame(cohort, counted - letters.keys(), complaints)
    bad_shares = liars | bad_shares

    secrets: dict[int, list[bytes]] = {}
    for author in sorted(counted - badly_shared.keys()):
        if len(good[author]) < cohort.threshold or cohort.group_of(author) in telling:
            continue
        secrets[author] = _combine(cohort, author, good[author])
        hashes = [letters[author].secret_hashes[number] for number in calls[author].secrets]
        own, *seeds = secrets[author]
        found = [secret_hash(cohort, own, of=cohort.member(author)), *(secret_hash(cohort, seed) for seed in seeds)]
        if found != hashes:
            badly_shared[author] = "the shares that it gave do not make the secrets that it committed to"
    sound = {author: found for author, found in secrets.items() if author not in badly_shared}
    return Rebuilt(
        counted=counted,
        own={author: found[0] for author, found in sound.items()},
        pairs={
            (author, cohort.neighbours(author)[number - 1]): secret
            for author, found in sound.items()
            for number, secret in zip(calls[author].secrets[1:], found[1:], strict=True)
        },
        badly_shared=badly_shared,
        bad_shares=bad_shares,
        short=tuple(sorted(counted - badly_shared.keys() - secrets.keys())),
    )


def blame(
    cohort: Cohort, unreadable: Collection[int], complaints: Mapping[int, Collection[int]]
) -> tuple[dict[int, str], dict[int, str]]:
    """Authors and holders at fault, and how: whose letters are unreadable for everybody, or for more holders than may
    be hostile; and who complains about more others than may be.

    `complaints` has of each author the holders that released nothing of it, whether its letter does not open, or
    they could not read its letters.
    """
    authors = dict.fromkeys(sorted(unreadable), "its letters cannot be read")
    for author, holders in complaints.items():
        if len(holders) > cohort.tolerated:
            authors.setdefault(author, f"its letters do not open for {len(holders)} holders")
    unfounded = Counter(holder for author in complaints.keys() - authors.keys() for holder in complaints[author])
    return authors, {
        holder: f"it complains about {number} whose letters open for others"
        for holder, number in sorted(unfounded.items())
        if number > cohort.tolerated
    }


def _heard(
    cohort: Cohort,
    holder: int,
    counted: frozenset[int],
    apart: Apart,
    blob: Buffer,
    *,
    calls: Mapping[int, Called],
    telling: AbstractSet[int],
) -> dict[int, tuple[Called, Shown | None]]:
    """What a holder shows of each author, and what it was called for as far as it could know: nothing of those pairs of
    whom it has not read one. What it withholds is left out. Raises `BadRelease`, and `BadInput` where it is not in the
    cohort.
    """
    authors = cohort.authors(cohort.member(holder).seat, counted)
    flags = dict(zip(authors, flags_in(memoryview(blob).cast("B"), len(authors)), strict=True))
    unread = {author for author, flag in flags.items() if flag == UNREAD}
    doubted = telling | {cohort.group_of(author) for author in unread if cohort.hybrid}
    for author, flag in flags.items():
        # In a large cohort, what it has not read may be of one of whom it keeps no shares.
        if flag == WITHHELD and cohort.group_of(author) not in doubted and len(authors) == len(counted):
            raise BadRelease(f"it withholds its shares of seat {author}, whose group it has read")
    known = frozenset(pair for pair in apart if unread.isdisjoint(pair))
    own = {
        author: calls[author] if known == apart else called_for(cohort, author, counted, known) for author in authors
    }
    shown = _parse(blob, own)
    return {author: (own[author], shown[author]) for author, flag in flags.items() if flag != WITHHELD}


def _combine(cohort: Cohort, author: int, shown: Mapping[int, Shown]) -> list[bytes]:
    """An author's secrets, from the shares of its first holders, as many as suffice."""
    first = sorted(shown)[: cohort.threshold]
    places = {holder: x for x, holder in enumerate(cohort.holders(author), start=1)}
    rows = np.stack([np.frombuffer(b"".join(shown[holder].shares), np.uint8) for holder in first])
    return shares_in(interpolate([places[holder] for holder in first], rows, at=[0]).tobytes())


def unmask_sum(
    cohort: Cohort, rebuilt: Rebuilt, vectors: Mapping[int, Buffer], *, coordinates: int, group: int | None = None
) -> npt.NDArray[np.int32]:
    """The weighted sum of the counted updates of a group, by default the first, shape (d,): exact.

    `vectors` has the counted members' vector blobs by seat, which may be mapped files: they are read block by block.
    Raises `NotUnmaskable` where secrets or vectors are missing, and `BadVector` where a blob has the wrong length.
    """
    whole = next(each for each in cohort.groups if group is None or each[0] == group)
    counted = [seat for seat in whole if seat in rebuilt.counted]
    if not counted:
        raise NotUnmaskable(f"too few of seats {list(whole)} were counted")
    if lacking := rebuilt.lacking(counted):
        raise NotUnmaskable(f"secrets of seats {list(lacking)} could not be rebuilt")
    bits = cohort.modulus_bits
    if absent := set(counted) - vectors.keys():
        raise NotUnmaskable(f"the masked vectors of seats {sorted(absent)} are not there")
    views = {seat: memoryview(vectors[seat]).cast("B") for seat in counted}
    for seat, view in views.items():
        try:
            check_packed(view, bits, coordinates=coordinates)
        except BadVector as error:
            raise BadVector(f"the masked vector of seat {seat}: {error}") from None
    # What one added, because the other has a higher seat, is taken away, and the other way about.
    pairs = [(one, other, seed) for (one, other), seed in rebuilt.pairs.items() if one in counted]
    added = [*(rebuilt.own[seat] for seat in counted), *(seed for one, other, seed in pairs if other > one)]
    taken = [seed for one, other, seed in pairs if other < one]
    result = np.empty(coordinates, np.int32)

    def work(first: int, last: int) -> None:
        for start in range(first, last, _AT_ONCE):
            stop = min(start + _AT_ONCE, last)
            total = np.zeros(stop - start, np.uint32)
            for view in views.values():
                part = view[start * bits // 8 : packed_bytes(stop, bits)]
                total += unpack(part, bits, coordinates=stop - start)
            add_masks(total, plus=taken, minus=added, start=start)
            signed = np.left_shift(total, np.uint32(32 - bits)).view(np.int32)
            result[start:stop] = np.right_shift(signed, 32 - bits)

    in_parts(work, coordinates, step=_AT_ONCE)
    return result
