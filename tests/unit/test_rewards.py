from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats.metrics import ACCURACY, LOSS
from deepledger.protocol.formats.policies import ContributionRewards, EqualRewards, SampleRewards
from deepledger.protocol.settlement.rewards import resolution, scores, shares

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


def test_where_worth_is_too_small_to_tell_who_did_no_harm_shares_as_the_job_says():
    least = resolution(LOSS, Fraction(5, 100), samples=100)
    assert least == Fraction(1, 5000)
    weights = {0: 10, 1: 30, 2: 60, 3: 7}
    worths = {0: least / 9, 1: least, 2: -least / 2, 3: -least * 2}
    assert scores(ContributionRewards(), weights, worths, least=least) == {0: 333_333, 1: 333_333, 2: 333_333, 3: 0}
    by_samples = scores(ContributionRewards(unresolved="samples"), weights, worths, least=least)
    assert by_samples == {0: 100_000, 1: 300_000, 2: 600_000, 3: 0}
    worths[1] = 3 * least
    assert scores(ContributionRewards(), weights, worths, least=least) == {0: 35_714, 1: 964_285, 2: 0, 3: 0}
    nobody = dict.fromkeys(weights, -least * 2)
    assert set(scores(ContributionRewards(), weights, nobody, least=least).values()) == {0}


@given(worth=st.lists(st.integers(-3000, 3000), min_size=1, max_size=8), moved=st.lists(st.integers(-8, 8), min_size=8))
def test_results_that_differ_by_rounding_move_a_twenty_fifth_of_the_pot_or_change_the_rule(worth, moved):
    """Millionths of a loss near 0: each worth is a difference of two results that are up to four of them off."""
    least = 10**6 * resolution(LOSS, Fraction(0), samples=100)
    weights = dict.fromkeys(range(len(worth)), 1)
    one = dict(enumerate(map(Fraction, worth)))
    other = {seat: value + moved[seat] for seat, value in one.items()}

    def resolved(worths):
        harmless = [value for value in worths.values() if value >= -least]
        return sum(max(value, 0) for value in worths.values()) >= least * len(harmless)

    before, after = (scores(ContributionRewards(), weights, each, least=least) for each in (one, other))
    if resolved(one) and resolved(other) and len(worth) == sum(value >= -least for value in one.values()):
        gained = sum(max(after[seat] - before[seat], 0) for seat in weights)
        assert gained <= 10**6 * Fraction(2, 25) + len(worth)


def test_where_samples_decide_a_sample_each_is_the_least():
    assert resolution(ACCURACY, Fraction(9, 10), samples=34) == Fraction(1, 34)
    assert resolution(LOSS, Fraction(-70), samples=34) == Fraction(70, 5000)
    assert resolution(LOSS.model_copy(update={"tolerance": 0.0}), Fraction(1), samples=34) == 0
