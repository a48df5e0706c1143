"""Vectors against Python's integers and Fractions; compiled against plain, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepledger.protocol.blobs import spool
from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats import vectors
from deepledger.protocol.formats.model import LayoutEntry, ModelFormat
from deepledger.protocol.formats.spec import UpdateFormat
from deepledger.protocol.formats.vectors import (
    Decoded,
    decode_model,
    difference,
    encode_model,
    encode_update,
    float_squares,
    load,
    sum_of_squares,
    uniform,
    update_dtype,
)

MASK = 2**64 - 1
seeds = st.integers(-(2**70), 2**70)
bits = st.sampled_from([8, 16, 32])
floats = arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(-4, 4, width=32))
updates = st.builds(
    UpdateFormat,
    bits=st.sampled_from([4, 8, 16, 32]),
    fraction_bits=st.integers(0, 24),
    norm_bound=st.floats(1e-3, 1e3, allow_subnormal=False),
)


def slow_uniform(seed: int, index: int) -> Fraction:
    """SplitMix64's output number `index`, the upper 24 bits of it."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return Fraction((z ^ z >> 31) >> 40, 2**24)


@given(seed=seeds, start=st.integers(0, 2**31), count=st.integers(0, 40))
def test_uniform_is_splitmix64(seed: int, start: int, count: int) -> None:
    assert [Fraction(u) for u in uniform(seed, start, count)] == [slow_uniform(seed, start + i) for i in range(count)]


@given(values=arrays.arrays(np.int32, st.integers(1, 50)), fraction_bits=st.integers(0, 30))
def test_models_decode_to_the_nearest_float(values: np.ndarray, fraction_bits: int) -> None:
    model = ModelFormat(fraction_bits=fraction_bits, layout=(LayoutEntry(name="w", shape=(len(values),), offset=0),))
    assert list(decode_model(values, model)) == [np.float32(int(v) / 2**fraction_bits) for v in values]


@given(values=floats, fraction_bits=st.integers(0, 28))
def test_models_round_half_to_even(values: np.ndarray, fraction_bits: int) -> None:
    model = ModelFormat(fraction_bits=fraction_bits, layout=(LayoutEntry(name="w", shape=(len(values),), offset=0),))
    assert list(encode_model(values, model)) == [round(Fraction(float(v)) * 2**fraction_bits) for v in values]


@given(data=st.data(), bits=bits)
def test_sum_of_squares_is_exact(data: st.DataObject, bits: int) -> None:
    update = data.draw(arrays.arrays(np.dtype(f"<i{bits // 8}"), st.integers(1, 200)))
    assert sum_of_squares(update) == sum(int(q) ** 2 for q in update)


@given(values=floats)
def test_float_squares_are_the_sum(values: np.ndarray) -> None:
    exact = sum((Fraction(float(v)) ** 2 for v in values), Fraction(0))
    assert abs(Fraction(float_squares(values)) - exact) <= exact * Fraction(1, 2**40)


@given(change=floats, update=updates, seed=seeds)
def test_rounding_is_what_it_says(change: np.ndarray, update: UpdateFormat, seed: int) -> None:
    """Neither clipped nor over the bound: every coordinate is floor(x + u), held to the integer's range."""
    update = update.model_copy(update={"norm_bound": 1e9})
    encoded = encode_update(change, np.zeros_like(change), update=update, seed=seed)
    most = 2 ** (update.bits - 1)
    wanted = [
        (Fraction(float(x)) * 2**update.fraction_bits + slow_uniform(seed % 2**64, i)).__floor__()
        for i, x in enumerate(change)
    ]
    assert encoded.vector.tolist() == [min(max(q, -most), most - 1) for q in wanted]
    assert encoded.saturated == sum(not -most <= q < most for q in wanted)


@settings(max_examples=10)
@given(numerator=st.integers(-(2**20), 2**20))
def test_rounding_is_unbiased(numerator: int) -> None:
    """Were u to take every multiple of 2^-12 in [0, 1), the mean of what x is rounded to would be x, exactly."""
    x, steps = Fraction(numerator, 2**12), 2**12
    values = np.full(steps, float(x), np.float32)
    with patch.object(vectors, "uniform", lambda seed, start, count: np.arange(count) / steps):
        update = UpdateFormat(bits=32, fraction_bits=0, norm_bound=1e9)
        encoded = encode_update(values, np.zeros_like(values), update=update, seed=0)
    assert Fraction(int(encoded.vector.sum(dtype=np.int64)), steps) == x


@given(change=floats, residual=floats, update=updates, seed=seeds)
def test_the_norm_bound_holds_and_nothing_is_lost(
    change: np.ndarray, residual: np.ndarray, update: UpdateFormat, seed: int
) -> None:
    size = min(len(change), len(residual))
    change, residual = change[:size], residual[:size]
    encoded = encode_update(change, residual, update=update, seed=seed)
    assert sum(int(q) ** 2 for q in encoded.vector) <= update.square_limit
    assert sum(int(q) ** 2 for q in encoded.vector) <= (update.norm_bound * 2**update.fraction_bits) ** 2 * (1 + 1e-9)
    if not encoded.clipped:
        left = change + residual - encoded.vector * 2.0**-update.fraction_bits
        # One rounding to float32; saturated coordinates keep what did not fit.
        np.testing.assert_allclose(encoded.residual, left, rtol=2**-23, atol=1e-30)


@given(
    changes=arrays.arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 20)), elements=st.integers(-999, 999)),
    seed=seeds,
)
def test_error_feedback_telescopes(changes: np.ndarray, seed: int) -> None:
    """Sum of updates + residual = sum of changes, exactly: all numbers here are float32 multiples of 2^-12."""
    update = UpdateFormat(bits=16, fraction_bits=4, norm_bound=1e6)
    residual = np.zeros(changes.shape[1], np.float32)
    sent = np.zeros(changes.shape[1], np.int64)
    for number, change in enumerate(changes):
        encoded = encode_update(np.float32(change / 4096), residual, update=update, seed=seed + number)
        residual = encoded.residual
        sent += encoded.vector
    for total, q, rest in zip(changes.sum(axis=0), sent, residual, strict=True):
        assert Fraction(int(total), 4096) == Fraction(int(q), 16) + Fraction(float(rest))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**64 - 1),
    size=st.sampled_from([1, 1023, 1024, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5]),
    bits=st.sampled_from([4, 8, 16, 32]),
    fraction_bits=st.integers(4, 20),
    norm_bound=st.sampled_from([0.5, 20.0, 1e6]),
)
def test_compiled_is_plain(seed: int, size: int, bits: int, fraction_bits: int, norm_bound: float) -> None:
    pytest.importorskip("numba")
    update = UpdateFormat(bits=bits, fraction_bits=fraction_bits, norm_bound=norm_bound)
    random = np.random.default_rng(seed)
    change, residual = random.normal(0, 0.1, (2, size)).astype(np.float32)
    plain = encode_update(change, residual, update=update, seed=seed)
    with patch.object(vectors, "FAST_FROM", 0):
        fast = encode_update(change, residual, update=update, seed=seed)
        assert sum_of_squares(fast.vector) == sum(int(q) ** 2 for q in plain.vector)
    assert fast.vector.tobytes() == plain.vector.tobytes()
    assert fast.residual.tobytes() == plain.residual.tobytes()
    assert (fast.clipped, fast.saturated) == (plain.clipped, plain.saturated)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_refused(bad: float, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        pytest.importorskip("numba")
        monkeypatch.setattr(vectors, "FAST_FROM", 0)
    update = UpdateFormat(bits=16, fraction_bits=10, norm_bound=1.0)
    change = np.array([0.0, bad], np.float32)
    with pytest.raises(BadVector, match="in the data, or is the learning rate too high"):
        encode_update(change, np.zeros_like(change), update=update, seed=1)


@given(
    values=arrays.arrays(np.int32, st.integers(1, 60)),
    trained=st.integers(1, 60),
    cut=st.integers(0, 60),
    data=st.data(),
)
def test_a_model_decodes_to_the_same_part_by_part(
    values: np.ndarray, trained: int, cut: int, data: st.DataObject
) -> None:
    kinds = ("trainable", "variance")
    sizes = (min(trained, len(values)), len(values) - min(trained, len(values)))
    layout = tuple(
        LayoutEntry(name=kind, shape=(size,), offset=offset, kind=kind)
        for kind, size, offset in zip(kinds, sizes, (0, sizes[0]), strict=True)
    )
    model = ModelFormat(fraction_bits=20, least_variance=data.draw(st.integers(1, 1 << 20)), layout=layout)
    decoded, cut = Decoded(values, model), min(cut, len(values))
    assert np.array_equal(np.concatenate([decoded[0:cut], decoded[cut : len(values)]]), decode_model(values, model))
    assert np.array_equal(load(values), values)


@given(values=floats, parts=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=5))
def test_a_vector_in_a_file_is_written_part_by_part_as_one_in_memory(
    values: np.ndarray, parts: list[tuple[int, int]]
) -> None:
    filed, plain = spool.empty(len(values), np.dtype("<f4")), np.zeros(len(values), np.float32)
    for ends in parts:
        start, stop = sorted(min(end, len(values)) for end in ends)
        filed[start:stop] = plain[start:stop] = values[start:stop]
    assert np.array_equal(filed[0 : len(values)], plain)
    assert bytes(filed.view()) == plain.tobytes()
    for part in (slice(0, len(values) + 1), slice(1, len(values) + 1)):
        with pytest.raises(IndexError):
            filed[part] = values


@given(change=floats, update=updates, seed=seeds)
def test_integers_are_the_same_wherever_they_are_written(change: np.ndarray, update: UpdateFormat, seed: int) -> None:
    into = np.full(len(change), 7, update_dtype(update))
    made = encode_update(change, np.zeros_like(change), update=update, seed=seed, into=into)
    apart = encode_update(change, np.zeros_like(change), update=update, seed=seed)
    assert made.vector is into
    assert np.array_equal(into, apart.vector)
    assert np.array_equal(made.residual, apart.residual)


@given(arrays.arrays(np.int32, st.integers(1, 100)), st.sets(st.integers(0, 99)))
def test_vectors_differ_part_by_part_as_they_do_as_a_whole(values: np.ndarray, changed: set[int]) -> None:
    other = values.copy()
    other[[place for place in changed if place < len(values)]] ^= 1
    wrong = np.flatnonzero(values != other)
    with patch.object(vectors, "BLOCK", 16):
        assert difference(values, other) == (int(wrong[0]) if len(wrong) else None, len(wrong))
