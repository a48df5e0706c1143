from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.rewards import score, shares
from deepledger.protocol.spec import Rewards

pots = st.integers(0, 2**96)
scores = st.lists(st.integers(0, 2**32 - 1), max_size=64)


@given(pot=pots, scores=scores)
def test_shares_are_proportional_and_never_more_than_the_pot(pot, scores):
    paid = shares(pot, scores)
    assert len(paid) == len(scores)
    if sum(scores) == 0:
        assert not any(paid)
    else:
        assert pot - len(scores) < sum(paid) <= pot
        for part, points in zip(paid, scores, strict=True):
            assert 0 <= Fraction(pot * points, sum(scores)) - part < 1


def test_policies():
    assert score(Rewards(policy="equal"), weight=500) == 1
    assert score(Rewards(policy="samples"), weight=500) == 500
