"""Inner products, cosines and profiles against Python's integers and NumPy's floats."""

from __future__ import annotations

from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepledger.protocol.formats.sparse import SparseFormat, write_sparse
from deepledger.protocol.settlement.aggregation import stack
from deepledger.protocol.settlement.aggregation.stack import Scaled, Section, gram, gram_row
from deepledger.protocol.settlement.similarity import ONE, cosines, cosines_with, profiles, upper_median


def products(rows: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sum(a * b for a, b in zip(one, other, strict=True)) for other in rows) for one in rows)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    bits, size = draw(st.sampled_from([8, 16, 32, 64])), draw(st.integers(1, 8))
    end = 2 ** (bits - 1)
    value = st.integers(-3, 3) | st.integers(-end, end - 1) | st.sampled_from([-end, end - 1])
    rows = draw(st.lists(st.lists(value, min_size=size, max_size=size), max_size=6))
    return np.array(rows, f"<i{bits // 8}").reshape(len(rows), size)


@given(matrix=matrices(), start=st.integers(0, 9))
def test_inner_products_are_exact(matrix: np.ndarray, start: int) -> None:
    size = matrix.shape[1]
    assert gram(list(matrix), size) == products(matrix.tolist())
    part = products(matrix[:, start:].tolist())
    for index, row in enumerate(part):
        squares = tuple(part[other][other] for other in range(len(part)))
        assert gram_row(list(matrix), index, start, size) == (row, squares)
        assert tuple(cosines_with(list(matrix), index, start, size)) == cosines(part)[index]


@pytest.mark.parametrize("size", [2**14 - 1, 2**14, 2**14 + 1, 2**16 + 3])
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_inner_products_of_many_coordinates_at_the_ends_are_exact(bits: int, size: int) -> None:
    end = 2 ** (bits - 1)
    rows = [np.full(size, end - 1), np.full(size, -end), np.where(np.arange(size) % 2, end - 1, -end)]
    rows = [row.astype(f"<i{bits // 8}") for row in rows]
    assert gram(rows, size) == products([row.tolist() for row in rows])
    if bits < 64:
        scaled = products([[value << 20 for value in row.tolist()] for row in rows])
        assert gram([Scaled(row, 20) for row in rows], size) == scaled


@given(matrix=matrices())
def test_cosines_are_within_a_millionth(matrix: np.ndarray) -> None:
    exact = products(matrix.tolist())
    found = cosines(exact)
    for i, row in enumerate(found):
        for j, cosine in enumerate(row):
            lengths = exact[i][i] * exact[j][j]
            assert cosine == found[j][i]
            assert abs(cosine) <= ONE
            assert cosine * exact[i][j] >= 0
            if not lengths:
                assert cosine == 0
            else:
                square = Fraction(exact[i][j] ** 2, lengths)
                assert Fraction(abs(cosine), ONE) ** 2 <= square < Fraction(abs(cosine) + 1, ONE) ** 2
        assert row[i] == (ONE if exact[i][i] else 0)


@given(matrix=matrices())
def test_profiles_are_correlations_of_sizes(matrix: np.ndarray) -> None:
    if matrix.dtype.itemsize == 8:
        matrix = matrix >> 8  # a size of 2^63 does not fit; model-unit updates are far smaller
    size = matrix.shape[1]
    sizes = [[abs(value) * size for value in row] for row in matrix.tolist()]
    centred = [[value - sum(row) // size for value in row] for row in sizes]
    assert profiles(list(matrix), size) == cosines(products(centred))


@given(data=st.data())
def test_sparse_updates_lie_to_one_another_as_the_same_coordinates_written_out(data: st.DataObject) -> None:
    """Of however many coordinates at once; of a section, too, and where statistics follow, which are not sparse."""
    trained = data.draw(st.integers(1, 400))
    form = SparseFormat(
        trained=trained, statistics=data.draw(st.sampled_from([0, 3])), most=data.draw(st.integers(1, trained)),
        bits=data.draw(st.sampled_from([4, 8, 32])),
    )  # fmt: skip
    end = 1 << form.bits - 1
    value = st.sampled_from([-end, -1, 1, end - 1])
    places = st.sets(st.integers(0, trained - 1), max_size=form.most).map(sorted)
    vectors = []
    for chosen in data.draw(st.lists(places, min_size=1, max_size=5)):
        values = np.array([data.draw(value) for _ in chosen], np.int32)
        statistics = np.arange(form.statistics, dtype=form.dtype)
        vectors.append(write_sparse(np.array(chosen, np.int64), values, form, statistics=statistics))
    length = trained + form.statistics
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length) | st.just(max(trained, start + 1)))
    index = data.draw(st.integers(0, len(vectors) - 1))
    rows = [vector[start:stop] for vector in vectors]
    sections = [Section(vector, start) for vector in vectors]
    with patch.multiple(stack, _GRAM_BLOCK=data.draw(st.integers(1, 50)), _MOST_TIMES=data.draw(st.integers(1, 9))):
        assert gram(sections, stop - start) == gram(rows, stop - start) == products([row.tolist() for row in rows])
        assert gram_row(vectors, index, start, stop) == gram_row(rows, index, 0, stop - start)
        assert profiles(sections, stop - start) == profiles(rows, stop - start)


def test_profiles_are_numpys() -> None:
    matrix = np.random.default_rng(0).integers(-(2**15), 2**15, (5, 1000)).astype("<i2")
    expected = np.corrcoef(np.abs(matrix.astype(float)))
    assert np.abs(np.array(profiles(list(matrix), 1000)) / ONE - expected).max() <= 1e-6


def test_of_an_even_number_the_upper_median_is_taken() -> None:
    assert [upper_median(values) for values in ([3], [3, 1], [2, 3, 1], [4, 1, 3, 2])] == [3, 3, 2, 3]
