"""Aggregation rules against slow ones that are written as the papers are, and what the papers promise of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepledger.protocol.errors import BadSpec
from deepledger.protocol.formats import vectors
from deepledger.protocol.formats.rules import FIXED_ONE, MAX_SEATS
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.settlement.aggregation import RULES, advance
from deepledger.protocol.settlement.aggregation.context import Context
from deepledger.protocol.settlement.aggregation.dnc import centred, draw, top_direction
from deepledger.protocol.settlement.aggregation.sorting import sorting_network
from deepledger.protocol.settlement.aggregation.stack import Scaled, Stack, gram
from deepledger.protocol.settlement.aggregation.step import div_half_even

from .slow_rules import Update, dnc_by_svd, mean_after, minus, square, weighted_mean

LEAST, MOST = -(2**31), 2**31 - 1
SpecOf = Callable[..., JobSpec]
StackOf = Callable[..., Stack]
TRUSTED = "0x" + "f" * 40
FIXED = {
    "weighted_mean": {},
    "median": {},
    "trimmed_mean": {"trim_percent": 30},
    "multi_krum": {"byzantine_percent": 30},
    "centered_clipping": {"radius": 0.01},
    "fltrust": {"trusted": TRUSTED},
    "dnc": {"byzantine_percent": 30},
}


def test_every_rule_is_here() -> None:
    assert FIXED.keys() == RULES.keys()


@dataclass(frozen=True)
class Case:
    """A round: updates in units of 2^-(F - shift), and what else a rule may look at."""

    bits: int
    shift: int
    model: np.ndarray
    updates: list[np.ndarray]
    weights: list[int]
    drift: np.ndarray | None = None
    trusted: np.ndarray | None = None

    def spec(self, spec_of: SpecOf, rule: str, **parameters: object) -> JobSpec:
        update = {"bits": self.bits, "fraction_bits": 20 - self.shift, "norm_bound": 1e6}
        aggregation = {"rule": rule} | FIXED[rule] | parameters
        return spec_of(coordinates=len(self.model), update=update, aggregation=aggregation)

    def context(self, spec: JobSpec) -> Context:
        trusted = None if self.trusted is None else Scaled(self.trusted, self.shift)
        return Context(b"seed" * 8, spec.model, trusted=trusted, drift=self.drift)

    def settled(self, stack_of: StackOf, spec: JobSpec, order: list[int] | None = None) -> tuple[list[int], int]:
        """The model after and what saturated, with the updates in some order."""
        model, stack = self.model.copy(), stack_of(spec, self.updates, self.weights)
        saturated = advance(model, stack if order is None else stack.only(order), spec.aggregation, self.context(spec))
        return model.tolist(), saturated

    def slow_updates(self) -> list[Update]:
        return [
            Update(f"0x{seat:040x}", weight, [value << self.shift for value in update.tolist()])
            for seat, (update, weight) in enumerate(zip(self.updates, self.weights, strict=True))
        ]

    def moved_by(self, mean: list[Fraction]) -> tuple[list[int], int]:
        """The model after and what saturated, if the rule's mean is this."""
        exact = [before + round(step) for before, step in zip(self.model.tolist(), mean, strict=True)]
        return [held(value) for value in exact], sum(value != held(value) for value in exact)


def held(value: int) -> int:
    return min(max(value, LEAST), MOST)


@st.composite
def cases(draw: st.DrawFn, least: int = 0) -> Case:
    """With many ties and values at the ends."""
    bits, shift, size = draw(st.sampled_from([8, 16, 32])), draw(st.integers(0, 3)), draw(st.integers(1, 8))
    end = 2 ** (bits - 1)
    coordinate = st.integers(-4, 4) | st.integers(-end, end - 1) | st.sampled_from([-end, end - 1])

    def vectors(values: st.SearchStrategy[int], kind: str) -> st.SearchStrategy[np.ndarray]:
        return st.lists(values, min_size=size, max_size=size).map(lambda found: np.array(found, kind))

    update, far = vectors(coordinate, f"<i{bits // 8}"), st.integers(-(2**32) + 1, 2**32 - 1)
    updates = draw(st.lists(update, min_size=least, max_size=9))
    return Case(
        bits,
        shift,
        draw(vectors(st.integers(LEAST, MOST) | st.sampled_from([LEAST, 0, MOST]), "<i4")),
        updates,
        [draw(st.integers(1, 6)) for _ in updates],
        drift=draw(st.none() | vectors(st.integers(-9, 9) | far, "<i8")),
        trusted=draw(st.none() | update),
    )


EXACT = [rule for rule in RULES if rule != "dnc"]
"""Rules without a direction that only converges."""
every_compilation = pytest.mark.parametrize("fast_from", [1 << 40, 0], ids=["plain", "compiled"])


@settings(max_examples=40)
@given(case=cases(least=1), percent=st.integers(0, 49), radius=st.floats(1e-6, 1e4), bucket=st.integers(1, 4))
@every_compilation
@pytest.mark.parametrize("rule", EXACT)
def test_a_rule_is_what_its_paper_says(case, percent, radius, bucket, rule, fast_from, spec_of, stack_of) -> None:
    if not fast_from:
        pytest.importorskip("numba")
    drawn = {"trim_percent": percent, "byzantine_percent": percent, "radius": radius}
    parameters = {name: value for name, value in drawn.items() if name in FIXED[rule]}
    spec = case.spec(spec_of, rule, bucket_size=bucket, **parameters)
    with patch.object(vectors, "FAST_FROM", fast_from):
        settled = case.settled(stack_of, spec)
    assert settled == case.moved_by(mean_after(case.slow_updates(), spec.aggregation, case.context(spec)))


@settings(max_examples=40)
@given(case=cases(), bucket=st.integers(1, 4), data=st.data())
@pytest.mark.parametrize("rule", RULES)
def test_who_stands_where_changes_nothing(case, bucket, data, rule, spec_of, stack_of) -> None:
    spec = case.spec(spec_of, rule, bucket_size=bucket)
    order = data.draw(st.permutations(range(len(case.updates))))
    assert case.settled(stack_of, spec, order) == case.settled(stack_of, spec)


@pytest.mark.parametrize("rule", RULES)
def test_without_updates_the_model_stays(rule, spec_of, stack_of) -> None:
    case = Case(16, 0, np.arange(5, dtype="<i4"), [], [], drift=np.ones(5, np.int64))
    assert case.settled(stack_of, case.spec(spec_of, rule)) == ([0, 1, 2, 3, 4], 0)


@settings(max_examples=30)
@given(case=cases(least=1), bucket=st.integers(1, 4))
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("centered_clipping", "fltrust")])
def test_what_one_sends_or_all_agree_on_is_what_happens(case, bucket, rule, spec_of, stack_of) -> None:
    agreed = Case(case.bits, case.shift, case.model, case.updates[:1] * len(case.updates), case.weights)
    expected = agreed.moved_by([Fraction(value) for value in agreed.slow_updates()[0].values])
    spec = agreed.spec(spec_of, rule, bucket_size=bucket)
    assert agreed.settled(stack_of, spec) == expected
    assert agreed.settled(stack_of, spec, [0]) == expected


# What the papers promise against f updates that may be anything


@st.composite
def attacked(draw: st.DrawFn, *, above: int) -> tuple[Case, int]:
    """Honest updates within a few units, in front of f bad ones; n > above · f + 2 updates in all."""
    bad = draw(st.integers(0, 3))
    honest = draw(st.integers((above - 1) * bad + 3, (above - 1) * bad + 7))
    size = draw(st.integers(1, 6))
    near, anything = st.integers(-5, 5), st.integers(-(2**15), 2**15 - 1) | st.sampled_from([-(2**15), 0, 2**15 - 1])
    rows = [[draw(near) for _ in range(size)] for _ in range(honest)]
    rows += [[draw(anything) for _ in range(size)] for _ in range(bad)]
    updates = [np.array(row, "<i2") for row in rows]
    return Case(16, 0, np.zeros(size, "<i4"), updates, [1] * len(rows)), bad


def percent_for(bad: int, count: int) -> int:
    """The least that lets a rule drop `bad` of `count`."""
    return -(-100 * bad // count)


@given(case=attacked(above=2))
@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_sorting_rules_stay_within_what_honest_ones_sent(case, rule, spec_of, stack_of) -> None:
    case, bad = case
    parameters = {"trim_percent": percent_for(bad, len(case.updates))} if rule == "trimmed_mean" else {}
    after, _ = case.settled(stack_of, case.spec(spec_of, rule, **parameters))
    honest = np.array(case.updates[: len(case.updates) - bad])
    assert (honest.min(axis=0) <= after).all()
    assert (after <= honest.max(axis=0)).all()


@given(case=attacked(above=2))
def test_krum_takes_only_honest_ones_when_these_are_close_together(case, spec_of, stack_of) -> None:
    """All honest ones, where every bad one is farther from any of them than they could be from each other."""
    case, bad = case
    count = len(case.updates)
    assume(count * percent_for(bad, count) // 100 == bad)
    honest, others = case.updates[: count - bad], case.updates[count - bad :]
    widest = 100 * len(honest[0]) * count
    assume(all(square(minus(one.tolist(), other.tolist())) > widest for one in honest for other in others))
    spec = case.spec(spec_of, "multi_krum", byzantine_percent=percent_for(bad, count))
    assert case.settled(stack_of, spec) == case.moved_by(weighted_mean(case.slow_updates()[: count - bad]))


@given(case=cases(least=1), radius=st.floats(1e-6, 1e3), bucket=st.integers(1, 3))
def test_clipping_goes_no_farther_from_the_last_step_than_the_radius(case, radius, bucket, spec_of, stack_of) -> None:
    """Whatever all of them send; and f of n bad ones shift it by at most f / n of twice the radius."""
    case = Case(case.bits, case.shift, np.zeros_like(case.model), case.updates, case.weights, case.drift)
    spec = case.spec(spec_of, "centered_clipping", radius=radius, bucket_size=bucket)
    centre = np.zeros(len(case.model), np.int64) if case.drift is None else case.drift
    assume((np.abs(centre) < 2**30).all() and radius < 2**9)
    after, _ = case.settled(stack_of, spec)
    rounding = len(case.model) ** 0.5 / 2
    assert square(minus(after, centre.tolist())) <= (radius * 2**20 + rounding) ** 2 + 1
    other = Case(case.bits, case.shift, case.model, [-case.updates[0] - 1, *case.updates[1:]], case.weights, case.drift)
    shifted = square(minus(after, other.settled(stack_of, spec)[0])) ** 0.5
    buckets = -(-len(case.updates) // bucket)
    assert shifted <= 2 * radius * 2**20 / buckets + 2 * rounding + 1


@given(case=cases(least=1), bucket=st.integers(1, 3))
def test_fltrust_moves_no_farther_than_the_trusted_update(case, bucket, spec_of, stack_of) -> None:
    assume(case.trusted is not None)
    case = Case(case.bits, case.shift, np.zeros_like(case.model), case.updates, case.weights, trusted=case.trusted)
    after, _ = case.settled(stack_of, case.spec(spec_of, "fltrust", bucket_size=bucket))
    trusted = [value << case.shift for value in case.trusted.tolist()]
    assert square(after) ** 0.5 <= square(trusted) ** 0.5 + len(after) ** 0.5 / 2 + 1e-6
    if all(sum(a * b for a, b in zip(update.values, trusted, strict=True)) <= 0 for update in case.slow_updates()):
        assert bucket > 1 or not any(after)


@pytest.mark.parametrize("seed", range(20))
def test_dnc_leaves_out_what_a_singular_value_decomposition_does(seed, spec_of, stack_of) -> None:
    """Where there is a direction in which bad ones stand out."""
    random = np.random.default_rng(seed)
    bad, count, size = int(random.integers(1, 5)), 12, 40
    updates = random.normal(0, 100, (count, size))
    updates[:bad] += random.normal(0, 1, size) * 400
    case = Case(16, 2, np.zeros(size, "<i4"), list(updates.astype("<i2")), [1] * count)
    spec = case.spec(spec_of, "dnc", byzantine_percent=percent_for(bad, count))
    kept = dnc_by_svd(case.slow_updates(), bad)
    assert [update.participant for update in kept] == [f"0x{seat:040x}" for seat in range(bad, count)]
    assert case.settled(stack_of, spec) == case.moved_by(weighted_mean(kept))


@settings(max_examples=50)
@given(
    rows=st.integers(2, 8).flatmap(
        lambda size: st.lists(st.lists(st.integers(-99, 99), min_size=size, max_size=size), min_size=2, max_size=9)
    )
)
def test_the_top_direction_is_that_of_the_decomposition(rows: list[list[int]]) -> None:
    """Also where it is orthogonal to the longest row, from which a power iteration would never find it."""
    matrix = np.array(rows, np.int64)
    exact = centred(gram(list(matrix), matrix.shape[1]))
    deviations = matrix - matrix.mean(axis=0)
    assert np.allclose(np.array(exact, float), len(rows) ** 2 * deviations @ deviations.T)
    values, directions = np.linalg.eigh(deviations @ deviations.T)
    assume(values[-1] > 1 and values[-2] < 0.97 * values[-1])
    found = np.array(top_direction(exact, [bytes([index]) for index in range(len(rows))]), float)
    assert abs(found @ directions[:, -1]) / np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_the_top_direction_may_be_orthogonal_to_the_longest_row() -> None:
    products = ((150, 0, 0, 0), (0, 100, 90, 90), (0, 90, 100, 90), (0, 90, 90, 100))
    alone, *together = top_direction(products, [b"a", b"b", b"c", b"d"])
    assert alone == 0
    assert min(together) > 0


@given(length=st.integers(1, 2**30), sample=st.integers(1, 2000), seed=st.integers(0, 2**64 - 1))
def test_coordinates_are_drawn_within_range(length: int, sample: int, seed: int) -> None:
    drawn = draw(length, sample, seed=seed)
    assert 0 < len(drawn) <= sample
    assert drawn[0] >= 0
    assert drawn[-1] < length
    assert (np.diff(drawn) > 0).all()


# At the ends of what a spec may say


LARGEST = {
    "weighted_mean": (32, 14, {}),
    "median": (32, 20, {}),
    "trimmed_mean": (32, 20, {"trim_percent": 0}),
    "multi_krum": (32, 20, {"byzantine_percent": 0}),
    "centered_clipping": (32, 3, {"radius": 1e9}),
    "fltrust": (32, 20, {}),
    "dnc": (32, 20, {"byzantine_percent": 0}),
}
"""By rule: bits and shift."""


@pytest.mark.parametrize("drifted", [-1, 0, 1])
@pytest.mark.parametrize("end", [-1, 1])
@pytest.mark.parametrize("bucket", [1, 8])
@every_compilation
@pytest.mark.parametrize("rule", RULES)
def test_the_largest_spec_does_not_overflow(rule, fast_from, bucket, end, drifted, spec_of, stack_of) -> None:
    """64 seats, the greatest weight that is allowed, every coordinate at the end of its range."""
    if not fast_from:
        pytest.importorskip("numba")
    bits, shift, parameters = LARGEST[rule]
    weight = ((1 << 62) // (MAX_SEATS << (bits - 1 + shift))) - 1 if rule == "weighted_mean" else 1000
    aggregation = {"rule": rule, "bucket_size": bucket} | FIXED[rule] | parameters
    bound = (2**62 - 1) / FIXED_ONE / 2**20 * (1 - 2**-40) if rule == "fltrust" else 1e9
    update = {"bits": bits, "fraction_bits": 20 - shift, "norm_bound": bound}
    fields = {"coordinates": 3, "aggregation": aggregation, "update": update}
    spec = spec_of(max_samples=weight, **fields)
    for larger in (
        [{"max_samples": weight + 1}] * (rule == "weighted_mean")
        + [{"update": update | {"fraction_bits": 19 - shift}}] * (rule == "centered_clipping")
        + [{"update": update | {"norm_bound": bound * 1.001}}] * (rule == "fltrust")
    ):
        with pytest.raises(BadSpec, match="could overflow int64"):
            spec_of(**{"max_samples": weight} | fields | larger)
    value = LEAST if end < 0 else MOST
    update = np.full(3, value, "<i4")
    if rule == "fltrust":  # as far as the norm bound lets all of it lie in one coordinate
        update = np.array([end * int(spec.update.square_limit**0.5 * (1 - 1e-9)), 0, 0], "<i4")
    drift = np.full(3, drifted * (2**32 - 1), np.int64)
    trusted = update if rule == "fltrust" else None
    case = Case(bits, shift, np.zeros(3, "<i4"), [update] * MAX_SEATS, [weight] * MAX_SEATS, drift, trusted)
    with patch.object(vectors, "FAST_FROM", fast_from):
        settled = case.settled(stack_of, spec)
    if rule == "dnc":
        expected = [Fraction(value << shift)] * 3
    else:
        expected = mean_after(case.slow_updates(), spec.aggregation, case.context(spec))
    assert settled == case.moved_by(expected)


# Its parts


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
    fast = pytest.importorskip("deepledger.protocol.kernels.vectors")
    near = data.draw(
        st.integers(-(2**62) // denominator + 2, 2**62 // denominator - 2) if denominator < 2**60 else st.just(0)
    )
    offset = data.draw(st.sampled_from([-1, 0, 1, denominator // 2, denominator // 2 + 1]))
    sums = np.array([*numerators, near * denominator + offset], np.int64)
    model = np.zeros(len(sums), np.int32)
    saturated = fast.step_by_mean(model, sums, denominator=denominator)
    exact = [round(Fraction(int(n), denominator)) for n in sums]
    assert model.tolist() == [held(m) for m in exact]
    assert saturated == sum(m != held(m) for m in exact)
