from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats.policies import ContributionRewards, EqualRewards, SampleRewards
from deepledger.protocol.settlement.rewards import scores, shares

pots = st.integers(0, 2**96)
points = st.lists(st.integers(0, 2**32 - 1), max_size=64)


@given(pot=pots, given=points)
def test_shares_are_proportional_and_never_more_than_the_pot(pot, given):
    paid = shares(pot, given)
    assert len(paid) == len(given)
    if sum(given) == 0:
        assert not any(paid)
    else:
        assert pot - len(given) < sum(paid) <= pot
        for part, own in zip(paid, given, strict=True):
            assert 0 <= Fraction(pot * own, sum(given)) - part < 1


def test_policies():
    weights = {2: 500, 5: 20}
    assert scores(EqualRewards(), weights, None) == {2: 1, 5: 1}
    assert scores(SampleRewards(), weights, None) == weights


def test_contributions_share_what_the_floor_leaves():
    worths = {0: Fraction(3), 1: Fraction(1), 2: Fraction(-9)}
    weights = dict.fromkeys(range(4), 7)  # seat 3 is no player
    assert scores(ContributionRewards(), weights, worths) == {0: 750_000, 1: 250_000, 2: 0, 3: 0}
    with_floor = scores(ContributionRewards(floor_percent=20), weights, worths)
    assert with_floor == {0: 650_000, 1: 250_000, 2: 50_000, 3: 50_000}
    nothing = dict.fromkeys(range(4), Fraction(0))
    assert set(scores(ContributionRewards(), weights, nothing).values()) == {0}
    assert set(scores(ContributionRewards(floor_percent=20), weights, nothing).values()) == {50_000}
