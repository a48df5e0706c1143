"""What `job create` and `job show` promise of masked groups: how many hostile ones a rule withstands, and how much more
what is learned scatters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.api.groups import SCATTER, together
from deepledger.protocol.errors import BadInput
from deepledger.protocol.formats.rules import Median, TrimmedMean
from deepledger.protocol.formats.spec import MOST_GROUPS, Masks, fewest_counted, threshold
from deepledger.protocol.privacy.cohort import Cohort, MaskContext, Member
from deepledger.protocol.settlement.aggregation.sorting import median, trimmed_mean
from deepledger.protocol.settlement.aggregation.stack import Row, Stack
from deepledger.protocol.types import Address, JobId, RoundNumber

ENDS = st.sampled_from([-(2**40), 2**40])


def over(rule: Any, means: list[int], context: Any = None) -> float:
    """Of one coordinate."""
    rows = tuple(Row(seat, f"0x{seat:040x}", 1, np.array([mean])) for seat, mean in enumerate(means))
    function = median if isinstance(rule, Median) else trimmed_mean
    numerators, denominator = function(Stack(rows, 1, 0), rule, context)(0, 1)
    return int(numerators[0]) / denominator


@given(data=st.data())
def test_so_many_hostile_ones_move_nothing_beyond_what_honest_groups_learned(data: st.DataObject) -> None:
    """Whichever groups they are dealt to, and whether they spoil a group's sum or have it left out."""
    groups = data.draw(st.integers(3, MOST_GROUPS))
    rule = data.draw(st.just(Median()) | st.integers(1, 49).map(lambda percent: TrimmedMean(trim_percent=percent)))
    dealt_to = data.draw(st.lists(st.integers(0, groups - 1), max_size=rule.withstands(groups)))
    honest = data.draw(st.lists(st.integers(-1000, 1000), min_size=groups, max_size=groups))
    means = []
    for group, mean in enumerate(honest):
        if group not in dealt_to:
            means.append(mean)
        elif data.draw(st.booleans()):
            means.append(data.draw(ENDS))
    untouched = [mean for group, mean in enumerate(honest) if group not in dealt_to]
    assert 2 * len(means) > groups, "or the round is skipped"
    assert min(untouched) <= over(rule, means) <= max(untouched)


@given(data=st.data())
def test_no_count_that_the_contract_takes_makes_a_sum_of_fewer_than_the_terms_let_expect(data: st.DataObject) -> None:
    """Of whose noise as much hides one: whoever is counted, whoever came with a key that is none, however many came."""
    masks = Masks(weight_bits=0, groups=data.draw(st.integers(1, 6)), least=data.draw(st.integers(3, 5)))
    expected = data.draw(st.integers(masks.fewest, 32))  # terms.min_participants
    seats = range(data.draw(st.integers(expected, 48)))
    least = max(expected, threshold(len(seats)))
    usable = data.draw(st.permutations(seats))[: data.draw(st.integers(least, len(seats)))]
    counted = usable[: data.draw(st.integers(least, len(usable)))]
    cohort = Cohort(
        MaskContext(1, Address("0x" + "00" * 20), JobId(1), RoundNumber(0), data.draw(st.integers(0, 9))),
        tuple(Member(seat, Address(f"0x{seat + 1:040x}"), bytes([seat + 1]) * 32) for seat in sorted(usable)),
        16,
        bytes(32),
        masks.groups,
        masks.least,
    )
    try:
        summed = cohort.summed(counted)
    except BadInput:
        return  # of which nothing is unmasked
    sums = [len(summed.intersection(group)) for group in cohort.groups]
    assert min(size for size in sums if size) >= fewest_counted(masks, participants=expected)


def test_one_more_can_move_it_anywhere() -> None:
    for groups in range(3, MOST_GROUPS + 1):
        bad = Median().withstands(groups) + 1
        assert over(Median(), [2**40] * bad + [0] * (groups - bad)) > 1000


@pytest.mark.parametrize("groups", [3, 4, 5, 9, 21])
def test_what_is_learned_scatters_no_more_than_is_said(groups: int) -> None:
    drawn = np.random.default_rng(groups).normal(size=(40_000, groups, 3))
    means = drawn.mean(axis=2)
    scatter = np.median(means, axis=1).std() / drawn.mean(axis=(1, 2)).std()
    assert 1.05 < scatter < SCATTER * 1.01


@pytest.mark.parametrize(("some", "size", "participants"), [(2, 3, 9), (2, 3, 15), (3, 4, 12), (4, 5, 25)])
def test_how_often_some_are_dealt_to_one_group(some: int, size: int, participants: int) -> None:
    """As the ring of a cohort deals them, from the hash of a block."""
    tries, groups = 4000, participants // size
    rng = np.random.default_rng(0)
    deals = rng.permuted(np.tile(np.arange(participants) % groups, (tries, 1)), axis=1)
    found = np.mean([len(set(deal[:some])) == 1 for deal in deals])
    expected = float(together(some, size, participants))
    assert abs(found - expected) < 5 * (expected / tries) ** 0.5
