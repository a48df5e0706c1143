"""Who masks together in one attempt at a round, and with whom: all that the parts of a masked round agree on.

Up to `HOLDERS` members everybody is everybody's neighbour (a pair shares a mask, which one adds and the other takes
away) and everybody's holder (keeper of Shamir shares). Beyond that, both are drawn from the hash of the block that
opens the attempt, as Bell et al. (2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", section
3.1) draw a k-regular graph: members are put in a ring by chance and know those who are near. Masks have one ring and
shares another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import gcd
from typing import Final

from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.spec import threshold
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
    drawn_from: bytes = b""  # the hash of the block that opened the attempt; for more than `HOLDERS` members

    def __post_init__(self) -> None:
        seats = [member.seat for member in self.members]
        if seats != sorted(set(seats)):
            raise BadInput("the members of a cohort are listed once each and by seat")
        if len(seats) < 2:
            raise BadInput("an update cannot be hidden among fewer than two")
        if len({member.participant.lower() for member in self.members}) != len(seats):
            raise BadInput("a participant has one seat in a cohort")
        if any(len(member.key) != 32 or not 0 < member.weight < 1 << 32 for member in self.members):
            raise BadInput("a member has a key of 32 bytes and a weight above zero")
        if self.modulus_bits > MOST_BITS:
            raise BadInput(
                f"the sum needs {self.modulus_bits} bits and masks have {MOST_BITS}: lower update.bits or weight_bits"
            )
        if len(seats) > HOLDERS and len(self.drawn_from) != 32:
            raise BadInput(f"neighbours among more than {HOLDERS} are drawn from the 32 bytes of a block's hash")

    @property
    def holders_each(self) -> int:
        return min(len(self.members), HOLDERS)

    @property
    def neighbours_each(self) -> int:
        return len(self.members) - 1 if len(self.members) <= HOLDERS else NEIGHBOURS

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
        """m: sums are taken mod 2^m, which the sum of all weighted updates fits into, with its sign."""
        return self.update_bits + (sum(member.weight for member in self.members) - 1).bit_length()

    @cached_property
    def by_seat(self) -> Mapping[int, Member]:
        return {member.seat: member for member in self.members}

    @cached_property
    def binding(self) -> bytes:
        """32 bytes in all that is derived here: whoever sees another cohort makes letters that nobody can open."""
        head = b"deepledger: cohort" + bytes(self.context) + self.update_bits.to_bytes(4) + self.drawn_from
        return sha256(head + b"".join(map(bytes, self.members))).digest()

    def member(self, seat: int) -> Member:
        """Raises `BadInput` if nobody in the cohort has the seat."""
        if seat not in self.by_seat:
            raise BadInput(f"seat {seat} is not in the cohort of this attempt")
        return self.by_seat[seat]

    def neighbours(self, seat: int) -> tuple[int, ...]:
        """Seats with whom `seat` shares masks, in order; a neighbour of one is also its neighbour."""
        return self._neighbours[self.member(seat).seat]

    def holders(self, seat: int) -> tuple[int, ...]:
        """Seats that keep shares of what `seat` is masked with, in order: the x of the first is 1. It is one itself."""
        return self._holders[self.member(seat).seat]

    def authors(self, seat: int, counted: Collection[int]) -> tuple[int, ...]:
        """Those of `counted`, in order, of whose secrets `seat` keeps shares."""
        return tuple(author for author in sorted(counted) if seat in self._holder_sets[author])

    def check_counted(self, counted: Collection[int]) -> frozenset[int]:
        """Raises `BadInput` where unmasking this set would show more than one sum, or is not of this cohort."""
        for seat in counted:
            self.member(seat)
        whole = frozenset(counted)
        if len(whole) < 2:
            raise BadInput("a sum of fewer than two updates hides nobody")
        apart, edge = set(whole), {min(whole)}
        while edge:
            apart -= edge
            edge = apart & {other for seat in edge for other in self.neighbours(seat)}
        if apart:
            raise BadInput("those who were counted are not linked by masks: each part's own sum would be seen")
        return whole

    @cached_property
    def _neighbours(self) -> dict[int, tuple[int, ...]]:
        reach = self.neighbours_each // 2
        return self._near(b"neighbours", range(-reach, reach + 1), itself=False)

    @cached_property
    def _holders(self) -> dict[int, tuple[int, ...]]:
        return self._near(b"holders", range(-HOLDERS // 2, HOLDERS // 2), itself=True)

    @cached_property
    def _holder_sets(self) -> dict[int, frozenset[int]]:
        return {seat: frozenset(holders) for seat, holders in self._holders.items()}

    def _near(self, what: bytes, steps: range, *, itself: bool) -> dict[int, tuple[int, ...]]:
        """By seat, who is within `steps` of it in a ring drawn for `what`; everybody, in a small cohort."""
        ring = sorted(self.by_seat)
        if len(ring) <= HOLDERS:
            return {seat: tuple(other for other in ring if itself or other != seat) for seat in ring}
        ring.sort(key=lambda seat: sha256(b"deepledger: " + what + self.binding + seat.to_bytes(4)).digest())
        return {
            seat: tuple(sorted(ring[(place + step) % len(ring)] for step in steps if itself or step))
            for place, seat in enumerate(ring)
        }


def cohort_of(members: Iterable[Member], *, context: MaskContext, update_bits: int, drawn_from: bytes = b"") -> Cohort:
    """As `Cohort`, of those members whose key is one: with the others nobody can share a secret, and everybody sees who
    they are. They are not to be counted.
    """
    usable = sorted((member for member in members if is_usable(member.key)), key=lambda member: member.seat)
    return Cohort(context, tuple(usable), update_bits, drawn_from)


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
