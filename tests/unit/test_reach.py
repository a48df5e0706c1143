"""Of updates that are gone, the bound on their length is all that is known; it never accuses whoever kept to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.auditor.reach import too_far
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Row, Stack

LENGTH = 40


def rows(random: Any, spec: Any, number: int) -> list[Row]:
    """Updates that are as long as the job takes, or a little less."""
    longest, found = spec.update.square_limit**0.5, []
    for seat in range(number):
        drawn = random.normal(size=LENGTH)
        vector = np.fix(drawn * longest / np.linalg.norm(drawn)).astype("<i2")
        found.append(Row(seat, f"0x{seat:040x}", int(random.integers(1, 900)), vector))
    return found


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 63), st.sampled_from([1, 2, 3]))
def test_whatever_is_gone_of_an_honest_mean_is_within_reach(
    spec_of: Any, seed: int, number: int, gone: int, bucket: int
) -> None:
    update = {"bits": 16, "fraction_bits": 12, "norm_bound": 5.0}
    rule = {"rule": "weighted_mean", "bucket_size": bucket}
    spec = spec_of(coordinates=LENGTH, aggregation=rule, update=update)
    random = np.random.default_rng(seed)
    updates, shift = rows(random, spec, number), spec.model.fraction_bits - spec.update.fraction_bits
    before = random.integers(-(2**31), 2**31, LENGTH).astype("<i4")
    after = before.copy()
    advance(after, Stack(tuple(updates), LENGTH, shift), spec.aggregation, Context(bytes(32), spec.model))
    lost = [row for row in updates if gone >> row.seat & 1] or updates[:1]
    read = Stack(tuple(row for row in updates if row not in lost), LENGTH, shift)
    assert too_far(spec, before, after, read, gone=sum(row.weight for row in lost)) is None


def test_what_no_update_that_is_gone_can_have_done_is_told_by_how_far_it_is(spec_of: Any) -> None:
    spec, weight = spec_of(coordinates=LENGTH), 30
    read = Stack((Row(0, "0x" + "00" * 20, 2 * weight, np.zeros(LENGTH, "<i2")),), LENGTH, 4)
    before = np.zeros(LENGTH, "<i4")
    after = before.copy()
    after[3] = 2 * 5 * 2**20 // 3  # a third of an update that is twice as long as the bound, 5
    assert too_far(spec, before, after, read, gone=weight) == pytest.approx(2, rel=1e-3)
    after[3] //= 2
    assert too_far(spec, before, after, read, gone=weight) is None
    median = spec_of(coordinates=LENGTH, aggregation={"rule": "median"})
    after[3] = 2**30
    assert too_far(median, before, after, read, gone=weight) is None, "of other rules nothing is said"
