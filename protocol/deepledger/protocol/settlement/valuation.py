"""What an update is worth: how much better the model is with it than without.

A game of coalitions: `value` tells what the model is worth that some of the updates make. All measures are exact
functions of those values, so that whoever has the values has the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from itertools import count
from math import factorial

from deepledger.protocol.formats.policies import ContributionRewards

Player = int
"""A seat."""
Value = Callable[[Sequence[int]], Sequence[int]]
"""What each of some coalitions (bit masks of seats) is worth, in millionths: more is better. Asked for many at once."""
Worths = Mapping[Player, Fraction]

MOST_EXACT = 10
"""Players for whom Shapley values are exact: 2^10 coalitions."""
_TRUNCATION = 100  # a marginal is taken for 0 once what is missing from the whole gain is below this part of it
_CLOSE = Fraction(1, 20)  # relative change of the estimates over the last rounds of permutations, when to stop


def worths(rewards: ContributionRewards, players: Sequence[Player], value: Value, *, seed: bytes) -> Worths:
    """By the job's measure. `seed` draws permutations, where those are sampled."""
    if rewards.measure == "leave_one_out":
        return leave_one_out(players, value)
    if len(players) <= MOST_EXACT:
        return shapley(players, value)

    def shuffle(number: int, things: Sequence[int]) -> Sequence[int]:
        return sorted(things, key=lambda thing: sha256(seed + f"{number}|{thing}".encode()).digest())

    return gtg_shapley(players, value, shuffle=shuffle, most=rewards.most_evaluations)


def leave_one_out(players: Sequence[Player], value: Value) -> Worths:
    """v(N) - v(N without i)."""
    everybody = mask_of(players)
    whole, *without = value([everybody, *(everybody & ~(1 << player) for player in players)])
    return {player: Fraction(whole - rest) for player, rest in zip(players, without, strict=True)}


def shapley(players: Sequence[Player], value: Value) -> Worths:
    """sum_S |S|!(n-|S|-1)!/n! (v(S + i) - v(S)) over all S without i (Shapley 1953): 2^n coalitions."""
    number = len(players)
    coalitions = [
        mask_of(player for bit, player in enumerate(players) if subset >> bit & 1) for subset in range(1 << number)
    ]
    worth = dict(zip(coalitions, value(coalitions), strict=True))
    weights = [Fraction(factorial(size) * factorial(number - size - 1), factorial(number)) for size in range(number)]
    return {
        player: sum(
            (
                weights[coalition.bit_count()] * (worth[coalition | 1 << player] - worth[coalition])
                for coalition in coalitions
                if not coalition >> player & 1
            ),
            Fraction(0),
        )
        for player in players
    }


def gtg_shapley(
    players: Sequence[Player], value: Value, *, shuffle: Callable[[int, Sequence[int]], Sequence[int]], most: int
) -> Worths:
    """GTG-Shapley (Liu et al. 2022, algorithm 1): Monte Carlo over permutations in which everybody comes first equally
    often, each cut off once nearly the whole gain is there; until estimates settle or `most` coalitions were valued.

    Here everybody comes equally often at every place, not only at the first: a turn's permutations are the rows of a
    Latin square that `shuffle(number, things)` draws. So the first turn may be cut short by `most`, which happens from
    46 players on: what everybody adds at the early places is compared then. Later turns count only if they are whole.
    The paper pays nobody in rounds with little gain; here they are valued like all others.
    """
    players = sorted(players)
    everybody = mask_of(players)
    known: dict[int, int] = {}

    def ask(masks: Sequence[int]) -> None:
        new = list(dict.fromkeys(mask for mask in masks if mask not in known))
        known.update(zip(new, value(new), strict=True))

    ask([0, everybody])
    gain = known[everybody] - known[0]
    sums: dict[Player, int] = dict.fromkeys(players, 0)
    before: Worths | None = None
    for turn in count():
        orders = _latin_square(shuffle(2 * turn, players), shuffle(2 * turn + 1, range(len(players))))
        prefixes = [0] * len(orders)
        for place in range(len(players)):
            going = [
                index
                for index, prefix in enumerate(prefixes)
                if abs(known[everybody] - known[prefix]) * _TRUNCATION > abs(gain)
            ]
            wanted = [prefixes[index] | 1 << orders[index][place] for index in going]
            if len(known.keys() | set(wanted)) > most:
                return _averages(sums, 1) if before is None else before
            ask(wanted)
            for index, mask in zip(going, wanted, strict=True):
                sums[orders[index][place]] += known[mask] - known[prefixes[index]]
                prefixes[index] = mask
        estimate = _averages(sums, turn + 1)
        if before is not None and _is_close(before, estimate):
            return estimate
        before = estimate
    raise AssertionError("count() does not end")


def _latin_square(players: Sequence[Player], shifts: Sequence[int]) -> Sequence[Sequence[Player]]:
    """Permutations, as many as players, in which each comes once at each place.

    The cyclic shifts of one order would do that, too, but would put the same neighbours before a player every time.
    """
    number = len(players)
    return [[players[(row + shift) % number] for shift in shifts] for row in range(number)]


def mask_of(players: Iterable[Player]) -> int:
    return sum(1 << player for player in players)


def _averages(sums: Mapping[Player, int], turns: int) -> Worths:
    return {player: Fraction(total, turns * len(sums)) for player, total in sums.items()}


def _is_close(before: Worths, now: Worths) -> bool:
    moved = sum(abs(now[player] - before[player]) for player in now)
    return moved <= _CLOSE * sum(map(abs, now.values()))
