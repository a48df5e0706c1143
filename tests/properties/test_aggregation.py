"""Aggregation rules against Fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepledger.protocol import vectors
from deepledger.protocol.aggregation import advance
from deepledger.protocol.aggregation.context import Context
from deepledger.protocol.aggregation.sorting import sorting_network
from deepledger.protocol.aggregation.stack import Stack
from deepledger.protocol.aggregation.step import div_half_even
from deepledger.protocol.spec import JobSpec

LEAST, MOST = -(2**31), 2**31 - 1
SpecOf = Callable[..., JobSpec]
StackOf = Callable[..., Stack]


def held(value: int) -> int:
    return min(max(value, LEAST), MOST)


def run(
    stack_of: StackOf, spec: JobSpec, model: np.ndarray, updates: list[tuple[np.ndarray, int]]
) -> tuple[list[int], int]:
    after = model.copy()
    stack = stack_of(spec, [update for update, _ in updates], [weight for _, weight in updates])
    saturated = advance(after, stack, spec.aggregation, Context(bytes(32), spec.model.fraction_bits))
    return after.tolist(), saturated


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, int, np.ndarray, list[tuple[np.ndarray, int]]]:
    """Bits, shift, a model and weighted updates; with many ties and values at the ends."""
    bits, shift, size = draw(st.sampled_from([8, 16, 32])), draw(st.integers(0, 4)), draw(st.integers(1, 12))
    end = 2 ** (bits - 1)
    coordinate = st.integers(-4, 4) | st.integers(-end, end - 1) | st.sampled_from([-end, end - 1])
    vector = st.lists(coordinate, min_size=size, max_size=size)
    updates = draw(st.lists(st.tuples(vector, st.integers(1, 6)), max_size=9))
    model = draw(st.lists(st.integers(LEAST, MOST) | st.sampled_from([LEAST, 0, MOST]), min_size=size, max_size=size))
    return bits, shift, np.array(model, "<i4"), [(np.array(u, f"<i{bits // 8}"), w) for u, w in updates]


def spec_for(spec_of: SpecOf, bits: int, shift: int, model: np.ndarray, rule: dict[str, object]) -> JobSpec:
    update = {"bits": bits, "fraction_bits": 20 - shift, "norm_bound": 1e6}
    return spec_of(coordinates=len(model), update=update, aggregation=rule)


@given(case=rounds())
@pytest.mark.parametrize("compiled", [False, True])
def test_weighted_mean_is_exact(case, compiled, spec_of: SpecOf, stack_of: StackOf) -> None:
    if compiled:
        pytest.importorskip("numba")
    bits, shift, model, updates = case
    spec = spec_for(spec_of, bits, shift, model, {"rule": "weighted_mean"})
    weight = max(sum(w for _, w in updates), 1)
    exact = [
        int(m) + round(Fraction(sum(int(u[i]) * w for u, w in updates) << shift, weight)) for i, m in enumerate(model)
    ]
    with patch.object(vectors, "FAST_FROM", 0 if compiled else 1 << 40):
        after, saturated = run(stack_of, spec, model, updates)
        assert (after, saturated) == run(stack_of, spec, model, updates[::-1])
    assert after == [held(m) for m in exact]
    assert saturated == sum(m != held(m) for m in exact)


@given(case=rounds(), percent=st.integers(0, 49))
def test_trimmed_mean_is_exact(case, percent, spec_of: SpecOf, stack_of: StackOf) -> None:
    bits, shift, model, updates = case
    spec = spec_for(spec_of, bits, shift, model, {"rule": "trimmed_mean", "trim_percent": percent})
    count = len(updates)
    drop = count * percent // 100
    exact = []
    for i, m in enumerate(model):
        kept = sorted(int(u[i]) for u, _ in updates)[drop : count - drop]
        exact.append(int(m) + (round(Fraction(sum(kept) << shift, len(kept))) if kept else 0))
    after, saturated = run(stack_of, spec, model, updates)
    assert after == [held(m) for m in exact]
    assert saturated == sum(m != held(m) for m in exact)
    assert (after, saturated) == run(stack_of, spec, model, updates[::-1])


@given(data=st.data(), count=st.integers(1, 64))
def test_sorting_network_sorts(data: st.DataObject, count: int) -> None:
    """Zeros and ones suffice (Knuth 5.3.4, theorem Z)."""
    rows = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    expected = sorted(rows.tolist())
    for low, high in sorting_network(count):
        rows[low], rows[high] = min(rows[low], rows[high]), max(rows[low], rows[high])
    assert rows.tolist() == expected


wide = st.integers(-(2**62) + 1, 2**62 - 1) | st.integers(-64, 64)


@given(numerators=st.lists(wide, min_size=1, max_size=30), denominator=st.integers(1, 64 * (2**32 - 1)))
def test_div_half_even_is_exact(numerators: list[int], denominator: int) -> None:
    got = div_half_even(np.array(numerators, np.int64), denominator)
    assert got.tolist() == [round(Fraction(n, denominator)) for n in numerators]


@settings(max_examples=300)
@given(
    numerators=st.lists(wide, min_size=1, max_size=30),
    denominator=st.integers(1, 64 * (2**32 - 1)) | st.integers(1, 9),
    data=st.data(),
)
def test_compiled_division_is_exact(numerators: list[int], denominator: int, data: st.DataObject) -> None:
    """Also near multiples and halves of the denominator, where a float quotient goes wrong first."""
    fast = pytest.importorskip("deepledger.protocol.vectors_fast")
    near = data.draw(
        st.integers(-(2**62) // denominator + 2, 2**62 // denominator - 2) if denominator < 2**60 else st.just(0)
    )
    offset = data.draw(st.sampled_from([-1, 0, 1, denominator // 2, denominator // 2 + 1]))
    sums = np.array([*numerators, near * denominator + offset], np.int64)
    model = np.zeros(len(sums), np.int32)
    saturated = fast.step_by_mean(model, sums, factor=1, denominator=denominator)
    exact = [round(Fraction(int(n), denominator)) for n in sums]
    assert model.tolist() == [held(m) for m in exact]
    assert saturated == sum(m != held(m) for m in exact)
