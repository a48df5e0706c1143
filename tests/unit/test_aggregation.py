from __future__ import annotations

import numpy as np
import pytest

from deepledger.protocol import vectors
from deepledger.protocol.aggregation import advance
from deepledger.protocol.aggregation.context import Context
from deepledger.protocol.errors import BadSpec
from deepledger.protocol.spec import MAX_SEATS
from deepledger.protocol.vectors import BLOCK

RULES = [{"rule": "weighted_mean"}, {"rule": "trimmed_mean", "trim_percent": 20}]


def run(spec, model, stack):
    return advance(model, stack, spec.aggregation, Context(bytes(32), spec.model.fraction_bits))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_with_nothing_accepted_the_model_stays(rule, spec_of, stack_of):
    model = np.arange(10, dtype="<i4")
    assert run(spec_of(aggregation=rule), model, stack_of(spec_of(aggregation=rule), [])) == 0
    assert model.tolist() == list(range(10))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_blocks_leave_no_seams(size, rule, compiled, spec_of, stack_of, monkeypatch):
    if compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(vectors, "FAST_FROM", 0)
    spec = spec_of(coordinates=size, aggregation=rule)
    random = np.random.default_rng(size)
    updates = random.integers(-(2**15), 2**15, (6, size)).astype("<i2")
    model = random.integers(-(2**30), 2**30, size).astype("<i4")
    if rule["rule"] == "weighted_mean":
        total, count = updates.astype(object).sum(axis=0), 6
    else:
        total, count = np.sort(updates, axis=0)[1:5].astype(object).sum(axis=0), 4
    doubled = total * 2 * 16 + count  # round half up …
    steps = [n // (2 * count) - (n % (2 * count) == 0 and n // (2 * count) % 2) for n in doubled]  # … but to even
    expected = model + np.array(steps, np.int64)
    assert run(spec, model, stack_of(spec, updates, [7] * 6)) == 0
    assert (model == expected).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("end", [-1, 1])
def test_the_largest_allowed_spec_does_not_overflow(bits, end, compiled, spec_of, stack_of, monkeypatch):
    """64 seats, the greatest weight that is allowed, every coordinate at the end of its range."""
    if compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(vectors, "FAST_FROM", 0)
    shift = 14 if bits == 32 else 20
    update = {"bits": bits, "fraction_bits": 20 - shift, "norm_bound": 1e9}
    weight = min(((1 << 62) // (MAX_SEATS << (bits - 1 + shift))) - 1, 2**32 - 1)
    spec = spec_of(update=update, max_samples=weight)
    if weight < 2**32 - 1:
        with pytest.raises(BadSpec, match="could overflow int64"):
            spec_of(update=update, max_samples=weight + 1)
    value = -(2 ** (bits - 1)) if end < 0 else 2 ** (bits - 1) - 1
    model = np.zeros(10, "<i4")
    stack = stack_of(spec, [np.full(10, value, f"<i{bits // 8}")] * MAX_SEATS, [weight] * MAX_SEATS)
    moved = value << shift
    held = min(max(moved, -(2**31)), 2**31 - 1)
    assert run(spec, model, stack) == (10 if moved != held else 0)
    assert set(model.tolist()) == {held}


def test_trimmed_mean_of_64_at_the_ends_does_not_overflow(spec_of, stack_of):
    update = {"bits": 32, "fraction_bits": 0, "norm_bound": 1e9}
    spec = spec_of(update=update, aggregation={"rule": "trimmed_mean", "trim_percent": 0})
    model = np.zeros(10, "<i4")
    assert run(spec, model, stack_of(spec, [np.full(10, -(2**31), "<i4")] * MAX_SEATS)) == 10
    assert set(model.tolist()) == {-(2**31)}
