from __future__ import annotations

import numpy as np
import pytest

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats import vectors
from deepledger.protocol.formats.model import LayoutEntry, ModelFormat
from deepledger.protocol.formats.spec import UpdateFormat
from deepledger.protocol.formats.vectors import as_model, as_update, encode_model, encode_update, sum_of_squares

MODEL = ModelFormat(fraction_bits=20, layout=(LayoutEntry(name="w", shape=(3,), offset=0),))


@pytest.mark.parametrize("length", [0, 11, 13, 24])
def test_other_lengths_are_no_vector(length, spec_of):
    with pytest.raises(BadVector, match="expected 12 bytes for 3 coordinates"):
        as_model(bytes(length), MODEL)
    with pytest.raises(BadVector, match="expected 6 bytes for 3 coordinates"):
        as_update(bytes(length), spec_of(coordinates=3))


def test_vectors_are_views():
    buffer = bytearray(12)
    as_model(buffer, MODEL)[1] = -2
    assert buffer == b"\0\0\0\0\xfe\xff\xff\xff\0\0\0\0"


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN"), (2048.0, "±2048; lower"), (-1e9, "lower")]
)
def test_what_int32_cannot_hold_is_no_model(value, message):
    with pytest.raises(BadVector, match=message):
        encode_model(np.array([0, value, 0], np.float32), MODEL)


def test_an_overflowing_sum_is_refused_without_a_warning():
    huge = np.full(3, 3e38, np.float32)
    with pytest.raises(BadVector, match="NaN or infinity"):
        encode_update(huge, huge, update=UpdateFormat(bits=8, fraction_bits=0, norm_bound=1.0), seed=0)


def test_saturation_is_counted_and_carried_over():
    update = UpdateFormat(bits=8, fraction_bits=0, norm_bound=1e6)
    encoded = encode_update(np.array([200, -300, 5], np.float32), np.zeros(3, np.float32), update=update, seed=3)
    assert encoded.vector.tolist() == [127, -128, 5]
    assert encoded.saturated == 2
    assert encoded.residual.tolist() == [73, -172, 0]


def test_the_residual_may_take_the_memory_of_an_input():
    update = UpdateFormat(bits=16, fraction_bits=8, norm_bound=1e6)
    change, residual = np.float32([0.3, 0.7]), np.float32([0.1, 0.1])
    apart = encode_update(change, residual, update=update, seed=3)
    within = encode_update(change, residual, update=update, seed=3, out=residual)
    assert within.residual is residual
    assert (apart.residual == residual).all()
    assert (apart.vector == within.vector).all()


def test_the_largest_sum_of_squares_is_exact():
    for dtype in (np.int8, np.int16, np.int32):
        least = np.iinfo(dtype).min
        assert sum_of_squares(np.full(70_000, least, dtype)) == 70_000 * int(least) ** 2


def test_the_largest_sum_of_squares_is_exact_when_compiled(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(vectors, "FAST_FROM", 0)
    test_the_largest_sum_of_squares_is_exact()


def test_without_numba_large_vectors_are_worked_on_all_the_same(monkeypatch):
    monkeypatch.setattr(vectors, "FAST_FROM", 0)
    monkeypatch.setattr(vectors, "_fast", lambda: None)
    test_saturation_is_counted_and_carried_over()
    test_the_largest_sum_of_squares_is_exact()
