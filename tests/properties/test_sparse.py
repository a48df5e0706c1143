"""Sparse updates against a plain list of places and values; no second way to write one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepledger.protocol.errors import BadVector
from deepledger.protocol.formats.sparse import SparseFormat, SparseVector, most_of, parse_sparse, write_sparse
from deepledger.protocol.formats.spec import JobSpec, build_spec
from deepledger.protocol.formats.updates import bytes_of, encode_change, fits_norm
from deepledger.protocol.settlement.aggregation import advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.stack import Stack

Entries = dict[int, int]
SpecOf = Callable[..., JobSpec]
StackOf = Callable[..., Stack]


@st.composite
def formats(draw: st.DrawFn, *, most_trained: int = 3000) -> SparseFormat:
    trained = draw(st.integers(1, most_trained))
    return SparseFormat(
        trained=trained,
        statistics=draw(st.sampled_from([0, 0, 1, 7])),
        most=draw(st.integers(1, trained)),
        bits=draw(st.sampled_from([4, 8, 16, 32])),
    )


@st.composite
def updates(draw: st.DrawFn, *, most_trained: int = 3000) -> tuple[SparseFormat, Entries, list[int]]:
    form = draw(formats(most_trained=most_trained))
    values = st.integers(-(1 << form.bits - 1), (1 << form.bits - 1) - 1)
    places = draw(st.sets(st.integers(0, form.trained - 1), max_size=min(form.most, 60)))
    entries = {place: draw(values.filter(bool)) for place in sorted(places)}
    wide = st.integers(-(1 << max(form.bits, 8) - 1), (1 << max(form.bits, 8) - 1) - 1)
    return form, entries, draw(st.lists(wide, min_size=form.statistics, max_size=form.statistics))


def written(form: SparseFormat, entries: Entries, statistics: list[int]) -> SparseVector:
    places, values = np.array([*entries], np.int64), np.array([*entries.values()], np.int32)
    return write_sparse(places, values, form, statistics=np.array(statistics, form.dtype))


def slow_bytes(form: SparseFormat, entries: Entries, statistics: list[int]) -> bytes:
    """As the module's docstring says, one bit after the other."""

    def packed(bits: list[int]) -> bytes:
        return int("0" + "".join(map(str, reversed(bits))), 2).to_bytes(-(-len(bits) // 8), "little")

    def digits(number: int, width: int) -> list[int]:
        return [number >> bit & 1 for bit in range(width)]

    highs = (form.trained - 1 >> form.low_bits) + 1
    head: list[int] = []
    for high in range(highs):
        head += [1] * sum(place >> form.low_bits == high for place in entries) + [0]
    head += [0] * (form.most + highs - len(head))
    spare = form.most - len(entries)
    lows = [bit for place in [*entries] + [0] * spare for bit in digits(place, form.low_bits)]
    values = [bit for value in [*entries.values()] + [0] * spare for bit in digits(value, form.bits)]
    return packed(head) + packed(lows) + packed(values) + np.array(statistics, form.dtype).tobytes()


def entries_of(update: SparseVector) -> Entries:
    places, values = update.entries(0, update.format.trained)
    return dict(zip(places.tolist(), values.tolist(), strict=True))


@given(update=updates())
def test_there_is_one_way_to_write_an_update_and_it_is_read_back(update: Any) -> None:
    form, entries, statistics = update
    made = written(form, entries, statistics)
    data = slow_bytes(form, entries, statistics)
    assert made.data[0 : form.bytes].tobytes() == data
    assert len(data) == form.bytes
    read = parse_sparse(data, form)
    assert entries_of(read) == entries
    assert read.count == len(entries)
    assert [value for part in read.values() for value in part.tolist()] == [*entries.values()]
    assert read.statistics(0, form.statistics).tolist() == statistics
    dense = [entries.get(place, 0) for place in range(form.trained)] + statistics
    assert read[0 : len(read)].tolist() == dense


@given(update=updates(), data=st.data())
def test_every_block_is_that_of_the_dense_update(update: Any, data: st.DataObject) -> None:
    form, entries, statistics = update
    made = written(form, entries, statistics)
    dense = np.array([entries.get(place, 0) for place in range(form.trained)] + statistics, form.dtype)
    start = data.draw(st.integers(0, len(made)))
    stop = data.draw(st.integers(start, len(made)))
    block = made[start:stop]
    assert (block.dtype, block.tolist()) == (dense.dtype, dense[start:stop].tolist())
    assert made[:stop].tolist() == dense[:stop].tolist()


@given(update=updates(most_trained=200), data=st.data())
def test_other_bytes_are_another_update_or_none(update: Any, data: st.DataObject) -> None:
    """What is accepted is written in the same bytes again: no two strings say the same."""
    form, entries, statistics = update
    blob = bytearray(slow_bytes(form, entries, statistics))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check_canonical(form, bytes(blob))


@given(form=formats(most_trained=40), data=st.data())
def test_any_bytes_are_an_update_or_none(form: SparseFormat, data: st.DataObject) -> None:
    check_canonical(form, data.draw(st.binary(min_size=form.bytes, max_size=form.bytes)))


def check_canonical(form: SparseFormat, blob: bytes) -> None:
    try:
        read = parse_sparse(blob, form)
    except BadVector:
        return
    entries = entries_of(read)
    assert len(entries) == read.count <= form.most
    assert slow_bytes(form, entries, read.statistics(0, form.statistics).tolist()) == blob


SMALL = SparseFormat(trained=100, statistics=2, most=10, bits=8)  # three low bits, 13 high parts


def raw(places: list[int], values: list[int], *, form: SparseFormat = SMALL) -> bytes:
    """Without looking whether they may be."""
    highs, head = (form.trained - 1 >> form.low_bits) + 1, 0
    for rank, place in enumerate(places):
        head |= 1 << (place >> form.low_bits) + rank
    lows = sum((place & (1 << form.low_bits) - 1) << form.low_bits * rank for rank, place in enumerate(places))
    kept = sum((value % (1 << form.bits)) << form.bits * rank for rank, value in enumerate(values))
    return (
        head.to_bytes(-(-(form.most + highs) // 8), "little")
        + lows.to_bytes(-(-form.most * form.low_bits // 8), "little")
        + kept.to_bytes(-(-form.most * form.bits // 8), "little")
        + bytes(form.statistics)
    )


def with_bit(blob: bytes, bit: int) -> bytes:
    return (int.from_bytes(blob, "little") ^ 1 << bit).to_bytes(len(blob), "little")


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "short": (lambda: raw([3], [1])[:-1], "expected"),
    "long": (lambda: raw([3], [1]) + b"\0", "expected"),
    "not ascending": (lambda: raw([5, 4], [1, 1]), "do not ascend"),
    "twice the same": (lambda: raw([5, 5], [1, 1]), "do not ascend"),
    "beyond the end": (lambda: raw([100], [1]), "has coordinate 100, and 100 are trained"),
    "what does not move": (lambda: raw([3, 9], [1, 0]), "does not move"),
    "a value that is nowhere": (lambda: raw([3], [1, 7]), "nothing belongs"),
    "a low part that is nowhere": (lambda: with_bit(raw([3], [1]), 8 * SMALL.lows_at + 29), "nothing belongs"),
    "bits that fill the lows": (lambda: with_bit(raw([3], [1]), 8 * SMALL.lows_at + 30), "nothing belongs"),
    "bits that fill the head": (lambda: with_bit(raw([3], [1]), 8 * SMALL.lows_at - 1), "trained"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    assert entries_of(parse_sparse(raw([3, 9, 99], [1, -1, 127]), SMALL)) == {3: 1, 9: -1, 99: 127}
    blob, why = REFUSED[case]
    with pytest.raises(BadVector, match=why):
        parse_sparse(blob(), SMALL)


def test_more_coordinates_than_may_travel_are_refused() -> None:
    form = SparseFormat(trained=100, statistics=0, most=3, bits=8)
    full = written(form, {1: 1, 50: 1, 99: 1}, [])
    head = full.data[0 : form.lows_at].copy()
    head[0] |= 0b1111
    with pytest.raises(BadVector, match="more than 3 coordinates"):
        parse_sparse(head.tobytes() + full.data[form.lows_at : form.bytes].tobytes(), form)


@pytest.mark.parametrize(("trained", "share", "most"), [(100, 0.02, 2), (1000, 0.1, 100), (101, 0.02, 3), (7, 0.9, 7)])
def test_a_share_is_the_decimal_that_it_is_written_as(trained: int, share: float, most: int) -> None:
    """0.02 is no binary fraction: taken as the nearest one it would be a coordinate too many."""
    assert most_of(trained, share=share) == most


def test_a_large_update_is_read_across_pieces() -> None:
    random = np.random.default_rng(1)
    form = SparseFormat(trained=1_000_000, statistics=3, most=20_000, bits=16)
    places = np.sort(random.choice(form.trained, form.most, replace=False))
    places[:500] = np.arange(500)  # many in one place, none for long after
    places = np.unique(places)
    values = random.integers(1, 1 << 15, len(places)).astype(np.int32)
    dense = np.zeros(form.trained, np.int16)
    dense[places] = values
    read = written(form, dict(zip(places.tolist(), values.tolist(), strict=True)), [1, 2, 3])
    for start, stop in ((0, 65_536), (65_536, 131_072), (123, 999_999), (999_990, 1_000_003), (500, 501)):
        assert np.array_equal(read[start:stop][: form.trained - start], dense[start:stop])


ROUND = st.integers(-(2**20), 2**20).map(lambda number: np.float32(number / 2**12))


@st.composite
def jobs(draw: st.DrawFn, spec_of: SpecOf) -> JobSpec:
    trained, statistics = draw(st.integers(20, 300)), draw(st.sampled_from([0, 3]))
    layout: list[dict[str, Any]] = [{"name": "w", "shape": [trained], "offset": 0}]
    if statistics:
        layout.append({"name": "mean", "shape": [statistics], "offset": trained, "kind": "statistic"})
    update = {"bits": draw(st.sampled_from([4, 8, 16])), "fraction_bits": draw(st.integers(0, 8)), "norm_bound": 1e6}
    return spec_of(
        model={"fraction_bits": 12, "layout": layout}, update=update | {"share": draw(st.sampled_from([0.05, 0.2]))}
    )


@given(data=st.data())
def test_what_moves_most_travels_and_all_else_is_kept(spec_of: SpecOf, data: st.DataObject) -> None:
    """Over rounds, updates and the residual add up to all changes, exactly: all are multiples of 2^-12."""
    spec = data.draw(jobs(spec_of))
    trained, length = spec.model.trained, spec.model.coordinates
    assert spec.sparse is not None
    residual, sent, wanted = np.zeros(length, np.float32), np.zeros(length), np.zeros(length)
    for number in range(data.draw(st.integers(1, 4))):
        change = data.draw(arrays.arrays(np.float32, length, elements=ROUND))
        sizes, before = np.abs(change + residual)[:trained], (change + residual)[:trained]
        encoded = encode_change(change, residual, spec=spec, seed=number)
        update = encoded.vector
        assert isinstance(update, SparseVector)
        assert update.count <= spec.sparse.most
        moved, _ = update.entries(0, trained)
        chosen = sorted(range(trained), key=lambda place: (-sizes[place], place))[: spec.sparse.most]
        assert set(moved) <= set(chosen), "of equal ones the first"
        kept = np.setdiff1d(np.arange(trained), chosen)
        assert np.array_equal(encoded.residual[kept], before[kept])
        assert not encoded.residual[trained:].any()
        residual = encoded.residual
        sent += update[0:length] * 2.0**-spec.update.fraction_bits
        wanted += change
    assert np.array_equal(sent[:trained] + residual[:trained], wanted[:trained])


@given(data=st.data(), norm_bound=st.floats(0.5, 50))
def test_the_norm_bound_holds_for_what_travels(spec_of: SpecOf, data: st.DataObject, norm_bound: float) -> None:
    spec = data.draw(jobs(spec_of))
    spec = spec.model_copy(update={"update": spec.update.model_copy(update={"norm_bound": norm_bound})})
    change = data.draw(arrays.arrays(np.float32, spec.model.coordinates, elements=ROUND))
    encoded = encode_change(change, np.zeros_like(change), spec=spec, seed=1)
    dense, trained = encoded.vector[0 : len(change)], spec.model.trained
    for part in dense[:trained], dense[trained:]:
        assert sum(int(value) ** 2 for value in part) <= spec.update.square_limit
    assert fits_norm(encoded.vector, spec)
    again = encode_change(change, np.zeros_like(change), spec=spec, seed=1)
    assert bytes_of(again.vector) == bytes_of(encoded.vector)
    longest = max(abs(int(value)) for value in dense)
    narrow = spec.update.model_copy(update={"norm_bound": max(longest - 1, 0.5) / 2**spec.update.fraction_bits})
    assert not longest or not fits_norm(encoded.vector, spec.model_copy(update={"update": narrow}))


def test_nan_is_refused_wherever_it_is(spec_of: SpecOf) -> None:
    spec = spec_of(coordinates=100, update={"bits": 8, "fraction_bits": 4, "norm_bound": 9.0, "share": 0.05})
    for broken in np.nan, np.inf:
        change = np.zeros(100, np.float32)
        change[50] = broken
        with pytest.raises(BadVector, match="NaN or infinity"):
            encode_change(change, np.zeros_like(change), spec=spec, seed=1)


def test_four_bits_hold_what_they_can_and_keep_the_rest(spec_of: SpecOf) -> None:
    spec = spec_of(coordinates=100, update={"bits": 4, "fraction_bits": 0, "norm_bound": 99.0, "share": 0.05})
    change = np.zeros(100, np.float32)
    change[[3, 50, 99]] = 30, -30, 5
    encoded = encode_change(change, np.zeros_like(change), spec=spec, seed=1)
    assert entries_of(encoded.vector) == {3: 7, 50: -8, 99: 5}
    assert (encoded.residual[[3, 50, 99]].tolist(), encoded.saturated) == ([23, -22, 0], 2)


RULES = {
    "weighted_mean": {},
    "multi_krum": {"byzantine_percent": 30},
    "centered_clipping": {"radius": 0.01},
    "dnc": {"byzantine_percent": 30},
}


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_a_round_is_that_of_the_same_dense_updates(
    spec_of: SpecOf, stack_of: StackOf, rule: str, data: st.DataObject
) -> None:
    """Exactly, with and without statistics, and whatever the rule looks at."""
    spec = data.draw(jobs(spec_of))
    bucket = data.draw(st.sampled_from([1, 2]))
    spec = build_spec(spec.model_dump() | {"aggregation": {"rule": rule, "bucket_size": bucket} | RULES[rule]})
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    changes = random.normal(0, 5, (data.draw(st.integers(1, 5)), spec.model.coordinates)).astype(np.float32)
    sparse = [encode_change(each, np.zeros_like(each), spec=spec, seed=1).vector for each in changes]
    weights = [int(random.integers(1, 9)) for _ in sparse]
    model = random.integers(-(2**20), 2**20, spec.model.coordinates).astype("<i4")
    context = Context(b"seed" * 8, spec.model, drift=random.integers(-999, 999, len(model)))
    after = []
    for updates in sparse, [each[0 : len(model)] for each in sparse]:
        moved = model.copy()
        saturated = advance(moved, stack_of(spec, updates, weights), spec.aggregation, context)
        after.append((moved.tolist(), saturated))
    assert after[0] == after[1]
