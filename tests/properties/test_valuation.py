"""Contribution measures against their definitions, and the axioms that Shapley values are known by."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepledger.protocol.formats.policies import ContributionRewards
from deepledger.protocol.settlement.valuation import (
    MOST_EXACT,
    Value,
    gtg_shapley,
    leave_one_out,
    mask_of,
    shapley,
    worths,
)

Game = dict[int, int]
"""What each coalition is worth."""


class Asked:
    """A game that counts what is asked of it."""

    def __init__(self, worth: Value | Game) -> None:
        self.worth, self.coalitions = worth, set[int]()

    def __call__(self, masks):
        assert len(set(masks)) == len(masks), "nothing is asked twice at once"
        self.coalitions.update(masks)
        return [self.worth[mask] if isinstance(self.worth, dict) else self.worth(mask) for mask in masks]


@st.composite
def games(draw: st.DrawFn, *, most: int = 6, count: int = 1) -> tuple[list[int], list[Game]]:
    """Players in any seats, and games among them."""
    players = draw(st.lists(st.integers(0, 63), min_size=1, max_size=most, unique=True))
    masks = [
        sum(1 << player for bit, player in enumerate(players) if subset >> bit & 1)
        for subset in range(1 << len(players))
    ]
    worth = st.lists(st.integers(-(10**9), 10**9) | st.integers(-3, 3), min_size=len(masks), max_size=len(masks))
    return players, [dict(zip(masks, draw(worth), strict=True)) for _ in range(count)]


def by_permutations(players: list[int], game: Game) -> dict[int, Fraction]:
    """The mean of what each adds to those before it, over all orders."""
    sums = dict.fromkeys(players, 0)
    orders = list(permutations(players))
    for order in orders:
        for place, player in enumerate(order):
            sums[player] += game[mask_of(order[: place + 1])] - game[mask_of(order[:place])]
    return {player: Fraction(total, len(orders)) for player, total in sums.items()}


@settings(max_examples=40)
@given(case=games())
def test_shapley_is_the_mean_over_all_orders(case) -> None:
    players, (game,) = case
    asked = Asked(game)
    assert shapley(players, asked) == by_permutations(players, game)
    assert len(asked.coalitions) == 2 ** len(players)


@settings(max_examples=40)
@given(case=games(count=2), data=st.data())
def test_shapley_keeps_its_axioms(case, data) -> None:
    players, (game, other) = case
    everybody = mask_of(players)
    worth = shapley(players, Asked(game))
    assert sum(worth.values()) == game[everybody] - game[0], "efficiency"

    both = {mask: game[mask] + other[mask] for mask in game}
    added = shapley(players, Asked(other))
    assert shapley(players, Asked(both)) == {player: worth[player] + added[player] for player in players}, "additivity"

    one = data.draw(st.sampled_from(players))
    without = {mask: game[mask & ~(1 << one)] for mask in game}
    assert shapley(players, Asked(without))[one] == 0, "null player"

    two = data.draw(st.sampled_from(players))

    def swapped(mask: int) -> int:
        rest = mask & ~(1 << one | 1 << two)
        return rest | (mask >> one & 1) << two | (mask >> two & 1) << one

    alike = {mask: game[mask] + game[swapped(mask)] for mask in game}
    fair = shapley(players, Asked(alike))
    assert fair[one] == fair[two], "symmetry"


@given(case=games(most=8))
def test_leave_one_out_is_what_is_lost_without_each(case) -> None:
    players, (game,) = case
    everybody = mask_of(players)
    asked = Asked(game)
    assert leave_one_out(players, asked) == {
        player: game[everybody] - game[mask_of(other for other in players if other != player)] for player in players
    }
    assert len(asked.coalitions) == len(players) + 1


def shuffled(seed: int):
    def shuffle(number, rest):
        return Random(f"{seed} {number}").sample(sorted(rest), len(rest))

    return shuffle


class Learning:
    """What federated learning looks like: every update helps, the later ones less, some not at all, one does harm."""

    def __init__(self, players: list[int], seed: int) -> None:
        random = Random(seed)
        self.gains = {player: random.choice([0, 1, 2, 3, 4, 5]) for player in players} | {players[0]: -2}

    def __call__(self, mask: int) -> int:
        total = sum(gain for player, gain in self.gains.items() if mask >> player & 1)
        count = mask.bit_count()
        return int(10**6 * (total / (count + 4))) if count else 0


@pytest.mark.parametrize("seed", range(5))
def test_sampled_values_are_near_the_exact_ones(seed) -> None:
    """Within 15 % of the whole, added up over everybody, from a few hundred coalitions instead of 1024."""
    players = [3 * number for number in range(10)]
    game = Learning(players, seed)
    exact = shapley(players, Asked(game))
    asked = Asked(game)
    sampled = gtg_shapley(players, asked, shuffle=shuffled(seed), most=4000)
    assert len(asked.coalitions) < 300
    assert sum(abs(sampled[player] - exact[player]) for player in players) < sum(map(abs, exact.values())) * 15 / 100


@settings(max_examples=60)
@given(count=st.integers(1, 40), most=st.integers(130, 300), seed=st.integers(0, 99), kind=st.sampled_from("lcnz"))
def test_no_more_is_evaluated_than_the_job_allows(count, most, seed, kind) -> None:
    """Learning, chaos, harm only, and nothing at all; and the same values give the same worths again."""
    players = list(range(count))
    chaos = {"l": Learning(players, seed), "n": lambda mask: -mask.bit_count() * 1000, "z": lambda mask: 7}.get(
        kind, lambda mask: Random(f"{seed} {mask}").randint(-(10**6), 10**6)
    )
    asked = Asked(chaos)
    found = gtg_shapley(players, asked, shuffle=shuffled(seed), most=most)
    assert len(asked.coalitions) <= most
    assert found.keys() == set(players)
    assert found == gtg_shapley(players, Asked(chaos), shuffle=shuffled(seed), most=most)
    if kind == "z":
        assert set(found.values()) == {0}


def test_a_turn_that_cannot_be_finished_does_not_count() -> None:
    """Cut off amid a turn, what everybody adds at late places would be missing."""
    players = list(range(20))

    def additive(mask: int) -> int:
        return sum(player for player in players if mask >> player & 1)

    found = gtg_shapley(players, Asked(additive), shuffle=shuffled(1), most=700)
    assert sum(found.values()) == pytest.approx(additive(2**20 - 1), rel=0.02)  # less what was cut off at the ends


@pytest.mark.parametrize("count", [46, 64])
def test_equals_are_paid_equally_where_not_even_one_turn_is_whole(count) -> None:
    """n(n - 1) + 2 coalitions are more than the job allows: the turn is cut at a place, where all have been equally
    often.
    """
    asked = Asked(lambda mask: 1000 * mask.bit_count())
    found = gtg_shapley(list(range(count)), asked, shuffle=shuffled(1), most=2000)
    assert len(asked.coalitions) > 1900
    assert len(set(found.values())) == 1 < min(found.values())


@pytest.mark.parametrize("count", [46, 64])
def test_whoever_of_two_with_the_same_to_add_comes_first_is_drawn_anew_at_each_place(count) -> None:
    """In the cyclic shifts of one order, one of them would nearly always come first."""

    def twins(mask: int) -> int:
        return 1000 * ((mask >> 2).bit_count() + bool(mask & 3))

    shares = [gtg_shapley(list(range(count)), Asked(twins), shuffle=shuffled(seed), most=2000) for seed in range(8)]
    assert all(Fraction(1, 2) < found[0] / found[1] < 2 for found in shares)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_additive_games_are_split_into_their_parts(count) -> None:
    players = list(range(count))

    def additive(mask: int) -> int:
        return sum(1000 * (player + 1) for player in players if mask >> player & 1)

    found = gtg_shapley(players, Asked(additive), shuffle=shuffled(1), most=4000)
    for player in players:
        assert found[player] == pytest.approx(1000 * (player + 1), rel=0.25)


def test_the_jobs_measure_is_taken() -> None:
    few, many = list(range(MOST_EXACT)), list(range(MOST_EXACT + 1))
    game = Learning(many, 3)
    exact, sampled = ContributionRewards(), ContributionRewards(most_evaluations=200)
    assert worths(exact, few, Asked(game), seed=b"a") == shapley(few, Asked(game))
    left_out = ContributionRewards(measure="leave_one_out")
    assert worths(left_out, many, Asked(game), seed=b"a") == leave_one_out(many, Asked(game))
    asked = Asked(game)
    found = worths(sampled, many, asked, seed=b"a")
    assert len(asked.coalitions) <= 200
    assert found == worths(sampled, many[::-1], Asked(game), seed=b"a"), "the order of players does not matter"
    assert found != worths(sampled, many, Asked(game), seed=b"b")
