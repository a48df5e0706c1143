"""Who masks together in one attempt at a round, and with whom: all that the parts of a masked round agree on.

Up to `HOLDERS` members everybody is everybody's neighbour (a pair shares a mask, which one adds and the other takes
away) and everybody's holder (keeper of Shamir shares). Beyond that, both are drawn from the hash of the block that
opens the attempt, as Bell et al. (2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", section
3.1) draw a k-regular graph: members are put in a ring by chance and know those who are near. Masks have one ring and
shares another.

A cohort may be dealt into groups, from the same hash, each of which has a sum of its own: neighbours are then of one
group, holders of the whole cohort. A group is known by its lowest seat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import gcd
from typing import Final

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.spec import enough, threshold
from deepledger.protocol.privacy.mask_keys import is_usable
from deepledger.protocol.types import Address, JobId, RoundNumber

NEIGHBOURS: Final = 28
"""With how many others a member of a large cohort shares masks; half of them lie on either side in the ring."""

HOLDERS: Final = 64
"""Most holders of one member's shares; also the largest cohort in which everybody is everybody's neighbour."""

MOST_BITS: Final = 32
"""Of the modulus: masks are made of 32-bit words."""

_WORD: Final = 32  # bytes of a number


@dataclass(frozen=True, slots=True)
class MaskContext:
    """One attempt at a round: what is derived for it is good for no other."""

    chain_id: int
    contract: Address
    job: JobId
    round: RoundNumber
    attempt: int

    def __bytes__(self) -> bytes:
        """148 bytes: each number has 32 (big-endian), the contract 20."""
        head = self.chain_id.to_bytes(_WORD) + bytes.fromhex(self.contract[2:])
        return head + b"".join(number.to_bytes(_WORD) for number in (self.job, self.round, self.attempt))


@dataclass(frozen=True, slots=True)
class Member:
    seat: int
    participant: Address
    key: bytes  # 32 bytes: X25519 public key, or the digest of a key blob
    weight: int = 1  # what its update is multiplied by

    def __bytes__(self) -> bytes:
        return self.seat.to_bytes(4) + bytes.fromhex(self.participant[2:]) + self.key + self.weight.to_bytes(4)


@dataclass(frozen=True)
class Cohort:
    """Members by seat. Raises `BadInput` where they cannot mask together."""

    context: MaskContext
    members: tuple[Member, ...]
    update_bits: int  # of one coordinate of an update, before it is weighted
    drawn_from: bytes = b""  # the hash of the block that opened the attempt, where something is drawn
    most_groups: int = 1  # that it is dealt into
    least: int = 2  # counted members of a group whose sum is unmasked
    hybrid: bool = False  # keys are digests of key blobs: two honest members may have no secret in common
    encrypted: bool = False  # updates are, each under a key of its own, instead of masked

    def __post_init__(self) -> None:
        seats = [member.seat for member in self.members]
        if seats != sorted(set(seats)):
            raise BadInput("the members of a cohort are listed once each and by seat")
        if is_drawn(len(seats), self.most_groups) and len(self.drawn_from) != 32:
            raise BadInput(f"groups, and neighbours among more than {HOLDERS}, are drawn from 32 bytes: a block's hash")
        if len({member.participant.lower() for member in self.members}) != len(seats):
            raise BadInput("a participant has one seat in a cohort")
        if any(len(member.key) != 32 or not 0 < member.weight < 1 << 32 for member in self.members):
            raise BadInput("a member has a key of 32 bytes and a weight above zero")
        if self.encrypted and (len(seats) > HOLDERS or self.most_groups > 1 or self.hybrid):
            raise BadInput(f"encrypted updates have one sum, of at most {HOLDERS} members with X25519 keys")
        if self.modulus_bits > MOST_BITS:
            raise BadInput(
                f"the sum needs {self.modulus_bits} bits and masks have {MOST_BITS}: lower update.bits or weight_bits"
            )

    @property
    def holders_each(self) -> int:
        return min(len(self.members), HOLDERS)

    @property
    def threshold(self) -> int:
        """Holders who together can rebuild a secret: two thirds, rounded up."""
        return threshold(self.holders_each)

    @property
    def tolerated(self) -> int:
        """Holders of one member who may be silent or hostile without harm to a round."""
        return self.holders_each - self.threshold

    @cached_property
    def modulus_bits(self) -> int:
        """m: sums are taken mod 2^m, which the sum of all weighted updates of a group fits into, with its sign."""
        most = max(sum(self.by_seat[seat].weight for seat in group) for group in self.groups)
        return self.update_bits + (most - 1).bit_length()

    @cached_property
    def by_seat(self) -> Mapping[int, Member]:
        return {member.seat: member for member in self.members}

    @cached_property
    def binding(self) -> bytes:
        """32 bytes in all that is derived here: whoever sees another cohort makes letters that nobody can open."""
        numbers = b"".join(number.to_bytes(4) for number in (self.update_bits, self.most_groups, self.least))
        kind = b"deepledger: encrypting cohort" if self.encrypted else b"deepledger: cohort"
        head = kind + bytes(self.context) + numbers + self.drawn_from
        return sha256(head + b"".join(map(bytes, self.members))).digest()

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Seats in order, by the lowest of each group: sizes differ by one at the most, and none has less than `least`
        unless it is alone.
        """
        number = min(self.most_groups, max(len(self.members) // self.least, 1))
        dealt = self._ring(b"groups", self.by_seat)
        return tuple(sorted(tuple(sorted(dealt[first::number])) for first in range(number)))

    def group_of(self, seat: int) -> int:
        """The lowest seat of the group of `seat`."""
        return self._groups[self.member(seat).seat][0]

    def member(self, seat: int) -> Member:
        """Raises `BadInput` if nobody in the cohort has the seat."""
        if seat not in self.by_seat:
            raise BadInput(f"seat {seat} is not in the cohort of this attempt")
        return self.by_seat[seat]

    def neighbours(self, seat: int) -> tuple[int, ...]:
        """Seats with whom `seat` shares masks, in order, of its group; a neighbour of one is also its neighbour."""
        return self._neighbours[self.member(seat).seat]

    def holders(self, seat: int) -> tuple[int, ...]:
        """Seats that keep shares of what `seat` is masked with, in order: the x of the first is 1. It is one itself."""
        return self._holders[self.member(seat).seat]

    def authors(self, seat: int, counted: Collection[int]) -> tuple[int, ...]:
        """Those of `counted`, in order, of whose secrets `seat` keeps shares."""
        return tuple(author for author in sorted(counted) if seat in self._holder_sets[author])

    def summed(self, counted: Collection[int]) -> frozenset[int]:
        """Those of the counted whose group's sum may be unmasked: where two thirds of a group are counted, and no fewer
        than `least`. The others' masks are taken off by nobody.

        Raises `BadInput` where no group is left, or the set is not of this cohort, or a sum would fall into parts.
        """
        for seat in counted:
            self.member(seat)
        summed: set[int] = set()
        for group in self.groups:
            part = set(group).intersection(counted)
            if len(part) >= enough(len(group), least=self.least):
                self._check_linked(part)
                summed |= part
        if not summed:
            raise BadInput("sums of so few updates hide nobody")
        return frozenset(summed)

    def fewest_counted(self, seat: int, *, least: int) -> int:
        """Of the group of `seat`, in a sum that is unmasked; `least`: members that a count has."""
        group = self._groups[self.member(seat).seat]
        fewest = enough(len(group), least=self.least)
        return fewest if len(group) < len(self.members) else max(fewest, least)

    def _check_linked(self, part: AbstractSet[int]) -> None:
        apart, edge = set(part), {min(part)}
        while edge:
            apart -= edge
            edge = apart & {other for seat in edge for other in self.neighbours(seat)}
        if apart:
            raise BadInput("those who were counted are not linked by masks: each part's own sum would be seen")

    @cached_property
    def _groups(self) -> dict[int, tuple[int, ...]]:
        return {seat: group for group in self.groups for seat in group}

    @cached_property
    def _neighbours(self) -> dict[int, tuple[int, ...]]:
        steps = [step for step in range(-NEIGHBOURS // 2, NEIGHBOURS // 2 + 1) if step]
        found: dict[int, tuple[int, ...]] = {}
        for group in self.groups:
            near = self._near(b"neighbours", group, steps)
            found |= {seat: tuple(other for other in near[seat] if other != seat) for seat in group}
        return found

    @cached_property
    def _holders(self) -> dict[int, tuple[int, ...]]:
        return self._near(b"holders", self.by_seat, range(-HOLDERS // 2, HOLDERS // 2))

    @cached_property
    def _holder_sets(self) -> dict[int, frozenset[int]]:
        return {seat: frozenset(holders) for seat, holders in self._holders.items()}

    def _near(self, what: bytes, seats: Collection[int], steps: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """By seat, who of `seats` is as many `steps` from it in a ring drawn for `what`; up to `HOLDERS`, all are."""
        if len(seats) <= HOLDERS:
            return dict.fromkeys(seats, tuple(sorted(seats)))
        ring = self._ring(what, seats)
        return {
            seat: tuple(sorted(ring[(place + step) % len(ring)] for step in steps)) for place, seat in enumerate(ring)
        }

    def _ring(self, what: bytes, seats: Iterable[int]) -> list[int]:
        head = b"deepledger: " + what + self.binding
        return sorted(seats, key=lambda seat: sha256(head + seat.to_bytes(4)).digest())


def is_drawn(members: int, groups: int) -> bool:
    """Whether who masks with whom in a cohort is left to chance."""
    return groups > 1 or members > HOLDERS


def cohort_of(
    members: Iterable[Member],
    *,
    context: MaskContext,
    update_bits: int,
    drawn_from: bytes = b"",
    most_groups: int = 1,
    least: int = 2,
    hybrid: bool = False,
    encrypted: bool = False,
) -> Cohort:
    """As `Cohort`, of those members whose key is one: with the others nobody can share a secret, and everybody sees who
    they are. They are not to be counted. Of hybrid keys, whose blobs not everybody may have, that is seen from letters
    only. Nothing is bound to a block from which nothing
    is drawn: chains take it back.
    """
    usable = sorted((member for member in members if hybrid or is_usable(member.key)), key=lambda member: member.seat)
    drawn_from = drawn_from if is_drawn(len(usable), most_groups) else b""
    return Cohort(context, tuple(usable), update_bits, drawn_from, most_groups, least, hybrid, encrypted)


def weights(samples: Sequence[int], bits: int) -> list[int]:
    """Whole weights in proportion to positive `samples`, of at most `bits` bits (0: all alike), and as small as can be.

    max(1, round(samples·(2^bits − 1) / most samples)), half to even, divided by their greatest common divisor.
    """
    top, most = (1 << bits) - 1, max(samples, default=1)
    scaled = [max(1, _div_half_even(count * top, most)) for count in samples]
    divisor = gcd(*scaled) or 1
    return [weight // divisor for weight in scaled]


def _div_half_even(dividend: int, divisor: int) -> int:
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1))
